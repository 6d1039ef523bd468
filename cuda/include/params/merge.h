// Written from rust/cuda/src/params/merge.rs by `make cuda-headers`: edit that file.

#pragma once

#include "params/pages.h"

namespace hornbeam {

/// Threads of a block of the merge kernels.
constexpr const int32_t MERGE_THREADS = 128;

/// Queries of a block of `hornbeam_merge_nearest`.
constexpr const int32_t MERGE_QUERIES = 16;

/// Keys of its tile.
constexpr const int32_t MERGE_KEYS = 32;

/// Chains of fused multiply-adds that make up a cosine.
constexpr const int32_t LANES = 16;

/// How evicted keys and values join kept ones.
enum MergeRule : int32_t {
    /// `evict_then_merge`.
    EVICT_THEN_MERGE = 0,
    /// `value_merge`.
    VALUE_MERGE = 1,
    /// `similarity_merge`.
    SIMILARITY_MERGE = 2,
};

/// `hornbeam_merge_*`.
struct MergeRows {
    /// Rows `[rows, head_dim]`: those that stay and those that go.
    Address<float> keys;
    /// Likewise.
    Address<float> values;
    /// Rows that stay, plane after plane, `[num_kept]`.
    Address<int32_t> kept;
    /// Rows that may join one of them, likewise, ascending in a plane.
    Address<int32_t> asked;
    /// Where planes begin in `kept`, `[num_planes + 1]`.
    Address<int32_t> kept_begin;
    /// Likewise in `asked`.
    Address<int32_t> asked_begin;
    /// Their scores.
    Address<float> kept_scores;
    /// Their scores.
    Address<float> asked_scores;
    /// Scratch, `[num_kept, head_dim]`.
    AddressMut<float> kept_directions;
    /// Likewise, `[num_asked, head_dim]`.
    AddressMut<float> asked_directions;
    /// Scratch, `[num_kept]`: lengths of values.
    AddressMut<double> kept_sizes;
    /// Likewise, `[num_asked]`.
    AddressMut<double> asked_sizes;
    /// Scratch, `[num_asked]`.
    AddressMut<float> cosines;
    /// Scratch, `[num_asked]`: weights before they are divided by their sum.
    AddressMut<double> raw;
    /// Scratch, `[num_planes]`: whether any key of a plane has a target.
    AddressMut<int32_t> merged;
    /// Takes a slot among the plane's kept, or -1, `[num_asked]`.
    AddressMut<int32_t> targets;
    /// Takes the weights there; zeros before.
    AddressMut<float> weights;
    /// Takes the weights of the kept ones.
    AddressMut<float> own;
    /// Takes `[num_kept, head_dim]`.
    AddressMut<float> out_keys;
    /// Likewise.
    AddressMut<float> out_values;
    /// The rule's; nothing to the rule of similarity.
    double threshold;
    /// Planes.
    int32_t num_planes;
    /// Rows that stay.
    int32_t num_kept;
    /// Rows that may join one.
    int32_t num_asked;
    /// Elements of a row.
    int32_t head_dim;
    /// How.
    MergeRule rule;
    /// Zero.
    int32_t reserved;
};

}  // namespace hornbeam

static_assert(sizeof(hornbeam::MergeRows) == 192, "as in Rust");
