//! Row writes and row moves.

use std::ffi::c_void;

use super::{Address, Dtype, Move, Pages};

/// `hornbeam_write_rows`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct WriteRows {
    /// Keys `[num_rows, num_kv_heads, head_dim]`, unit last stride.
    pub k: Address<c_void>,
    /// Values, likewise.
    pub v: Address<c_void>,
    /// The packed plan.
    pub plan: Address<i32>,
    /// Strides of `k`, rows then heads, then of `v`; in elements.
    pub strides: [i64; 4],
    /// Where to.
    pub pages: Pages,
    /// Element type of `k` and `v`.
    pub dtype: Dtype,
    /// Rows of `k` and `v`; the plan may have fewer.
    pub num_rows: i32,
}

/// `hornbeam_move_rows`; `hornbeam_move_page_rows`, whose slabs are page ids.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct MoveRows {
    /// Addresses of the chunks, on the device.
    pub chunks: Address<u64>,
    /// `[num_moves]`, one after the other.
    pub moves: Address<Move>,
    /// All planes.
    pub pages: Pages,
    /// Moves.
    pub num_moves: i32,
    /// Zero.
    pub reserved: i32,
}

/// `hornbeam_copy_rows`: slots of pages to slots of others. Nothing that is read is written, so moves have no order.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct CopyRows {
    /// Addresses of the chunks that are read, on the device.
    pub from: Address<u64>,
    /// Those of the chunks that are written.
    pub to: Address<u64>,
    /// `[num_moves]`, with page ids for slabs.
    pub moves: Address<Move>,
    /// Of both.
    pub pages: Pages,
    /// Moves.
    pub num_moves: i32,
    /// Zero.
    pub reserved: i32,
}

/// `hornbeam_commit_rows`: each sequence's accepted rows to the places behind its root, in every plane.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct CommitRows {
    /// The packed plan.
    pub plan: Address<i32>,
    /// Rows of the step, a sequence's root first, then its draft.
    pub order: Address<i32>,
    /// `[num_sequences + 1]`, of draft tokens: where each sequence's tree begins.
    pub offsets: Address<i32>,
    /// Accepted rows `[num_sequences, max_depth]`, ascending.
    pub accepted: Address<i32>,
    /// Their number, `[num_sequences]`.
    pub num_accepted: Address<i32>,
    /// All planes.
    pub pages: Pages,
    /// Sequences.
    pub num_sequences: i32,
    /// Columns of `accepted`.
    pub max_depth: i32,
}
