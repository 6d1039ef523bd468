//! Which keys stay, and what splits ask of scores.

use super::{Address, AddressMut};

/// Threads of a block of the select kernels.
pub const SELECT_THREADS: i32 = 256;

/// `hornbeam_select_keys`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SelectKeys {
    /// Plane after plane, `[T]`.
    pub scores: Address<f32>,
    /// Where planes begin, `[num_planes + 1]`.
    pub begin: Address<i32>,
    /// Keys that each plane may keep.
    pub budgets: Address<i32>,
    /// Planes whose scores decide, `[num_planes]`, or 0: each its own.
    pub leaders: Address<i32>,
    /// Positions of keys, `[T]`, ascending in a plane, with leaders.
    pub positions: Address<i32>,
    /// Takes 1 for keys that stay, `[T]`.
    pub kept: AddressMut<u8>,
    /// Planes.
    pub num_planes: i32,
    /// Keys that are kept or dropped together.
    pub unit: i32,
    /// Keys of the start that are protected.
    pub sinks: i32,
    /// Keys of the end.
    pub recent: i32,
    /// Likewise, in percent of a plane's budget.
    pub recent_percent: i32,
    /// Zero.
    pub reserved: i32,
}

/// `hornbeam_compete_heads`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct CompeteHeads {
    /// As for [`SelectKeys`].
    pub scores: Address<f32>,
    /// As for [`SelectKeys`].
    pub begin: Address<i32>,
    /// What each head holds of its own, `[num_layers * num_heads]`.
    pub reserved: Address<i32>,
    /// Keys for the best of the rest, `[num_layers]`.
    pub rooms: Address<i32>,
    /// Takes how many each head holds.
    pub counts: AddressMut<i32>,
    /// Layers.
    pub num_layers: i32,
    /// Kv heads.
    pub num_heads: i32,
    /// As for [`SelectKeys`].
    pub sinks: i32,
    /// As for [`SelectKeys`].
    pub recent: i32,
    /// As for [`SelectKeys`].
    pub recent_percent: i32,
    /// Zero.
    pub reserved_word: i32,
}

/// `hornbeam_column_sums`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ColumnSums {
    /// As for [`SelectKeys`].
    pub scores: Address<f32>,
    /// As for [`SelectKeys`].
    pub begin: Address<i32>,
    /// Takes `[num_layers, width]`.
    pub sums: AddressMut<i64>,
    /// Layers.
    pub num_layers: i32,
    /// Kv heads.
    pub num_heads: i32,
    /// Columns of the widest layer.
    pub width: i32,
    /// Zero.
    pub reserved: i32,
}
