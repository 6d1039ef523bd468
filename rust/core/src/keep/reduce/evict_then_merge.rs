//! EMS (Li et al. 2024, arXiv 2412.08521): our reading of the abstract.

use super::{Before, Merge, NOWHERE, Reduce, nearest};
use crate::error::Result;
use crate::keep::Params;
use crate::keep::method::Method;
use crate::keep::select::order;
use crate::simd::Isa;

pub(super) const METHOD: Method<dyn Reduce> =
    Method { name: "evict_then_merge", build: |params| Ok(Box::new(EvictThenMerge::from_params(params)?)) };

/// Of the evicted keys the best `candidates` times the number kept are merged, the others are
/// gone. A candidate joins the kept key of greatest cosine; below `threshold` it joins the zero
/// class, which is no slot. Keys and values become means weighted by score (negative scores count
/// as 0).
///
/// The abstract names the zero class and the order of the two phases; the two constants are ours.
#[derive(Debug, Clone, Copy)]
pub struct EvictThenMerge {
    /// Candidates for each kept key.
    pub candidates: f64,
    /// Least cosine of a merge.
    pub threshold: f64,
}

impl EvictThenMerge {
    pub(super) fn from_params(params: &mut Params) -> Result<Self> {
        Ok(Self {
            candidates: params.number("candidates", 1.0, 0.0, 1e6)?,
            threshold: params.number("threshold", 0.6, -1.0, 1.0)?,
        })
    }
}

impl Reduce for EvictThenMerge {
    fn merge(&self, isa: Isa, before: &Before<'_>) -> Merge {
        let evicted = before.evicted();
        let count = ((before.kept.len() as f64 * self.candidates) as usize).min(evicted.len());
        let rank = |slot: usize| u64::from(!order(before.scores[evicted[slot] as usize])) << 32 | slot as u64;
        let mut ranked: Vec<u64> = (0..evicted.len()).map(rank).collect();
        ranked.sort_unstable();
        let mut candidates: Vec<u32> = ranked[..count].iter().map(|rank| *rank as u32).collect();
        candidates.sort_unstable();
        let keys: Vec<u32> = candidates.iter().map(|slot| evicted[*slot as usize]).collect();
        let mut targets = vec![NOWHERE; evicted.len()];
        for (slot, near) in candidates.iter().zip(nearest(isa, before, &keys)) {
            if f64::from(near.cosine) >= self.threshold {
                targets[*slot as usize] = near.slot;
            }
        }
        let score = |i: &u32| f64::from(before.scores[*i as usize].max(0.0));
        let raw: Vec<f64> = evicted.iter().map(score).collect();
        let own: Vec<f64> = before.kept.iter().map(score).collect();
        Merge::normalised(targets, &raw, &own, true)
    }
}
