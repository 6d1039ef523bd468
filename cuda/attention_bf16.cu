// Entry points: tree attention on tensor cores, bf16.
#include "attention_tiled.cuh"

using hornbeam::ATTENTION_THREADS;
using hornbeam::TreeAttention;

HORNBEAM_KERNEL(hornbeam_attention_bf16_64, TreeAttention, ATTENTION_THREADS, 2) {
    HORNBEAM_SHARED(memory);
    hornbeam::Tiled<hornbeam::bf16, 64>::run(p, memory);
}

HORNBEAM_KERNEL(hornbeam_attention_bf16_128, TreeAttention, ATTENTION_THREADS, 2) {
    HORNBEAM_SHARED(memory);
    hornbeam::Tiled<hornbeam::bf16, 128>::run(p, memory);
}

HORNBEAM_KERNEL(hornbeam_attention_bf16_256, TreeAttention, ATTENTION_THREADS, 2) {
    HORNBEAM_SHARED(memory);
    hornbeam::Tiled<hornbeam::bf16, 256>::run(p, memory);
}
