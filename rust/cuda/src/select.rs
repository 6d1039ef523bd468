//! Launches that choose the keys that stay, see cuda/include/select.cuh.

use crate::error::Result;
use crate::kernels::{COLUMN_SUMS, COMPETE_HEADS, SELECT_KEYS};
use crate::lane::{Lane, Launch};
use crate::params::{ColumnSums, CompeteHeads, SELECT_THREADS, SelectKeys};

const THREADS: u32 = SELECT_THREADS as u32;
/// `SELECT_SHARED` of select.cuh.
const SHARED: u32 = (THREADS + THREADS / 32 + 2) * 4;
/// Blocks beyond this add nothing; the kernels stride.
const MOST_BLOCKS: u32 = 65_535;

/// Writes which keys of each plane stay.
///
/// # Safety
/// As [`Lane::launch`]: every address in `parameters` is valid on the device, and planes and leaders are of the table.
///
/// # Errors
/// As [`Lane::launch`].
pub unsafe fn select_keys(lane: &Lane, device: i32, stream: u64, parameters: &SelectKeys) -> Result<()> {
    let Some(launch) = blocks(parameters.num_planes, SHARED) else { return Ok(()) };
    // SAFETY: the caller's contract.
    unsafe { lane.launch(device, stream, SELECT_KEYS, launch, parameters) }
}

/// Writes how many keys each head holds when the heads of a layer compete.
///
/// # Safety
/// As [`Lane::launch`]: every address in `parameters` is valid on the device.
///
/// # Errors
/// As [`Lane::launch`].
pub unsafe fn compete_heads(lane: &Lane, device: i32, stream: u64, parameters: &CompeteHeads) -> Result<()> {
    let shared = SHARED + 8 * parameters.num_heads.max(0) as u32;
    let Some(launch) = blocks(parameters.num_layers, shared) else { return Ok(()) };
    // SAFETY: the caller's contract.
    unsafe { lane.launch(device, stream, COMPETE_HEADS, launch, parameters) }
}

/// Writes the sums of the columns of each layer.
///
/// # Safety
/// As [`Lane::launch`]: every address in `parameters` is valid on the device.
///
/// # Errors
/// As [`Lane::launch`].
pub unsafe fn column_sums(lane: &Lane, device: i32, stream: u64, parameters: &ColumnSums) -> Result<()> {
    let Some(launch) = blocks(parameters.num_layers, size_of::<u64>() as u32) else { return Ok(()) };
    // SAFETY: the caller's contract.
    unsafe { lane.launch(device, stream, COLUMN_SUMS, launch, parameters) }
}

/// A block each.
fn blocks(count: i32, shared: u32) -> Option<Launch> {
    let grid = [count.max(0) as u32, 1, 1].map(|size| size.min(MOST_BLOCKS));
    (grid[0] > 0).then_some(Launch { grid, threads: THREADS, shared })
}
