// Entry points: bias and penalties, sampling, and the walk along what was sampled.
#include "adjust.cuh"
#include "sample.cuh"

HORNBEAM_KERNEL(hornbeam_sample, hornbeam::Sample, 1024, 1) {
    HORNBEAM_SHARED(memory);
    hornbeam::sample(p, memory);
}

HORNBEAM_KERNEL(hornbeam_follow, hornbeam::Follow, 128, 8) { hornbeam::follow(p); }
HORNBEAM_KERNEL(hornbeam_count, hornbeam::Count, 256, 4) { hornbeam::count(p); }
HORNBEAM_KERNEL(hornbeam_adjust, hornbeam::Adjust, 512, 2) { hornbeam::adjust(p); }
