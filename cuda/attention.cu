// Entry points: tree attention in plain arithmetic, and the merge.
#include "attention_plain.cuh"

using hornbeam::ATTENTION_THREADS;
using hornbeam::TreeAttention;

HORNBEAM_KERNEL(hornbeam_attention_plain, TreeAttention, ATTENTION_THREADS, 2) {
    HORNBEAM_SHARED(memory);
    hornbeam::attention_plain<2>(p, memory);
}

HORNBEAM_KERNEL(hornbeam_attention_plain_512, TreeAttention, ATTENTION_THREADS, 2) {
    HORNBEAM_SHARED(memory);
    hornbeam::attention_plain<4>(p, memory);
}

HORNBEAM_KERNEL(hornbeam_attention_merge, TreeAttention, ATTENTION_THREADS, 8) { hornbeam::merge(p); }
