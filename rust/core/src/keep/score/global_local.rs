//! EMS (Li et al. 2024, arXiv 2412.08521): our reading of the abstract, which says that the score
//! combines accumulated attention of global and of local tokens, and no more than that.

use super::{Score, kernel_from, pooled};
use crate::error::Result;
use crate::keep::method::Method;
use crate::keep::{Layer, Mass, Params, Protect, QueryRows};
use crate::ops::key_mass::MASS_ONE;

pub(super) const METHOD: Method<dyn Score> =
    Method { name: "global_local", build: |params| Ok(Box::new(GlobalLocal::from_params(params)?)) };

/// The greater of a local and a global score, brought to one mean.
///
/// Local: mean probability under the last `window` rows, average-pooled. Global: probability mass
/// over all rows, divided by the number of rows that see the key, times the ratio of the two
/// means over the plane. The window is kept.
#[derive(Debug, Clone, Copy)]
pub struct GlobalLocal {
    /// Rows of the local score, and tokens that are kept.
    pub window: usize,
    /// Width of the pool, odd.
    pub kernel: usize,
}

impl GlobalLocal {
    pub(super) fn from_params(params: &mut Params) -> Result<Self> {
        Ok(Self { window: params.count("window", 32, 1)?, kernel: kernel_from(params)? })
    }
}

impl Score for GlobalLocal {
    fn rows(&self) -> Vec<QueryRows> {
        vec![QueryRows::Last(self.window), QueryRows::All]
    }

    fn protect(&self) -> Protect {
        Protect { recent: self.window as u32, ..Protect::default() }
    }

    fn score(&self, layer: &Layer<'_>, mass: &[Mass], out: &mut [f32]) -> Result<()> {
        let n = layer.num_tokens;
        let [local, global] = mass else { unreachable!("two row sets were asked for") };
        let one = MASS_ONE as f64 * layer.group as f64;
        let local_count = one * (self.window.min(layer.num_seen) * self.kernel) as f64;
        let heads = local.sums.chunks_exact(n).zip(global.sums.chunks_exact(n));
        for (out, (local, sums)) in out.chunks_exact_mut(n).zip(heads) {
            let local: Vec<f64> = pooled(local, self.kernel).map(|sum| sum as f64 / local_count).collect();
            let global: Vec<f64> = sums
                .iter()
                .zip(&global.seen)
                .map(|(sum, seen)| *sum as f64 / (one * f64::from(*seen)))
                .collect();
            // Both sums run from the first key to the last.
            let ratio = local.iter().sum::<f64>() / global.iter().sum::<f64>().max(f64::MIN_POSITIVE);
            for ((out, local), global) in out.iter_mut().zip(local).zip(global) {
                *out = local.max(global * ratio) as f32;
            }
        }
        Ok(())
    }
}
