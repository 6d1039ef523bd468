// Bias and penalties: raw logits of any type to f32 logits that the law is taken from.
//
// The order is that of rust/core/src/ops/warp: bias, then repetition, frequency, presence. A row sees
// the history of its sequence and the draft tokens on its own path.
#pragma once

#include "law.cuh"

namespace hornbeam {

// The bit of a token of the prompt; the other bits count occurrences in the output.
constexpr uint32_t IN_PROMPT = 0x80000000u;

// One block a sequence.
__device__ inline void count(const Count& p) {
    for (int b = int(blockIdx.x); b < p.num_sequences; b += int(gridDim.x)) {
        uint32_t* marks = p.marks + int64_t(b) * p.vocabulary;
        const int prompt = p.begins[2 * b], output = p.begins[2 * b + 1], end = p.begins[2 * b + 2];
        for (int i = prompt + int(threadIdx.x); i < output; i += int(blockDim.x)) marks[p.tokens[i]] = IN_PROMPT;
        __syncthreads();
        for (int i = output + int(threadIdx.x); i < end; i += int(blockDim.x)) atomicAdd(&marks[p.tokens[i]], 1u);
    }
}

// One block a row.
__device__ inline void adjust(const Adjust& p) {
    for (int r = int(blockIdx.x); r < p.num_rows; r += int(gridDim.x)) {
        const int sequence = sequence_of(p.offsets, p.num_sequences, r), first = p.offsets[sequence];
        const int node = r - first - sequence - 1;  // the row's own draft token, -1 at the root
        const Penalties law = p.penalties[p.is_shared != 0 ? 0 : sequence];
        float* out = p.out + int64_t(r) * p.vocabulary;
        for (int id = int(threadIdx.x); id < p.vocabulary; id += int(blockDim.x)) {
            out[id] = load_element(p.logits, p.dtype, r * p.row_stride + id);
        }
        __syncthreads();
        for (int i = law.bias_begin + int(threadIdx.x); i < law.bias_end; i += int(blockDim.x)) {
            const Bias bias = p.bias[i];
            if (bias.id < uint32_t(p.vocabulary)) out[bias.id] += bias.value;
        }
        __syncthreads();
        if (p.marks == nullptr) continue;
        const uint32_t* marks = p.marks + int64_t(sequence) * p.marked;
        for (int id = int(threadIdx.x); id < minimum(p.vocabulary, p.marked); id += int(blockDim.x)) {
            const uint32_t mark = marks[id];
            uint32_t times = mark & ~IN_PROMPT;
            for (int i = node; i >= 0; i = p.parents[first + i]) times += p.draft_tokens[first + i] == int64_t(id);
            if (mark == 0 && times == 0) continue;
            float x = out[id];
            x = x > 0.0f ? x / law.repetition : x * law.repetition;
            if (times > 0) {
                x -= law.frequency * float(times);
                x -= law.presence;
            }
            out[id] = x;
        }
    }
}

}  // namespace hornbeam
