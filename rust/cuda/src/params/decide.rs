//! Laws of rows, sampling, and what changes logits before.

use std::ffi::c_void;

use super::{Address, AddressMut, Dtype};

/// Why a row of logits has no law.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It has one.
    Sound = 0,
    /// Some logit is NaN.
    IsNan = 1,
    /// Some logit is +inf.
    IsInfinite = 2,
    /// No logit is finite.
    IsEmpty = 3,
}

impl Fault {
    /// The row at which a walk broke off and why, from what the kernels tell: [`NUM_FAULTS`] `* row + fault`.
    pub fn told(told: i32) -> (i32, Self) {
        let faults = [Self::Sound, Self::IsNan, Self::IsInfinite, Self::IsEmpty];
        let number = told.rem_euclid(NUM_FAULTS);
        (
            told.div_euclid(NUM_FAULTS),
            faults.into_iter().find(|fault| *fault as i32 == number).unwrap_or(Self::Sound),
        )
    }
}

/// Numbers of [`Fault`]: a row at which a walk broke off is told as `NUM_FAULTS * row + fault`.
pub const NUM_FAULTS: i32 = 4;

/// How logits become a law; 0 switches top-k, top-p and min-p off.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Law {
    /// 1 / temperature.
    pub scale: f32,
    /// 1 for argmax.
    pub greedy: i32,
    /// Tokens kept.
    pub top_k: i32,
    /// Zero.
    pub reserved: i32,
    /// Mass kept.
    pub top_p: f64,
    /// Least probability kept, relative to the likeliest.
    pub min_p: f64,
}

/// `hornbeam_sample`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Raw logits `[num_rows, vocabulary]`, unit last stride.
    pub logits: Address<c_void>,
    /// Parents of draft tokens, within their sequence; 0 without drafts.
    pub parents: Address<i32>,
    /// Where each sequence's tree begins in `parents`, `[num_sequences + 1]`; 0 without drafts.
    pub offsets: Address<i32>,
    /// Random sequence of each sequence, or 0: 0, 1, 2, ...
    pub sequences: Address<i64>,
    /// Position of the token sampled at each root, or 0: all 0.
    pub positions: Address<i64>,
    /// One [`Law`] a sequence, or 0: `law` for all.
    pub laws: Address<Law>,
    /// Low word and high word of the seed on the device, or 0: `seed`.
    pub seeds: Address<u32>,
    /// Takes the token of each row; -1 where it has no law.
    pub tokens: AddressMut<i32>,
    /// Takes the [`Fault`] of each row.
    pub faults: AddressMut<i32>,
    /// Elements between rows.
    pub row_stride: i64,
    /// The law of all, without `laws`.
    pub law: Law,
    /// Low word, high word.
    pub seed: [u32; 2],
    /// Rows.
    pub num_rows: i32,
    /// Sequences.
    pub num_sequences: i32,
    /// Columns.
    pub vocabulary: i32,
    /// Element type of the logits.
    pub dtype: Dtype,
}

/// `hornbeam_follow`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Follow {
    /// Draft tokens.
    pub draft_tokens: Address<i64>,
    /// Their parents, within their sequence.
    pub parents: Address<i32>,
    /// Where each sequence's tree begins in them, `[num_sequences + 1]`.
    pub offsets: Address<i32>,
    /// Tokens of all rows, as sampled.
    pub tokens: Address<i32>,
    /// Faults of all rows.
    pub faults: Address<i32>,
    /// Takes `[num_sequences, max_depth]` rows.
    pub accepted: AddressMut<i32>,
    /// Takes their number.
    pub num_accepted: AddressMut<i32>,
    /// Takes the token after them; -1 where a row on the way has no law.
    pub next_token: AddressMut<i64>,
    /// Takes 0, or [`NUM_FAULTS`] `* row + fault`.
    pub fault_rows: AddressMut<i32>,
    /// Sequences.
    pub num_sequences: i32,
    /// Columns of `accepted`.
    pub max_depth: i32,
}

/// `hornbeam_count`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Count {
    /// Tokens of all histories: prompt, output, prompt, output, ...
    pub tokens: Address<i64>,
    /// Where each begins, `[2 * num_sequences + 1]`.
    pub begins: Address<i32>,
    /// `[num_sequences, vocabulary]`, zeros before.
    pub marks: AddressMut<u32>,
    /// Sequences.
    pub num_sequences: i32,
    /// Ids that are counted.
    pub vocabulary: i32,
}

/// `hornbeam_adjust`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Adjust {
    /// Raw logits `[num_rows, vocabulary]`, unit last stride.
    pub logits: Address<c_void>,
    /// Takes f32 logits.
    pub out: AddressMut<f32>,
    /// Draft tokens.
    pub draft_tokens: Address<i64>,
    /// Their parents, within their sequence.
    pub parents: Address<i32>,
    /// Where each sequence's tree begins in them, `[num_sequences + 1]`.
    pub offsets: Address<i32>,
    /// What `hornbeam_count` left, or 0 where no warp has penalties.
    pub marks: Address<u32>,
    /// One a sequence, or one for all.
    pub penalties: Address<Penalties>,
    /// Of all sequences, each token of one once.
    pub bias: Address<Bias>,
    /// Elements between rows of `logits`.
    pub row_stride: i64,
    /// Rows.
    pub num_rows: i32,
    /// Sequences.
    pub num_sequences: i32,
    /// Columns.
    pub vocabulary: i32,
    /// Element type of the logits.
    pub dtype: Dtype,
    /// Columns of `marks`.
    pub marked: i32,
    /// 1 where `penalties` is one for all.
    pub is_shared: i32,
}

/// What a warp changes before the law; the neutral values are 1, 0 and 0.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Penalties {
    /// Divides the positive logits of tokens that occurred, multiplies the negative.
    pub repetition: f32,
    /// Taken off for every occurrence in the output.
    pub frequency: f32,
    /// Taken off for tokens that occurred in the output.
    pub presence: f32,
    /// First of its biases.
    pub bias_begin: i32,
    /// One past the last.
    pub bias_end: i32,
    /// Zero.
    pub reserved: i32,
}

/// What is added to the logit of a token.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bias {
    /// The token.
    pub id: u32,
    /// What is added.
    pub value: f32,
}
