// Verification by ratio tests, and the other rules that draw: rust/core/src/ops/verify, decision by
// decision. First the law of every row is taken, all rows at once; then one block a sequence walks
// its tree. A law is never stored: a maximum, a total and two cuts are enough to weigh any token
// again. Sums are of integers, so their order does not matter.
#pragma once

#include "law.cuh"
#include "params/ratio.h"

namespace hornbeam {

// Enough to weigh any token of a row.
struct RowLaw {
    uint64_t total;
    float max;
    uint32_t point;  // the only token of a greedy law, else EVERY_ID
    Cuts cuts;
    int32_t fault, reserved;
};
static_assert(sizeof(RowLaw) == ROW_LAW_BYTES, "as the caller has set apart");

// One block a row.
__device__ inline void laws(const Laws& p, unsigned char* memory) {
    DecideShared& s = *reinterpret_cast<DecideShared*>(memory);
    for (int r = int(blockIdx.x); r < p.num_rows; r += int(gridDim.x)) {
        const int sequence = sequence_of(p.offsets, p.num_sequences, r);
        RowOf row{p.logits, p.dtype, p.vocabulary, p.laws[sequence], r * p.row_stride, 0.0f};
        RowLaw law{uint64_t(UNIT), 0.0f, EVERY_ID, {{0u, EVERY_ID}, {0u, EVERY_ID}}, SOUND, 0};
        uint32_t first = EVERY_ID;
        law.fault = maximum_of_row(row, s, first);
        law.max = row.max;
        if (law.fault == SOUND) {
            if (row.law.greedy != 0) {
                law.point = first;
            } else {
                const Cuts cuts = cuts_of(row, s);
                law.cuts = cuts;
                law.total = total_of(row, s, [&](uint32_t id, float x) { return is_listed(row, cuts, id, x); });
            }
        }
        if (threadIdx.x == 0) p.out[r] = law;
        __syncthreads();
    }
}


// A law that weighs tokens from raw logits; 0 outside of its support.
struct Weigher {
    RowOf row;
    RowLaw law;

    __device__ float weight(int64_t id) const {
        if (id < 0 || id >= row.vocabulary) return 0.0f;
        if (law.point != EVERY_ID) return id == int64_t(law.point) ? UNIT : 0.0f;
        const float x = row.logit(int(id));
        return is_listed(row, law.cuts, uint32_t(id), x) ? row.weight(x) : 0.0f;
    }
    HORNBEAM_CALLED double probability(int64_t id) const { return double(weight(id)) / double(law.total); }
};

constexpr double UNITS = 1125899906842624.0;  // 2^50: the unit of an excess

// max(a p - b q, 0), before rounding.
__device__ inline double excess_of(float p, float q, double a, double b) {
    const double difference = double(p) * a - double(q) * b;
    return difference > 0.0 ? difference : 0.0;
}

// The sum of `value(id)` over the vocabulary; in the bins, that of each of 2048 runs of neighbours.
template <class Value>
__device__ inline uint64_t sum_by_runs(DecideShared& s, int vocabulary, Value value) {
    const int run = (vocabulary + BINS - 1) / BINS;
    clear_bins(s, BINS);
    if (threadIdx.x == 0) s.total = 0;
    __syncthreads();
    uint64_t mine = 0;
    for (int id = int(threadIdx.x); id < vocabulary; id += int(blockDim.x)) {
        const uint64_t x = value(id);
        if (x == 0) continue;
        mine += x;
        atomicAdd(reinterpret_cast<unsigned long long*>(&s.bins[id / run]), static_cast<unsigned long long>(x));
    }
    if (mine != 0) atomicAdd(reinterpret_cast<unsigned long long*>(&s.total), static_cast<unsigned long long>(mine));
    __syncthreads();
    const uint64_t total = s.total;
    __syncthreads();
    return total;
}

// What the lanes before this one have, and in `sum` what all have.
__device__ inline uint64_t before_lane(uint64_t mine, uint64_t& sum) {
    const int lane = int(threadIdx.x) % WARP;
    uint64_t before = 0;
    sum = 0;
    for (int other = 0; other < WARP; ++other) {
        const uint64_t theirs = __shfl_sync(FULL, mine, other);
        if (other < lane) before += theirs;
        sum += theirs;
    }
    return before;
}

// The id at which the running total of `value` first exceeds `wanted`, after `sum_by_runs` of it.
template <class Value>
__device__ inline uint32_t locate(DecideShared& s, int vocabulary, uint64_t wanted, Value value) {
    const int run = (vocabulary + BINS - 1) / BINS;
    if (threadIdx.x < WARP) {
        constexpr int SHARE = BINS / WARP;
        const int lane = int(threadIdx.x);
        uint64_t mine = 0, sum = 0;
        for (int i = 0; i < SHARE; ++i) mine += s.bins[lane * SHARE + i];
        const uint64_t before = before_lane(mine, sum);
        if (before <= wanted && wanted < before + mine) {
            uint64_t passed = before;
            int i = lane * SHARE;
            while (passed + s.bins[i] <= wanted) passed += s.bins[i++];
            s.found = uint32_t(i * run);
            s.above = passed;
        }
        __syncwarp();
        uint64_t passed = s.above;
        uint32_t found = EVERY_ID;
        for (int begin = int(s.found); found == EVERY_ID; begin += WARP) {
            const int id = begin + lane;
            const uint64_t x = id < vocabulary ? value(id) : 0;
            const uint64_t until = passed + before_lane(x, sum);
            const unsigned here = __ballot_sync(FULL, until <= wanted && wanted < until + x);
            if (here != 0) found = uint32_t(begin + __ffs(int(here)) - 1);
            else if (begin + WARP >= vocabulary) break;
            passed += sum;
        }
        __syncwarp();
        if (lane == 0) s.found = found;
    }
    __syncthreads();
    const uint32_t found = s.found;
    __syncthreads();
    return found;
}

// One sequence's tree and draws; the same in every thread of the block.
struct Walk {
    const Ratio& p;
    DecideShared& s;
    int sequence, first, size;
    uint32_t stream, position;
    int count;
    int32_t fault;
    Weigher target, draft;

    __device__ int64_t token(int row) const { return p.draft_tokens[first + row - 1]; }

    // The first child row of `row` after row `after`, or -1. A row is 0 at the root, and i + 1 after draft token i.
    __device__ int child_after(int row, int after) const {
        for (int i = maximum(row, after); i < size; ++i) {
            if (p.parents[first + i] == row - 1) return i + 1;
        }
        return -1;
    }
    __device__ int child_with(int row, uint32_t wanted) const {
        int child = child_after(row, row);
        while (child >= 0 && token(child) != int64_t(wanted)) child = child_after(row, child);
        return child;
    }
    __device__ void accept(int row) {
        if (threadIdx.x == 0) p.accepted[int64_t(sequence) * p.max_depth + count] = row;
        ++count;
    }

    __device__ bool read(Weigher& to, const RowLaw* laws, int64_t stride, int row) {
        const int64_t at = first + sequence + row;
        to.law = laws[at];
        to.row.begin = at * stride;
        to.row.max = to.law.max;
        if (to.law.fault != SOUND) fault = NUM_FAULTS * row + to.law.fault;
        return to.law.fault == SOUND;
    }
    __device__ bool read_target(int row) { return read(target, p.row_laws[0], p.strides[0], row); }
    __device__ bool read_draft(int row) { return read(draft, p.row_laws[1], p.strides[1], row); }

    HORNBEAM_CALLED Words words(Domain domain, int row) const {
        return philox(0, position, stream, uint32_t(domain) << 24 | uint32_t(row), p.seed[0], p.seed[1]);
    }
    __device__ double uniform(Domain domain, int row) const {
        return (double(words(domain, row).x[0]) + 0.5) * (1.0 / 4294967296.0);
    }
    __device__ uint64_t below(uint64_t total, Domain domain, int row) const {
        const Words drawn = words(domain, row);
        return high_of_product(uint64_t(drawn.x[0]) << 32 | drawn.x[1], total);
    }

    // The excess of the target over the draft, token by token, in units of 2^-50.
    // Both laws are copied: a pass over a row then has them in registers.
    struct Excess {
        Weigher target, draft;
        double a, b;
        __device__ uint64_t operator()(int id) const {
            const float weight = target.weight(id);
            return weight == 0.0f ? 0 : rounded(excess_of(weight, draft.weight(id), a, b));
        }
    };
    __device__ Excess excess_in_units(double a, double b) const {
        return {target, draft, a * UNITS / double(target.law.total), b * UNITS / double(draft.law.total)};
    }
    HORNBEAM_CALLED double excess(double a, double b) {
        return double(sum_by_runs(s, target.row.vocabulary, excess_in_units(a, b))) / UNITS;
    }
    HORNBEAM_CALLED double excess_at(int64_t id, double a, double b) const {
        return excess_of(target.weight(id), draft.weight(id), a / double(target.law.total), b / double(draft.law.total));
    }

    HORNBEAM_CALLED uint32_t draw_target(Domain domain, int row) {
        if (target.law.point != EVERY_ID) return target.law.point;
        const auto weight = [law = target](int id) { return uint64_t(law.weight(id)); };
        sum_by_runs(s, target.row.vocabulary, weight);
        return locate(s, target.row.vocabulary, below(target.law.total, domain, row), weight);
    }
    // In proportion to max(a p - b q, 0); EVERY_ID if that is nowhere above 0.
    HORNBEAM_CALLED uint32_t draw_positive_excess(double a, double b, int row) {
        const Excess value = excess_in_units(a, b);
        const uint64_t total = sum_by_runs(s, target.row.vocabulary, value);
        return total == 0 ? EVERY_ID : locate(s, target.row.vocabulary, below(total, RESIDUAL, row), value);
    }
    // The same, from p then.
    __device__ uint32_t draw_excess(double a, double b, int row) {
        const uint32_t token = draw_positive_excess(a, b, row);
        return token == EVERY_ID ? draw_target(RESIDUAL, row) : token;
    }
};

}  // namespace hornbeam
