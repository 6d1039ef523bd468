//! Key mass.

use std::ffi::c_void;

use super::{Address, AddressMut, Dtype, Pages, Segment};

/// Which of the three passes over the keys is made: for the largest score of every query, for the sum of
/// its exponentials, for the keys' masses.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MassPhase {
    /// The largest score of every query.
    Largest = 0,
    /// The sum of its exponentials.
    Sum = 1,
    /// The mass of every key.
    Mass = 2,
}

/// What the passes leave of a query for the later ones; the kernels' own, of [`QUERY_STATS_BYTES`].
pub struct QueryStats(());

/// Bytes of what the first passes of key mass leave of a query.
pub const QUERY_STATS_BYTES: usize = 16;

/// `hornbeam_key_mass`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct KeyMass {
    /// Queries of `rows`, `[num_rows, num_heads, head_dim]`, unit last stride.
    pub q: Address<c_void>,
    /// The packed plan.
    pub plan: Address<i32>,
    /// Ascending rows of the plan, int32.
    pub rows: Address<i32>,
    /// The work list; the last word of a segment is the first column of its read.
    pub segments: Address<Segment>,
    /// As for [`TreeAttention`].
    pub sinks: Address<f32>,
    /// Zeros, `[num_kv_heads, num_rows * group]`.
    pub stats: AddressMut<QueryStats>,
    /// `[num_kv_heads, num_columns]` int64, added to.
    pub mass: AddressMut<u64>,
    /// Likewise, how many of the rows see the key; or 0.
    pub seen: AddressMut<i32>,
    /// Takes `[num_rows, num_heads]` floats, or 0.
    pub lse: AddressMut<f32>,
    /// Strides of `q`, rows then heads, in elements.
    pub q_strides: [i64; 2],
    /// What is read.
    pub pages: Pages,
    /// Multiplies the scores.
    pub scale: f32,
    /// As for [`TreeAttention`].
    pub soft_cap: f32,
    /// As for [`TreeAttention`].
    pub window: i32,
    /// Rows.
    pub num_rows: i32,
    /// Query heads.
    pub num_heads: i32,
    /// Element type of `q`.
    pub dtype: Dtype,
    /// Segments.
    pub num_segments: i32,
    /// Columns.
    pub num_columns: i32,
    /// Which of the three passes.
    pub phase: MassPhase,
    /// Zero.
    pub reserved: i32,
}
