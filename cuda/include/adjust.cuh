// Bias and penalties: raw logits of any type to f32 logits that the law is taken from.
//
// The order is that of rust/core/src/ops/warp: bias, then repetition, frequency, presence. A row sees
// the history of its sequence and the draft tokens on its own path.
#pragma once

#include "law.cuh"

namespace hornbeam {

// The bit of a token of the prompt; the other bits count occurrences in the output.
constexpr uint32_t IN_PROMPT = 0x80000000u;

struct Count {
    const int64_t* tokens;  // of all histories: prompt, output, prompt, output, ...
    const int32_t* begins;  // [2 * num_sequences + 1]
    uint32_t* marks;        // [num_sequences, vocabulary], zeros before
    int32_t num_sequences, vocabulary;
};
static_assert(sizeof(Count) == 32, "mirrored in params.rs");

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

// What a warp changes before the law; the neutral values are 1, 0 and 0.
struct Penalties {
    float repetition, frequency, presence;
    int32_t bias_begin, bias_end, reserved;
};
static_assert(sizeof(Penalties) == 24, "mirrored in params.rs");

struct Bias {
    uint32_t id;
    float value;
};

struct Adjust {
    const void* logits;           // [num_rows, vocabulary], unit last stride
    float* out;                   // [num_rows, vocabulary]
    const int64_t* draft_tokens;
    const int32_t* parents;       // of draft tokens, within their sequence
    const int32_t* offsets;       // [num_sequences + 1] into them
    const uint32_t* marks;        // [num_sequences, marked]; null where no warp has penalties
    const Penalties* penalties;   // [num_sequences], or one for all
    const Bias* bias;             // of all sequences, each token of one once
    int64_t row_stride;
    int32_t num_rows, num_sequences, vocabulary, dtype;
    int32_t marked;               // ids that are counted
    int32_t is_shared;            // whether there is one Penalties for all
};
static_assert(sizeof(Adjust) == 96, "mirrored in params.rs");

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
