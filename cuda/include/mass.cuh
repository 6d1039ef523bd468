// The probability mass that some rows of a step give to each key: rust/core/src/ops/attention/mass.rs,
// bit by bit. A score is one chain of fused multiply-adds over the dimensions, from the first; a
// probability is a whole number of 2^-39, and sums of those have no order.
//
// Three launches go over the keys, each with the scores anew: for every query's largest score, for the
// sum of its exponentials, for the keys' masses. No score is ever stored.
#pragma once

#include "attention_plain.cuh"
#include "numeric.cuh"
#include "params/mass.h"

namespace hornbeam {

constexpr double MASS_ONE = 549755813888.0;  // 2^39

// What the launches before know of a query; zeros at first.
struct QueryStats {
    uint64_t sum;
    uint32_t largest;  // `ordered`; 0 where it sees no key
    int32_t is_nan;    // whether a key that it sees has a score that is no number
};
static_assert(sizeof(QueryStats) == QUERY_STATS_BYTES, "as the caller has set apart");

// The softmax of a query as far as the stats know it: a logit to shift by, whether it is a distribution.
struct Shift {
    float largest;
    bool counts, is_nan;
};

__device__ inline Shift shift_of(const QueryStats& stats, float sink) {
    float largest = stats.largest == 0 ? minus_infinity() : unordered(stats.largest);
    largest = sink > largest ? sink : largest;
    const bool is_nan = stats.is_nan != 0 || largest == __int_as_float(0x7f800000);
    return {largest, !is_nan && largest > minus_infinity(), is_nan};
}

__device__ inline uint64_t in_units(float e) { return rounded(double(e) * MASS_ONE); }

// Warp w has queries 4w .. 4w + 3 of sixteen, lane k the tile's key k. Grid: segments, kv heads, and strips
// of sixteen queries, of each any number.
__device__ inline void key_mass(const KeyMass& p, unsigned char* memory) {
    const int head_dim = p.pages.head_dim, group = p.num_heads / p.pages.num_kv_heads;
    const int warp = int(threadIdx.x) / WARP, lane = int(threadIdx.x) % WARP;
    const int kv_head = int(blockIdx.y), queries = p.num_rows * group, strips = (queries + PLAIN_QUERIES - 1) / PLAIN_QUERIES;
    const PlainShared s = plain_shared(memory, head_dim);
    int* columns = reinterpret_cast<int*>(s.weight);  // of the tile's keys
    const PlanHeader& header = header_of(p.plan);
    const float inverse_cap = p.soft_cap > 0.0f ? 1.0f / p.soft_cap : 0.0f;

    for (int strip = int(blockIdx.z); strip < strips; strip += int(gridDim.z)) {
        const int first = strip * PLAIN_QUERIES, last = minimum(queries, first + PLAIN_QUERIES) - 1;
        __syncthreads();
        for (int i = int(threadIdx.x); i < PLAIN_QUERIES * head_dim; i += ATTENTION_THREADS) {
            const int query = first + i / head_dim;
            const int64_t at = query / group * p.q_strides[0] + (kv_head * group + query % group) * p.q_strides[1];
            s.q[i] = query <= last ? load_element(p.q, p.dtype, at + i % head_dim) : 0.0f;
        }
        int rows[4], positions[4];
        Shift shifts[4];
        double shares[4];
        for (int i = 0; i < 4; ++i) {
            const int query = first + 4 * warp + i;
            rows[i] = -1;
            positions[i] = 0;
            shifts[i] = {minus_infinity(), false, false};
            shares[i] = 0.0;
            if (query > last) continue;
            rows[i] = p.rows[query / group];
            positions[i] = part<int32_t>(p.plan, header.row_positions)[rows[i]];
            if (p.phase == LARGEST) continue;
            const int head = kv_head * group + query % group;
            const float sink = p.sinks == nullptr ? minus_infinity() : p.sinks[head];
            const QueryStats stats = p.stats[int64_t(kv_head) * queries + query];
            shifts[i] = shift_of(stats, sink);
            if (p.phase == SUM) continue;
            float lse = shifts[i].is_nan ? __int_as_float(0x7fc00000) : minus_infinity();
            if (shifts[i].counts) {
                uint64_t sum = stats.sum;
                if (p.sinks != nullptr) sum += in_units(exp_nonpositive(sink - shifts[i].largest));
                shares[i] = MASS_ONE / double(sum) * MASS_ONE;
                lse = shifts[i].largest + logarithm(float(double(sum) / MASS_ONE));
            }
            if (p.lse != nullptr && blockIdx.x == 0 && lane == 0) p.lse[int64_t(query / group) * p.num_heads + head] = lse;
        }
        const int first_row = p.rows[first / group], last_row = p.rows[last / group];
        float largest[4];
        uint64_t sums[4];
        bool nan[4];
        for (int i = 0; i < 4; ++i) {
            largest[i] = minus_infinity();
            sums[i] = 0;
            nan[i] = false;
        }

        for (int which = int(blockIdx.x); which < p.num_segments; which += int(gridDim.x)) {
            const Segment segment = p.segments[which];
            for (int slot = segment.slot_begin; slot < segment.slot_end; slot += PLAIN_KEYS) {
                int index = 0;
                bool wanted = false;
                if (int(threadIdx.x) < PLAIN_KEYS) {
                    const Key key = key_at(p.plan, p.pages, segment, slot + lane, p.pages.plane_begin + kv_head, index);
                    s.keys[lane] = key;
                    columns[lane] = segment.column + index;
                    wanted = key.address != nullptr && key.row_end > first_row && key.row_begin <= last_row;
                }
                if (!block_any(wanted)) continue;
                plain_load(p.plan, p.pages, s.keys, s.tile, false);
                __syncthreads();
                const Key key = s.keys[lane];
                uint64_t mass = 0;
                int seen = 0;
                for (int i = 0; i < 4; ++i) {
                    const bool sees = key.address != nullptr && key.row_begin <= rows[i] && rows[i] < key.row_end &&
                                      positions[i] - key.position < p.window;
                    float score = 0.0f;
                    const float* query = s.q + (4 * warp + i) * head_dim;
                    for (int d = 0; d < head_dim; ++d) score = fmaf(s.tile[lane * (head_dim + 1) + d], query[d], score);
                    score *= p.scale;
                    if (p.soft_cap > 0.0f) score = p.soft_cap * hyperbolic_tangent(score * inverse_cap);
                    if (!sees) continue;
                    if (p.phase == LARGEST) {
                        nan[i] = nan[i] || score != score;
                        largest[i] = score > largest[i] ? score : largest[i];
                    } else if (shifts[i].counts) {
                        const float e = exp_nonpositive(score - shifts[i].largest);
                        if (p.phase == SUM) sums[i] += in_units(e);
                        else mass += rounded(double(e) * shares[i]);
                    }
                    seen += (first + 4 * warp + i) % group == 0;
                }
                if (p.phase == MASS) {
                    const int64_t at = int64_t(kv_head) * p.num_columns + columns[lane];
                    if (mass != 0) {
                        atomicAdd(reinterpret_cast<unsigned long long*>(&p.mass[at]), static_cast<unsigned long long>(mass));
                    }
                    if (seen != 0 && p.seen != nullptr) atomicAdd(&p.seen[at], seen);
                }
                __syncthreads();
            }
        }
        if (p.phase == MASS) continue;
        for (int i = 0; i < 4; ++i) {
            const int query = first + 4 * warp + i;
            const bool any_nan = __any_sync(FULL, nan[i]);
            for (int m = WARP / 2; m > 0; m /= 2) {
                largest[i] = fmaxf(largest[i], __shfl_xor_sync(FULL, largest[i], m));
                sums[i] += __shfl_xor_sync(FULL, static_cast<unsigned long long>(sums[i]), m);
            }
            if (lane != 0 || query > last) continue;
            QueryStats& stats = p.stats[int64_t(kv_head) * queries + query];
            if (p.phase == SUM) {
                atomicAdd(reinterpret_cast<unsigned long long*>(&stats.sum), static_cast<unsigned long long>(sums[i]));
            } else {
                // Also for a query with keys whose scores are all -inf: it is no distribution, as one without keys.
                atomicMax(&stats.largest, ordered(largest[i]));
                if (any_nan) atomicMax(&stats.is_nan, 1);
            }
        }
    }
}

}  // namespace hornbeam
