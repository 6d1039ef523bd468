//! Tree attention.

use std::ffi::c_void;

use super::{Address, AddressMut, Dtype, Pages};

/// Threads of a block of tree attention and of key mass.
pub const ATTENTION_THREADS: i32 = 128;
/// Queries of one tile of the plain kernels.
pub const PLAIN_QUERIES: i32 = 16;
/// Keys of one tile of the plain kernels.
pub const PLAIN_KEYS: i32 = 32;
/// Queries (rows times heads a kv head) of one tile of the tensor-core kernels, and of an item.
pub const TILE_QUERIES: i32 = 64;

/// `hornbeam_attention_*`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct TreeAttention {
    /// Queries `[num_rows, num_heads, head_dim]`, unit last stride.
    pub q: Address<c_void>,
    /// Output, as `q`.
    pub out: AddressMut<c_void>,
    /// Log-sum-exp `[num_rows, num_heads]`, or 0.
    pub lse: AddressMut<f32>,
    /// The packed plan.
    pub plan: Address<i32>,
    /// A logit a head that takes part in the softmax and has no value, or 0.
    pub sinks: Address<f32>,
    /// Takes partial sums `[partial rows, num_heads, head_dim]`.
    pub partials: AddressMut<f32>,
    /// Maximum and sum of weights of each partial `[partial rows, num_heads, 2]`.
    pub partial_stats: AddressMut<f32>,
    /// Strides of `q`, rows then heads, in elements.
    pub q_strides: [i64; 2],
    /// Strides of `out`.
    pub out_strides: [i64; 2],
    /// What is read.
    pub pages: Pages,
    /// Multiplies the scores.
    pub scale: f32,
    /// `cap * tanh(score / cap)`, or 0.
    pub soft_cap: f32,
    /// A key is seen iff it lies fewer positions back than this; `i32::MAX` for all.
    pub window: i32,
    /// Rows of `q`; the plan may have fewer.
    pub num_rows: i32,
    /// Query heads.
    pub num_heads: i32,
    /// Element type of `q`.
    pub dtype: Dtype,
    /// Element type of `out`.
    pub out_dtype: Dtype,
    /// Zero.
    pub reserved: i32,
}
