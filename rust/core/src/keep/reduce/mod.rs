//! What happens to the keys and values that are not kept: dropped, or merged into those that are.
//! One file an implementation.
//!
//! A merge replaces a kept key by a weighted mean of itself and of evicted ones, in the rotated
//! space that the cache holds; its logical position stays.

mod nearest;

methods! { Method<dyn Reduce>:
    drop,
    evict_then_merge,
    similarity_merge,
    value_merge,
}

use std::fmt::Debug;

pub use drop::Drop;
pub use evict_then_merge::EvictThenMerge;
pub use nearest::{Nearest, nearest};
pub use similarity_merge::SimilarityMerge;
pub use value_merge::ValueMerge;

use super::Params;
use super::method::{self, Method};
use crate::error::{Error, Result};
use crate::simd::Isa;

/// The target of an evicted key that is merged into none: the zero class.
pub const NOWHERE: u32 = u32::MAX;

/// One plane before the reduction.
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    /// `[num_tokens][head_dim]`.
    pub keys: &'a [f32],
    /// `[num_tokens][head_dim]`.
    pub values: &'a [f32],
    /// `[num_tokens]`.
    pub scores: &'a [f32],
    /// Elements of a key.
    pub head_dim: usize,
    /// Indices that stay, ascending.
    pub kept: &'a [u32],
}

impl Before<'_> {
    /// Indices that go, ascending.
    pub fn evicted(&self) -> Vec<u32> {
        let mut kept = self.kept.iter().copied().peekable();
        (0..self.scores.len() as u32).filter(|i| kept.next_if_eq(i).is_none()).collect()
    }

    fn check(&self) -> Result<()> {
        let n = self.scores.len();
        for (what, len) in [("keys", self.keys.len()), ("values", self.values.len())] {
            if len != n * self.head_dim {
                return Err(Error::shape(what, len, format!("{n} rows of {} elements", self.head_dim)));
            }
        }
        let rising = self.kept.windows(2).all(|pair| pair[0] < pair[1]);
        if !rising || self.kept.last().is_some_and(|last| *last as usize >= n) {
            return Err(Error::value(
                "kept",
                format!("{:?}", self.kept),
                format!("ascending indices below {n}"),
            ));
        }
        Ok(())
    }
}

/// Weights of a merge. For every kept slot, its own weight and those of the evicted keys that
/// point to it sum to 1.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Merge {
    /// For every evicted index, ascending: the slot among the kept, or [`NOWHERE`].
    pub targets: Vec<u32>,
    /// For every evicted index: its weight there; 0 for [`NOWHERE`].
    pub weights: Vec<f32>,
    /// For every kept slot: its own weight.
    pub own: Vec<f32>,
    /// Whether keys are merged too, or values alone.
    pub keys: bool,
}

impl Merge {
    /// Nothing is merged.
    pub fn none(num_kept: usize, num_evicted: usize) -> Self {
        Self {
            targets: vec![NOWHERE; num_evicted],
            weights: vec![0.0; num_evicted],
            own: vec![1.0; num_kept],
            keys: false,
        }
    }

    /// From raw weights that are not negative: divides each slot's by their sum, in the order own,
    /// then evicted, ascending. A slot whose weights sum to 0 keeps itself.
    fn normalised(targets: Vec<u32>, raw: &[f64], raw_own: &[f64], keys: bool) -> Self {
        let mut sums = raw_own.to_vec();
        for (target, raw) in targets.iter().zip(raw) {
            if *target != NOWHERE {
                sums[*target as usize] += raw;
            }
        }
        let own = raw_own.iter().zip(&sums).map(|(own, sum)| if *sum > 0.0 { own / sum } else { 1.0 });
        let weight = |(target, raw): (&u32, &f64)| match sums.get(*target as usize) {
            Some(sum) if *sum > 0.0 => (raw / sum) as f32,
            _ => 0.0,
        };
        let weights = targets.iter().zip(raw).map(weight).collect();
        Self { own: own.map(|own| own as f32).collect(), weights, targets, keys }
    }
}

/// A rule that says what evicted keys leave behind.
pub trait Reduce: Debug + Send + Sync {
    /// The weights for one plane.
    fn merge(&self, isa: Isa, before: &Before<'_>) -> Merge;
}

/// Writes the reduced keys and values `[kept][head_dim]` of one plane, and returns the weights
/// that made them. Sums run in f64: the kept one, then the evicted, ascending.
///
/// # Errors
/// [`Error::Shape`] or [`Error::Value`] if lengths disagree or `kept` is not ascending.
pub fn reduce(
    isa: Isa,
    rule: &dyn Reduce,
    before: &Before<'_>,
    keys: &mut [f32],
    values: &mut [f32],
) -> Result<Merge> {
    before.check()?;
    for out in [&*keys, &*values] {
        if out.len() != before.kept.len() * before.head_dim {
            let want = format!("{} rows of {} elements", before.kept.len(), before.head_dim);
            return Err(Error::shape("out", out.len(), want));
        }
    }
    let merge = if before.kept.is_empty() || before.kept.len() == before.scores.len() {
        Merge::none(before.kept.len(), before.scores.len() - before.kept.len())
    } else {
        rule.merge(isa, before)
    };
    apply(&merge, before, before.values, true, values);
    apply(&merge, before, before.keys, merge.keys, keys);
    Ok(merge)
}

fn apply(merge: &Merge, before: &Before<'_>, from: &[f32], merged: bool, out: &mut [f32]) {
    let d = before.head_dim;
    let row = |i: u32| &from[i as usize * d..][..d];
    if !merged || merge.targets.iter().all(|target| *target == NOWHERE) {
        for (out, &kept) in out.chunks_exact_mut(d.max(1)).zip(before.kept) {
            out.copy_from_slice(row(kept));
        }
        return;
    }
    let mut sums: Vec<f64> = before
        .kept
        .iter()
        .zip(&merge.own)
        .flat_map(|(&kept, &own)| row(kept).iter().map(move |&x| f64::from(own) * f64::from(x)))
        .collect();
    for ((evicted, &target), &weight) in before.evicted().into_iter().zip(&merge.targets).zip(&merge.weights)
    {
        if target != NOWHERE {
            let sums = &mut sums[target as usize * d..][..d];
            sums.iter_mut().zip(row(evicted)).for_each(|(sum, &x)| *sum += f64::from(weight) * f64::from(x));
        }
    }
    out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum as f32);
}

/// The reduction of a name, with its parameters.
///
/// # Errors
/// [`Error::Value`] if the name or a parameter is unknown, or a parameter lies outside of its range.
pub fn build(name: &str, params: Params) -> Result<Box<dyn Reduce>> {
    method::build("reduce", ALL, name, params)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::keep::testing::noise;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn weights_sum_to_one(
            n in 0usize..30, d in 1usize..20, seed in any::<u32>(), mask in any::<u32>(), flat in any::<bool>(),
        ) {
            let mut keys = noise(seed, n * d);
            let values = noise(seed ^ 1, n * d);
            let mut scores: Vec<f32> = noise(seed ^ 2, n).iter().map(|s| s.abs()).collect();
            if flat {
                keys.fill(1.0);
                scores.fill(0.0);
            }
            let kept: Vec<u32> = (0..n as u32).filter(|i| mask >> i & 1 == 1).collect();
            let before = Before { keys: &keys, values: &values, scores: &scores, head_dim: d, kept: &kept };
            for name in method::names(ALL) {
                let rule = build(name, Params::default()).unwrap();
                let (mut k, mut v) = (vec![f32::NAN; kept.len() * d], vec![f32::NAN; kept.len() * d]);
                let merge = reduce(Isa::detected(), &*rule, &before, &mut k, &mut v).unwrap();
                let mut sums: Vec<f64> = merge.own.iter().map(|w| f64::from(*w)).collect();
                for (target, weight) in merge.targets.iter().zip(&merge.weights) {
                    if *target != NOWHERE {
                        sums[*target as usize] += f64::from(*weight);
                    }
                }
                prop_assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-6), "{:?}", merge);
                prop_assert!(k.iter().chain(&v).all(|x| x.is_finite() && x.abs() <= 2.0));
                if name == "drop" {
                    let want: Vec<f32> = kept.iter().flat_map(|&i| keys[i as usize * d..][..d].to_vec()).collect();
                    prop_assert_eq!(&k, &want);
                }
            }
        }
    }

    #[test]
    fn indices_are_checked() {
        let before =
            Before { keys: &[0.0; 4], values: &[0.0; 4], scores: &[0.0; 4], head_dim: 1, kept: &[1, 4] };
        let run = |before: Before<'_>| {
            reduce(Isa::Portable, &Drop, &before, &mut [0.0; 2], &mut [0.0; 2]).map(|_| ())
        };
        assert!(run(before).is_err());
        assert!(run(Before { kept: &[2, 1], ..before }).is_err());
        assert!(run(Before { kept: &[0, 1, 2], ..before }).is_err());
        assert!(run(Before { kept: &[0, 3], ..before }).is_ok());
    }
}
