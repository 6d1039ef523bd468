// From raw logits to tokens: warp and coupled sampling of every row at once, then the walk.
//
// The law is that of rust/core/src/ops/warp: a token's weight is floor(exp(z - max z) * 2^40), an
// integer that an f32 holds exactly; sums of weights are 64-bit integers, so atomics in any order
// give one result; ties go to the lowest id. A block takes one row and passes over it from raw
// logits as often as the warp needs, never writing a probability: the row stays in the cache.
// Coupled noise does not depend on what was drafted, so all rows of a draft tree are sampled at
// once, and the walk only compares tokens.
#pragma once

#include "numeric.cuh"

namespace hornbeam {

// How logits become a law. Zero switches top_k, top_p and min_p off.
struct Law {
    float scale;  // 1 / temperature
    int32_t greedy, top_k, reserved;
    double top_p, min_p;
};
static_assert(sizeof(Law) == 32, "mirrored in params.rs");

struct Sample {
    const void* logits;        // [num_rows, vocabulary], unit last stride
    const int32_t* parents;    // of draft tokens, within their sequence; null without drafts
    const int32_t* offsets;    // [num_sequences + 1] into parents; null without drafts
    const int64_t* sequences;  // [num_sequences], null: 0, 1, 2, ...
    const int64_t* positions;  // [num_sequences], of the token sampled at each root
    const Law* laws;           // [num_sequences], null: `law` for all
    int32_t* tokens;           // [num_rows]; -1 where the row has no law
    int32_t* faults;           // [num_rows]: 0, or why it has none (Fault)
    int64_t row_stride;
    Law law;
    uint32_t seed_low, seed_high;
    int32_t num_rows, num_sequences, vocabulary, dtype;
};
static_assert(sizeof(Sample) == 128, "mirrored in params.rs");

enum Fault : int32_t { SOUND = 0, IS_NAN = 1, IS_INFINITE = 2, IS_EMPTY = 3 };

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

// A float as an unsigned integer of the same order; -0 as 0.
__device__ inline uint32_t ordered(float x) {
    const uint32_t bits = __float_as_uint(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// The tokens that a row may still become: those above a threshold, and those on it up to an id.
// `key` is the logit's order for top-k, the weight's bits for the nucleus.
struct Cut {
    uint32_t key, last_id;
    __device__ bool keeps(uint32_t mine, uint32_t id) const { return mine > key || (mine == key && id <= last_id); }
};

struct RowOf {
    const Sample& p;
    Law law;
    int64_t begin;
    float max;

    __device__ float logit(int id) const { return load_element(p.logits, p.dtype, begin + id); }
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
        for (int id = int(threadIdx.x); id < row.p.vocabulary; id += int(blockDim.x)) {
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
        for (int id = int(threadIdx.x); id < row.p.vocabulary; id += int(blockDim.x)) {
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
        for (int id = int(threadIdx.x); id < row.p.vocabulary; id += int(blockDim.x)) {
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
    for (int id = int(threadIdx.x); id < row.p.vocabulary; id += int(blockDim.x)) {
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
    for (int id = int(threadIdx.x); id < row.p.vocabulary; id += int(blockDim.x)) {
        const float x = row.logit(id);
        if (listed(uint32_t(id), x)) mine += uint64_t(row.weight(x));
    }
    atomicAdd(reinterpret_cast<unsigned long long*>(&s.total), static_cast<unsigned long long>(mine));
    __syncthreads();
    return s.total;
}

// The token with the least exponential / weight, of equal ones the lowest. ops::sample::coupled.
template <class Listed>
__device__ inline uint32_t race(const RowOf& row, DecideShared& s, uint32_t sequence, uint32_t position, Listed listed) {
    double best = double_of(0x7ff0000000000000ull);
    uint32_t winner = EVERY_ID;
    float bound = __int_as_float(0x7f800000);
    for (int begin = 4 * int(threadIdx.x); begin < row.p.vocabulary; begin += 4 * int(blockDim.x)) {
        float weights[4];
        bool any = false;
        for (int lane = 0; lane < 4; ++lane) {
            weights[lane] = 0.0f;
            const int id = begin + lane;
            if (id >= row.p.vocabulary) continue;
            const float x = row.logit(id), weight = row.weight(x);
            if (weight > 0.0f && listed(uint32_t(id), x)) {
                weights[lane] = weight;
                any = true;
            }
        }
        if (!any) continue;
        const Words words = philox(uint32_t(begin) / 4, position, sequence, 0, row.p.seed_low, row.p.seed_high);
        for (int lane = 0; lane < 4; ++lane) {
            // exponential(word) >= 1 - uniform(word), of which this is a lower bound.
            const float head_start = float(int(~words.x[lane] >> 8)) * (1.0f / 16777216.0f);
            if (weights[lane] <= 0.0f || head_start > bound * weights[lane]) continue;
            const double ratio = exponential(words.x[lane]) / double(weights[lane]);
            const uint32_t id = uint32_t(begin + lane);
            if (ratio < best || (ratio == best && id < winner)) {
                best = ratio;
                winner = id;
                bound = float(ratio) * (1.0f + 1e-6f) + 1.17549435e-38f;
            }
        }
    }
    const int warp = int(threadIdx.x) / WARP, lane = int(threadIdx.x) % WARP, warps = int(blockDim.x) / WARP;
    for (int m = WARP / 2; m > 0; m /= 2) {
        const double other = __shfl_xor_sync(FULL, best, m);
        const uint32_t other_id = __shfl_xor_sync(FULL, winner, m);
        if (other < best || (other == best && other_id < winner)) {
            best = other;
            winner = other_id;
        }
    }
    __syncthreads();
    if (lane == 0) {
        s.ratios[warp] = best;
        s.ids[warp] = winner;
    }
    __syncthreads();
    best = s.ratios[0];
    winner = s.ids[0];
    for (int w = 1; w < warps; ++w) {
        if (s.ratios[w] < best || (s.ratios[w] == best && s.ids[w] < winner)) {
            best = s.ratios[w];
            winner = s.ids[w];
        }
    }
    return winner;
}

// The law's token of a row whose maximum is known.
__device__ inline uint32_t sample_row(const RowOf& row, DecideShared& s, uint32_t sequence, uint32_t position) {
    const Law& law = row.law;
    Cut by_logit{0u, EVERY_ID}, by_weight{0u, EVERY_ID};
    if (law.top_k > 0 && law.top_k < row.p.vocabulary) by_logit = top_k(row, s, uint32_t(law.top_k));
    const auto in_top_k = [&](uint32_t id, float x) { return by_logit.keeps(ordered(x), id); };
    if (law.top_p > 0.0) {
        const uint64_t total = total_of(row, s, in_top_k);
        const uint64_t limit = uint64_t(ceil(law.top_p * double(total)));
        by_weight = nucleus(row, s, limit, in_top_k);
    }
    const double least = law.min_p * double(UNIT);
    return race(row, s, sequence, position, [&](uint32_t id, float x) {
        const float weight = row.weight(x);
        return in_top_k(id, x) && by_weight.keeps(__float_as_uint(weight), id) && double(weight) >= least;
    });
}

// One block a row; grid: any size.
__device__ inline void sample(const Sample& p, unsigned char* memory) {
    DecideShared& s = *reinterpret_cast<DecideShared*>(memory);
    for (int r = int(blockIdx.x); r < p.num_rows; r += int(gridDim.x)) {
        // The sequence: the last one whose root row is not behind this row.
        int sequence = r, depth = 0;
        if (p.offsets != nullptr) {
            int low = 0, high = p.num_sequences;
            while (high - low > 1) {
                const int middle = (low + high) / 2;
                if (p.offsets[middle] + middle <= r) low = middle;
                else high = middle;
            }
            sequence = low;
            const int first = p.offsets[sequence];
            for (int i = r - first - sequence - 1; i >= 0; i = p.parents[first + i]) ++depth;
        }
        RowOf row{p, p.laws == nullptr ? p.law : p.laws[sequence], r * p.row_stride, 0.0f};
        uint32_t token = EVERY_ID;
        const int32_t fault = maximum_of_row(row, s, token);
        if (fault != SOUND) {
            token = EVERY_ID;
        } else if (row.law.greedy == 0) {
            const uint32_t stream = p.sequences == nullptr ? uint32_t(sequence) : uint32_t(p.sequences[sequence]);
            const uint32_t root = p.positions == nullptr ? 0u : uint32_t(p.positions[sequence]);
            token = sample_row(row, s, stream, root + uint32_t(depth));
        }
        if (threadIdx.x == 0) {
            p.tokens[r] = int32_t(token);
            p.faults[r] = fault;
        }
        __syncthreads();
    }
}

struct Follow {
    const int64_t* draft_tokens;
    const int32_t* parents;
    const int32_t* offsets;
    const int32_t* tokens;  // of all rows, as sampled
    const int32_t* faults;
    int32_t* accepted;      // [num_sequences, max_depth]
    int32_t* num_accepted;  // [num_sequences]
    int64_t* next_token;    // [num_sequences]; -1 where a row on the way has no law
    int32_t* fault_rows;    // [num_sequences]: 0, or 4 * row + fault
    int32_t num_sequences, max_depth;
};
static_assert(sizeof(Follow) == 80, "mirrored in params.rs");

// One warp a sequence: from the root down, to the first child that holds the row's token.
__device__ inline void follow(const Follow& p) {
    const int warps = int(blockDim.x) / WARP, lane = int(threadIdx.x) % WARP;
    for (int b = int(blockIdx.x) * warps + int(threadIdx.x) / WARP; b < p.num_sequences; b += int(gridDim.x) * warps) {
        const int first = p.offsets[b], size = p.offsets[b + 1] - first;
        int row = 0, count = 0;
        int32_t token, fault;
        while (true) {
            token = p.tokens[first + b + row];
            fault = p.faults[first + b + row];
            int child = -1;
            // Children come after their parent: token i of the sequence is row i + 1.
            for (int begin = row; fault == SOUND && child < 0 && begin < size; begin += WARP) {
                const int i = begin + lane;
                const bool matches =
                    i < size && p.parents[first + i] == row - 1 && p.draft_tokens[first + i] == int64_t(token);
                const unsigned found = __ballot_sync(FULL, matches);
                if (found != 0) child = begin + __ffs(int(found)) - 1;
            }
            if (child < 0) break;
            row = child + 1;
            if (lane == 0) p.accepted[int64_t(b) * p.max_depth + count] = row;
            ++count;
        }
        for (int i = count + lane; i < p.max_depth; i += WARP) p.accepted[int64_t(b) * p.max_depth + i] = -1;
        if (lane == 0) {
            p.num_accepted[b] = count;
            p.next_token[b] = fault == SOUND ? int64_t(token) : -1;
            p.fault_rows[b] = fault == SOUND ? 0 : 4 * row + fault;
        }
    }
}

}  // namespace hornbeam
