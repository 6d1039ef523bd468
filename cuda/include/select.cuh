// Which keys stay: rust/core/src/keep/select.rs, and what splits ask of scores (split/mod.rs). Sets are those of the
// CPU: everything that decides is an integer, and no two keys have one rank.
#pragma once

#include "numeric.cuh"
#include "params/select.h"

namespace hornbeam {

constexpr int BINS = SELECT_THREADS;

// What is protected of `num_keys` under a budget. Protect::resolve.
struct Protected {
    int sinks, recent;
};
__device__ inline Protected resolve(int sinks, int recent, int percent, int num_keys, int budget) {
    const int room = minimum(budget, num_keys);
    const int share = int(int64_t(room) * percent / 100);
    const int last = minimum(maximum(recent, share), room);
    return {minimum(room - last, sinks), last};
}

// Scores in order, NaN lowest. select::order.
__device__ inline uint32_t worth_of(float score) { return score != score ? 0u : ordered(score); }

// Greater scores first, then lower places. Never 0.
__device__ inline uint64_t rank_of(uint32_t worth, int place) {
    return uint64_t(~worth) << 32 | uint32_t(place);
}

struct Bins {
    unsigned* counts;  // [BINS]
    unsigned* sums;    // [BINS / WARP] of warps; then the digit, and how many are wanted of it
};
constexpr int SELECT_SHARED = (BINS + BINS / WARP + 2) * 4;

__device__ inline Bins bins_in(unsigned char* memory) {
    unsigned* counts = reinterpret_cast<unsigned*>(memory);
    return {counts, counts + BINS};
}

// A bound that the `wanted` lowest ranks meet, at least one, and no other; there are more. `each(take)` calls
// `take(rank)` for the ranks of this thread: together, those of the block. A byte a round: of the ranks that begin as
// the bound does, those of each next byte are counted.
template <class Each>
__device__ inline uint64_t bound_of(const Bins& bins, unsigned wanted, const Each& each) {
    const int lane = int(threadIdx.x) % WARP, warp = int(threadIdx.x) / WARP;
    unsigned* found = bins.sums + BINS / WARP;
    uint64_t bound = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        __syncthreads();
        bins.counts[threadIdx.x] = 0;
        __syncthreads();
        each([&](uint64_t rank) {
            if ((rank >> shift) >> 8 == bound) atomicAdd(&bins.counts[rank >> shift & 255u], 1u);
        });
        __syncthreads();
        const unsigned own = bins.counts[threadIdx.x];
        unsigned end = own;  // so many have this thread's byte or a lower one
        for (int m = 1; m < WARP; m *= 2) {
            const unsigned below = __shfl_up_sync(FULL, end, m);
            if (lane >= m) end += below;
        }
        if (lane == WARP - 1) bins.sums[warp] = end;
        __syncthreads();
        for (int w = 0; w < warp; ++w) end += bins.sums[w];
        if (end - own < wanted && wanted <= end) {
            found[0] = threadIdx.x;
            found[1] = wanted - (end - own);
        }
        __syncthreads();
        const unsigned digit = found[0];
        wanted = found[1];
        bound = bound << 8 | digit;
        // All that have this byte are among them.
        if (wanted == bins.counts[digit]) return ((bound + 1) << shift) - 1;
    }
    return bound;
}

// The score that decides for key `i` of a plane: its own, or its leader's for that position; -inf where that has none.
__device__ inline float score_of(const SelectKeys& p, int plane, int i) {
    const int at = p.begin[plane] + i;
    if (p.leaders == nullptr || p.leaders[plane] == plane) return p.scores[at];
    const int from = p.begin[p.leaders[plane]], end = p.begin[p.leaders[plane] + 1], position = p.positions[at];
    if (from + i < end && p.positions[from + i] == position) return p.scores[from + i];
    int low = from, high = end;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        if (p.positions[middle] < position) low = middle + 1;
        else high = middle;
    }
    return low < end && p.positions[low] == position ? p.scores[low] : -__int_as_float(0x7f800000);
}

// A block a plane, any number.
__device__ inline void select_keys(const SelectKeys& p, unsigned char* memory) {
    const Bins bins = bins_in(memory);
    for (int plane = int(blockIdx.x); plane < p.num_planes; plane += int(gridDim.x)) {
        const int begin = p.begin[plane], num_keys = p.begin[plane + 1] - begin, budget = p.budgets[plane];
        const Protected held = resolve(p.sinks, p.recent, p.recent_percent, num_keys, budget);
        const int between = num_keys - held.sinks - held.recent, units = (between + p.unit - 1) / p.unit;
        const int room = (minimum(budget, num_keys) - held.sinks - held.recent) / p.unit;
        const auto rank = [&](int unit) {
            uint32_t best = 0;
            for (int i = unit * p.unit; i < minimum((unit + 1) * p.unit, between); ++i) {
                const uint32_t worth = worth_of(score_of(p, plane, held.sinks + i));
                best = worth > best ? worth : best;
            }
            return rank_of(best, unit);
        };
        uint64_t bound = 0;
        if (budget >= num_keys || room >= units) {
            bound = ~uint64_t(0);
        } else if (room > 0) {
            bound = bound_of(bins, unsigned(room), [&](const auto& take) {
                for (int unit = int(threadIdx.x); unit < units; unit += SELECT_THREADS) take(rank(unit));
            });
        }
        for (int i = int(threadIdx.x); i < num_keys; i += SELECT_THREADS) {
            const int at = i - held.sinks;
            const bool stays = at < 0 || at >= between || bound == ~uint64_t(0);
            p.kept[begin + i] = stays || (bound > 0 && rank(at / p.unit) <= bound) ? 1 : 0;
        }
    }
}

// How many keys each head of a layer holds: the answer to Question::Heads. A block a layer, any number.
__device__ inline void compete_heads(const CompeteHeads& p, unsigned char* memory) {
    uint64_t* own = reinterpret_cast<uint64_t*>(memory);  // [num_heads] bounds of what heads have reserved
    const Bins bins = bins_in(memory + 8 * p.num_heads);
    for (int layer = int(blockIdx.x); layer < p.num_layers; layer += int(gridDim.x)) {
        const int first = layer * p.num_heads, base = p.begin[first];
        // The keys of a head that are not protected, and what it reserves of them.
        struct Middle {
            int begin, end, beyond;
        };
        const auto middle = [&](int head) {
            const int begin = p.begin[first + head], end = p.begin[first + head + 1];
            const int floor = minimum(p.sinks + p.recent, end - begin);
            const Protected held = resolve(p.sinks, p.recent, p.recent_percent, end - begin, floor);
            return Middle{begin + held.sinks, end - held.recent, p.reserved[first + head] - held.sinks - held.recent};
        };
        const auto rank = [&](int at) { return rank_of(worth_of(p.scores[at]), at - base); };
        int rest = 0;
        for (int head = 0; head < p.num_heads; ++head) {
            const Middle keys = middle(head);
            rest += keys.end - keys.begin - keys.beyond;
            uint64_t bound = 0;
            if (keys.beyond >= keys.end - keys.begin) {
                bound = ~uint64_t(0);
            } else if (keys.beyond > 0) {
                bound = bound_of(bins, unsigned(keys.beyond), [&](const auto& take) {
                    for (int at = keys.begin + int(threadIdx.x); at < keys.end; at += SELECT_THREADS) take(rank(at));
                });
            }
            if (threadIdx.x == 0) own[head] = bound;
        }
        __syncthreads();
        const int room = p.rooms[layer];
        uint64_t bound = 0;
        if (room >= rest) {
            bound = ~uint64_t(0);
        } else if (room > 0) {
            bound = bound_of(bins, unsigned(room), [&](const auto& take) {
                for (int head = 0; head < p.num_heads; ++head) {
                    const Middle keys = middle(head);
                    for (int at = keys.begin + int(threadIdx.x); at < keys.end; at += SELECT_THREADS) {
                        const uint64_t mine = rank(at);
                        if (mine > own[head]) take(mine);
                    }
                }
            });
        }
        for (int head = 0; head < p.num_heads; ++head) {
            const Middle keys = middle(head);
            __syncthreads();
            if (threadIdx.x == 0) bins.counts[0] = 0;
            __syncthreads();
            unsigned won = 0;
            for (int at = keys.begin + int(threadIdx.x); at < keys.end; at += SELECT_THREADS) {
                const uint64_t mine = rank(at);
                if (mine > own[head] && mine <= bound) ++won;
            }
            if (won > 0) atomicAdd(&bins.counts[0], won);
            __syncthreads();
            if (threadIdx.x == 0) p.counts[first + head] = p.reserved[first + head] + int(bins.counts[0]);
        }
        __syncthreads();
    }
}

// The columns of each layer in global_prefix.rs, not in order: sums over heads, matched from the end, as parts of
// 2^32 of the greatest; all 1 where there is no score, and -1 beyond the last one. A block a layer, any number.
__device__ inline void column_sums(const ColumnSums& p, unsigned char* memory) {
    unsigned long long* greatest = reinterpret_cast<unsigned long long*>(memory);
    for (int layer = int(blockIdx.x); layer < p.num_layers; layer += int(gridDim.x)) {
        const int32_t* begin = p.begin + layer * p.num_heads;
        int64_t* sums = p.sums + int64_t(layer) * p.width;
        int columns = 0;
        for (int head = 0; head < p.num_heads; ++head) columns = maximum(columns, begin[head + 1] - begin[head]);
        __syncthreads();
        if (threadIdx.x == 0) *greatest = 0;
        __syncthreads();
        for (int column = int(threadIdx.x); column < columns; column += SELECT_THREADS) {
            double sum = 0.0;
            for (int head = 0; head < p.num_heads; ++head) {
                const int at = begin[head + 1] - columns + column;
                const float score = at < begin[head] ? 0.0f : p.scores[at];
                if (score > 0.0f && score < __int_as_float(0x7f800000)) sum += double(score);
            }
            // Doubles that are not negative have the order of their bits.
            sums[column] = int64_t(bits_of(sum));
            atomicMax(greatest, static_cast<unsigned long long>(bits_of(sum)));
        }
        __syncthreads();
        const double most = double_of(*greatest);
        for (int column = int(threadIdx.x); column < p.width; column += SELECT_THREADS) {
            int64_t share = -1;
            if (column < columns) {
                share = most > 0.0 ? int64_t(double_of(uint64_t(sums[column])) / most * 4294967296.0 + 0.5) : 1;
            }
            sums[column] = share;
        }
        __syncthreads();
    }
}

}  // namespace hornbeam
