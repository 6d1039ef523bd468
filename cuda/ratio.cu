// Entry points: the laws of all rows, and verification by ratio tests.
#include "rules.cuh"

HORNBEAM_KERNEL(hornbeam_laws, hornbeam::Laws, 1024, 1) {
    HORNBEAM_SHARED(memory);
    hornbeam::laws(p, memory);
}

HORNBEAM_KERNEL(hornbeam_ratio, hornbeam::Ratio, 512, 1) {
    HORNBEAM_SHARED(memory);
    hornbeam::ratio(p, memory);
}
