//! The probability mass that rows of attention give to each key, as fixed-point integers.
//!
//! A sum of integers has no order, so neither threads, nor blocks, nor a device can change a
//! decision that is taken from it.

use crate::error::{Error, Result};
use crate::simd::{Isa, Kernel, Lanes, WIDTH, math};

/// The integer that stands for probability 1. A sum holds 2^24 rows.
pub const MASS_ONE: u64 = 1 << 39;

/// Rows that share the loads of a key.
const ROWS: usize = 4;

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
        let stride = mass.len().next_multiple_of(WIDTH);
        let mut scores = vec![0.0f32; ROWS * stride];
        for (queries, visible) in rows.queries.chunks(ROWS * d).zip(rows.visible.chunks(ROWS)) {
            let most = visible.iter().max().map_or(0, |most| *most as usize);
            let keys = rows.keys[..most * d].chunks_exact(d).enumerate();
            if visible.len() == ROWS {
                let queries: [&[f32]; ROWS] = std::array::from_fn(|row| &queries[row * d..][..d]);
                for (at, key) in keys {
                    for (row, dot) in dots(l, queries, key).into_iter().enumerate() {
                        scores[row * stride + at] = dot * rows.scale;
                    }
                }
            } else {
                for (at, key) in keys {
                    for (row, query) in queries.chunks_exact(d).enumerate() {
                        scores[row * stride + at] = dot(l, query, key) * rows.scale;
                    }
                }
            }
            for (scores, &visible) in scores.chunks_exact_mut(stride.max(1)).zip(visible) {
                add_row(l, &mut scores[..(visible as usize).next_multiple_of(WIDTH)], visible as usize, mass);
            }
        }
    }
}

/// Turns one row of scores, with room to a whole vector, into exponentials, and adds their shares.
#[inline(always)]
fn add_row<L: Lanes>(l: L, scores: &mut [f32], visible: usize, mass: &mut [u64]) {
    scores[visible..].fill(f32::NEG_INFINITY);
    let blocks = scores.as_chunks_mut::<WIDTH>().0;
    let mut max = l.splat(f32::NEG_INFINITY);
    let mut numbers = true;
    for block in &*blocks {
        let x = l.load(block);
        numbers &= l.mask_bits(l.eq(x, x)) == u32::from(u16::MAX);
        max = l.max(x, max);
    }
    let max = l.reduce_max(max);
    if !numbers || !max.is_finite() {
        return;
    }
    for block in blocks {
        l.store(math::exp_nonpositive(l, l.sub(l.load(block), l.splat(max))), block);
    }
    let one = MASS_ONE as f64;
    let sum: u64 = scores.iter().map(|&e| rounded(f64::from(e) * one)).sum();
    let share = one / sum as f64 * one;
    for (mass, &e) in mass.iter_mut().zip(&scores[..visible]) {
        *mass += rounded(f64::from(e) * share);
    }
}

/// The nearest integer, ties to even, of a number from 0 to 2^51, in operations that vectorise.
#[inline(always)]
fn rounded(x: f64) -> u64 {
    const SHIFT: f64 = (1u64 << 52) as f64;
    (x + SHIFT).to_bits() & ((1 << 52) - 1)
}

/// [`dot`] of several rows with one key, which is loaded once.
#[inline(always)]
fn dots<L: Lanes>(l: L, rows: [&[f32]; ROWS], key: &[f32]) -> [f32; ROWS] {
    let (blocks, tail) = key.as_chunks::<WIDTH>();
    let rows = rows.map(|row| row.as_chunks::<WIDTH>());
    let mut sums = [l.splat(0.0); ROWS];
    for (i, block) in blocks.iter().enumerate() {
        let block = l.load(block);
        for (sum, (row, _)) in sums.iter_mut().zip(rows) {
            *sum = l.fma(l.load(&row[i]), block, *sum);
        }
    }
    if !tail.is_empty() {
        let tail = l.load_partial(tail, 0.0);
        for (sum, (_, row)) in sums.iter_mut().zip(rows) {
            *sum = l.fma(l.load_partial(row, 0.0), tail, *sum);
        }
    }
    l.reduce_add4(sums)
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
            n in 1usize..40, d in 1usize..40, count in 1usize..7, seed in any::<u32>(),
        ) {
            let mut state = seed;
            let mut draw = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 22) as f32 - 2.0
            };
            let keys: Vec<f32> = (0..n * d).map(|_| draw()).collect();
            let visible = [n as u32, 1 + n as u32 / 2, 1, n as u32, n as u32, 1 + n as u32 / 3];
            let visible = &visible[..count];
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
