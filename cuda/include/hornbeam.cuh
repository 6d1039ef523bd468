// What every kernel is written against: entry points, element types, the warp, the block.
//
// The same files compile in two ways: by nvcc for a device, and by a host compiler with
// HORNBEAM_SIMT defined, where simt/simt.h supplies the threads (see docs/cuda.md). Kernels
// therefore include no CUDA library, use full-mask warp collectives only, and keep all shared
// memory dynamic, so that the emulation can refill it and watch its end.
#pragma once

#include <stdint.h>

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

// Element types, numbered as the parameter structs number them.
enum Dtype : int32_t { F32 = 0, BF16 = 1, F16 = 2 };

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

__device__ inline int minimum(int a, int b) { return a < b ? a : b; }
__device__ inline int maximum(int a, int b) { return a > b ? a : b; }

// The same words on the host: rust/cuda/src/packed.rs writes this buffer, once a step. Offsets are in
// 32-bit words from its start, so one upload updates a captured graph in place.
struct PlanHeader {
    int32_t num_rows;
    int32_t num_items;
    int32_t num_merged_rows;
    int32_t rows_per_item;
    int32_t chunks;         // u64 addresses
    int32_t entries;        // Entry
    int32_t entry_keys;     // i32: index in its read of an entry's first key
    int32_t positions;      // i32
    int32_t head_ranges;    // i32 pairs
    int32_t reads;          // Read
    int32_t row_positions;  // i32
    int32_t row_end;        // i32
    int32_t row_slots;      // RowSlot
    int32_t items;          // Item
    int32_t segments;       // Segment
    int32_t merged_rows;    // i32: rows that several items share
    int32_t parts_begin;    // i32 [num_merged_rows + 1]
    int32_t parts;          // i32: partial rows, in the order in which they are merged
    int32_t formats;        // CodedPage, by number less one; all 0 for those that no entry names
    int32_t reserved[13];
};
static_assert(sizeof(PlanHeader) == 128, "mirrored in packed.rs");

struct Entry {
    uint32_t page;
    uint16_t first, count;
    int32_t position, positions_at;
    // Bits of `first` that are a slot; the number of the page's format is above them.
    static constexpr int SLOT_BITS = 12, SLOTS = (1 << SLOT_BITS) - 1;
};
static_assert(sizeof(Entry) == 16, "mirrored in format/plan.rs");

struct Read {
    uint32_t entry_begin, entry_end, row_begin, row_end, num_keys, flags;
    int32_t mask, rotary_offset;
    static constexpr uint32_t OWN = 1, BY_HEAD = 2;
};
static_assert(sizeof(Read) == 32, "mirrored in format/plan.rs");

struct RowSlot {
    uint32_t slab, slot;
    static constexpr uint32_t NOWHERE = 0xffffffffu;  // a padded row: not written
};

// What one block of threads reads: its rows against runs of keys.
struct Item {
    int32_t row_begin, row_count, segment_begin, segment_end;
    int32_t partial_begin;  // first of its partial rows, or -1: it writes the output itself
    int32_t reserved[3];
};
static_assert(sizeof(Item) == 32, "mirrored in packed.rs");

// A run of slots of one read: slot `s` lies on the read's entry `s / page_tokens`.
struct Segment {
    int32_t read, slot_begin, slot_end, reserved;
};
static_assert(sizeof(Segment) == 16, "mirrored in packed.rs");

// Where pages lie; mirrors format::PageLayout.
struct Pages {
    int32_t num_planes, slabs_per_chunk, page_tokens, head_dim;
    int32_t dtype, plane_begin, num_kv_heads, reserved;
};
static_assert(sizeof(Pages) == 32, "mirrored in params.rs");

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
