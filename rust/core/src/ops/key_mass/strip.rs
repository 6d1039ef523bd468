//! Sixteen rows of queries against many keys: one strip of the score matrix at a time.
//!
//! A score is one chain of fused multiply-adds over the dimensions, from the first; a lane is a
//! row. So a row's scores do not depend on the rows beside it, on the block of keys, or on the
//! instruction set, and a CUDA thread finds the same bits with a plain loop.

use crate::simd::ahead::Ahead;
use crate::simd::product::{Product, RowLayout};
use crate::simd::{Lanes, WIDTH, math};

/// The integer that stands for probability 1. A sum holds 2^24 rows.
pub const MASS_ONE: u64 = 1 << 39;

/// Working memory of a strip: grows to the longest one, then stays.
#[derive(Debug, Default)]
pub(crate) struct Strip {
    /// `[head_dim]` vectors: one dimension of the sixteen rows.
    queries: Vec<[f32; WIDTH]>,
    /// `[keys]` vectors: scores, then exponentials.
    scores: Vec<[f32; WIDTH]>,
    rows: usize,
}

impl Strip {
    /// Takes up to sixteen rows, and makes room for the scores of `num_keys` keys; none is seen yet.
    pub(crate) fn begin<'a>(
        &mut self,
        rows: impl Iterator<Item = &'a [f32]>,
        head_dim: usize,
        num_keys: usize,
    ) {
        self.queries.clear();
        self.queries.resize(head_dim, [0.0; WIDTH]);
        self.rows = 0;
        for row in rows.take(WIDTH) {
            for (to, &x) in self.queries.iter_mut().zip(row) {
                to[self.rows] = x;
            }
            self.rows += 1;
        }
        self.scores.clear();
        self.scores.resize(num_keys, [f32::NEG_INFINITY; WIDTH]);
    }

    /// Scores `scale * q . k` of the keys `first..first + count`, given as rows of `stride` numbers.
    #[inline(always)]
    pub(crate) fn score<L: Lanes>(
        &mut self,
        l: L,
        keys: &[f32],
        stride: usize,
        first: usize,
        count: usize,
        scale: f32,
    ) -> &mut [[f32; WIDTH]] {
        let scores = &mut self.scores[first..first + count];
        let rows = RowLayout::apart(stride);
        let (n, panels) = (self.queries.len(), &[&self.queries[..]]);
        let product = Product { a: keys, rows, n, panels, to: &mut *scores, to_row: 1, to_panel: 0 };
        product.broadcast::<1, false, f32, L>(l, count, &mut Ahead::nothing());
        let scale = l.splat(scale);
        for score in scores.iter_mut() {
            l.store(l.mul(l.load(score), scale), score);
        }
        scores
    }

    /// Adds the share of every key, summed over the rows, to `mass`, in units of `1 / MASS_ONE`. A
    /// score of -inf is a key that the row does not see; a row that sees none, or with a score of
    /// NaN or +inf, adds nothing. `sinks` are logits that take part in the sums alone.
    ///
    /// Returns the log-sum-exp of each row: -inf for one that sees nothing, NaN for one that is no
    /// distribution.
    #[inline(always)]
    pub(crate) fn finish<L: Lanes>(
        &mut self,
        l: L,
        sinks: Option<&[f32; WIDTH]>,
        mass: &mut [u64],
    ) -> [f32; WIDTH] {
        let one = MASS_ONE as f64;
        let mut greatest = l.splat(f32::NEG_INFINITY);
        let mut numbers = u32::MAX;
        for score in &self.scores {
            let x = l.load(score);
            numbers &= l.mask_bits(l.eq(x, x));
            greatest = l.max(x, greatest);
        }
        let mut max = [0.0; WIDTH];
        l.store(greatest, &mut max);
        let mut lse = [f32::NEG_INFINITY; WIDTH];
        let mut counts = [0.0; WIDTH];
        for row in 0..self.rows {
            if let Some(sinks) = sinks
                && sinks[row] > max[row]
            {
                max[row] = sinks[row];
            }
            if numbers >> row & 1 == 0 || max[row] == f32::INFINITY {
                lse[row] = f32::NAN;
            } else if max[row] > f32::NEG_INFINITY {
                counts[row] = 1.0;
            }
        }
        let (shift, counts) = (l.load(&max), l.lt(l.splat(0.0), l.load(&counts)));
        let mut sums = [0u64; WIDTH];
        for score in &mut self.scores {
            let e = math::exp_nonpositive(l, l.sub(l.load(score), shift));
            l.store(l.select(counts, e, l.splat(0.0)), score);
            for (sum, &e) in sums.iter_mut().zip(score.iter()) {
                *sum += rounded(f64::from(e) * one);
            }
        }
        let mut shares = [0.0f64; WIDTH];
        for row in (0..self.rows).filter(|row| l.mask_bits(counts) >> row & 1 == 1) {
            if let Some(sinks) = sinks {
                sums[row] += rounded(f64::from(math::exp_scalar(sinks[row] - max[row])) * one);
            }
            shares[row] = one / sums[row] as f64 * one;
            lse[row] = max[row] + math::log_scalar((sums[row] as f64 / one) as f32);
        }
        for (mass, score) in mass.iter_mut().zip(&self.scores) {
            for (&e, &share) in score.iter().zip(&shares) {
                *mass += rounded(f64::from(e) * share);
            }
        }
        lse
    }
}

/// The nearest integer, ties to even, of a number from 0 to 2^51, in operations that vectorise.
#[inline(always)]
fn rounded(x: f64) -> u64 {
    const SHIFT: f64 = (1u64 << 52) as f64;
    (x + SHIFT).to_bits() & ((1 << 52) - 1)
}
