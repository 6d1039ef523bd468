//! Which keys stay, of planes that may show different ones.

use super::{Scores, Split, split};
use crate::error::{Error, Result};
use crate::keep::select;

/// Shares `total` out and writes which keys stay, one flag for each of the scores. `positions` says where in
/// the text the keys stand, ascending in each plane: where the scores of another layer decide, keys are
/// matched by it, and one that the other layer no longer shows is worth nothing.
///
/// # Errors
/// As [`split`], and [`Error::Shape`] for lists of other lengths.
pub fn select_planes(
    rule: &dyn Split,
    scores: &Scores<'_>,
    positions: &[i32],
    total: u64,
    unit: usize,
    budgets: &mut [u32],
    kept: &mut [bool],
) -> Result<()> {
    let want = scores.values.len();
    if positions.len() != want || kept.len() != want {
        return Err(Error::shape(
            "positions and kept",
            (positions.len(), kept.len()),
            format!("{want} each"),
        ));
    }
    split(rule, scores, total, budgets)?;
    kept.fill(false);
    let heads = scores.num_heads;
    for (plane, &share) in budgets.iter().enumerate() {
        let own = scores.offsets[plane]..scores.offsets[plane + 1];
        let leader = rule.leader(plane / heads) * heads + plane % heads;
        let theirs = &positions[scores.offsets[leader]..scores.offsets[leader + 1]];
        let row = scores.plane(leader);
        let chosen = if positions[own.clone()] == *theirs {
            select(row, share as usize, unit, scores.protect)
        } else {
            let worth = |at| theirs.binary_search(at).map_or(f32::NEG_INFINITY, |i| row[i]);
            let row: Vec<f32> = positions[own.clone()].iter().map(worth).collect();
            select(&row, share as usize, unit, scores.protect)
        };
        chosen.into_iter().for_each(|index| kept[own.start + index as usize] = true);
    }
    Ok(())
}
