// What keys are worth by themselves, their values, or the queries that are expected: rust/core/src/keep/score, bit by
// bit. Rows are float32, plane after plane, as gather_rows leaves them. Every sum is one chain in f64, in the order of
// the CPU: over the elements of a row in one thread, over the keys of a plane in a thread a channel, or in a warp.
#pragma once

#include "numeric.cuh"
#include "params/score.h"

namespace hornbeam {

constexpr double LEAST_NORMAL = 2.2250738585072014e-308;  // f64::MIN_POSITIVE

__device__ inline double norm_of(const float* row, int head_dim) {
    double sum = 0.0;
    for (int d = 0; d < head_dim; ++d) sum += double(row[d]) * double(row[d]);
    return sqrt(sum);
}

// Norms of rows, or scores of them, or scores times what values weigh. A thread a row. Grid: any.
__device__ inline void score_rows(const ScoreRows& p) {
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < p.num_rows; i += int64_t(gridDim.x) * blockDim.x) {
        const float* row = p.rows + i * p.head_dim;
        if (p.rule == TIMES_MAGNITUDES) {
            double sum = 0.0;
            for (int d = 0; d < p.head_dim; ++d) sum += double(fabsf(row[d]));
            p.scores[i] = float(double(p.scores[i]) * sum);
            continue;
        }
        const double norm = norm_of(row, p.head_dim);
        if (p.rule == KEY_NORM) p.scores[i] = float(-norm);
        if (p.rule == ROW_LENGTHS) p.lengths[i] = norm;
        if (p.rule == TIMES_LENGTH) p.scores[i] = float(double(p.scores[i]) * norm);
    }
}

// Sums of the directions of a plane's keys. A block a plane, any number; a thread a channel.
__device__ inline void key_anchors(const ScoreRows& p) {
    for (int plane = int(blockIdx.x); plane < p.num_planes; plane += int(gridDim.x)) {
        double* anchor = p.anchors + int64_t(plane) * (p.head_dim + 1);
        for (int d = int(threadIdx.x); d < p.head_dim; d += int(blockDim.x)) {
            double sum = 0.0;
            for (int i = p.begin[plane]; i < p.begin[plane + 1]; ++i) {
                sum += double(p.rows[int64_t(i) * p.head_dim + d]) / fmax(p.lengths[i], LEAST_NORMAL);
            }
            anchor[d] = sum;
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            double sum = 0.0;
            for (int d = 0; d < p.head_dim; ++d) sum += anchor[d] * anchor[d];
            anchor[p.head_dim] = sqrt(sum);
        }
    }
}

// KeyDifference: minus the cosine between a key and its plane's anchor. A thread a key. Grid: keys, and y: planes, of
// each any number.
__device__ inline void key_differences(const ScoreRows& p) {
    for (int plane = int(blockIdx.y); plane < p.num_planes; plane += int(gridDim.y)) {
        const double* anchor = p.anchors + int64_t(plane) * (p.head_dim + 1);
        const int begin = p.begin[plane], end = p.begin[plane + 1];
        for (int i = begin + int(blockIdx.x * blockDim.x + threadIdx.x); i < end; i += int(gridDim.x * blockDim.x)) {
            const float* key = p.rows + int64_t(i) * p.head_dim;
            double dot = -0.0;
            for (int d = 0; d < p.head_dim; ++d) dot += anchor[d] * double(key[d]);
            p.scores[i] = float(-dot / fmax(p.lengths[i] * anchor[p.head_dim], LEAST_NORMAL));
        }
    }
}

// ExpectedAttention: logits under the queries that each head of the group expects. A thread a key, whose elements are
// in shared memory: as many keys a block as it has threads, EXPECTED_KEYS at most. Grid: strips of keys, and y:
// planes, of each any number.
__device__ inline void expected_logits(const ExpectedScores& p, unsigned char* memory) {
    const int head_dim = p.head_dim, stride = head_dim + 1, strip = int(blockDim.x);
    float* tile = reinterpret_cast<float*>(memory);  // [strip][stride]
    for (int plane = int(blockIdx.y); plane < p.num_planes; plane += int(gridDim.y)) {
        const int begin = p.begin[plane], end = p.begin[plane + 1];
        for (int first = begin + int(blockIdx.x) * strip; first < end; first += int(gridDim.x) * strip) {
            const int count = minimum(strip, end - first);
            __syncthreads();
            for (int i = int(threadIdx.x); i < count * head_dim; i += strip) {
                tile[i / head_dim * stride + i % head_dim] = p.keys[int64_t(first) * head_dim + i];
            }
            __syncthreads();
            if (int(threadIdx.x) >= count) continue;
            const float* key = tile + int(threadIdx.x) * stride;
            for (int head = 0; head < p.group; ++head) {
                const int64_t at = int64_t(plane) * p.group + head;
                const double* mean = p.means + at * head_dim;
                const double* column = p.covariances + at * head_dim * head_dim;
                double along = 0.0, spread = 0.0;
                for (int j = 0; j < head_dim; ++j, column += head_dim) {
                    double line = 0.0;
                    for (int i = 0; i < head_dim; ++i) line += double(key[i]) * column[i];
                    along += mean[j] * double(key[j]);
                    spread += line * double(key[j]);
                }
                p.weights[int64_t(head) * p.num_rows + first + int(threadIdx.x)] =
                    p.scale * along + 0.5 * p.scale * p.scale * spread;
            }
        }
    }
}

// `sum` and then what the lanes of a warp have, the first `count` in order; known to all lanes.
__device__ inline double add_in_order(double sum, double mine, int count) {
    for (int from = 0; from < minimum(WARP, count); ++from) sum += __shfl_sync(FULL, mine, from);
    return sum;
}

// Logits to weights, and their sum from the first key to the last. A warp a plane and head. Grid: any.
__device__ inline void expected_weights(const ExpectedScores& p) {
    const int warps = int(blockDim.x) / WARP, lane = int(threadIdx.x) % WARP;
    const int64_t total = int64_t(p.num_planes) * p.group;
    for (int64_t task = int64_t(blockIdx.x) * warps + int(threadIdx.x) / WARP; task < total; task += int64_t(gridDim.x) * warps) {
        const int plane = int(task / p.group);
        const int begin = p.begin[plane] + p.sinks[plane], end = p.begin[plane + 1];
        double* weights = p.weights + task % p.group * p.num_rows;
        double most = -double(__int_as_float(0x7f800000));
        for (int i = begin + lane; i < end; i += WARP) most = fmax(most, weights[i]);
        for (int m = WARP / 2; m > 0; m /= 2) most = fmax(most, __shfl_xor_sync(FULL, most, m));
        double sum = 0.0;
        for (int i = begin; i < end; i += WARP) {
            double mine = 0.0;
            if (i + lane < end) {
                const float x = float(weights[i + lane] - most);
                mine = double(x != x ? x : exp_nonpositive(x));
                weights[i + lane] = mine;
            }
            sum = add_in_order(sum, mine, end - i);
        }
        if (lane == 0) p.totals[task] = sum;
    }
}

// Sums from the first key of a plane to the last. A warp a plane. Grid: any.
__device__ inline void plane_sums(const PlaneSums& p) {
    const int warps = int(blockDim.x) / WARP, lane = int(threadIdx.x) % WARP;
    for (int plane = int(blockIdx.x) * warps + int(threadIdx.x) / WARP; plane < p.num_planes; plane += int(gridDim.x) * warps) {
        const int end = p.begin[plane + 1];
        double sum = 0.0;
        for (int i = p.begin[plane]; i < end; i += WARP) {
            sum = add_in_order(sum, i + lane < end ? p.values[i + lane] : 0.0, end - i);
        }
        if (lane == 0) p.sums[plane] = sum;
    }
}

// The mean probability over the heads of the group, times the norm of the value. A thread a key. Grid: keys, and y:
// planes, of each any number.
__device__ inline void expected_scores(const ExpectedScores& p) {
    for (int plane = int(blockIdx.y); plane < p.num_planes; plane += int(gridDim.y)) {
        const int begin = p.begin[plane], end = p.begin[plane + 1];
        for (int i = begin + int(blockIdx.x * blockDim.x + threadIdx.x); i < end; i += int(gridDim.x * blockDim.x)) {
            double sum = 0.0;
            for (int head = 0; i >= begin + p.sinks[plane] && head < p.group; ++head) {
                sum += p.weights[int64_t(head) * p.num_rows + i] / p.totals[int64_t(plane) * p.group + head];
            }
            const double norm = norm_of(p.values + int64_t(i) * p.head_dim, p.head_dim);
            p.scores[i] = float((sum / double(p.group) + p.epsilon) * norm);
        }
    }
}

}  // namespace hornbeam
