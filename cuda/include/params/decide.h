// Written from rust/cuda/src/params/decide.rs by `make cuda-headers`: edit that file.

#pragma once

#include "params/pages.h"

namespace hornbeam {

/// Numbers of [`Fault`]: a row at which a walk broke off is told as `NUM_FAULTS * row + fault`.
constexpr const int32_t NUM_FAULTS = 4;

/// Why a row of logits has no law.
enum Fault : int32_t {
    /// It has one.
    SOUND = 0,
    /// Some logit is NaN.
    IS_NAN = 1,
    /// Some logit is +inf.
    IS_INFINITE = 2,
    /// No logit is finite.
    IS_EMPTY = 3,
};

/// How logits become a law; 0 switches top-k, top-p and min-p off.
struct Law {
    /// 1 / temperature.
    float scale;
    /// 1 for argmax.
    int32_t greedy;
    /// Tokens kept.
    int32_t top_k;
    /// Zero.
    int32_t reserved;
    /// Mass kept.
    double top_p;
    /// Least probability kept, relative to the likeliest.
    double min_p;
};

/// `hornbeam_sample`.
struct Sample {
    /// Raw logits `[num_rows, vocabulary]`, unit last stride.
    Address<void> logits;
    /// Parents of draft tokens, within their sequence; 0 without drafts.
    Address<int32_t> parents;
    /// Where each sequence's tree begins in `parents`, `[num_sequences + 1]`; 0 without drafts.
    Address<int32_t> offsets;
    /// Random sequence of each sequence, or 0: 0, 1, 2, ...
    Address<int64_t> sequences;
    /// Position of the token sampled at each root, or 0: all 0.
    Address<int64_t> positions;
    /// One [`Law`] a sequence, or 0: `law` for all.
    Address<Law> laws;
    /// Low word and high word of the seed on the device, or 0: `seed`.
    Address<uint32_t> seeds;
    /// Takes the token of each row; -1 where it has no law.
    AddressMut<int32_t> tokens;
    /// Takes the [`Fault`] of each row.
    AddressMut<int32_t> faults;
    /// Elements between rows.
    int64_t row_stride;
    /// The law of all, without `laws`.
    Law law;
    /// Low word, high word.
    uint32_t seed[2];
    /// Rows.
    int32_t num_rows;
    /// Sequences.
    int32_t num_sequences;
    /// Columns.
    int32_t vocabulary;
    /// Element type of the logits.
    Dtype dtype;
};

/// `hornbeam_follow`.
struct Follow {
    /// Draft tokens.
    Address<int64_t> draft_tokens;
    /// Their parents, within their sequence.
    Address<int32_t> parents;
    /// Where each sequence's tree begins in them, `[num_sequences + 1]`.
    Address<int32_t> offsets;
    /// Tokens of all rows, as sampled.
    Address<int32_t> tokens;
    /// Faults of all rows.
    Address<int32_t> faults;
    /// Takes `[num_sequences, max_depth]` rows.
    AddressMut<int32_t> accepted;
    /// Takes their number.
    AddressMut<int32_t> num_accepted;
    /// Takes the token after them; -1 where a row on the way has no law.
    AddressMut<int64_t> next_token;
    /// Takes 0, or [`NUM_FAULTS`] `* row + fault`.
    AddressMut<int32_t> fault_rows;
    /// Sequences.
    int32_t num_sequences;
    /// Columns of `accepted`.
    int32_t max_depth;
};

/// `hornbeam_count`.
struct Count {
    /// Tokens of all histories: prompt, output, prompt, output, ...
    Address<int64_t> tokens;
    /// Where each begins, `[2 * num_sequences + 1]`.
    Address<int32_t> begins;
    /// `[num_sequences, vocabulary]`, zeros before.
    AddressMut<uint32_t> marks;
    /// Sequences.
    int32_t num_sequences;
    /// Ids that are counted.
    int32_t vocabulary;
};

/// What a warp changes before the law; the neutral values are 1, 0 and 0.
struct Penalties {
    /// Divides the positive logits of tokens that occurred, multiplies the negative.
    float repetition;
    /// Taken off for every occurrence in the output.
    float frequency;
    /// Taken off for tokens that occurred in the output.
    float presence;
    /// First of its biases.
    int32_t bias_begin;
    /// One past the last.
    int32_t bias_end;
    /// Zero.
    int32_t reserved;
};

/// What is added to the logit of a token.
struct Bias {
    /// The token.
    uint32_t id;
    /// What is added.
    float value;
};

/// `hornbeam_adjust`.
struct Adjust {
    /// Raw logits `[num_rows, vocabulary]`, unit last stride.
    Address<void> logits;
    /// Takes f32 logits.
    AddressMut<float> out;
    /// Draft tokens.
    Address<int64_t> draft_tokens;
    /// Their parents, within their sequence.
    Address<int32_t> parents;
    /// Where each sequence's tree begins in them, `[num_sequences + 1]`.
    Address<int32_t> offsets;
    /// What `hornbeam_count` left, or 0 where no warp has penalties.
    Address<uint32_t> marks;
    /// One a sequence, or one for all.
    Address<Penalties> penalties;
    /// Of all sequences, each token of one once.
    Address<Bias> bias;
    /// Elements between rows of `logits`.
    int64_t row_stride;
    /// Rows.
    int32_t num_rows;
    /// Sequences.
    int32_t num_sequences;
    /// Columns.
    int32_t vocabulary;
    /// Element type of the logits.
    Dtype dtype;
    /// Columns of `marks`.
    int32_t marked;
    /// 1 where `penalties` is one for all.
    int32_t is_shared;
};

}  // namespace hornbeam

static_assert(sizeof(hornbeam::Adjust) == 96, "as in Rust");
static_assert(sizeof(hornbeam::Bias) == 8, "as in Rust");
static_assert(sizeof(hornbeam::Count) == 32, "as in Rust");
static_assert(sizeof(hornbeam::Follow) == 80, "as in Rust");
static_assert(sizeof(hornbeam::Law) == 32, "as in Rust");
static_assert(sizeof(hornbeam::Penalties) == 24, "as in Rust");
static_assert(sizeof(hornbeam::Sample) == 136, "as in Rust");
