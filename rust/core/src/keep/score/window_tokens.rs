//! WindowKV (Zuo et al. 2025, arXiv 2503.17922): windows of neighbours are kept or dropped whole.

use super::{Score, mean};
use crate::error::Result;
use crate::keep::method::Method;
use crate::keep::{Layer, Mass, Params, Protect, QueryRows};

/// How a window's tokens make its score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// Their mean: for tasks that gather information.
    Mean,
    /// The mean of the greater half: for tasks that look one thing up.
    Max,
}

pub(super) const METHOD: Method<dyn Score> =
    Method { name: "window_tokens", build: |params| Ok(Box::new(WindowTokens::from_params(params)?)) };

/// Probability that the last `suffix` rows give to a window of `unit` tokens, pooled within the
/// window, then mean over the heads of the layer: they share one ranking. The suffix is kept.
///
/// Which pool a task wants is the caller's to say (the paper trains a classifier). The released
/// code pools each query head alone; here the heads of a group are averaged first, which differs
/// for `Pool::Max` only. The last window before the suffix may be shorter.
#[derive(Debug, Clone, Copy)]
pub struct WindowTokens {
    /// Tokens of a window.
    pub unit: usize,
    /// Rows, and tokens that are kept: 16 for the mean, 32 for the max in the paper.
    pub suffix: usize,
    /// How tokens make a window's score.
    pub pool: Pool,
}

impl WindowTokens {
    pub(super) fn from_params(params: &mut Params) -> Result<Self> {
        let pool = [Pool::Mean, Pool::Max][params.word("pool", &["mean", "max"])?];
        let suffix = if pool == Pool::Mean { 16 } else { 32 };
        Ok(Self { unit: params.count("window", 8, 1)?, suffix: params.count("suffix", suffix, 1)?, pool })
    }

    /// Sum of mass that stands for a window, and how many tokens it came from.
    fn pool(&self, window: &[u64]) -> (u64, usize) {
        match self.pool {
            Pool::Mean => (window.iter().sum(), window.len()),
            Pool::Max => {
                let mut sorted = window.to_vec();
                sorted.sort_unstable_by(|a, b| b.cmp(a));
                let half = (self.unit / 2).clamp(1, window.len());
                (sorted[..half].iter().sum(), half)
            }
        }
    }
}

impl Score for WindowTokens {
    fn rows(&self) -> Vec<QueryRows> {
        vec![QueryRows::Last(self.suffix)]
    }

    fn by_layer(&self) -> bool {
        true
    }

    fn protect(&self) -> Protect {
        Protect { recent: self.suffix as u32, ..Protect::default() }
    }

    fn unit(&self) -> usize {
        self.unit
    }

    fn score(&self, layer: &Layer<'_>, mass: &[Mass], out: &mut [f32]) -> Result<()> {
        let (n, heads) = (layer.num_tokens, layer.planes.len());
        let (rows, counted) = (self.suffix.min(n), self.suffix.min(layer.num_seen));
        let (first, others) = out.split_at_mut(n);
        let (before, suffix) = first.split_at_mut(n - rows);
        let score = |at: usize, out: &mut [f32]| {
            let windows = (0..heads).map(|head| self.pool(&mass[0].sums[head * n + at..][..out.len()]));
            let (sum, count) = windows.fold((0, 0), |(sum, _), (s, count)| (sum + s, count));
            out.fill(mean(sum, count * heads * counted * layer.group));
        };
        before.chunks_mut(self.unit).enumerate().for_each(|(i, out)| score(i * self.unit, out));
        suffix.chunks_mut(self.unit).enumerate().for_each(|(i, out)| score(n - rows + i * self.unit, out));
        others.chunks_exact_mut(n).for_each(|head| head.copy_from_slice(first));
        Ok(())
    }
}
