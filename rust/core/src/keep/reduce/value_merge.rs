//! Evicted values folded into the nearest kept ones, as kvpress's merging press does.

use super::{Before, Merge, NOWHERE, Reduce, nearest};
use crate::error::Result;
use crate::keep::Params;
use crate::keep::method::Method;
use crate::simd::Isa;

pub(super) const METHOD: Method<dyn Reduce> =
    Method { name: "value_merge", build: |params| Ok(Box::new(ValueMerge::from_params(params)?)) };

/// Every evicted value joins the kept key of greatest cosine, if that is above `threshold`, with
/// the raw weight `cosine * |v_e| / (|v_e| + |v_t|)` against 1 for the kept value. Keys stay.
#[derive(Debug, Clone, Copy)]
pub struct ValueMerge {
    /// Cosines up to it do not merge; at least 0.
    pub threshold: f64,
}

impl ValueMerge {
    pub(super) fn from_params(params: &mut Params) -> Result<Self> {
        Ok(Self { threshold: params.number("threshold", 0.0, 0.0, 1.0)? })
    }
}

impl Reduce for ValueMerge {
    fn merge(&self, isa: Isa, before: &Before<'_>) -> Merge {
        let d = before.head_dim;
        let size = |i: u32| {
            let value = &before.values[i as usize * d..][..d];
            value.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
        };
        let evicted = before.evicted();
        let mut targets = vec![NOWHERE; evicted.len()];
        let mut raw = vec![0.0; evicted.len()];
        for (i, near) in nearest(isa, before, &evicted).into_iter().enumerate() {
            let cosine = f64::from(near.cosine);
            if cosine > self.threshold {
                let (from, to) = (size(evicted[i]), size(before.kept[near.slot as usize]));
                targets[i] = near.slot;
                raw[i] = cosine * from / (from + to).max(f64::MIN_POSITIVE);
            }
        }
        Merge::normalised(targets, &raw, &vec![1.0; before.kept.len()], false)
    }
}
