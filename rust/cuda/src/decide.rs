//! Launches of sampling and of verification.

use crate::error::Result;
use crate::kernels::{ADJUST, COUNT, FOLLOW, LAWS, RATIO, SAMPLE};
use crate::lane::{Lane, Launch};
use crate::params::{Adjust, Count, Follow, Laws, Ratio, Sample};

/// `DecideShared` of law.cuh, rounded up.
const SHARED: u32 = 17 * 1024;
const FOLLOW_WARPS: u32 = 4;

/// A long row keeps many threads busy; a short one would only wait for them at barriers.
fn threads(vocabulary: i32, most: u32) -> u32 {
    let wanted = match vocabulary {
        ..512 => 32,
        512..4096 => 128,
        4096..32_768 => 512,
        _ => 1024,
    };
    wanted.min(most)
}

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
    let threads = threads(parameters.vocabulary, 1024);
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

/// Marks the tokens of histories.
///
/// # Safety
/// As [`sample`]; every token is below the vocabulary.
///
/// # Errors
/// As [`Lane::launch`].
pub unsafe fn count(lane: &Lane, device: i32, stream: u64, parameters: &Count) -> Result<()> {
    if parameters.num_sequences == 0 {
        return Ok(());
    }
    let launch = Launch { grid: [parameters.num_sequences as u32, 1, 1], threads: 128, shared: 0 };
    // SAFETY: the caller's contract.
    unsafe { lane.launch(device, stream, COUNT, launch, parameters) }
}

/// Applies bias and penalties to every row.
///
/// # Safety
/// As [`sample`]; parents come before their children.
///
/// # Errors
/// As [`Lane::launch`].
pub unsafe fn adjust(lane: &Lane, device: i32, stream: u64, parameters: &Adjust) -> Result<()> {
    if parameters.num_rows == 0 {
        return Ok(());
    }
    let threads = threads(parameters.vocabulary, 512);
    let launch = Launch { grid: [parameters.num_rows as u32, 1, 1], threads, shared: 0 };
    // SAFETY: the caller's contract.
    unsafe { lane.launch(device, stream, ADJUST, launch, parameters) }
}

/// Takes the law of every row.
///
/// # Safety
/// As [`sample`].
///
/// # Errors
/// As [`Lane::launch`].
pub unsafe fn laws(lane: &Lane, device: i32, stream: u64, parameters: &Laws) -> Result<()> {
    if parameters.num_rows == 0 {
        return Ok(());
    }
    let threads = threads(parameters.vocabulary, 1024);
    let launch = Launch { grid: [parameters.num_rows as u32, 1, 1], threads, shared: SHARED };
    // SAFETY: the caller's contract.
    unsafe { lane.launch(device, stream, LAWS, launch, parameters) }
}

/// Verifies by a rule that draws, after [`laws`] of the target and the draft.
///
/// # Safety
/// As [`sample`]; parents come before their children.
///
/// # Errors
/// As [`Lane::launch`].
pub unsafe fn ratio(lane: &Lane, device: i32, stream: u64, parameters: &Ratio) -> Result<()> {
    if parameters.num_sequences == 0 {
        return Ok(());
    }
    let threads = threads(parameters.vocabularies[0], 512);
    let launch = Launch { grid: [parameters.num_sequences as u32, 1, 1], threads, shared: SHARED };
    // SAFETY: the caller's contract.
    unsafe { lane.launch(device, stream, RATIO, launch, parameters) }
}
