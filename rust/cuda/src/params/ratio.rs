//! Verification by rules that draw.

use std::ffi::c_void;

use super::{Address, AddressMut, Dtype, Law};
use crate::error::{Error, Result};

/// A rule of verification that draws.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// `chain`.
    Chain = 0,
    /// `block`.
    Block = 1,
    /// `with_replacement`.
    WithReplacement = 2,
    /// `without_replacement`.
    WithoutReplacement = 3,
    /// `target_only`.
    TargetOnly = 4,
    /// `typical`.
    Typical = 5,
}

impl Rule {
    /// The rule of this name.
    ///
    /// # Errors
    /// [`Error::Unsupported`], for a name that none has.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "chain" => Ok(Self::Chain),
            "block" => Ok(Self::Block),
            "with_replacement" => Ok(Self::WithReplacement),
            "without_replacement" => Ok(Self::WithoutReplacement),
            "target_only" => Ok(Self::TargetOnly),
            "typical" => Ok(Self::Typical),
            _ => Err(Error::Unsupported {
                what: "rule",
                got: format!("{name:?}"),
                expected: "chain, block, with_replacement, without_replacement, target_only, typical"
                    .to_owned(),
            }),
        }
    }
}

/// Enough to weigh any token of a row; the kernels' own, of [`ROW_LAW_BYTES`].
pub struct RowLaw(());

/// Bytes of what `hornbeam_laws` leaves of a row.
pub const ROW_LAW_BYTES: usize = 40;

/// `hornbeam_laws`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Laws {
    /// Logits `[num_rows, vocabulary]`.
    pub logits: Address<c_void>,
    /// Where each sequence's tree begins in them, `[num_sequences + 1]`.
    pub offsets: Address<i32>,
    /// One [`Law`] a sequence.
    pub laws: Address<Law>,
    /// Takes one a row.
    pub out: AddressMut<RowLaw>,
    /// Elements between rows.
    pub row_stride: i64,
    /// Rows.
    pub num_rows: i32,
    /// Sequences.
    pub num_sequences: i32,
    /// Columns.
    pub vocabulary: i32,
    /// Element type of the logits.
    pub dtype: Dtype,
}

/// `hornbeam_ratio`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Ratio {
    /// Draft tokens.
    pub draft_tokens: Address<i64>,
    /// Their parents, within their sequence.
    pub parents: Address<i32>,
    /// Where each sequence's tree begins in them, `[num_sequences + 1]`.
    pub offsets: Address<i32>,
    /// Random sequence of each sequence, or 0: 0, 1, 2, ...
    pub sequences: Address<i64>,
    /// Position of the token sampled at each root, or 0: all 0.
    pub positions: Address<i64>,
    /// Logits of the target, and of the draft or 0 for the rules that read none.
    pub logits: [Address<c_void>; 2],
    /// What `hornbeam_laws` left of both.
    pub row_laws: [Address<RowLaw>; 2],
    /// One [`Law`] a sequence, of both.
    pub laws: [Address<Law>; 2],
    /// Scratch for `typical`, `[num_rows]`.
    pub likelihoods: AddressMut<f64>,
    /// Likewise.
    pub depths: AddressMut<i32>,
    /// Takes `[num_sequences, max_depth]` rows.
    pub accepted: AddressMut<i32>,
    /// Takes their number.
    pub num_accepted: AddressMut<i32>,
    /// Takes the token after them; -1 where a row on the way has no law.
    pub next_token: AddressMut<i64>,
    /// Takes 0, or [`NUM_FAULTS`](super::NUM_FAULTS) `* row + fault`.
    pub fault_rows: AddressMut<i32>,
    /// Elements between rows of both logits.
    pub strides: [i64; 2],
    /// See `typical`.
    pub epsilon: f64,
    /// See `typical`.
    pub alpha: f64,
    /// Low word, high word.
    pub seed: [u32; 2],
    /// How drafts are verified.
    pub rule: Rule,
    /// Sequences.
    pub num_sequences: i32,
    /// Columns of `accepted`.
    pub max_depth: i32,
    /// Columns of both logits.
    pub vocabularies: [i32; 2],
    /// Element types of both.
    pub dtypes: [Dtype; 2],
    /// Zero.
    pub reserved: i32,
}
