//! Launches that merge evicted keys and values into kept ones, see cuda/include/merge.cuh.

use crate::attention::check_head_dim;
use crate::error::Result;
use crate::kernels::{MERGE_DIRECTIONS, MERGE_NEAREST, MERGE_ROWS, MERGE_WEIGHTS};
use crate::lane::{Lane, Launch};
use crate::params::{LANES, MERGE_KEYS, MERGE_QUERIES, MERGE_THREADS, MergeRows};

const THREADS: u32 = MERGE_THREADS as u32;
const QUERIES: u32 = MERGE_QUERIES as u32;
const KEYS: u32 = MERGE_KEYS as u32;
/// Blocks beyond this add nothing; the kernels stride.
const MOST_BLOCKS: u32 = 4096;
const MOST_PLANES: u32 = 65_535;

/// Merges rows of `parameters.num_planes` planes; the largest keeps `most_kept` rows and has `most_asked` that may
/// join one.
///
/// # Safety
/// As [`Lane::launch`]: every address in `parameters` is valid on the device, and rows and slots are of the tables.
///
/// # Errors
/// As [`Lane::launch`], and a head of more than [`MOST_HEAD_DIM`](crate::attention::MOST_HEAD_DIM).
pub unsafe fn merge_rows(
    lane: &Lane,
    device: i32,
    stream: u64,
    parameters: &MergeRows,
    most_kept: u32,
    most_asked: u32,
) -> Result<()> {
    let head_dim = parameters.head_dim;
    check_head_dim(head_dim)?;
    if parameters.num_kept == 0 {
        return Ok(());
    }
    let planes = (parameters.num_planes as u32).min(MOST_PLANES);
    let launch = |kernel, grid, shared| {
        // SAFETY: the caller's contract.
        unsafe { lane.launch(device, stream, kernel, Launch { grid, threads: THREADS, shared }, parameters) }
    };
    if parameters.num_asked > 0 {
        let rows = parameters.num_kept as u32 + parameters.num_asked as u32;
        launch(MERGE_DIRECTIONS, [rows.div_ceil(THREADS).min(MOST_BLOCKS), 1, 1], 0)?;
        let stride = (head_dim as u32).next_multiple_of(LANES as u32) + 1;
        let strips = most_asked.div_ceil(QUERIES).clamp(1, MOST_BLOCKS);
        launch(MERGE_NEAREST, [strips, planes, 1], (QUERIES + KEYS) * stride * 4)?;
    }
    launch(MERGE_WEIGHTS, [planes, 1, 1], size_of::<f64>() as u32)?;
    launch(MERGE_ROWS, [most_kept.div_ceil(THREADS / 32).clamp(1, MOST_BLOCKS), planes, 1], 0)
}
