//! Launches of tree attention: the partial kernel, and the merge of rows that several items share.

use crate::error::{Error, Result};
use crate::kernels::{
    ATTENTION_BF16_64, ATTENTION_BF16_128, ATTENTION_BF16_256, ATTENTION_F16_64, ATTENTION_F16_128,
    ATTENTION_F16_256, ATTENTION_MERGE, ATTENTION_PLAIN, ATTENTION_PLAIN_512, Kernel,
};
use crate::lane::{Lane, Launch};
use crate::packed::Packed;
use crate::params::{ATTENTION_THREADS, Dtype, TreeAttention};

const TILED: [[Kernel<TreeAttention>; 3]; 2] = [
    [ATTENTION_BF16_64, ATTENTION_BF16_128, ATTENTION_BF16_256],
    [ATTENTION_F16_64, ATTENTION_F16_128, ATTENTION_F16_256],
];
/// Heads up to 256, and above.
const PLAIN: [Kernel<TreeAttention>; 2] = [ATTENTION_PLAIN, ATTENTION_PLAIN_512];

const THREADS: u32 = ATTENTION_THREADS as u32;
/// Largest head.
pub const MOST_HEAD_DIM: i32 = 512;
/// Largest head of the tensor-core kernels.
const MOST_TILED: i32 = 256;

/// Bytes of dynamic shared memory; the kernels' own structs assert the same.
const fn tiled_shared(head: u32) -> u32 {
    let keys = if head <= 128 { 64 } else { 32 };
    64 * head * 2 + 4 * keys * head * 2 + 3 * keys * 24 + 4 * 64 * 8 + 3 * 2 * 4
}
pub(crate) const fn plain_shared(head: u32) -> u32 {
    16 * head * 4 + 32 * (head + 1) * 4 + 16 * 32 * 4 + 32 * 24 + 16 * 4
}

/// How many items and merged rows to launch for: those of a plan, or the most that a captured graph
/// will see (the kernels read the true numbers from the plan).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Items.
    pub num_items: usize,
    /// Merged rows.
    pub num_merged_rows: usize,
}

impl From<&Packed> for Extent {
    fn from(packed: &Packed) -> Self {
        Self { num_items: packed.num_items, num_merged_rows: packed.num_merged_rows }
    }
}

/// Floats of the workspace: accumulators `[partial rows, heads, head_dim]`, then statistics
/// `[partial rows, heads, 2]`.
pub fn workspace_floats(num_partial_rows: usize, num_heads: usize, head_dim: usize) -> usize {
    num_partial_rows * num_heads * (head_dim + 2)
}

/// Whether the tensor-core kernels take these arguments: 16-bit queries of the pages' own type, on
/// 16-byte boundaries.
fn is_tiled(p: &TreeAttention) -> bool {
    let aligned = p.q.is_multiple_of(16) && p.q_strides.iter().all(|s| s % 8 == 0);
    let fits = p.pages.head_dim % 8 == 0 && p.pages.head_dim <= MOST_TILED;
    p.dtype == p.pages.dtype && p.dtype != Dtype::F32 && fits && aligned
}

/// Refuses heads that the kernels' shared memory does not hold.
pub(crate) fn check_head_dim(head_dim: i32) -> Result<()> {
    if (1..=MOST_HEAD_DIM).contains(&head_dim) {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: "head_dim",
        got: head_dim.to_string(),
        expected: format!("1 to {MOST_HEAD_DIM}"),
    })
}

/// Runs tree attention over a packed plan.
///
/// # Safety
/// As [`Lane::launch`]: every address in `parameters` is valid on the device, the workspace for
/// [`workspace_floats`] of the plan's partial rows.
///
/// # Errors
/// As [`Lane::launch`], and a head of more than [`MOST_HEAD_DIM`].
pub unsafe fn tree_attention(
    lane: &Lane,
    device: i32,
    stream: u64,
    parameters: &TreeAttention,
    extent: Extent,
) -> Result<()> {
    let head_dim = parameters.pages.head_dim;
    check_head_dim(head_dim)?;
    let heads = parameters.pages.num_kv_heads as u32;
    if extent.num_items > 0 {
        let (kernel, shared) = if is_tiled(parameters) {
            let size = usize::from(head_dim > 64) + usize::from(head_dim > 128);
            (TILED[usize::from(parameters.dtype == Dtype::F16)][size], tiled_shared(64 << size))
        } else {
            (PLAIN[usize::from(head_dim > 256)], plain_shared(head_dim as u32))
        };
        let launch = Launch { grid: [extent.num_items as u32, heads, 1], threads: THREADS, shared };
        // SAFETY: the caller's contract.
        unsafe { lane.launch(device, stream, kernel, launch, parameters) }?;
    }
    if extent.num_merged_rows > 0 {
        let warps = extent.num_merged_rows as u32 * parameters.num_heads as u32;
        let launch =
            Launch { grid: [warps.div_ceil(THREADS / 32).min(65_535), 1, 1], threads: THREADS, shared: 0 };
        // SAFETY: the caller's contract.
        unsafe { lane.launch(device, stream, ATTENTION_MERGE, launch, parameters) }?;
    }
    Ok(())
}
