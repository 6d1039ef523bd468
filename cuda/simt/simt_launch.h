// Between the scheduler (simt.cpp) and the driver's entry points (driver.cpp).
#pragma once

#include "simt.h"

namespace simt {

// Runs the grid, block after block. Null, or what went wrong.
const char* launch(Entry kernel, int max_threads, uint3 grid, uint3 block, size_t shared_bytes, void** arguments,
                   uint64_t seed);
// All kernels of the library, newest first.
extern Kernel* kernels;

}  // namespace simt
