//! Launches of key mass: three passes over the keys, see cuda/include/mass.cuh.

use crate::attention::{check_head_dim, plain_shared};
use crate::error::Result;
use crate::lane::{Kernel, Lane, Launch};
use crate::packed::Packed;
use crate::params::KeyMass;

const MASS: Kernel = Kernel { image: 6, name: "hornbeam_key_mass", number: 18 };
const THREADS: u32 = 128;
/// Queries of a block of threads.
const STRIP: u32 = 16;
/// Slots of a segment: enough for a block to be worth its queries, few enough to fill a device.
const SEGMENT_SLOTS: usize = 256;

/// The pieces of the reads that columns are made of, `(read, first column)`: words of `Segment`, with the
/// first column of the read in the last word.
pub fn segments(packed: &Packed, columns: impl IntoIterator<Item = (u32, u32)>) -> Vec<i32> {
    let mut words = Vec::new();
    for (read, column) in columns {
        let end = packed.read_slots.get(read as usize).copied().unwrap_or(0);
        for begin in (0..end).step_by(SEGMENT_SLOTS) {
            let end = end.min(begin + SEGMENT_SLOTS);
            words.extend([read as i32, begin as i32, end as i32, column as i32]);
        }
    }
    words
}

/// Adds the mass of `parameters.num_rows` rows to their keys.
///
/// # Safety
/// As [`Lane::launch`]: every address in `parameters` is valid on the device, and the statistics are zeros.
///
/// # Errors
/// As [`Lane::launch`], and a head of more than [`MOST_HEAD_DIM`](crate::attention::MOST_HEAD_DIM).
pub unsafe fn key_mass(lane: &Lane, device: i32, stream: u64, parameters: &KeyMass) -> Result<()> {
    let mut parameters = *parameters;
    let head_dim = parameters.pages.head_dim;
    check_head_dim(head_dim)?;
    let kv_heads = parameters.pages.num_kv_heads as u32;
    let queries = parameters.num_rows as u32 * (parameters.num_heads as u32 / kv_heads);
    if queries == 0 || parameters.num_segments == 0 {
        return Ok(());
    }
    let grid = [parameters.num_segments as u32, kv_heads, queries.div_ceil(STRIP).min(65_535)];
    let launch = Launch { grid, threads: THREADS, shared: plain_shared(head_dim as u32) };
    for phase in 0..3 {
        parameters.phase = phase;
        // SAFETY: the caller's contract.
        unsafe { lane.launch(device, stream, MASS, launch, &parameters) }?;
    }
    Ok(())
}

/// Loads the kernel of this file.
///
/// # Errors
/// As [`Lane::prepare`].
pub fn prepare(lane: &Lane, device: i32) -> Result<()> {
    lane.prepare(device, MASS)
}
