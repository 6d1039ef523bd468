// Entry points: tree attention on tensor cores, f16. A file of its own, so that it compiles beside bf16.
#include "attention_tiled.cuh"

using hornbeam::ATTENTION_THREADS;
using hornbeam::TreeAttention;

HORNBEAM_KERNEL(hornbeam_attention_f16_64, TreeAttention, ATTENTION_THREADS, 2) {
    HORNBEAM_SHARED(memory);
    hornbeam::Tiled<hornbeam::f16, 64>::run(p, memory);
}

HORNBEAM_KERNEL(hornbeam_attention_f16_128, TreeAttention, ATTENTION_THREADS, 2) {
    HORNBEAM_SHARED(memory);
    hornbeam::Tiled<hornbeam::f16, 128>::run(p, memory);
}

HORNBEAM_KERNEL(hornbeam_attention_f16_256, TreeAttention, ATTENTION_THREADS, 2) {
    HORNBEAM_SHARED(memory);
    hornbeam::Tiled<hornbeam::f16, 256>::run(p, memory);
}
