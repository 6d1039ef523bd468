//! Launches of row writes and row moves.

use crate::error::Result;
use crate::kernels::{COMMIT_ROWS, COPY_ROWS, MOVE_PAGE_ROWS, MOVE_ROWS, WRITE_ROWS};
use crate::lane::{Lane, Launch};
use crate::params::{CommitRows, CopyRows, Dtype, MoveRows, Pages, WriteRows};

/// Warps of a block of row writes: small, so that a few rows still spread over multiprocessors.
const WRITE_WARPS: u32 = 4;
const MOVE_THREADS: u32 = 128;
/// Blocks beyond this add nothing; the kernels stride.
const MOST_BLOCKS: u32 = 4096;

/// Writes keys and values of a step's rows into the pages that its plan names.
///
/// # Safety
/// As [`Lane::launch`]: every address in `parameters` is valid on the device.
///
/// # Errors
/// As [`Lane::launch`].
pub unsafe fn write_rows(lane: &Lane, device: i32, stream: u64, parameters: &WriteRows) -> Result<()> {
    let warps = parameters.num_rows as u32 * parameters.pages.num_kv_heads as u32;
    if warps == 0 {
        return Ok(());
    }
    // SAFETY: the caller's contract.
    unsafe { lane.launch(device, stream, WRITE_ROWS, a_warp_each(warps), parameters) }
}

/// Moves rows from slot to slot, one move after the other: in every plane, or of single pages (then
/// the slabs of a move are page ids).
///
/// # Safety
/// As [`Lane::launch`]: every address in `parameters` is valid on the device.
///
/// # Errors
/// As [`Lane::launch`].
pub unsafe fn move_rows(
    lane: &Lane,
    device: i32,
    stream: u64,
    parameters: &MoveRows,
    by_page: bool,
) -> Result<()> {
    let pages = &parameters.pages;
    let words = words(pages);
    let columns = if by_page { 1 } else { pages.num_planes as u32 } * 2 * words;
    if columns == 0 || parameters.num_moves == 0 {
        return Ok(());
    }
    let blocks = columns.div_ceil(MOVE_THREADS).min(MOST_BLOCKS);
    let launch = Launch { grid: [blocks, 1, 1], threads: MOVE_THREADS, shared: 0 };
    // SAFETY: the caller's contract.
    unsafe {
        lane.launch(device, stream, if by_page { MOVE_PAGE_ROWS } else { MOVE_ROWS }, launch, parameters)
    }
}

/// Words of one key, as the kernels move them: of 32 bits, or of 16 where those are an odd number.
fn words(pages: &Pages) -> u32 {
    let halves = pages.head_dim as u32 * if pages.dtype == Dtype::F32 { 2 } else { 1 };
    if halves.is_multiple_of(2) { halves / 2 } else { halves }
}

/// Blocks and threads of a kernel that takes a row a warp.
pub(crate) fn a_warp_each(rows: u32) -> Launch {
    let blocks = rows.div_ceil(WRITE_WARPS).min(MOST_BLOCKS);
    Launch { grid: [blocks, 1, 1], threads: WRITE_WARPS * 32, shared: 0 }
}

/// Copies rows from slots of pages to slots of others, of which none is read.
///
/// # Safety
/// As [`Lane::launch`]: every address in `parameters` is valid on the device.
///
/// # Errors
/// As [`Lane::launch`].
pub unsafe fn copy_rows(lane: &Lane, device: i32, stream: u64, parameters: &CopyRows) -> Result<()> {
    if parameters.num_moves == 0 {
        return Ok(());
    }
    // SAFETY: the caller's contract.
    unsafe { lane.launch(device, stream, COPY_ROWS, a_warp_each(parameters.num_moves as u32), parameters) }
}

/// Moves the accepted rows of a step behind their sequences' roots, as the tree's commit does.
///
/// # Safety
/// As [`Lane::launch`]: every address in `parameters` is valid on the device, and rows are of the plan.
///
/// # Errors
/// As [`Lane::launch`].
pub unsafe fn commit_rows(lane: &Lane, device: i32, stream: u64, parameters: &CommitRows) -> Result<()> {
    let pages = &parameters.pages;
    let words = words(pages);
    let columns = pages.num_planes as u32 * 2 * words;
    if columns == 0 || parameters.num_sequences == 0 || parameters.max_depth == 0 {
        return Ok(());
    }
    let grid =
        [columns.div_ceil(MOVE_THREADS).min(MOST_BLOCKS), parameters.num_sequences.min(65_535) as u32, 1];
    let launch = Launch { grid, threads: MOVE_THREADS, shared: 0 };
    // SAFETY: the caller's contract.
    unsafe { lane.launch(device, stream, COMMIT_ROWS, launch, parameters) }
}
