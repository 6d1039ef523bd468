// From raw logits to the law of a row.
//
// The law is that of rust/core/src/ops/warp: a token's weight is floor(exp(z - max z) * 2^40), an
// integer that an f32 holds exactly; sums of weights are 64-bit integers, so atomics in any order
// give one result; ties go to the lowest id. A block takes one row and passes over it from raw
// logits as often as the warp needs, never writing a probability: the row stays in the cache.
#pragma once

#include "numeric.cuh"
#include "params/decide.h"

namespace hornbeam {

constexpr float UNIT = 1099511627776.0f;  // 2^40: the weight of the likeliest token
constexpr int BINS = 2048;
constexpr uint32_t EVERY_ID = 0xffffffffu;

struct DecideShared {
    uint64_t bins[BINS];
    double ratios[32];
    uint64_t total;
    float maxima[32];
    uint32_t ids[32];
    uint32_t found, reserved;
    uint64_t above;
    int32_t flags;
};

// The tokens that a row may still become: those above a threshold, and those on it up to an id.
// `key` is the logit's order for top-k, the weight's bits for the nucleus.
struct Cut {
    uint32_t key, last_id;
    __device__ bool keeps(uint32_t mine, uint32_t id) const { return mine > key || (mine == key && id <= last_id); }
};

// A row of raw logits under its law.
struct RowOf {
    const void* logits;
    int32_t dtype, vocabulary;
    Law law;
    int64_t begin;
    float max;

    __device__ float logit(int id) const { return load_element(logits, dtype, begin + id); }
    __device__ float weight(float x) const {
        return floorf(exp_nonpositive((x - max) * law.scale) * UNIT);
    }
};

// In `found`, the bin that a descending walk over the masses stops at: the first, from the top, at
// which `above` plus the masses so far reaches `limit` (or bin 0); `above` then holds the mass of
// the bins over it. One warp, each lane a run of neighbouring bins.
__device__ inline void find_bin(DecideShared& s, int size, uint64_t limit) {
    __syncthreads();
    if (threadIdx.x < WARP) {
        const int lane = int(threadIdx.x), run = size / WARP, top = size - 1 - lane * run;
        uint64_t mine = 0;
        for (int i = 0; i < run; ++i) mine += s.bins[top - i];
        uint64_t before = 0;  // of the lanes over this one
        for (int other = 0; other < WARP; ++other) {
            const uint64_t theirs = __shfl_sync(FULL, mine, other);
            if (other < lane) before += theirs;
        }
        before += s.above;
        const unsigned reached = __ballot_sync(FULL, before + mine >= limit);
        const int stops = reached == 0 ? WARP - 1 : __ffs(int(reached)) - 1;
        __syncwarp();  // all have read `above`
        if (lane == stops) {
            int i = 0;
            while (i < run - 1 && before + s.bins[top - i] < limit) before += s.bins[top - i++];
            s.found = uint32_t(top - i);
            s.above = before;
        }
    }
    __syncthreads();
}

__device__ inline void clear_bins(DecideShared& s, int size) {
    __syncthreads();
    for (int i = int(threadIdx.x); i < size; i += int(blockDim.x)) s.bins[i] = 0;
    __syncthreads();
}

// The id up to which exactly `count` tokens for which `is_tied(id, x)` lie; there are more.
template <class Tied>
__device__ inline uint32_t last_of_ties(const RowOf& row, DecideShared& s, uint64_t count, Tied is_tied) {
    // From the top of complemented ids, eight bits at a time: ids below 2^24.
    uint32_t prefix = 0;
    __syncthreads();  // all have read what the last walk left
    if (threadIdx.x == 0) s.above = 0;
    for (int shift = 16; shift >= 0; shift -= 8) {
        clear_bins(s, 256);
        for (int id = int(threadIdx.x); id < row.vocabulary; id += int(blockDim.x)) {
            const uint32_t key = 0xffffffu - uint32_t(id);
            if (key >> (shift + 8) == prefix && is_tied(uint32_t(id), row.logit(id))) {
                atomicAdd(reinterpret_cast<unsigned long long*>(&s.bins[key >> shift & 255]), 1ull);
            }
        }
        find_bin(s, 256, count);
        prefix = prefix << 8 | s.found;
    }
    return 0xffffffu - prefix;
}

// The `k` greatest logits, of equal ones those of lowest id; k is below the vocabulary.
__device__ inline Cut top_k(const RowOf& row, DecideShared& s, uint32_t k) {
    uint32_t prefix = 0;
    if (threadIdx.x == 0) s.above = 0;
    uint64_t ties = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        clear_bins(s, 256);
        for (int id = int(threadIdx.x); id < row.vocabulary; id += int(blockDim.x)) {
            const uint32_t key = ordered(row.logit(id));
            const bool same = shift == 24 || key >> (shift + 8) == prefix;
            if (same) atomicAdd(reinterpret_cast<unsigned long long*>(&s.bins[key >> shift & 255]), 1ull);
        }
        find_bin(s, 256, k);
        prefix = prefix << 8 | s.found;
        ties = s.bins[s.found];
    }
    const uint64_t wanted = k - s.above;
    if (ties <= wanted) return {prefix, EVERY_ID};
    return {prefix, last_of_ties(row, s, wanted, [&](uint32_t, float x) { return ordered(x) == prefix; })};
}

// The fewest likeliest of the tokens in `listed` before which the mass is below `limit`.
template <class Listed>
__device__ inline Cut nucleus(const RowOf& row, DecideShared& s, uint64_t limit, Listed listed) {
    constexpr int SHIFTS[3] = {20, 10, 0}, SIZES[3] = {2048, 1024, 1024}, KNOWN[3] = {31, 20, 10};
    uint32_t prefix = 0;
    if (threadIdx.x == 0) s.above = 0;
    for (int level = 0; level < 3; ++level) {
        clear_bins(s, SIZES[level]);
        for (int id = int(threadIdx.x); id < row.vocabulary; id += int(blockDim.x)) {
            const float x = row.logit(id), weight = row.weight(x);
            const uint32_t bits = __float_as_uint(weight);
            if (weight > 0.0f && bits >> KNOWN[level] == prefix && listed(uint32_t(id), x)) {
                atomicAdd(reinterpret_cast<unsigned long long*>(&s.bins[bits >> SHIFTS[level] & (SIZES[level] - 1)]),
                          static_cast<unsigned long long>(weight));
            }
        }
        find_bin(s, SIZES[level], limit);
        prefix = prefix << (KNOWN[level] - SHIFTS[level]) | s.found;
    }
    const float threshold = __uint_as_float(prefix);
    if (threshold < 1.0f) return {0u, 0u};
    const uint64_t least = uint64_t(threshold), mass = s.bins[s.found];
    const uint64_t wanted = limit > s.above ? (limit - s.above + least - 1) / least : 0;
    if (mass <= wanted * least) return {prefix, EVERY_ID};
    if (wanted == 0) return {prefix + 1, EVERY_ID};
    return {prefix, last_of_ties(row, s, wanted, [&](uint32_t id, float x) {
                return __float_as_uint(row.weight(x)) == prefix && listed(id, x);
            })};
}

// The greatest logit and its lowest id; or a fault.
__device__ inline int32_t maximum_of_row(RowOf& row, DecideShared& s, uint32_t& first) {
    float max = __int_as_float(int(0xff800000u));
    uint32_t id_of_max = EVERY_ID;
    bool nan = false;
    for (int id = int(threadIdx.x); id < row.vocabulary; id += int(blockDim.x)) {
        const float x = row.logit(id);
        nan = nan || x != x;
        if (x > max || (x == max && uint32_t(id) < id_of_max)) {
            max = x;
            id_of_max = uint32_t(id);
        }
    }
    const int warp = int(threadIdx.x) / WARP, lane = int(threadIdx.x) % WARP, warps = int(blockDim.x) / WARP;
    for (int m = WARP / 2; m > 0; m /= 2) {
        const float other = __shfl_xor_sync(FULL, max, m);
        const uint32_t other_id = __shfl_xor_sync(FULL, id_of_max, m);
        if (other > max || (other == max && other_id < id_of_max)) {
            max = other;
            id_of_max = other_id;
        }
    }
    if (threadIdx.x == 0) s.flags = 0;
    __syncthreads();
    if (__any_sync(FULL, nan) && lane == 0) s.flags = 1;
    if (lane == 0) {
        s.maxima[warp] = max;
        s.ids[warp] = id_of_max;
    }
    __syncthreads();
    max = s.maxima[0];
    first = s.ids[0];
    for (int w = 1; w < warps; ++w) {
        if (s.maxima[w] > max || (s.maxima[w] == max && s.ids[w] < first)) {
            max = s.maxima[w];
            first = s.ids[w];
        }
    }
    row.max = max;
    if (s.flags != 0) return IS_NAN;
    if (max == __int_as_float(0x7f800000)) return IS_INFINITE;
    return max == __int_as_float(int(0xff800000u)) ? IS_EMPTY : SOUND;
}

template <class Listed>
__device__ inline uint64_t total_of(const RowOf& row, DecideShared& s, Listed listed) {
    __syncthreads();
    if (threadIdx.x == 0) s.total = 0;
    __syncthreads();
    uint64_t mine = 0;
    for (int id = int(threadIdx.x); id < row.vocabulary; id += int(blockDim.x)) {
        const float x = row.logit(id);
        if (listed(uint32_t(id), x)) mine += uint64_t(row.weight(x));
    }
    atomicAdd(reinterpret_cast<unsigned long long*>(&s.total), static_cast<unsigned long long>(mine));
    __syncthreads();
    return s.total;
}

// Which tokens of a row whose maximum is known have a weight.
struct Cuts {
    Cut by_logit, by_weight;
};

__device__ inline Cuts cuts_of(const RowOf& row, DecideShared& s) {
    const Law& law = row.law;
    Cuts cuts{{0u, EVERY_ID}, {0u, EVERY_ID}};
    if (law.top_k > 0 && law.top_k < row.vocabulary) cuts.by_logit = top_k(row, s, uint32_t(law.top_k));
    if (law.top_p > 0.0) {
        const Cut by_logit = cuts.by_logit;
        const auto in_top_k = [&](uint32_t id, float x) { return by_logit.keeps(ordered(x), id); };
        const uint64_t total = total_of(row, s, in_top_k);
        cuts.by_weight = nucleus(row, s, uint64_t(ceil(law.top_p * double(total))), in_top_k);
    }
    return cuts;
}

// Whether a token passes all cuts, min-p included.
__device__ inline bool is_listed(const RowOf& row, const Cuts& cuts, uint32_t id, float x) {
    const float weight = row.weight(x);
    return cuts.by_logit.keeps(ordered(x), id) && cuts.by_weight.keeps(__float_as_uint(weight), id) &&
           double(weight) >= row.law.min_p * double(UNIT);
}

// The sequence that a row of a batch of draft trees belongs to: the last one whose root row is not
// behind it. Sequence b has its root at row offsets[b] + b, then one row a draft token.
__device__ inline int sequence_of(const int32_t* offsets, int num_sequences, int row) {
    int low = 0, high = num_sequences;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (offsets[middle] + middle <= row) low = middle;
        else high = middle;
    }
    return low;
}

}  // namespace hornbeam
