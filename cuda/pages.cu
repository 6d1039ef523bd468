// Entry point: pages of codes.
#include "pages.cuh"

HORNBEAM_KERNEL(hornbeam_encode_pages, hornbeam::EncodePages, hornbeam::ENCODE_THREADS, 4) {
    hornbeam::encode_pages(p);
}
