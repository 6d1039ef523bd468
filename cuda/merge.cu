// Entry points: evicted keys and values merged into kept ones.
#include "merge.cuh"

using hornbeam::MERGE_THREADS;
using hornbeam::MergeRows;

HORNBEAM_KERNEL(hornbeam_merge_directions, MergeRows, MERGE_THREADS, 4) { hornbeam::merge_directions(p); }

HORNBEAM_KERNEL(hornbeam_merge_nearest, MergeRows, MERGE_THREADS, 4) {
    HORNBEAM_SHARED(memory);
    hornbeam::merge_nearest(p, memory);
}

HORNBEAM_KERNEL(hornbeam_merge_weights, MergeRows, MERGE_THREADS, 4) {
    HORNBEAM_SHARED(memory);
    hornbeam::merge_weights(p, memory);
}

HORNBEAM_KERNEL(hornbeam_merge_rows, MergeRows, MERGE_THREADS, 4) { hornbeam::merge_rows(p); }
