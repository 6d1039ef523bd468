//! The warped law itself, as a table: for rules and checks that are written elsewhere.
//!
//! Verification and draws never make such a table. It is made of the weights that they read, so that what is
//! computed from it is exact for the same law, to the last bit.

use crate::error::{Error, Result};
use crate::ops::logits::Logits;
use crate::ops::verify::Workspace;
use crate::ops::warp::Warp;
use crate::simd::Isa;

/// Writes the law of every row of `logits`: the weights of all tokens to `weights`, `[rows, vocabulary]`, and
/// their sums to `totals`, `[rows]`. A token's probability is its share. `warps` and `histories` are as in
/// [`crate::ops::draw::Draws`].
///
/// # Errors
/// [`Error::Shape`] and [`Error::Value`] for arguments that do not fit; [`Error::Logits`] if a row is no
/// distribution.
pub fn law_weights(
    isa: Isa,
    logits: Logits<'_>,
    warps: &[&Warp],
    histories: Option<&[(&[i64], &[i64])]>,
    weights: &mut [f32],
    totals: &mut [i64],
) -> Result<()> {
    let (rows, vocabulary) = (logits.num_rows(), logits.vocabulary());
    let expect = |what, got: usize, expected: usize| {
        if got == expected { Ok(()) } else { Err(Error::shape(what, got, expected)) }
    };
    expect("weights", weights.len(), rows * vocabulary)?;
    expect("totals", totals.len(), rows)?;
    if warps.len() != 1 {
        expect("warp", warps.len(), rows)?;
    }
    match histories {
        Some(histories) => expect("history", histories.len(), rows)?,
        None if warps.iter().any(|warp| warp.has_penalties()) => {
            return Err(Error::value("history", "None", "prompt and output, since the warp has penalties"));
        }
        None => {}
    }
    for (row, (out, total)) in weights.chunks_exact_mut(vocabulary.max(1)).zip(totals).enumerate() {
        let warp = warps[if warps.len() == 1 { 0 } else { row }];
        Workspace::with(|workspace| {
            let (law, warper, seen) = workspace.for_draws();
            let follows = warp.has_penalties();
            seen.reset(if follows { vocabulary } else { 0 });
            if let (true, Some(histories)) = (follows, histories) {
                seen.load(histories[row].0, histories[row].1)?;
            }
            warper.warp(isa, logits.row(row), warp, seen, law).map_err(|fault| fault.at(row, 0))?;
            out.fill(0.0);
            for (entry, weight) in law.weights().iter().enumerate() {
                out[law.id(entry) as usize] = *weight;
            }
            *total = law.total() as i64;
            Ok(())
        })?;
    }
    Ok(())
}
