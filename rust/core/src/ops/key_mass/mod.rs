//! The probability mass that rows of attention give to each key, as fixed-point integers.
//!
//! A sum of integers has no order, so neither threads, nor blocks, nor a device can change a
//! decision that is taken from it.
//!
//! ```
//! use hornbeam_core::ops::key_mass::{KeyMass, MASS_ONE, add_key_mass};
//! use hornbeam_core::simd::Isa;
//!
//! // Two rows over two equal keys, of which the first row sees one.
//! let rows = KeyMass {
//!     keys: &[1.0, 0.0, 1.0, 0.0],
//!     queries: &[1.0, 1.0, 2.0, 2.0],
//!     visible: &[1, 2],
//!     head_dim: 2,
//!     scale: 1.0,
//! };
//! let mut mass = [0; 2];
//! add_key_mass(Isa::detected(), &rows, &mut mass)?;
//! let shares = mass.map(|sum| sum as f64 / MASS_ONE as f64);
//! assert!((shares[0] - 1.5).abs() < 1e-6 && (shares[1] - 0.5).abs() < 1e-6);
//! # Ok::<(), hornbeam_core::Error>(())
//! ```

mod strip;

use crate::error::{Error, Result};
use crate::simd::{Isa, Kernel, Lanes, WIDTH};
pub use strip::MASS_ONE;
pub(crate) use strip::Strip;

/// Keys that are scored together.
const BLOCK_KEYS: usize = 64;

/// Rows of queries over the keys of one plane.
#[derive(Debug, Clone, Copy)]
pub struct KeyMass<'a> {
    /// `[num_tokens][head_dim]`, in order of position.
    pub keys: &'a [f32],
    /// `[rows][head_dim]`.
    pub queries: &'a [f32],
    /// For each row, how many keys, from the first, it sees.
    pub visible: &'a [u32],
    /// Elements of one key.
    pub head_dim: usize,
    /// What scores are multiplied by before the softmax.
    pub scale: f32,
}

/// Adds `softmax(scale * q . k)` of every row to `mass`, one sum a key, in units of
/// `1 / MASS_ONE`. A row that sees no key, or whose scores hold NaN or +inf, adds nothing.
///
/// # Errors
/// [`Error::Shape`] if lengths disagree, or a row sees more keys than there are.
pub fn add_key_mass(isa: Isa, rows: &KeyMass<'_>, mass: &mut [u64]) -> Result<()> {
    let (d, n) = (rows.head_dim, mass.len());
    if rows.keys.len() != n * d {
        return Err(Error::shape("keys", rows.keys.len(), format!("{n} keys of {d} elements")));
    }
    if rows.queries.len() != rows.visible.len() * d {
        let want = format!("{} rows of {d} elements", rows.visible.len());
        return Err(Error::shape("queries", rows.queries.len(), want));
    }
    if let Some(&most) = rows.visible.iter().max()
        && most as usize > n
    {
        return Err(Error::shape("visible", most, format!("at most {n} keys")));
    }
    if d > 0 {
        isa.run(Sum { rows, mass });
    }
    Ok(())
}

struct Sum<'a> {
    rows: &'a KeyMass<'a>,
    mass: &'a mut [u64],
}

impl Kernel for Sum<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Self { rows, mass } = self;
        let d = rows.head_dim;
        let mut strip = Strip::default();
        for (queries, visible) in rows.queries.chunks(WIDTH * d).zip(rows.visible.chunks(WIDTH)) {
            let most = visible.iter().max().map_or(0, |most| *most as usize);
            strip.begin(queries.chunks_exact(d), d, most);
            for first in (0..most).step_by(BLOCK_KEYS) {
                let count = BLOCK_KEYS.min(most - first);
                let scores = strip.score(l, &rows.keys[first * d..], d, first, count, rows.scale);
                for (row, &visible) in visible.iter().enumerate() {
                    for score in scores.iter_mut().skip((visible as usize).saturating_sub(first)) {
                        score[row] = f32::NEG_INFINITY;
                    }
                }
            }
            strip.finish(l, None, &mut mass[..most]);
        }
    }
}

/// The dot product in the one order of [`Lanes::reduce_add`].
#[inline(always)]
pub(crate) fn dot<L: Lanes>(l: L, a: &[f32], b: &[f32]) -> f32 {
    let ((a_blocks, a_tail), (b_blocks, b_tail)) = (a.as_chunks::<WIDTH>(), b.as_chunks::<WIDTH>());
    let mut sum = l.splat(0.0);
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        sum = l.fma(l.load(a), l.load(b), sum);
    }
    if !a_tail.is_empty() {
        sum = l.fma(l.load_partial(a_tail, 0.0), l.load_partial(b_tail, 0.0), sum);
    }
    l.reduce_add(sum)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn mass_is_the_softmax_and_rows_sum_to_one(
            n in 1usize..150, d in 1usize..40, count in 1usize..40, seed in any::<u32>(),
        ) {
            let mut state = seed;
            let mut draw = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 22) as f32 - 2.0
            };
            let keys: Vec<f32> = (0..n * d).map(|_| draw()).collect();
            let visible: Vec<u32> = (0..count as u32).map(|row| 1 + row * 7919 % n as u32).collect();
            let visible = visible.as_slice();
            let queries: Vec<f32> = (0..count * d).map(|_| draw()).collect();
            let rows = KeyMass { keys: &keys, queries: &queries, visible, head_dim: d, scale: 0.3 };
            let mut want = vec![0.0f64; n];
            for (row, &seen) in visible.iter().enumerate() {
                let scores: Vec<f64> = (0..seen as usize)
                    .map(|j| (0..d).map(|i| f64::from(queries[row * d + i]) * f64::from(keys[j * d + i])).sum::<f64>() * 0.3)
                    .collect();
                let sum: f64 = scores.iter().map(|s| s.exp()).sum();
                scores.iter().zip(&mut want).for_each(|(s, w)| *w += s.exp() / sum);
            }
            let mut first = None;
            for isa in Isa::available() {
                let mut mass = vec![0; n];
                add_key_mass(isa, &rows, &mut mass).unwrap();
                for (m, w) in mass.iter().zip(&want) {
                    prop_assert!((*m as f64 / MASS_ONE as f64 - w).abs() < 1e-6 * count as f64);
                }
                let total = mass.iter().sum::<u64>() as i64 - count as i64 * MASS_ONE as i64;
                prop_assert!(total.abs() <= (count * n) as i64);
                prop_assert_eq!(first.get_or_insert(mass.clone()), &mass);
            }
        }
    }

    #[test]
    fn rows_that_are_no_distribution_add_nothing() {
        let rows =
            |query| KeyMass { keys: &[1.0, 2.0], queries: query, visible: &[2], head_dim: 1, scale: 1.0 };
        let mut mass = [0; 2];
        for query in [&[f32::NAN], &[f32::INFINITY]] {
            add_key_mass(Isa::Portable, &rows(query), &mut mass).unwrap();
        }
        assert_eq!(mass, [0; 2]);
        let unseen = KeyMass { visible: &[0], ..rows(&[1.0]) };
        add_key_mass(Isa::Portable, &unseen, &mut mass).unwrap();
        assert_eq!(mass, [0; 2]);
        let beyond = KeyMass { visible: &[3], ..rows(&[1.0]) };
        assert!(add_key_mass(Isa::Portable, &beyond, &mut mass).is_err());
    }
}
