// Entry points: sampling and verification.
#include "decide.cuh"

HORNBEAM_KERNEL(hornbeam_sample, hornbeam::Sample, 1024, 1) {
    HORNBEAM_SHARED(memory);
    hornbeam::sample(p, memory);
}

HORNBEAM_KERNEL(hornbeam_follow, hornbeam::Follow, 128, 8) { hornbeam::follow(p); }
