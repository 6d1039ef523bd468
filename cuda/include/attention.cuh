// Tree attention over a packed plan: what the tiled and the plain kernel share, and the merge.
//
// A block of threads takes one item of the work list for one kv head: some rows, all their queries
// of that head (query m is row m / group, head m % group of the group), and runs of keys. Each key
// carries the interval of rows that see it, so that trees, forests, shared prefixes and causality
// are one comparison. Softmax is computed online; an item whose rows have other items leaves its
// maximum, its sum and its unnormalised output to the merge.
#pragma once

#include "coded.cuh"
#include "params/attention.h"

namespace hornbeam {

constexpr float LOG2_E = 1.4426950408889634f;

__device__ inline float minus_infinity() { return __int_as_float(int(0xff800000u)); }

// What a tile knows of one key.
struct Key {
    const unsigned char* address;  // of the key on its page, of the page where it is in codes; null where no key is
    int row_begin, row_end;        // the rows that see it
    int position;
    int code;                      // 0, or format << SLOT_BITS | slot
};
static_assert(sizeof(Key) == 24, "reckoned with in attention.rs");

// Walks the tiles of an item; the same in every thread of the block.
struct Tiles {
    const Segment* segment;
    const Segment* end;
    int slot;

    __device__ Tiles(const int32_t* plan, const Item& item) {
        segment = part<Segment>(plan, header_of(plan).segments) + item.segment_begin;
        end = part<Segment>(plan, header_of(plan).segments) + item.segment_end;
        slot = item.segment_begin < item.segment_end ? segment->slot_begin : 0;
    }
    __device__ bool done() const { return segment == end; }
    __device__ void advance(int slots) {
        slot += slots;
        if (slot < segment->slot_end) return;
        ++segment;
        if (segment != end) slot = segment->slot_begin;
    }
};

// The key at a slot of a read, for one plane; `index` is its number among the keys of the read there.
__device__ inline Key key_at(const int32_t* plan, const Pages& pages, const Segment& segment, int slot, int plane,
                             int& index) {
    const PlanHeader& header = header_of(plan);
    const Read read = part<Read>(plan, header.reads)[segment.read];
    const bool by_head = (read.flags & Read_BY_HEAD) != 0;
    uint32_t begin = read.entry_begin, end = read.entry_end;
    if (by_head) {
        const int32_t* range = part<int32_t>(plan, header.head_ranges) + 2 * (read.entry_begin + plane);
        begin = uint32_t(range[0]);
        end = uint32_t(range[1]);
    }
    const uint32_t at = begin + uint32_t(slot) / uint32_t(pages.page_tokens);
    const int within = int(uint32_t(slot) % uint32_t(pages.page_tokens));
    Key key{nullptr, 0, 0, 0, 0};
    if (slot >= segment.slot_end || at >= end) return key;
    const Entry entry = part<Entry>(plan, header.entries)[at];
    // An entry in codes shows slots from `first` on, a plain one those of its page that it names.
    const bool is_coded = entry.first >> Entry_SLOT_BITS != 0;
    const int offset = is_coded ? within : within - int(entry.first);
    if (offset < 0 || offset >= int(entry.count)) return key;
    const uint64_t* chunks = part<uint64_t>(plan, header.chunks);
    key.address = by_head ? page_of_id(chunks, pages, entry.page) : slab_page(chunks, pages, entry.page, plane);
    if (is_coded) key.code = int(entry.first) + offset;
    else key.address += int64_t(within) * pages.head_dim * size_of(pages.dtype);
    key.position = entry.positions_at < 0 ? entry.position + offset
                                          : part<int32_t>(plan, header.positions)[entry.positions_at + offset];
    index = part<int32_t>(plan, header.entry_keys)[at] + offset;
    if (read.flags & Read_OWN) {
        key.row_begin = int(read.row_begin) + index;
        key.row_end = part<int32_t>(plan, header.row_end)[key.row_begin];
    } else {
        key.row_begin = int(read.row_begin);
        key.row_end = int(read.row_end);
    }
    return key;
}
__device__ inline Key key_at(const TreeAttention& p, const Segment& segment, int slot, int plane) {
    int index;
    return key_at(p.plan, p.pages, segment, slot, plane, index);
}

// One row of queries: which it is, and where it stands.
struct QueryRow {
    int row, position;
};

__device__ inline QueryRow query_row(const TreeAttention& p, const Item& item, int query, int group) {
    const int local = query / group;
    if (local >= item.row_count) return {-1, 0};
    const int row = item.row_begin + local;
    return {row, part<int32_t>(p.plan, header_of(p.plan).row_positions)[row]};
}

__device__ inline bool sees(const TreeAttention& p, const QueryRow& query, const Key& key) {
    // Positions may be compared as unsigned: a key that a row sees never lies behind it.
    return key.row_begin <= query.row && query.row < key.row_end && query.position - key.position < p.window;
}

// Whether any row of the item may see the key.
__device__ inline bool any_sees(const TreeAttention& p, const Item& item, const Key& key) {
    if (key.address == nullptr || key.row_end <= item.row_begin || key.row_begin >= item.row_begin + item.row_count) {
        return false;
    }
    if (p.window == 0x7fffffff) return true;
    const int32_t* positions = part<int32_t>(p.plan, header_of(p.plan).row_positions) + item.row_begin;
    bool any = false;
    for (int i = 0; i < item.row_count; ++i) any = any || positions[i] - key.position < p.window;
    return any;
}

// Whether every row of the item sees the key.
__device__ inline bool all_see(const TreeAttention& p, const Item& item, const Key& key) {
    if (key.row_begin > item.row_begin || key.row_end < item.row_begin + item.row_count) return false;
    if (p.window == 0x7fffffff) return true;
    const int32_t* positions = part<int32_t>(p.plan, header_of(p.plan).row_positions) + item.row_begin;
    bool all = true;
    for (int i = 0; i < item.row_count; ++i) all = all && positions[i] - key.position < p.window;
    return all;
}

// A weight of 0 does not hide an infinity or a NaN: 0 times those is NaN. So kernels look at the values that
// some row does not see, and where these are not all finite, go a way that leaves them out row by row.
__device__ inline bool is_finite(float x) { return fabsf(x) <= 3.402823466e38f; }

__device__ inline float logit(const TreeAttention& p, float dot) {
    const float x = dot * p.scale;
    return p.soft_cap > 0.0f ? p.soft_cap * tanhf(x / p.soft_cap) : x;
}

// Whether any thread of the block says yes, known to all; a barrier.
__device__ inline bool block_any(bool mine) {
#ifdef HORNBEAM_SIMT
    return simt::barrier_or(SIMT_SITE("__syncthreads_or"), mine);
#else
    return __syncthreads_or(mine) != 0;
#endif
}

// The softmax of one query so far: the largest logit, and the sum of exp(logit - largest).
struct Stats {
    float largest, sum;
};

// The factor by which a part with this largest logit counts towards a whole with that one.
__device__ inline float share_of(float part_largest, float whole_largest) {
    return part_largest == minus_infinity() ? 0.0f : exp2f((part_largest - whole_largest) * LOG2_E);
}

// Writes one element of the output, and with d == 0 the log-sum-exp. A sink is a logit that takes
// part in the sum and has no value.
__device__ inline void write_out(const TreeAttention& p, int row, int head, int d, Stats stats, float value) {
    float sum = stats.sum;
    if (p.sinks != nullptr) {
        const float sink = p.sinks[head];
        const float largest = sink > stats.largest ? sink : stats.largest;
        const float scale = share_of(stats.largest, largest);
        sum = stats.sum * scale + share_of(sink, largest);
        value *= scale;
        stats.largest = largest;
    }
    const float x = sum > 0.0f ? value / sum : 0.0f;
    store_element(p.out, p.out_dtype, row * p.out_strides[0] + head * p.out_strides[1] + d, x);
    if (d == 0 && p.lse != nullptr) {
        p.lse[int64_t(row) * p.num_heads + head] = sum > 0.0f ? stats.largest + logf(sum) : minus_infinity();
    }
}

// The end of an item for one element: to the output, or to the workspace.
__device__ inline void finish(const TreeAttention& p, const Item& item, int query, int group, int kv_head, int d,
                              Stats stats, float value) {
    const int local = query / group, head = kv_head * group + query % group;
    if (item.partial_begin < 0) {
        write_out(p, item.row_begin + local, head, d, stats, value);
        return;
    }
    const int64_t at = int64_t(item.partial_begin + local) * p.num_heads + head;
    p.partials[at * p.pages.head_dim + d] = value;
    if (d == 0) {
        p.partial_stats[2 * at] = stats.largest;
        p.partial_stats[2 * at + 1] = stats.sum;
    }
}

// One warp a (row, head) that several items share; parts in the order of the list. Grid: any.
__device__ inline void merge(const TreeAttention& p) {
    const PlanHeader& header = header_of(p.plan);
    const int32_t* rows = part<int32_t>(p.plan, header.merged_rows);
    const int32_t* begins = part<int32_t>(p.plan, header.parts_begin);
    const int32_t* parts = part<int32_t>(p.plan, header.parts);
    const int warps = int(blockDim.x) / WARP, lane = int(threadIdx.x) % WARP;
    const int64_t total = int64_t(header.num_merged_rows) * p.num_heads;
    for (int64_t i = int64_t(blockIdx.x) * warps + int(threadIdx.x) / WARP; i < total;
         i += int64_t(gridDim.x) * warps) {
        const int which = int(i / p.num_heads), head = int(i % p.num_heads);
        const int begin = begins[which], end = begins[which + 1];
        Stats whole{minus_infinity(), 0.0f};
        for (int part = begin; part < end; ++part) {
            const float largest = p.partial_stats[2 * (int64_t(parts[part]) * p.num_heads + head)];
            whole.largest = largest > whole.largest ? largest : whole.largest;
        }
        for (int part = begin; part < end; ++part) {
            const float* stats = p.partial_stats + 2 * (int64_t(parts[part]) * p.num_heads + head);
            whole.sum = fmaf(stats[1], share_of(stats[0], whole.largest), whole.sum);
        }
        for (int d = lane; d < p.pages.head_dim; d += WARP) {
            float value = 0.0f;
            for (int part = begin; part < end; ++part) {
                const int64_t at = int64_t(parts[part]) * p.num_heads + head;
                value = fmaf(p.partials[at * p.pages.head_dim + d], share_of(p.partial_stats[2 * at], whole.largest), value);
            }
            write_out(p, rows[which], head, d, whole, value);
        }
    }
}

}  // namespace hornbeam
