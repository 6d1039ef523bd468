// Evicted keys and values merged into kept ones: rust/core/src/keep/reduce, bit by bit.
//
// Four steps over all planes: directions, the kept key nearest to each key that asks, weights, sums. A cosine is
// sixteen chains of fused multiply-adds, added up in the order of Lanes::reduce_add; sums of weights and of
// weighted elements run in f64, the kept one first, then those that join it, ascending.
#pragma once

#include "attention_plain.cuh"
#include "numeric.cuh"
#include "params/merge.h"

namespace hornbeam {

__device__ inline double length_of(const float* row, int head_dim) {
    double sum = 0.0;
    for (int d = 0; d < head_dim; ++d) sum += double(row[d]) * double(row[d]);
    return sqrt(sum);
}

// Keys of length 1, or 0, and the lengths of values where the rule asks for them. A thread a row. Grid: any.
__device__ inline void merge_directions(const MergeRows& p) {
    const int64_t total = int64_t(p.num_kept) + p.num_asked;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += int64_t(gridDim.x) * blockDim.x) {
        const bool stays = i < p.num_kept;
        const int64_t at = stays ? i : i - p.num_kept;
        const int64_t row = int64_t(stays ? p.kept[at] : p.asked[at]) * p.head_dim;
        float* out = (stays ? p.kept_directions : p.asked_directions) + at * p.head_dim;
        const double length = length_of(p.keys + row, p.head_dim);
        for (int d = 0; d < p.head_dim; ++d) out[d] = length > 0.0 ? float(double(p.keys[row + d]) / length) : 0.0f;
        if (p.rule == VALUE_MERGE) (stays ? p.kept_sizes : p.asked_sizes)[at] = length_of(p.values + row, p.head_dim);
    }
}

// Elements of a direction in shared memory: whole lanes, and one to spare, so that keys lie in different banks.
__device__ inline int merge_stride(int head_dim) { return (head_dim + LANES - 1) / LANES * LANES + 1; }

// For every key that asks, the kept one of greatest cosine, ties to the lowest slot. Warp w has queries 4w .. 4w + 3
// of sixteen, lane k the tile's key k. Grid: strips of queries, any number; y: planes, any number.
__device__ inline void merge_nearest(const MergeRows& p, unsigned char* memory) {
    const int head_dim = p.head_dim, stride = merge_stride(head_dim), width = stride - 1;
    const int warp = int(threadIdx.x) / WARP, lane = int(threadIdx.x) % WARP;
    float* queries = reinterpret_cast<float*>(memory);  // [MERGE_QUERIES][stride]
    float* tile = queries + MERGE_QUERIES * stride;     // [MERGE_KEYS][stride]
    for (int plane = int(blockIdx.y); plane < p.num_planes; plane += int(gridDim.y)) {
        const int kept_begin = p.kept_begin[plane], num_kept = p.kept_begin[plane + 1] - kept_begin;
        const int asked_begin = p.asked_begin[plane], num_asked = p.asked_begin[plane + 1] - asked_begin;
        for (int first = int(blockIdx.x) * MERGE_QUERIES; first < num_asked; first += int(gridDim.x) * MERGE_QUERIES) {
            __syncthreads();
            for (int i = int(threadIdx.x); i < MERGE_QUERIES * width; i += MERGE_THREADS) {
                const int query = i / width, d = i % width;
                const bool is_there = first + query < num_asked && d < head_dim;
                queries[query * stride + d] =
                    is_there ? p.asked_directions[int64_t(asked_begin + first + query) * head_dim + d] : 0.0f;
            }
            float best[4];
            int slots[4];
            for (int i = 0; i < 4; ++i) {
                best[i] = minus_infinity();
                slots[i] = 0;
            }
            for (int begin = 0; begin < num_kept; begin += MERGE_KEYS) {
                __syncthreads();
                for (int i = int(threadIdx.x); i < MERGE_KEYS * width; i += MERGE_THREADS) {
                    const int key = i / width, d = i % width;
                    const bool is_there = begin + key < num_kept && d < head_dim;
                    tile[key * stride + d] =
                        is_there ? p.kept_directions[int64_t(kept_begin + begin + key) * head_dim + d] : 0.0f;
                }
                __syncthreads();
#pragma unroll
                for (int pair = 0; pair < 2; ++pair) {
                    const float* a = queries + (4 * warp + 2 * pair) * stride;
                    const float* key = tile + lane * stride;
                    float sums[2][LANES];
#pragma unroll
                    for (int j = 0; j < LANES; ++j) sums[0][j] = sums[1][j] = 0.0f;
                    for (int d = 0; d < width; d += LANES) {
#pragma unroll
                        for (int j = 0; j < LANES; ++j) {
                            sums[0][j] = fmaf(a[d + j], key[d + j], sums[0][j]);
                            sums[1][j] = fmaf(a[stride + d + j], key[d + j], sums[1][j]);
                        }
                    }
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
#pragma unroll
                        for (int j = 0; j < 8; ++j) sums[i][j] += sums[i][j + 8];
#pragma unroll
                        for (int j = 0; j < 4; ++j) sums[i][j] += sums[i][j + 4];
                        const float cosine = (sums[i][0] + sums[i][2]) + (sums[i][1] + sums[i][3]);
                        if (begin + lane < num_kept && cosine > best[2 * pair + i]) {
                            best[2 * pair + i] = cosine;
                            slots[2 * pair + i] = begin + lane;
                        }
                    }
                }
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                for (int m = WARP / 2; m > 0; m /= 2) {
                    const float other = __shfl_xor_sync(FULL, best[i], m);
                    const int slot = __shfl_xor_sync(FULL, slots[i], m);
                    if (other > best[i] || (other == best[i] && slot < slots[i])) {
                        best[i] = other;
                        slots[i] = slot;
                    }
                }
                const int query = first + 4 * warp + i;
                if (lane != 0 || query >= num_asked) continue;
                p.cosines[asked_begin + query] = best[i];
                p.targets[asked_begin + query] = slots[i];
            }
        }
    }
}

// Who joins, with which weight before division. A block a plane.
__device__ inline void merge_weights(const MergeRows& p, unsigned char* memory) {
    double* mean = reinterpret_cast<double*>(memory);
    for (int plane = int(blockIdx.x); plane < p.num_planes; plane += int(gridDim.x)) {
        const int begin = p.asked_begin[plane], end = p.asked_begin[plane + 1];
        const int kept_begin = p.kept_begin[plane];
        const bool any_kept = p.kept_begin[plane + 1] > kept_begin;
        double threshold = p.threshold;
        if (p.rule == SIMILARITY_MERGE) {
            __syncthreads();
            if (threadIdx.x == 0) {
                // In one order: rounding may decide whether the last one joins.
                double sum = 0.0;
                for (int i = begin; i < end; ++i) sum += double(p.cosines[i]);
                *mean = sum / double(end - begin);
            }
            __syncthreads();
            threshold = *mean;
        }
        bool merges = false;
        for (int i = begin + int(threadIdx.x); i < end; i += int(blockDim.x)) {
            const double cosine = double(p.cosines[i]);
            const bool joins = any_kept && (p.rule == VALUE_MERGE ? cosine > threshold : cosine >= threshold);
            double raw;
            if (p.rule == EVICT_THEN_MERGE) {
                raw = double(fmaxf(p.asked_scores[i], 0.0f));
            } else if (p.rule == SIMILARITY_MERGE) {
                raw = double(exp_nonpositive(p.cosines[i]));
            } else {
                const double from = p.asked_sizes[i], to = joins ? p.kept_sizes[kept_begin + p.targets[i]] : 0.0;
                raw = cosine * from / fmax(from + to, 2.2250738585072014e-308);
            }
            p.raw[i] = raw;
            if (!joins) p.targets[i] = -1;
            merges = merges || joins;
        }
        merges = block_any(merges);
        if (threadIdx.x == 0) p.merged[plane] = merges ? 1 : 0;
    }
}

// The kept rows with what joins them. A warp a kept slot. Grid: slots over blocks, any number; y: planes, any number.
__device__ inline void merge_rows(const MergeRows& p) {
    constexpr int PIECES = 256 / WARP;
    const int head_dim = p.head_dim, warps = int(blockDim.x) / WARP, lane = int(threadIdx.x) % WARP;
    for (int plane = int(blockIdx.y); plane < p.num_planes; plane += int(gridDim.y)) {
        const int kept_begin = p.kept_begin[plane], num_kept = p.kept_begin[plane + 1] - kept_begin;
        const int begin = p.asked_begin[plane], end = p.asked_begin[plane + 1];
        const bool merges = p.merged[plane] != 0, merges_keys = merges && p.rule != VALUE_MERGE;
        for (int slot = int(blockIdx.x) * warps + int(threadIdx.x) / WARP; slot < num_kept; slot += int(gridDim.x) * warps) {
            const int64_t kept = kept_begin + slot, row = int64_t(p.kept[kept]) * head_dim;
            double raw = 1.0;
            if (p.rule == EVICT_THEN_MERGE) raw = double(fmaxf(p.kept_scores[kept], 0.0f));
            if (p.rule == SIMILARITY_MERGE) raw = double(exp_nonpositive(1.0f));
            double sum = raw;
            for (int i = begin; merges && i < end; i += WARP) {
                const bool mine = i + lane < end && p.targets[i + lane] == slot;
                for (unsigned joined = __ballot_sync(FULL, mine); joined != 0; joined &= joined - 1) {
                    sum += p.raw[i + __ffs(int(joined)) - 1];
                }
            }
            const float own = sum > 0.0 ? float(raw / sum) : 1.0f;
            if (lane == 0) p.own[kept] = merges ? own : 1.0f;
            // As many elements at a time as there are registers for.
            for (int begin_dim = 0; begin_dim < head_dim; begin_dim += WARP * PIECES) {
                double keys[PIECES], values[PIECES];
#pragma unroll
                for (int j = 0; j < PIECES; ++j) {
                    const int d = begin_dim + lane + WARP * j;
                    keys[j] = values[j] = 0.0;
                    if (d >= head_dim) continue;
                    keys[j] = merges_keys ? double(own) * double(p.keys[row + d]) : double(p.keys[row + d]);
                    values[j] = merges ? double(own) * double(p.values[row + d]) : double(p.values[row + d]);
                }
                for (int i = begin; merges && i < end; i += WARP) {
                    const bool mine = i + lane < end && p.targets[i + lane] == slot;
                    for (unsigned joined = __ballot_sync(FULL, mine); joined != 0; joined &= joined - 1) {
                        const int asked = i + __ffs(int(joined)) - 1;
                        const float weight = sum > 0.0 ? float(p.raw[asked] / sum) : 0.0f;
                        if (lane == 0) p.weights[asked] = weight;
                        const int64_t from = int64_t(p.asked[asked]) * head_dim;
#pragma unroll
                        for (int j = 0; j < PIECES; ++j) {
                            const int d = begin_dim + lane + WARP * j;
                            if (d >= head_dim) continue;
                            if (merges_keys) keys[j] += double(weight) * double(p.keys[from + d]);
                            values[j] += double(weight) * double(p.values[from + d]);
                        }
                    }
                }
#pragma unroll
                for (int j = 0; j < PIECES; ++j) {
                    const int d = begin_dim + lane + WARP * j;
                    if (d >= head_dim) continue;
                    p.out_keys[kept * head_dim + d] = float(keys[j]);
                    p.out_values[kept * head_dim + d] = float(values[j]);
                }
            }
        }
    }
}

}  // namespace hornbeam
