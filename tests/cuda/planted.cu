// Kernels with planted mistakes, each beside its sound form: the emulation must tell them apart.
#include "hornbeam.cuh"

struct Planted {
    float* out;  // [threads]
    int32_t sound;
};

// Every thread reads its neighbour's number from shared memory.
HORNBEAM_KERNEL(planted_barrier, Planted, 256, 1) {
    HORNBEAM_SHARED(memory);
    float* shared = reinterpret_cast<float*>(memory);
    shared[threadIdx.x] = float(threadIdx.x);
    if (p.sound) __syncthreads();
    p.out[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}

// Half of a warp leaves before a full-mask collective.
HORNBEAM_KERNEL(planted_divergence, Planted, 256, 1) {
    if (!p.sound && threadIdx.x % 32 >= 16) return;
    p.out[threadIdx.x] = __shfl_xor_sync(hornbeam::FULL, float(threadIdx.x), 1);
}

// Two halves of a block wait at different barriers.
HORNBEAM_KERNEL(planted_two_barriers, Planted, 256, 1) {
    if (!p.sound && threadIdx.x >= 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    p.out[threadIdx.x] = float(threadIdx.x);
}

// One element past the end of shared memory, and of global memory.
HORNBEAM_KERNEL(planted_shared_overrun, Planted, 256, 1) {
    HORNBEAM_SHARED(memory);
    float* shared = reinterpret_cast<float*>(memory);
    shared[threadIdx.x + (p.sound ? 0 : 1)] = 1.0f;
    p.out[threadIdx.x] = 1.0f;
}

HORNBEAM_KERNEL(planted_global_overrun, Planted, 256, 1) { p.out[threadIdx.x + (p.sound ? 0 : 1)] = 1.0f; }
