//! Scores that read keys and values.

use super::{Address, AddressMut};
use crate::error::{Error, Result};

/// What `hornbeam_score_rows` makes of rows.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowRule {
    /// Scores: minus their norms.
    KeyNorm = 0,
    /// Lengths alone, no scores.
    RowLengths = 1,
    /// Scores: what is there, times the sums of their magnitudes.
    TimesMagnitudes = 2,
    /// Scores: what is there, times their norms.
    TimesLength = 3,
}

impl RowRule {
    /// The score of this name.
    ///
    /// # Errors
    /// [`Error::Unsupported`], for a name that none has.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "key_norm" => Ok(Self::KeyNorm),
            "times_magnitudes" => Ok(Self::TimesMagnitudes),
            "times_length" => Ok(Self::TimesLength),
            _ => Err(Error::Unsupported {
                what: "score",
                got: format!("{name:?}"),
                expected: "key_norm, times_magnitudes, times_length".to_owned(),
            }),
        }
    }
}

/// Threads of a block of most score kernels.
pub const SCORE_THREADS: i32 = 128;
/// Most keys of a block of `hornbeam_expected_logits`, and its threads.
pub const EXPECTED_KEYS: i32 = 64;

/// `hornbeam_score_rows`, `hornbeam_key_anchors`, `hornbeam_key_differences`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ScoreRows {
    /// `[num_rows, head_dim]`.
    pub rows: Address<f32>,
    /// Where planes begin, `[num_planes + 1]`.
    pub begin: Address<i32>,
    /// Scratch, `[num_rows]`.
    pub lengths: AddressMut<f64>,
    /// Scratch, `[num_planes, head_dim + 1]`.
    pub anchors: AddressMut<f64>,
    /// Takes `[num_rows]`.
    pub scores: AddressMut<f32>,
    /// Planes.
    pub num_planes: i32,
    /// Rows.
    pub num_rows: i32,
    /// Elements of a row.
    pub head_dim: i32,
    /// What is made of rows.
    pub rule: RowRule,
}

/// `hornbeam_expected_*`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ExpectedScores {
    /// `[num_rows, head_dim]`.
    pub keys: Address<f32>,
    /// Likewise.
    pub values: Address<f32>,
    /// Where planes begin, `[num_planes + 1]`.
    pub begin: Address<i32>,
    /// Keys from the start of each plane that take no part.
    pub sinks: Address<i32>,
    /// `[num_planes, group, head_dim]`.
    pub means: Address<f64>,
    /// `[num_planes, group, head_dim, head_dim]`, column after column.
    pub covariances: Address<f64>,
    /// Scratch, `[group, num_rows]`.
    pub weights: AddressMut<f64>,
    /// Scratch, `[num_planes, group]`.
    pub totals: AddressMut<f64>,
    /// Takes `[num_rows]`.
    pub scores: AddressMut<f32>,
    /// Multiplies logits.
    pub scale: f64,
    /// Added to probabilities.
    pub epsilon: f64,
    /// Planes.
    pub num_planes: i32,
    /// Rows.
    pub num_rows: i32,
    /// Elements of a row.
    pub head_dim: i32,
    /// Query heads of a plane.
    pub group: i32,
}

/// `hornbeam_plane_sums`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct PlaneSums {
    /// Plane after plane.
    pub values: Address<f64>,
    /// Where planes begin, `[num_planes + 1]`.
    pub begin: Address<i32>,
    /// Takes `[num_planes]`.
    pub sums: AddressMut<f64>,
    /// Planes.
    pub num_planes: i32,
    /// Zero.
    pub reserved: i32,
}
