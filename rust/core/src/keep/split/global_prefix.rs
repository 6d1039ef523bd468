//! PrefixKV (Wang et al. 2024, arXiv 2412.03409): one global prefix for all layers.

use super::pyramid::by_layer;
use super::{Answer, Question, Scores, Split, apportion, expect, fixed};
use crate::allocate::by_common_level;
use crate::error::{Error, Result};
use crate::keep::Params;
use crate::keep::method::Method;

/// Resolution of a cumulative share.
const ONE: u128 = 1 << 40;

pub(super) const METHOD: Method<dyn Split> =
    Method { name: "global_prefix", build: |params| Ok(Box::new(GlobalPrefix::from_params(params)?)) };

/// Every layer keeps its keys from the greatest score down until they hold the same share `p` of
/// the layer's score; `p` is the greatest that the budget allows. Meant for total mass.
///
/// The paper finds `p` by bisection up to a tolerance of five tokens and rescales. Its limit is
/// found here at once: a key enters when `p` passes the share that lies before it, so the budget
/// buys the smallest such shares of all layers, ties to the lowest layer. A layer's score of a
/// key is the sum over its heads; heads get the same but for a remainder of less than one token
/// each. With a `profile`, one weight a layer saved from earlier runs, budgets follow it, which
/// is how the authors' code runs.
#[derive(Debug, Clone, Default)]
pub struct GlobalPrefix {
    /// Share of its tokens that each layer keeps.
    pub profile: Option<Vec<f64>>,
}

impl GlobalPrefix {
    pub(super) fn from_params(params: &mut Params) -> Result<Self> {
        Ok(Self { profile: params.weights("profile")? })
    }
}

impl Split for GlobalPrefix {
    fn budgets(&self, scores: &Scores<'_>, total: u64, out: &mut [u32]) -> Result<()> {
        if let Some(profile) = &self.profile {
            if profile.len() != scores.num_layers {
                return Err(Error::shape("profile", profile.len(), format!("{} layers", scores.num_layers)));
            }
            // The profile speaks of whole budgets, so it is not laid on top of what is protected.
            let planes = scores.num_planes();
            let each = total / planes as u64;
            let floors: Vec<u64> = scores.floors().into_iter().map(|floor| floor.min(each)).collect();
            let weights = fixed(profile);
            let caps = scores.caps();
            let weights: Vec<u64> = (0..planes).map(|plane| weights[plane / scores.num_heads]).collect();
            let shares = at_least(total, &weights, &floors, &caps);
            out.iter_mut().zip(shares).for_each(|(out, share)| *out = share as u32);
            return Ok(());
        }
        let heads = scores.num_heads;
        let (floors, caps) = (scores.floors(), scores.caps());
        let total = scores.spendable(total);
        let floor: u64 = floors.iter().sum();
        if total <= floor {
            by_layer(scores, total, &vec![1; scores.num_layers], &scores.floors(), out);
            return Ok(());
        }
        // A column is the keys of one rank of all heads of a layer that have so many.
        let mut shares: Vec<(u64, usize, usize)> = Vec::new();
        for layer in 0..scores.num_layers {
            let rows: Vec<&[f32]> = (0..heads).map(|head| scores.plane(layer * heads + head)).collect();
            let ranked = shares_before(&rows).enumerate().map(|(rank, share)| (share, layer, rank));
            shares.extend(ranked);
        }
        by_common_level(total - floor, heads, &mut shares, &floors, &caps, out);
        Ok(())
    }

    fn question(&self, counts: &Scores<'_>, total: u64) -> Result<Question> {
        let floor: u64 = counts.floors().iter().sum();
        let total = counts.spendable(total);
        Ok(match self.profile.is_some() || total <= floor {
            true => Question::Nothing,
            false => Question::Columns { keys: total - floor },
        })
    }

    fn answered(&self, counts: &Scores<'_>, total: u64, answer: &Answer, out: &mut [u32]) -> Result<()> {
        let Answer::Columns { whole, next } = answer else {
            expect(*answer == Answer::Nothing && self.question(counts, total)? == Question::Nothing, answer)?;
            return self.budgets(counts, total, out);
        };
        expect(whole.len() == counts.num_layers && next.0 < counts.num_layers, answer)?;
        let (heads, caps, mut left) = (counts.num_heads, counts.caps(), next.1);
        for (plane, (out, floor)) in out.iter_mut().zip(counts.floors()).enumerate() {
            let (layer, cap) = (plane / heads, caps[plane]);
            let bought = whole[layer].min(cap).max(floor);
            let also = layer == next.0 && left > 0 && whole[layer] >= floor && whole[layer] < cap;
            left -= u64::from(also);
            *out = (bought + u64::from(also)) as u32;
        }
        Ok(())
    }
}

/// For the keys of a layer, greatest score first, the share of the layer's score that lies before
/// them. A layer without any score counts as flat. Where heads hold different numbers of keys, a key
/// is matched with those as far from the end.
fn shares_before(heads: &[&[f32]]) -> impl Iterator<Item = u64> {
    let n = heads.iter().map(|head| head.len()).max().unwrap_or(0);
    let mut sums = vec![0.0f64; n];
    for head in heads {
        let finite = |s: f32| if s.is_finite() && s > 0.0 { f64::from(s) } else { 0.0 };
        sums[n - head.len()..].iter_mut().zip(*head).for_each(|(sum, s)| *sum += finite(*s));
    }
    let mut sums = fixed(&sums);
    sums.sort_unstable_by(|a, b| b.cmp(a));
    if sums.iter().all(|sum| *sum == 0) {
        sums.fill(1);
    }
    let total: u128 = sums.iter().map(|sum| u128::from(*sum)).sum();
    sums.into_iter().scan(0u128, move |before, sum| {
        let share = *before * ONE / total;
        *before += u128::from(sum);
        Some(share as u64)
    })
}

/// Shares by weight of which none lies below its floor: those that would are set to it, and the
/// others share what is left.
fn at_least(total: u64, weights: &[u64], least: &[u64], caps: &[u64]) -> Vec<u64> {
    let mut floors = vec![0; weights.len()];
    loop {
        let open: Vec<u64> = weights.iter().zip(&floors).map(|(w, f)| if *f > 0 { 0 } else { *w }).collect();
        let limits: Vec<u64> = caps.iter().zip(&floors).map(|(c, f)| if *f > 0 { *f } else { *c }).collect();
        let shares = apportion(total, &open, &floors, &limits);
        let low: Vec<usize> = (0..shares.len()).filter(|&i| shares[i] < least[i]).collect();
        if low.is_empty() {
            // What the open shares cannot hold goes back to the others.
            let rest = total.min(caps.iter().sum()) - shares.iter().sum::<u64>();
            return apportion(rest + shares.iter().sum::<u64>(), weights, &shares, caps);
        }
        low.into_iter().for_each(|i| floors[i] = least[i]);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::keep::Protect;

    fn budgets(
        rule: &GlobalPrefix,
        values: &[f32],
        heads: usize,
        n: usize,
        total: u64,
        recent: u32,
    ) -> Vec<u32> {
        let layers = values.len() / (heads * n);
        let protect = Protect { recent, ..Protect::default() };
        let offsets = super::super::even(layers * heads, n);
        let scores = Scores { values, offsets: &offsets, num_layers: layers, num_heads: heads, protect };
        let mut out = vec![0; layers * heads];
        rule.budgets(&scores, total, &mut out).unwrap();
        out
    }

    #[test]
    fn layers_reach_the_same_share() {
        // A peaked layer and a flat one: at a share of 0.75 they keep one key and three.
        let values = [0.9, 0.04, 0.03, 0.03, 0.25, 0.25, 0.25, 0.25];
        let online = GlobalPrefix::default();
        assert_eq!(budgets(&online, &values, 1, 4, 4, 0), [1, 3]);
        assert_eq!(budgets(&online, &values, 1, 4, 5, 0), [1, 4]);
        assert_eq!(budgets(&online, &values, 1, 4, 6, 0), [2, 4]);
        assert_eq!(budgets(&online, &values, 1, 4, 1, 0), [1, 0]);
        assert_eq!(budgets(&online, &values, 1, 4, 5, 2), [2, 3]);
        assert_eq!(budgets(&online, &[0.0; 8], 1, 4, 4, 0), [2, 2]);
        assert_eq!(budgets(&online, &values, 2, 2, 5, 0), [1, 1, 2, 1]);
    }

    #[test]
    fn a_profile_is_followed() {
        let rule = GlobalPrefix { profile: Some(vec![0.2, 0.4]) };
        assert_eq!(budgets(&rule, &[0.0; 40], 1, 20, 12, 0), [4, 8]);
        assert_eq!(budgets(&rule, &[0.0; 40], 1, 20, 12, 5), [5, 7]);
        let none = GlobalPrefix { profile: Some(vec![0.0, 0.0]) };
        assert_eq!(budgets(&none, &[0.0; 40], 1, 20, 12, 5), [6, 6]);
    }
}
