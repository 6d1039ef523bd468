//! PyramidKV (Cai et al. 2024, arXiv 2406.02069).

use super::{Scores, Split, apportion};
use crate::error::Result;
use crate::keep::Params;

/// Budgets fall linearly from the first layer to the last: the last gets `1/beta` of the mean, the
/// first the rest of twice the mean. All heads of a layer get the same.
///
/// As in the paper the pyramid is built on what is left after the protected tokens, which every
/// plane gets first. A layer whose share exceeds the sequence leaves the excess to the others; the
/// released code recomputes the slope instead, and falls back to uniform budgets.
#[derive(Debug, Clone, Copy)]
pub struct Pyramid {
    /// The mean budget over that of the last layer; at least 1.
    pub beta: u32,
}

impl Pyramid {
    pub(super) fn from_params(params: &mut Params) -> Result<Self> {
        Ok(Self { beta: params.count("beta", 20, 1)? as u32 })
    }
}

impl Split for Pyramid {
    fn budgets(&self, scores: &Scores<'_>, total: u64, out: &mut [u32]) -> Result<()> {
        let weights = linear(scores.num_layers, 2 * u64::from(self.beta) - 1, 1);
        by_layer(scores, total, &weights, out);
        Ok(())
    }
}

/// Integers in proportion to a line from `first` to `last` over `len` points.
pub(super) fn linear(len: usize, first: u64, last: u64) -> Vec<u64> {
    let steps = len.saturating_sub(1).max(1) as u64;
    (0..len as u64).map(|i| first * (steps - i.min(steps)) + last * i).map(|w| w.max(1)).collect()
}

/// Shares by layer weights; every plane gets what is protected first.
pub(super) fn by_layer(scores: &Scores<'_>, total: u64, weights: &[u64], out: &mut [u32]) {
    let planes = scores.num_planes();
    let weights: Vec<u64> = (0..planes).map(|plane| weights[plane / scores.num_heads]).collect();
    let shares = apportion(total, &weights, &scores.floors(), &scores.caps());
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
        Pyramid { beta: 20 }.budgets(&scores, 4 * 108, &mut out).unwrap();
        // The mean beyond the window is 100: 195, then down by 63.3 to 5.
        assert_eq!(out, [203, 140, 76, 13]);
        assert_eq!(linear(1, 39, 1), [39]);
    }
}
