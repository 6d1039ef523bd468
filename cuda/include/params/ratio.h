// Written from rust/cuda/src/params/ratio.rs by `make cuda-headers`: edit that file.

#pragma once

#include "params/pages.h"

namespace hornbeam {

/// Bytes of what `hornbeam_laws` leaves of a row.
constexpr const uintptr_t ROW_LAW_BYTES = 40;

/// A rule of verification that draws.
enum Rule : int32_t {
    /// `chain`.
    CHAIN = 0,
    /// `block`.
    BLOCK = 1,
    /// `with_replacement`.
    WITH_REPLACEMENT = 2,
    /// `without_replacement`.
    WITHOUT_REPLACEMENT = 3,
    /// `target_only`.
    TARGET_ONLY = 4,
    /// `typical`.
    TYPICAL = 5,
};

/// What a draw is for. Draws of different domains are independent.
enum Domain : uint32_t {
    /// Per-token noise of [coupled sampling](crate::ops::sample).
    SAMPLE = 0,
    /// Draws of a draft.
    DRAFT = 1,
    /// Acceptance tests.
    ACCEPT = 2,
    /// The token after a refusal.
    RESIDUAL = 3,
    /// The token after a leaf, and draws from a target's law as it is.
    BONUS = 4,
};

/// Enough to weigh any token of a row; the kernels' own, of [`ROW_LAW_BYTES`].
struct RowLaw;

/// `hornbeam_laws`.
struct Laws {
    /// Logits `[num_rows, vocabulary]`.
    Address<void> logits;
    /// Where each sequence's tree begins in them, `[num_sequences + 1]`.
    Address<int32_t> offsets;
    /// One [`Law`] a sequence.
    Address<Law> laws;
    /// Takes one a row.
    AddressMut<RowLaw> out;
    /// Elements between rows.
    int64_t row_stride;
    /// Rows.
    int32_t num_rows;
    /// Sequences.
    int32_t num_sequences;
    /// Columns.
    int32_t vocabulary;
    /// Element type of the logits.
    Dtype dtype;
};

/// `hornbeam_ratio`.
struct Ratio {
    /// Draft tokens.
    Address<int64_t> draft_tokens;
    /// Their parents, within their sequence.
    Address<int32_t> parents;
    /// Where each sequence's tree begins in them, `[num_sequences + 1]`.
    Address<int32_t> offsets;
    /// Random sequence of each sequence, or 0: 0, 1, 2, ...
    Address<int64_t> sequences;
    /// Position of the token sampled at each root, or 0: all 0.
    Address<int64_t> positions;
    /// Logits of the target, and of the draft or 0 for the rules that read none.
    Address<void> logits[2];
    /// What `hornbeam_laws` left of both.
    Address<RowLaw> row_laws[2];
    /// One [`Law`] a sequence, of both.
    Address<Law> laws[2];
    /// Scratch for `typical`, `[num_rows]`.
    AddressMut<double> likelihoods;
    /// Likewise.
    AddressMut<int32_t> depths;
    /// Takes `[num_sequences, max_depth]` rows.
    AddressMut<int32_t> accepted;
    /// Takes their number.
    AddressMut<int32_t> num_accepted;
    /// Takes the token after them; -1 where a row on the way has no law.
    AddressMut<int64_t> next_token;
    /// Takes 0, or [`NUM_FAULTS`](super::NUM_FAULTS) `* row + fault`.
    AddressMut<int32_t> fault_rows;
    /// Elements between rows of both logits.
    int64_t strides[2];
    /// See `typical`.
    double epsilon;
    /// See `typical`.
    double alpha;
    /// Low word, high word.
    uint32_t seed[2];
    /// How drafts are verified.
    Rule rule;
    /// Sequences.
    int32_t num_sequences;
    /// Columns of `accepted`.
    int32_t max_depth;
    /// Columns of both logits.
    int32_t vocabularies[2];
    /// Element types of both.
    Dtype dtypes[2];
    /// Zero.
    int32_t reserved;
};

}  // namespace hornbeam

static_assert(sizeof(hornbeam::Laws) == 56, "as in Rust");
static_assert(sizeof(hornbeam::Ratio) == 208, "as in Rust");
