//! SnapKV (Li et al. 2024, arXiv 2404.14469).

use super::{Score, kernel_from, mean, pooled};
use crate::error::Result;
use crate::keep::method::Method;
use crate::keep::{Layer, Mass, Params, Protect, QueryRows};

pub(super) const METHOD: Method<dyn Score> =
    Method { name: "window_mass", build: |params| Ok(Box::new(WindowMass::from_params(params)?)) };

/// Mean probability that the last `window` rows give to a key, average-pooled over `kernel`
/// neighbours, mean over the query heads of the group. The window itself is kept.
///
/// The pool runs over the tokens before the window and is padded with zeros that count, as in the
/// released code. Defaults: window 64, kernel 5, those of kvpress; the paper's own runs use 32
/// and kernels of 5 to 7. Tokens of the window carry their own mean, without the pool.
#[derive(Debug, Clone, Copy)]
pub struct WindowMass {
    /// Rows, and tokens that are kept.
    pub window: usize,
    /// Width of the pool, odd.
    pub kernel: usize,
}

impl WindowMass {
    pub(super) fn from_params(params: &mut Params) -> Result<Self> {
        Ok(Self { window: params.count("window", 64, 1)?, kernel: kernel_from(params)? })
    }
}

impl Score for WindowMass {
    fn rows(&self) -> Vec<QueryRows> {
        vec![QueryRows::Last(self.window)]
    }

    fn protect(&self) -> Protect {
        Protect { recent: self.window as u32, ..Protect::default() }
    }

    fn score(&self, layer: &Layer<'_>, mass: &[Mass], out: &mut [f32]) -> Result<()> {
        let n = layer.num_tokens;
        let rows = self.window.min(n);
        let count = self.window.min(layer.num_seen) * layer.group;
        for (out, sums) in out.chunks_exact_mut(n).zip(mass[0].sums.chunks_exact(n)) {
            let (before, window) = sums.split_at(n - rows);
            let (out_before, out_window) = out.split_at_mut(n - rows);
            out_before
                .iter_mut()
                .zip(pooled(before, self.kernel))
                .for_each(|(out, sum)| *out = mean(sum, count * self.kernel));
            out_window.iter_mut().zip(window).for_each(|(out, sum)| *out = mean(*sum, count));
        }
        Ok(())
    }
}
