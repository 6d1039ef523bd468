//! ZipCache's saliency (He et al. 2024, arXiv 2405.14256).

use super::{Score, mean};
use crate::error::Result;
use crate::keep::method::Method;
use crate::keep::{Layer, Mass, Params, Protect, QueryRows};

pub(super) const METHOD: Method<dyn Score> =
    Method { name: "normalised_mass", build: |params| Ok(Box::new(NormalisedMass::from_params(params)?)) };

/// Probability mass of a key over probe rows, divided by the number of probes that could see it,
/// mean over the query heads of the group: the first tokens gain nothing from being seen by all.
///
/// Probes are the last 5 % of rows and another 5 % drawn from those before. The paper divides by
/// the non-zero entries of the key's column, as here; the released code divides by the number of
/// tokens after the key, probes or not, and draws with replacement.
#[derive(Debug, Clone, Copy)]
pub struct NormalisedMass {
    /// Share of rows from the end.
    pub recent: f64,
    /// Share of rows drawn from the others.
    pub random: f64,
    /// Seed of the draw.
    pub seed: u64,
}

impl NormalisedMass {
    pub(super) fn from_params(params: &mut Params) -> Result<Self> {
        Ok(Self {
            recent: params.number("recent", 0.05, 0.0, 1.0)?,
            random: params.number("random", 0.05, 0.0, 1.0)?,
            seed: params.count("seed", 0, 0)? as u64,
        })
    }
}

impl Score for NormalisedMass {
    fn rows(&self) -> Vec<QueryRows> {
        vec![QueryRows::Probes { recent: self.recent, random: self.random, seed: self.seed }]
    }

    fn protect(&self) -> Protect {
        Protect { recent: 1, ..Protect::default() }
    }

    fn score(&self, layer: &Layer<'_>, mass: &[Mass], out: &mut [f32]) -> Result<()> {
        let n = layer.num_tokens;
        for (out, sums) in out.chunks_exact_mut(n).zip(mass[0].sums.chunks_exact(n)) {
            for ((out, sum), seen) in out.iter_mut().zip(sums).zip(&mass[0].seen) {
                *out = mean(*sum, *seen as usize * layer.group);
            }
        }
        Ok(())
    }
}
