//! Launches of scores that read keys and values, see cuda/include/score.cuh.

use crate::attention::check_head_dim;
use crate::error::Result;
use crate::kernels::{
    EXPECTED_LOGITS, EXPECTED_SCORES, EXPECTED_WEIGHTS, KEY_ANCHORS, KEY_DIFFERENCES, PLANE_SUMS, SCORE_ROWS,
};
use crate::lane::{Lane, Launch};
use crate::params::{EXPECTED_KEYS, ExpectedScores, PlaneSums, RowRule, SCORE_THREADS, ScoreRows};

const THREADS: u32 = SCORE_THREADS as u32;
const KEYS: u32 = EXPECTED_KEYS as u32;
/// Blocks beyond this add nothing; the kernels stride.
const MOST_BLOCKS: u32 = 4096;
const MOST_PLANES: u32 = 65_535;

/// Scores rows by `parameters.rule`, which is not that of key differences.
///
/// # Safety
/// As [`Lane::launch`]: every address in `parameters` that the rule takes is valid on the device.
///
/// # Errors
/// As [`Lane::launch`].
pub unsafe fn score_rows(lane: &Lane, device: i32, stream: u64, parameters: &ScoreRows) -> Result<()> {
    let grid = [over(parameters.num_rows as u32, THREADS), 1, 1];
    // SAFETY: the caller's contract.
    unsafe {
        lane.launch(device, stream, SCORE_ROWS, Launch { grid, threads: THREADS, shared: 0 }, parameters)
    }
}

/// Scores keys by how they differ from their plane's; the largest plane has `most` of them.
///
/// # Safety
/// As [`Lane::launch`]: every address in `parameters` is valid on the device, and planes are of its rows.
///
/// # Errors
/// As [`Lane::launch`].
pub unsafe fn key_differences(
    lane: &Lane,
    device: i32,
    stream: u64,
    parameters: &ScoreRows,
    most: u32,
) -> Result<()> {
    let parameters = ScoreRows { rule: RowRule::RowLengths, ..*parameters };
    let planes = (parameters.num_planes as u32).clamp(1, MOST_PLANES);
    let launch = |kernel, grid| {
        // SAFETY: the caller's contract.
        unsafe {
            lane.launch(device, stream, kernel, Launch { grid, threads: THREADS, shared: 0 }, &parameters)
        }
    };
    launch(SCORE_ROWS, [over(parameters.num_rows as u32, THREADS), 1, 1])?;
    launch(KEY_ANCHORS, [planes, 1, 1])?;
    launch(KEY_DIFFERENCES, [over(most, THREADS), planes, 1])
}

/// Scores keys by the attention that is expected; the largest plane has `most` of them.
///
/// # Safety
/// As [`Lane::launch`]: every address in `parameters` is valid on the device, and planes are of its rows.
///
/// # Errors
/// As [`Lane::launch`], and a head of more than [`MOST_HEAD_DIM`](crate::attention::MOST_HEAD_DIM).
pub unsafe fn expected_scores(
    lane: &Lane,
    device: i32,
    stream: u64,
    parameters: &ExpectedScores,
    most: u32,
) -> Result<()> {
    check_head_dim(parameters.head_dim)?;
    let planes = (parameters.num_planes as u32).clamp(1, MOST_PLANES);
    let launch = |kernel, grid, threads, shared| {
        // SAFETY: the caller's contract.
        unsafe { lane.launch(device, stream, kernel, Launch { grid, threads, shared }, parameters) }
    };
    // So many that their elements lie in the shared memory of any device.
    let head_dim = parameters.head_dim as u32;
    let keys = if head_dim > 256 { KEYS / 2 } else { KEYS };
    launch(EXPECTED_LOGITS, [over(most, keys), planes, 1], keys, keys * (head_dim + 1) * 4)?;
    let warps = parameters.num_planes as u32 * parameters.group as u32;
    launch(EXPECTED_WEIGHTS, [over(warps, THREADS / 32), 1, 1], THREADS, 0)?;
    launch(EXPECTED_SCORES, [over(most, THREADS), planes, 1], THREADS, 0)
}

/// Adds up what planes have, from the first key to the last.
///
/// # Safety
/// As [`Lane::launch`]: every address in `parameters` is valid on the device.
///
/// # Errors
/// As [`Lane::launch`].
pub unsafe fn plane_sums(lane: &Lane, device: i32, stream: u64, parameters: &PlaneSums) -> Result<()> {
    let grid = [over(parameters.num_planes as u32, THREADS / 32), 1, 1];
    // SAFETY: the caller's contract.
    unsafe {
        lane.launch(device, stream, PLANE_SUMS, Launch { grid, threads: THREADS, shared: 0 }, parameters)
    }
}

fn over(count: u32, size: u32) -> u32 {
    count.div_ceil(size).clamp(1, MOST_BLOCKS)
}
