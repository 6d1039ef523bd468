// What every kernel is written against: entry points, element types, the warp, the block.
//
// The same files compile in two ways: by nvcc for a device, and by a host compiler with
// HORNBEAM_SIMT defined, where simt/simt.h supplies the threads (see docs/cuda.md). Kernels
// therefore include no CUDA library, use full-mask warp collectives only, and keep all shared
// memory dynamic, so that the emulation can refill it and watch its end.
#pragma once

#include "params/pages.h"
#include "params/plan.h"

#ifdef HORNBEAM_SIMT
#include "simt.h"
#else
#include <cuda_fp16.h>

// An entry point takes one struct by value. `threads` is the most that it is launched with, `blocks`
// how many a multiprocessor should hold: registers are given out accordingly.
#define HORNBEAM_KERNEL(name, Parameters, threads, blocks) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Parameters p)
#define HORNBEAM_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
// A function that is compiled once and called: for what stands in many places and passes over a row.
#define HORNBEAM_CALLED __noinline__ __device__

#endif

namespace hornbeam {

constexpr unsigned FULL = 0xffffffffu;
constexpr int WARP = 32;

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

template <class T>
struct DtypeOf;
template <>
struct DtypeOf<float> {
    static constexpr Dtype value = F32;
};
template <>
struct DtypeOf<bf16> {
    static constexpr Dtype value = BF16;
};
template <>
struct DtypeOf<f16> {
    static constexpr Dtype value = F16;
};

__host__ __device__ inline int size_of(int32_t dtype) { return dtype == F32 ? 4 : 2; }

// Widening is exact, narrowing rounds to nearest, ties to even; NaN stays NaN.
__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
#ifdef HORNBEAM_SIMT
inline float to_float(f16 x) { return float(simt::bits<_Float16>(x.bits)); }
inline void from_float(float x, f16& out) { out.bits = simt::bits<uint16_t>(_Float16(x)); }
#else
__device__ inline float to_float(f16 x) { return __half2float(__ushort_as_half(x.bits)); }
__device__ inline void from_float(float x, f16& out) { out.bits = __half_as_ushort(__float2half_rn(x)); }
#endif
__device__ inline void from_float(float x, float& out) { out = x; }
__device__ inline void from_float(float x, bf16& out) {
    const uint32_t bits = __float_as_uint(x);
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    out.bits = is_nan ? uint16_t((bits >> 16) | 0x40u) : uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

__device__ inline float load_element(const void* data, int32_t dtype, int64_t index) {
    switch (dtype) {
        case F32: return static_cast<const float*>(data)[index];
        case BF16: return to_float(static_cast<const bf16*>(data)[index]);
        default: return to_float(static_cast<const f16*>(data)[index]);
    }
}

__device__ inline void store_element(void* data, int32_t dtype, int64_t index, float x) {
    switch (dtype) {
        case F32: static_cast<float*>(data)[index] = x; break;
        case BF16: from_float(x, static_cast<bf16*>(data)[index]); break;
        default: from_float(x, static_cast<f16*>(data)[index]);
    }
}

// The slots of an entry's `first`; the number of the page's format is above them.
constexpr int ENTRY_SLOTS = (1 << Entry_SLOT_BITS) - 1;

__device__ inline int minimum(int a, int b) { return a < b ? a : b; }
__device__ inline int maximum(int a, int b) { return a > b ? a : b; }

template <class T>
__device__ inline const T* part(const int32_t* plan, int32_t offset) {
    return reinterpret_cast<const T*>(plan + offset);
}

__device__ inline const PlanHeader& header_of(const int32_t* plan) {
    return *reinterpret_cast<const PlanHeader*>(plan);
}

// The address of a slab's page of `plane`.
__device__ inline unsigned char* slab_page(const uint64_t* chunks, const Pages& pages, uint32_t slab, int plane) {
    const uint32_t chunk = slab / uint32_t(pages.slabs_per_chunk);
    const uint32_t index = slab % uint32_t(pages.slabs_per_chunk);
    const int64_t page_bytes = int64_t(2) * pages.page_tokens * pages.head_dim * size_of(pages.dtype);
    return reinterpret_cast<unsigned char*>(chunks[chunk]) +
           (int64_t(plane) * pages.slabs_per_chunk + index) * page_bytes;
}

// The address of the page with this id: pages are numbered chunk by chunk in memory order.
__device__ inline unsigned char* page_of_id(const uint64_t* chunks, const Pages& pages, uint32_t id) {
    const uint32_t pages_per_chunk = uint32_t(pages.num_planes) * uint32_t(pages.slabs_per_chunk);
    const int64_t page_bytes = int64_t(2) * pages.page_tokens * pages.head_dim * size_of(pages.dtype);
    return reinterpret_cast<unsigned char*>(chunks[id / pages_per_chunk]) +
           int64_t(id % pages_per_chunk) * page_bytes;
}

}  // namespace hornbeam
