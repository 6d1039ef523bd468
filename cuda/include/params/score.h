// Written from rust/cuda/src/params/score.rs by `make cuda-headers`: edit that file.

#pragma once

#include "params/pages.h"

namespace hornbeam {

/// Threads of a block of most score kernels.
constexpr const int32_t SCORE_THREADS = 128;

/// Most keys of a block of `hornbeam_expected_logits`, and its threads.
constexpr const int32_t EXPECTED_KEYS = 64;

/// What `hornbeam_score_rows` makes of rows.
enum RowRule : int32_t {
    /// Scores: minus their norms.
    KEY_NORM = 0,
    /// Lengths alone, no scores.
    ROW_LENGTHS = 1,
    /// Scores: what is there, times the sums of their magnitudes.
    TIMES_MAGNITUDES = 2,
    /// Scores: what is there, times their norms.
    TIMES_LENGTH = 3,
};

/// `hornbeam_score_rows`, `hornbeam_key_anchors`, `hornbeam_key_differences`.
struct ScoreRows {
    /// `[num_rows, head_dim]`.
    Address<float> rows;
    /// Where planes begin, `[num_planes + 1]`.
    Address<int32_t> begin;
    /// Scratch, `[num_rows]`.
    AddressMut<double> lengths;
    /// Scratch, `[num_planes, head_dim + 1]`.
    AddressMut<double> anchors;
    /// Takes `[num_rows]`.
    AddressMut<float> scores;
    /// Planes.
    int32_t num_planes;
    /// Rows.
    int32_t num_rows;
    /// Elements of a row.
    int32_t head_dim;
    /// What is made of rows.
    RowRule rule;
};

/// `hornbeam_expected_*`.
struct ExpectedScores {
    /// `[num_rows, head_dim]`.
    Address<float> keys;
    /// Likewise.
    Address<float> values;
    /// Where planes begin, `[num_planes + 1]`.
    Address<int32_t> begin;
    /// Keys from the start of each plane that take no part.
    Address<int32_t> sinks;
    /// `[num_planes, group, head_dim]`.
    Address<double> means;
    /// `[num_planes, group, head_dim, head_dim]`, column after column.
    Address<double> covariances;
    /// Scratch, `[group, num_rows]`.
    AddressMut<double> weights;
    /// Scratch, `[num_planes, group]`.
    AddressMut<double> totals;
    /// Takes `[num_rows]`.
    AddressMut<float> scores;
    /// Multiplies logits.
    double scale;
    /// Added to probabilities.
    double epsilon;
    /// Planes.
    int32_t num_planes;
    /// Rows.
    int32_t num_rows;
    /// Elements of a row.
    int32_t head_dim;
    /// Query heads of a plane.
    int32_t group;
};

/// `hornbeam_plane_sums`.
struct PlaneSums {
    /// Plane after plane.
    Address<double> values;
    /// Where planes begin, `[num_planes + 1]`.
    Address<int32_t> begin;
    /// Takes `[num_planes]`.
    AddressMut<double> sums;
    /// Planes.
    int32_t num_planes;
    /// Zero.
    int32_t reserved;
};

}  // namespace hornbeam

static_assert(sizeof(hornbeam::ExpectedScores) == 104, "as in Rust");
static_assert(sizeof(hornbeam::PlaneSums) == 32, "as in Rust");
static_assert(sizeof(hornbeam::ScoreRows) == 56, "as in Rust");
