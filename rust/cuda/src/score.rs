//! Launches of scores that read keys and values, see cuda/include/score.cuh.

use crate::attention::check_head_dim;
use crate::error::Result;
use crate::lane::{Kernel, Lane, Launch};
use crate::params::{ExpectedScores, PlaneSums, ScoreRows};

const ROWS: Kernel = Kernel { image: 10, name: "hornbeam_score_rows", number: 30 };
const ANCHORS: Kernel = Kernel { image: 10, name: "hornbeam_key_anchors", number: 31 };
const DIFFERENCES: Kernel = Kernel { image: 10, name: "hornbeam_key_differences", number: 32 };
const LOGITS: Kernel = Kernel { image: 10, name: "hornbeam_expected_logits", number: 33 };
const WEIGHTS: Kernel = Kernel { image: 10, name: "hornbeam_expected_weights", number: 34 };
const EXPECTED: Kernel = Kernel { image: 10, name: "hornbeam_expected_scores", number: 35 };
const SUMS: Kernel = Kernel { image: 10, name: "hornbeam_plane_sums", number: 36 };
const THREADS: u32 = 128;
/// Keys of a block of `hornbeam_expected_logits`, and its threads.
const KEYS: u32 = 64;
/// Blocks beyond this add nothing; the kernels stride.
const MOST_BLOCKS: u32 = 4096;
const MOST_PLANES: u32 = 65_535;
/// `RowRule` of score.cuh: lengths alone.
const ROW_LENGTHS: i32 = 1;

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
    unsafe { lane.launch(device, stream, ROWS, Launch { grid, threads: THREADS, shared: 0 }, parameters) }
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
    let parameters = ScoreRows { rule: ROW_LENGTHS, ..*parameters };
    let planes = (parameters.num_planes as u32).clamp(1, MOST_PLANES);
    let launch = |kernel, grid| {
        // SAFETY: the caller's contract.
        unsafe {
            lane.launch(device, stream, kernel, Launch { grid, threads: THREADS, shared: 0 }, &parameters)
        }
    };
    launch(ROWS, [over(parameters.num_rows as u32, THREADS), 1, 1])?;
    launch(ANCHORS, [planes, 1, 1])?;
    launch(DIFFERENCES, [over(most, THREADS), planes, 1])
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
    launch(LOGITS, [over(most, keys), planes, 1], keys, keys * (head_dim + 1) * 4)?;
    let warps = parameters.num_planes as u32 * parameters.group as u32;
    launch(WEIGHTS, [over(warps, THREADS / 32), 1, 1], THREADS, 0)?;
    launch(EXPECTED, [over(most, THREADS), planes, 1], THREADS, 0)
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
    unsafe { lane.launch(device, stream, SUMS, Launch { grid, threads: THREADS, shared: 0 }, parameters) }
}

fn over(count: u32, size: u32) -> u32 {
    count.div_ceil(size).clamp(1, MOST_BLOCKS)
}

/// Loads the kernels of this file.
///
/// # Errors
/// As [`Lane::prepare`].
pub fn prepare(lane: &Lane, device: i32) -> Result<()> {
    let all = [ROWS, ANCHORS, DIFFERENCES, LOGITS, WEIGHTS, EXPECTED, SUMS];
    all.into_iter().try_for_each(|kernel| lane.prepare(device, kernel))
}
