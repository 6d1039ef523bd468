//! D2O (Wan et al. 2024, arXiv 2406.13035): merge what is similar, drop the rest.

use super::{Before, Merge, NOWHERE, Reduce, nearest};
use crate::keep::method::Method;
use crate::simd::Isa;
use crate::simd::math::exp_scalar;

pub(super) const METHOD: Method<dyn Reduce> =
    Method { name: "similarity_merge", build: |_| Ok(Box::new(SimilarityMerge)) };

/// Every evicted key joins the kept key of greatest cosine, if that is not below the mean of these
/// greatest cosines over all evicted keys. Keys and values are merged with raw weights
/// `exp(cosine)`, and `exp(1)` for the kept one.
///
/// The mean is the paper's threshold after prefill. Its running average over decoding steps needs
/// state from step to step, which a reduction of one plane does not have.
#[derive(Debug, Clone, Copy)]
pub struct SimilarityMerge;

impl Reduce for SimilarityMerge {
    fn merge(&self, isa: Isa, before: &Before<'_>) -> Merge {
        let evicted = before.evicted();
        let found = nearest(isa, before, &evicted);
        let cosines = found.iter().map(|near| f64::from(near.cosine));
        let threshold = cosines.sum::<f64>() / found.len() as f64;
        let target = |cosine: f32, slot| if f64::from(cosine) >= threshold { slot } else { NOWHERE };
        let targets = found.iter().map(|near| target(near.cosine, near.slot)).collect();
        let raw: Vec<f64> = found.iter().map(|near| f64::from(exp_scalar(near.cosine))).collect();
        let own = vec![f64::from(exp_scalar(1.0)); before.kept.len()];
        Merge::normalised(targets, &raw, &own, true)
    }
}
