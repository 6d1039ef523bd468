// Entry points: which keys stay, and what splits ask of scores.
#include "select.cuh"

using hornbeam::SELECT_THREADS;

HORNBEAM_KERNEL(hornbeam_select_keys, hornbeam::SelectKeys, SELECT_THREADS, 4) {
    HORNBEAM_SHARED(memory);
    hornbeam::select_keys(p, memory);
}

HORNBEAM_KERNEL(hornbeam_compete_heads, hornbeam::CompeteHeads, SELECT_THREADS, 4) {
    HORNBEAM_SHARED(memory);
    hornbeam::compete_heads(p, memory);
}

HORNBEAM_KERNEL(hornbeam_column_sums, hornbeam::ColumnSums, SELECT_THREADS, 4) {
    HORNBEAM_SHARED(memory);
    hornbeam::column_sums(p, memory);
}
