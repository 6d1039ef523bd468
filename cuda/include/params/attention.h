// Written from rust/cuda/src/params/attention.rs by `make cuda-headers`: edit that file.

#pragma once

#include "params/pages.h"

namespace hornbeam {

/// Threads of a block of tree attention and of key mass.
constexpr const int32_t ATTENTION_THREADS = 128;

/// Queries of one tile of the plain kernels.
constexpr const int32_t PLAIN_QUERIES = 16;

/// Keys of one tile of the plain kernels.
constexpr const int32_t PLAIN_KEYS = 32;

/// Queries (rows times heads a kv head) of one tile of the tensor-core kernels, and of an item.
constexpr const int32_t TILE_QUERIES = 64;

/// `hornbeam_attention_*`.
struct TreeAttention {
    /// Queries `[num_rows, num_heads, head_dim]`, unit last stride.
    Address<void> q;
    /// Output, as `q`.
    AddressMut<void> out;
    /// Log-sum-exp `[num_rows, num_heads]`, or 0.
    AddressMut<float> lse;
    /// The packed plan.
    Address<int32_t> plan;
    /// A logit a head that takes part in the softmax and has no value, or 0.
    Address<float> sinks;
    /// Takes partial sums `[partial rows, num_heads, head_dim]`.
    AddressMut<float> partials;
    /// Maximum and sum of weights of each partial `[partial rows, num_heads, 2]`.
    AddressMut<float> partial_stats;
    /// Strides of `q`, rows then heads, in elements.
    int64_t q_strides[2];
    /// Strides of `out`.
    int64_t out_strides[2];
    /// What is read.
    Pages pages;
    /// Multiplies the scores.
    float scale;
    /// `cap * tanh(score / cap)`, or 0.
    float soft_cap;
    /// A key is seen iff it lies fewer positions back than this; `i32::MAX` for all.
    int32_t window;
    /// Rows of `q`; the plan may have fewer.
    int32_t num_rows;
    /// Query heads.
    int32_t num_heads;
    /// Element type of `q`.
    Dtype dtype;
    /// Element type of `out`.
    Dtype out_dtype;
    /// Zero.
    int32_t reserved;
};

}  // namespace hornbeam

static_assert(sizeof(hornbeam::TreeAttention) == 152, "as in Rust");
