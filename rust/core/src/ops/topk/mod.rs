//! The k greatest numbers of rows, exactly, as every sort by value and then by index would choose them.
//!
//! One order holds everywhere: NaN is the greatest number (as in torch) and equal to NaN, -0.0 equals 0.0, and of equal
//! numbers the one with the lowest index comes first. Results do not depend on the instruction set, on threads, or on
//! the other rows.
//!
//! A row is not sorted. One or two passes collect the *candidates* (`candidates.rs`): all that reach a threshold which
//! at least k numbers reach. The k-th greatest of the few is found by a histogram (`select.rs`), and one more pass over
//! them writes what is at least that.

mod block;
mod candidates;
mod each;
mod key;
mod mass;
mod product;
mod rows;
mod scratch;
mod select;

pub use block::top_blocks;
pub use mass::{MassCut, Share, mass_counts, mass_cut};
pub use product::{TuckerCore, product_top_k, tucker_top_k};
pub use rows::{Counts, Order, Rows, Top};
pub use scratch::Scratch;

use crate::error::{Error, Result};
use crate::format::Element;
use crate::parallel::Parallel;
use crate::simd::Isa;
use each::for_each_row;

/// The `k` greatest numbers of every row and their indices; rows run in parallel.
///
/// A ragged row that has fewer numbers than it should give gives all of them.
///
/// ```
/// use hornbeam_core::ops::topk::{Counts, Order, Rows, Top, top_k};
/// use hornbeam_core::parallel::Serial;
/// use hornbeam_core::simd::Isa;
///
/// let scores = [0.1f32, 0.7, 0.3, 0.7];
/// let (mut values, mut indices) = ([0.0; 3], [0; 3]);
/// top_k(
///     Isa::detected(),
///     &Serial,
///     &Rows::even(&scores, 1, 4)?,
///     Counts::All(3),
///     Order { sorted: true, hints: None },
///     Top { values: &mut values, indices: &mut indices, width: 3 },
/// )?;
/// assert_eq!(indices, [1, 3, 2]); // of equal numbers the one with the lowest index comes first
/// # Ok::<(), hornbeam_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Value`] if a count is negative, above the width, or above the length of rows that are not ragged;
/// [`Error::Shape`] for arrays of other lengths. Nothing is written then.
pub fn top_k<E: Element>(
    isa: Isa,
    pool: &dyn Parallel,
    rows: &Rows<'_, E>,
    counts: Counts<'_>,
    order: Order<'_>,
    top: Top<'_, E>,
) -> Result<()> {
    let count = rows.count();
    let expect = |what, got: usize, expected: usize| {
        if got == expected { Ok(()) } else { Err(Error::shape(what, got, expected)) }
    };
    if let Counts::Each(counts) = counts {
        expect("k", counts.len(), count)?;
    }
    if let Some(hints) = order.hints {
        expect("hint", hints.len(), count)?;
    }
    for row in 0..count {
        let k = counts.of(row);
        let most = if rows.is_ragged() { usize::MAX } else { rows.row(row).len() };
        if usize::try_from(k).is_ok_and(|k| k > most) || k < 0 {
            return Err(Error::value("k", k, format!("0 to {most}, the length of a row")));
        }
        if k as usize > top.width {
            return Err(Error::value("k", k, format!("at most {}, the places of a row", top.width)));
        }
    }
    for_each_row(pool, count, rows.data.len(), top, |row, values, indices, scratch| {
        let (numbers, hint) = (rows.row(row), order.hints.map(|hints| hints[row]));
        let k = (counts.of(row) as usize).min(numbers.len());
        scratch.select(isa, numbers, k, hint);
        scratch.write(numbers, k, order.sorted, values, indices, |x| x);
    })
}

#[cfg(test)]
#[path = "topk_tests.rs"]
mod tests;
