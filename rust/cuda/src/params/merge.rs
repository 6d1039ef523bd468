//! Merges of evicted keys and values into kept ones.

use super::{Address, AddressMut};
use crate::error::{Error, Result};

/// How evicted keys and values join kept ones.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeRule {
    /// `evict_then_merge`.
    EvictThenMerge = 0,
    /// `value_merge`.
    ValueMerge = 1,
    /// `similarity_merge`.
    SimilarityMerge = 2,
}

impl MergeRule {
    /// The reduction of this name.
    ///
    /// # Errors
    /// [`Error::Unsupported`], for a name that none has.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "evict_then_merge" => Ok(Self::EvictThenMerge),
            "value_merge" => Ok(Self::ValueMerge),
            "similarity_merge" => Ok(Self::SimilarityMerge),
            _ => Err(Error::Unsupported {
                what: "reduction",
                got: format!("{name:?}"),
                expected: "evict_then_merge, value_merge, similarity_merge".to_owned(),
            }),
        }
    }
}

/// Threads of a block of the merge kernels.
pub const MERGE_THREADS: i32 = 128;
/// Queries of a block of `hornbeam_merge_nearest`.
pub const MERGE_QUERIES: i32 = 16;
/// Keys of its tile.
pub const MERGE_KEYS: i32 = 32;
/// Chains of fused multiply-adds that make up a cosine.
pub const LANES: i32 = 16;

/// `hornbeam_merge_*`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct MergeRows {
    /// Rows `[rows, head_dim]`: those that stay and those that go.
    pub keys: Address<f32>,
    /// Likewise.
    pub values: Address<f32>,
    /// Rows that stay, plane after plane, `[num_kept]`.
    pub kept: Address<i32>,
    /// Rows that may join one of them, likewise, ascending in a plane.
    pub asked: Address<i32>,
    /// Where planes begin in `kept`, `[num_planes + 1]`.
    pub kept_begin: Address<i32>,
    /// Likewise in `asked`.
    pub asked_begin: Address<i32>,
    /// Their scores.
    pub kept_scores: Address<f32>,
    /// Their scores.
    pub asked_scores: Address<f32>,
    /// Scratch, `[num_kept, head_dim]`.
    pub kept_directions: AddressMut<f32>,
    /// Likewise, `[num_asked, head_dim]`.
    pub asked_directions: AddressMut<f32>,
    /// Scratch, `[num_kept]`: lengths of values.
    pub kept_sizes: AddressMut<f64>,
    /// Likewise, `[num_asked]`.
    pub asked_sizes: AddressMut<f64>,
    /// Scratch, `[num_asked]`.
    pub cosines: AddressMut<f32>,
    /// Scratch, `[num_asked]`: weights before they are divided by their sum.
    pub raw: AddressMut<f64>,
    /// Scratch, `[num_planes]`: whether any key of a plane has a target.
    pub merged: AddressMut<i32>,
    /// Takes a slot among the plane's kept, or -1, `[num_asked]`.
    pub targets: AddressMut<i32>,
    /// Takes the weights there; zeros before.
    pub weights: AddressMut<f32>,
    /// Takes the weights of the kept ones.
    pub own: AddressMut<f32>,
    /// Takes `[num_kept, head_dim]`.
    pub out_keys: AddressMut<f32>,
    /// Likewise.
    pub out_values: AddressMut<f32>,
    /// The rule's; nothing to the rule of similarity.
    pub threshold: f64,
    /// Planes.
    pub num_planes: i32,
    /// Rows that stay.
    pub num_kept: i32,
    /// Rows that may join one.
    pub num_asked: i32,
    /// Elements of a row.
    pub head_dim: i32,
    /// How.
    pub rule: MergeRule,
    /// Zero.
    pub reserved: i32,
}
