// The rules, one function each: verify/{chain,block,recursive,target_only,typical}.rs say what they
// are and why. Each gives the next token, or EVERY_ID with the walk's fault set.
#pragma once

#include "ratio.cuh"

namespace hornbeam {

// A law that is sure of one token needs no draw.
HORNBEAM_CALLED uint32_t follow_points(Walk& w) {
    int row = 0;
    while (true) {
        if (!w.read_target(row)) return EVERY_ID;
        const int child = w.child_with(row, w.target.law.point);
        if (child < 0) return w.target.law.point;
        w.accept(child);
        row = child;
    }
}

HORNBEAM_CALLED uint32_t target_only(Walk& w) {
    int row = 0;
    while (true) {
        if (!w.read_target(row)) return EVERY_ID;
        const uint32_t token = w.draw_target(BONUS, row);
        const int child = w.child_with(row, token);
        if (child < 0) return token;
        w.accept(child);
        row = child;
    }
}

HORNBEAM_CALLED uint32_t chain(Walk& w) {
    for (int row = 0; row < w.size; ++row) {
        if (!w.read_target(row) || !w.read_draft(row)) return EVERY_ID;
        const int64_t token = w.token(row + 1);
        const double p = w.target.probability(token), q = w.draft.probability(token);
        if (q == 0.0 || w.uniform(ACCEPT, row + 1) * q >= p) return w.draw_excess(1.0, 1.0, row);
        w.accept(row + 1);
    }
    return w.read_target(w.size) ? w.draw_target(BONUS, w.size) : EVERY_ID;
}

HORNBEAM_CALLED uint32_t block(Walk& w) {
    int longest = 0;
    double factor = 1.0, factor_of_longest = 1.0;
    for (int row = 0; row <= w.size; ++row) {
        if (!w.read_target(row)) return EVERY_ID;
        if (row == w.size) {
            if (factor > 0.0 && w.uniform(ACCEPT, row) < factor) {
                for (int i = 1; i <= w.size; ++i) w.accept(i);
                return w.draw_target(BONUS, row);
            }
            break;
        }
        if (!w.read_draft(row)) return EVERY_ID;
        const double rest = row == 0 ? 1.0 : w.excess(factor, 1.0);
        if (row == 0 || w.uniform(ACCEPT, row) * (rest + (1.0 - factor)) < rest) {
            longest = row;
            factor_of_longest = factor;
        }
        const int64_t token = w.token(row + 1);
        const double p = w.target.probability(token), q = w.draft.probability(token);
        const double ratio = factor * p / q;
        factor = q == 0.0 ? 0.0 : (ratio < 1.0 ? ratio : 1.0);
        if (factor == 0.0) break;
    }
    if (!w.read_target(longest) || !w.read_draft(longest)) return EVERY_ID;
    for (int i = 1; i <= longest; ++i) w.accept(i);
    return w.draw_excess(factor_of_longest, 1.0, longest);
}

__device__ inline bool has_earlier_twin(const Walk& w, int row, int child) {
    for (int earlier = w.child_after(row, row); earlier < child; earlier = w.child_after(row, earlier)) {
        if (w.token(earlier) == w.token(child)) return true;
    }
    return false;
}

HORNBEAM_CALLED uint32_t recursive(Walk& w, bool are_distinct) {
    int row = 0;
    while (true) {
        if (!w.read_target(row)) return EVERY_ID;
        int next = w.child_after(row, row);
        if (next < 0) return w.draw_target(BONUS, row);
        if (!w.read_draft(row)) return EVERY_ID;
        const uint64_t total = w.draft.law.total;
        uint64_t left = total;
        double beta = 0.0, sum = 1.0;
        int taken = -1;
        while (next >= 0) {
            const int child = next;
            next = w.child_after(row, child);
            const int64_t token = w.token(child);
            const uint64_t weight = uint64_t(w.draft.weight(token));
            if (weight == 0 || (are_distinct && has_earlier_twin(w, row, child))) continue;
            const double scale = double(total) / double(left);
            const double q = w.draft.probability(token) * scale;
            if (w.uniform(ACCEPT, child) * q * sum < w.excess_at(token, 1.0, beta)) {
                taken = child;
                break;
            }
            const double refused = beta + sum * scale;
            const double rest = w.excess(1.0, refused);
            if (rest == 0.0) break;
            beta = refused;
            sum = rest;
            if (are_distinct) {
                left -= weight;
                if (left == 0) break;
            }
        }
        if (taken < 0) return w.draw_excess(1.0, beta, row);
        w.accept(taken);
        row = taken;
    }
}

// The entropy in nats. Law::entropy.
__device__ inline double entropy(Walk& w) {
    const float top = logarithm(UNIT);
    const uint64_t sum = sum_by_runs(w.s, w.target.row.vocabulary, [&](int id) {
        const float weight = w.target.weight(id);
        return weight < 1.0f ? 0 : rounded(double(weight) * double(top - logarithm(weight)));
    });
    const double total = double(w.target.law.total);
    return double(sum) / total + double(logarithm(float(total / double(UNIT))));
}

HORNBEAM_CALLED uint32_t typical(Walk& w) {
    const Ratio& p = w.p;
    const int64_t root = w.first + w.sequence;
    double* likelihoods = p.likelihoods + root;
    int32_t* depths = p.depths + root;  // -1: not reached by passing tokens alone
    for (int i = int(threadIdx.x); i <= w.size; i += int(blockDim.x)) {
        depths[i] = i == 0 ? 0 : -1;
        likelihoods[i] = 1.0;
    }
    __syncthreads();
    int best = -1, best_depth = 0;
    double best_likelihood = 0.0;
    for (int row = 0; row <= w.size; ++row) {
        const int depth = depths[row];
        const double likelihood = likelihoods[row];
        __syncthreads();
        if (depth < 0) continue;
        if (!w.read_target(row)) return EVERY_ID;
        const double other = p.alpha * double(exp_nonpositive(float(-entropy(w))));
        const double bound = p.epsilon < other ? p.epsilon : other;
        for (int child = w.child_after(row, row); child >= 0; child = w.child_after(row, child)) {
            const double passes = w.target.probability(w.token(child));
            if (passes > bound && threadIdx.x == 0) {
                depths[child] = depth + 1;
                likelihoods[child] = likelihood * passes;
            }
        }
        __syncthreads();
        if (best < 0 || depth > best_depth || (depth == best_depth && likelihood > best_likelihood)) {
            best = row;
            best_depth = depth;
            best_likelihood = likelihood;
        }
    }
    w.read_target(best);
    int row = best;
    for (int i = best_depth - 1; i >= 0; --i) {
        if (threadIdx.x == 0) p.accepted[int64_t(w.sequence) * p.max_depth + i] = row;
        row = p.parents[w.first + row - 1] + 1;
    }
    w.count = best_depth;
    return w.draw_target(BONUS, best);
}

// One block a sequence.
__device__ inline void ratio(const Ratio& p, unsigned char* memory) {
    DecideShared& s = *reinterpret_cast<DecideShared*>(memory);
    for (int b = int(blockIdx.x); b < p.num_sequences; b += int(gridDim.x)) {
        const Law& warp = p.laws[0][b];
        const int first = p.offsets[b];
        Walk w{p,
               s,
               b,
               first,
               p.offsets[b + 1] - first,
               p.sequences == nullptr ? uint32_t(b) : uint32_t(p.sequences[b]),
               p.positions == nullptr ? 0u : uint32_t(p.positions[b]),
               0,
               SOUND,
               {{p.logits[0], p.dtypes[0], p.vocabularies[0], warp, 0, 0.0f}, {}},
               {{p.logits[1], p.dtypes[1], p.vocabularies[1], p.laws[1][b], 0, 0.0f}, {}}};
        uint32_t token;
        if (warp.greedy != 0) token = follow_points(w);
        else if (p.rule == CHAIN) token = chain(w);
        else if (p.rule == BLOCK) token = block(w);
        else if (p.rule == TARGET_ONLY) token = target_only(w);
        else if (p.rule == TYPICAL) token = typical(w);
        else token = recursive(w, p.rule == WITHOUT_REPLACEMENT);
        for (int i = w.count + int(threadIdx.x); i < p.max_depth; i += int(blockDim.x)) {
            p.accepted[int64_t(b) * p.max_depth + i] = -1;
        }
        if (threadIdx.x == 0) {
            p.num_accepted[b] = w.count;
            p.next_token[b] = w.fault == SOUND ? int64_t(token) : -1;
            p.fault_rows[b] = w.fault;
        }
        __syncthreads();
    }
}

}  // namespace hornbeam
