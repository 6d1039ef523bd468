// Entry points: pages of codes, and rows out of pages and into them.
#include "pages.cuh"

HORNBEAM_KERNEL(hornbeam_encode_pages, hornbeam::EncodePages, hornbeam::ENCODE_THREADS, 4) {
    hornbeam::encode_pages(p);
}

HORNBEAM_KERNEL(hornbeam_gather_rows, hornbeam::GatherRows, 256, 4) { hornbeam::gather_rows(p); }
HORNBEAM_KERNEL(hornbeam_put_rows, hornbeam::PutRows, 256, 4) { hornbeam::put_rows(p); }
