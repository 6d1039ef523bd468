//! PyramidKV (Cai et al. 2024, arXiv 2406.02069).

use super::{Scores, Split, apportion};
use crate::error::Result;
use crate::keep::Params;
use crate::keep::method::Method;

pub(super) const METHOD: Method<dyn Split> =
    Method { name: "pyramid", build: |params| Ok(Box::new(Pyramid::from_params(params)?)) };

/// Budgets fall linearly from the first layer to the last: the last gets `1/beta` of the mean, the
/// first the rest of twice the mean. All heads of a layer get the same.
///
/// As in the paper the pyramid is built on what is left after the protected tokens, which every
/// plane gets first. A layer whose share exceeds the sequence leaves the excess to the others.
#[derive(Debug, Clone, Copy)]
pub struct Pyramid {
    /// The mean budget over that of the last layer; at least 1.
    pub beta: u32,
    /// What happens where the pyramid does not fit.
    pub slope: Slope,
}

/// The slope of a pyramid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slope {
    /// That of the paper.
    Fixed,
    /// As in kvpress, which builds the pyramid on the whole budget: where the first layer's share exceeds
    /// what it holds beside the protected tokens, it gets that, and the slope follows; where the last layer's
    /// share does not hold the protected tokens then, all layers get the same.
    Fitted,
}

impl Pyramid {
    pub(super) fn from_params(params: &mut Params) -> Result<Self> {
        Ok(Self {
            beta: params.count("beta", 20, 1)? as u32,
            slope: [Slope::Fixed, Slope::Fitted][params.word("slope", &["fixed", "fitted"])?],
        })
    }
}

impl Pyramid {
    /// The ends of a fitted line, in some common unit.
    fn fitted(&self, total: u64, caps: &[u64], floors: &[u64]) -> (u64, u64) {
        let greatest = |list: &[u64]| u128::from(list.iter().copied().max().unwrap_or(0));
        // Tokens of a plane times this are what the total of all planes is times `beta`.
        let unit = caps.len() as u128 * u128::from(self.beta);
        let (tokens, window, total) = (greatest(caps) * unit, greatest(floors) * unit, u128::from(total));
        let twice_the_mean = 2 * u128::from(self.beta) * total;
        let (mut first, mut last) = (twice_the_mean - total, Some(total));
        if first >= tokens - window {
            first = tokens - window;
            last = twice_the_mean.checked_sub(first);
        }
        match last {
            Some(last) if first >= last && last >= window => {
                let excess = (u128::BITS - first.leading_zeros()).saturating_sub(40);
                ((first >> excess) as u64, (last >> excess) as u64)
            }
            _ => (1, 1),
        }
    }
}

impl Split for Pyramid {
    fn budgets(&self, scores: &Scores<'_>, total: u64, out: &mut [u32]) -> Result<()> {
        let (layers, beta) = (scores.num_layers, u64::from(self.beta));
        if self.slope == Slope::Fixed {
            by_layer(scores, total, &linear(layers, 2 * beta - 1, 1), &scores.floors(), out);
            return Ok(());
        }
        let caps = scores.caps();
        let (first, last) = self.fitted(total, &caps, &scores.floors());
        by_layer(scores, total, &linear(layers, first, last), &vec![0; caps.len()], out);
        Ok(())
    }
}

/// Integers in proportion to a line from `first` to `last` over `len` points.
pub(super) fn linear(len: usize, first: u64, last: u64) -> Vec<u64> {
    let steps = len.saturating_sub(1).max(1) as u64;
    (0..len as u64).map(|i| first * (steps - i.min(steps)) + last * i).map(|w| w.max(1)).collect()
}

/// Shares by layer weights; every plane gets its floor first.
pub(super) fn by_layer(scores: &Scores<'_>, total: u64, weights: &[u64], floors: &[u64], out: &mut [u32]) {
    let planes = scores.num_planes();
    let weights: Vec<u64> = (0..planes).map(|plane| weights[plane / scores.num_heads]).collect();
    let shares = apportion(total, &weights, floors, &scores.caps());
    out.iter_mut().zip(shares).for_each(|(out, share)| *out = share as u32);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::keep::Protect;

    #[test]
    fn budgets_fall_linearly_around_the_mean() {
        let values = vec![0.0; 4 * 1000];
        let protect = Protect { recent: 8, ..Protect::default() };
        let offsets = super::super::even(4, 1000);
        let scores = Scores { values: &values, offsets: &offsets, num_layers: 4, num_heads: 1, protect };
        let mut out = [0; 4];
        Pyramid { beta: 20, slope: Slope::Fixed }.budgets(&scores, 4 * 108, &mut out).unwrap();
        // The mean beyond the window is 100: 195, then down by 63.3 to 5.
        assert_eq!(out, [203, 140, 76, 13]);
        assert_eq!(linear(1, 39, 1), [39]);
    }

    #[test]
    fn a_fitted_slope_stays_inside_or_is_flat() {
        let values = vec![0.0; 3 * 1000];
        let protect = Protect { recent: 64, ..Protect::default() };
        let offsets = super::super::even(3, 1000);
        let scores = Scores { values: &values, offsets: &offsets, num_layers: 3, num_heads: 1, protect };
        let budgets = |total| {
            let mut out = [0; 3];
            Pyramid { beta: 2, slope: Slope::Fitted }.budgets(&scores, total, &mut out).unwrap();
            out
        };
        // From 3/2 of the mean to half of it.
        assert_eq!(budgets(3 * 400), [600, 400, 200]);
        // The first layer holds 936 beside the window.
        assert_eq!(budgets(3 * 800), [936, 800, 664]);
        // Half of 120 is less than the window.
        assert_eq!(budgets(3 * 120), [120; 3]);
        assert_eq!(budgets(3 * 1000), [1000; 3]);
    }
}
