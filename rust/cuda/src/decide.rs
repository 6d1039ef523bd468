//! Launches of sampling and of verification.

use crate::error::Result;
use crate::lane::{Kernel, Lane, Launch};
use crate::params::{Follow, Sample};

const SAMPLE: Kernel = Kernel { image: 4, name: "hornbeam_sample", number: 11 };
const FOLLOW: Kernel = Kernel { image: 4, name: "hornbeam_follow", number: 12 };

/// `DecideShared` of decide.cuh, rounded up.
const SHARED: u32 = 17 * 1024;
const FOLLOW_WARPS: u32 = 4;

/// Samples every row: the token of each under its law and noise.
///
/// # Safety
/// As [`Lane::launch`]: every address in `parameters` is valid on the device.
///
/// # Errors
/// As [`Lane::launch`].
pub unsafe fn sample(lane: &Lane, device: i32, stream: u64, parameters: &Sample) -> Result<()> {
    if parameters.num_rows == 0 {
        return Ok(());
    }
    // A long row keeps many threads busy; a short one would only wait for them at barriers.
    let threads = match parameters.vocabulary {
        ..4096 => 128,
        4096..32_768 => 512,
        _ => 1024,
    };
    let launch = Launch { grid: [parameters.num_rows as u32, 1, 1], threads, shared: SHARED };
    // SAFETY: the caller's contract.
    unsafe { lane.launch(device, stream, SAMPLE, launch, parameters) }
}

/// Walks each sequence's tree along the sampled tokens.
///
/// # Safety
/// As [`sample`]; parents come before their children.
///
/// # Errors
/// As [`Lane::launch`].
pub unsafe fn follow(lane: &Lane, device: i32, stream: u64, parameters: &Follow) -> Result<()> {
    if parameters.num_sequences == 0 {
        return Ok(());
    }
    let blocks = (parameters.num_sequences as u32).div_ceil(FOLLOW_WARPS);
    let launch = Launch { grid: [blocks, 1, 1], threads: 32 * FOLLOW_WARPS, shared: 0 };
    // SAFETY: the caller's contract.
    unsafe { lane.launch(device, stream, FOLLOW, launch, parameters) }
}

/// Loads the kernels of this file.
///
/// # Errors
/// As [`Lane::prepare`].
pub fn prepare(lane: &Lane, device: i32) -> Result<()> {
    [SAMPLE, FOLLOW].into_iter().try_for_each(|kernel| lane.prepare(device, kernel))
}
