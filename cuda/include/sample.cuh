// Coupled sampling of every row at once, then the walk along what was sampled.
//
// Coupled noise does not depend on what was drafted, so all rows of a draft tree are sampled at
// once, and the walk only compares tokens.
#pragma once

#include "law.cuh"

namespace hornbeam {

// The token with the least exponential / weight, of equal ones the lowest. ops::sample::coupled.
template <class Listed>
__device__ inline uint32_t race(const RowOf& row, DecideShared& s, const uint32_t (&seed)[2], uint32_t sequence, uint32_t position,
                                Listed listed) {
    double best = double_of(0x7ff0000000000000ull);
    uint32_t winner = EVERY_ID;
    float bound = __int_as_float(0x7f800000);
    for (int begin = 4 * int(threadIdx.x); begin < row.vocabulary; begin += 4 * int(blockDim.x)) {
        float weights[4];
        bool any = false;
        for (int lane = 0; lane < 4; ++lane) {
            weights[lane] = 0.0f;
            const int id = begin + lane;
            if (id >= row.vocabulary) continue;
            const float x = row.logit(id), weight = row.weight(x);
            if (weight > 0.0f && listed(uint32_t(id), x)) {
                weights[lane] = weight;
                any = true;
            }
        }
        if (!any) continue;
        const Words words = philox(uint32_t(begin) / 4, position, sequence, 0, seed[0], seed[1]);
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

// One block a row; grid: any size. Rows behind the last sequence's are padding.
__device__ inline void sample(const Sample& p, unsigned char* memory) {
    DecideShared& s = *reinterpret_cast<DecideShared*>(memory);
    const uint32_t seed[2] = {p.seeds == nullptr ? p.seed[0] : p.seeds[0], p.seeds == nullptr ? p.seed[1] : p.seeds[1]};
    const int rows = p.offsets == nullptr ? p.num_rows : minimum(p.num_rows, p.offsets[p.num_sequences] + p.num_sequences);
    for (int r = int(blockIdx.x); r < rows; r += int(gridDim.x)) {
        int sequence = r, depth = 0;
        if (p.offsets != nullptr) {
            sequence = sequence_of(p.offsets, p.num_sequences, r);
            const int first = p.offsets[sequence];
            for (int i = r - first - sequence - 1; i >= 0; i = p.parents[first + i]) ++depth;
        }
        RowOf row{p.logits, p.dtype, p.vocabulary, p.laws == nullptr ? p.law : p.laws[sequence], r * p.row_stride, 0.0f};
        uint32_t token = EVERY_ID;
        const int32_t fault = maximum_of_row(row, s, token);
        if (fault != SOUND) {
            token = EVERY_ID;
        } else if (row.law.greedy == 0) {
            const uint32_t stream = p.sequences == nullptr ? uint32_t(sequence) : uint32_t(p.sequences[sequence]);
            const uint32_t root = p.positions == nullptr ? 0u : uint32_t(p.positions[sequence]);
            const Cuts cuts = cuts_of(row, s);
            token = race(row, s, seed, stream, root + uint32_t(depth),
                         [&](uint32_t id, float x) { return is_listed(row, cuts, id, x); });
        }
        if (threadIdx.x == 0) {
            p.tokens[r] = int32_t(token);
            p.faults[r] = fault;
        }
        __syncthreads();
    }
}

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
            p.fault_rows[b] = fault == SOUND ? 0 : NUM_FAULTS * row + fault;
        }
    }
}

}  // namespace hornbeam
