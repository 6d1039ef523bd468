// Written from rust/cuda/src/params/mass.rs by `make cuda-headers`: edit that file.

#pragma once

#include "params/pages.h"

namespace hornbeam {

/// Bytes of what the first passes of key mass leave of a query.
constexpr const uintptr_t QUERY_STATS_BYTES = 16;

/// Which of the three passes over the keys is made: for the largest score of every query, for the sum of
/// its exponentials, for the keys' masses.
enum MassPhase : int32_t {
    /// The largest score of every query.
    LARGEST = 0,
    /// The sum of its exponentials.
    SUM = 1,
    /// The mass of every key.
    MASS = 2,
};

/// What the passes leave of a query for the later ones; the kernels' own, of [`QUERY_STATS_BYTES`].
struct QueryStats;

/// `hornbeam_key_mass`.
struct KeyMass {
    /// Queries of `rows`, `[num_rows, num_heads, head_dim]`, unit last stride.
    Address<void> q;
    /// The packed plan.
    Address<int32_t> plan;
    /// Ascending rows of the plan, int32.
    Address<int32_t> rows;
    /// The work list; the last word of a segment is the first column of its read.
    Address<Segment> segments;
    /// As for [`TreeAttention`].
    Address<float> sinks;
    /// Zeros, `[num_kv_heads, num_rows * group]`.
    AddressMut<QueryStats> stats;
    /// `[num_kv_heads, num_columns]` int64, added to.
    AddressMut<uint64_t> mass;
    /// Likewise, how many of the rows see the key; or 0.
    AddressMut<int32_t> seen;
    /// Takes `[num_rows, num_heads]` floats, or 0.
    AddressMut<float> lse;
    /// Strides of `q`, rows then heads, in elements.
    int64_t q_strides[2];
    /// What is read.
    Pages pages;
    /// Multiplies the scores.
    float scale;
    /// As for [`TreeAttention`].
    float soft_cap;
    /// As for [`TreeAttention`].
    int32_t window;
    /// Rows.
    int32_t num_rows;
    /// Query heads.
    int32_t num_heads;
    /// Element type of `q`.
    Dtype dtype;
    /// Segments.
    int32_t num_segments;
    /// Columns.
    int32_t num_columns;
    /// Which of the three passes.
    MassPhase phase;
    /// Zero.
    int32_t reserved;
};

}  // namespace hornbeam

static_assert(sizeof(hornbeam::KeyMass) == 160, "as in Rust");
