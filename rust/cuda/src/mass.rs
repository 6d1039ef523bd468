//! Launches of key mass: three passes over the keys, see cuda/include/mass.cuh.

use crate::attention::{check_head_dim, plain_shared};
use crate::error::Result;
use crate::kernels::KEY_MASS;
use crate::lane::{Lane, Launch};
use crate::packed::Packed;
use crate::params::{ATTENTION_THREADS, KeyMass, MassPhase, PLAIN_QUERIES, Segment, words};

/// Slots of a segment: enough for a block to be worth its queries, few enough to fill a device.
const SEGMENT_SLOTS: usize = 256;

/// The pieces of the reads that columns are made of, `(read, first column)`: words of [`Segment`].
pub fn segments(packed: &Packed, columns: impl IntoIterator<Item = (u32, u32)>) -> Vec<i32> {
    let mut segments = Vec::new();
    for (read, column) in columns {
        let end = packed.read_slots.get(read as usize).copied().unwrap_or(0);
        for begin in (0..end).step_by(SEGMENT_SLOTS) {
            let end = end.min(begin + SEGMENT_SLOTS);
            segments.push(Segment {
                read: read as i32,
                slot_begin: begin as i32,
                slot_end: end as i32,
                column: column as i32,
            });
        }
    }
    words(&segments).to_vec()
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
    let grid = [parameters.num_segments as u32, kv_heads, queries.div_ceil(PLAIN_QUERIES as u32).min(65_535)];
    let launch = Launch { grid, threads: ATTENTION_THREADS as u32, shared: plain_shared(head_dim as u32) };
    for phase in [MassPhase::Largest, MassPhase::Sum, MassPhase::Mass] {
        parameters.phase = phase;
        // SAFETY: the caller's contract.
        unsafe { lane.launch(device, stream, KEY_MASS, launch, &parameters) }?;
    }
    Ok(())
}
