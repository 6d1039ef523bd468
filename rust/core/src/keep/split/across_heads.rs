//! AdaKV (Feng et al. 2024, arXiv 2407.11550): heads of a layer compete.

use super::{Answer, Question, Scores, Split, apportion, expect};
use crate::error::Result;
use crate::keep::Params;
use crate::keep::method::Method;
use crate::keep::select::order;

/// How the safeguard enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blend {
    /// `(1 - alpha)` of the free competition's budget plus `alpha` of an equal share, as in the
    /// authors' code.
    Mix,
    /// The top `alpha` of an equal share is reserved for every head, and the competition is over
    /// the rest, as in kvpress.
    Reserve,
}

pub(super) const METHOD: Method<dyn Split> =
    Method { name: "across_heads", build: |params| Ok(Box::new(AcrossHeads::from_params(params)?)) };

/// Layers get the same; within a layer the top scores over all heads say how much each head gets.
/// What is protected is counted first, for every head.
#[derive(Debug, Clone, Copy)]
pub struct AcrossHeads {
    /// The safeguard, 0 for free competition and 1 for equal shares.
    pub alpha: f64,
    /// How it enters.
    pub blend: Blend,
}

impl AcrossHeads {
    pub(super) fn from_params(params: &mut Params) -> Result<Self> {
        Ok(Self {
            alpha: params.number("alpha", 0.2, 0.0, 1.0)?,
            blend: [Blend::Mix, Blend::Reserve][params.word("blend", &["mix", "reserve"])?],
        })
    }

    /// The shares of a layer; `compete` has the counts of [`Question::Heads`] for reserved tops and a room.
    fn layer(
        &self,
        scores: &Scores<'_>,
        layer: usize,
        total: u64,
        compete: &mut Compete<'_>,
    ) -> Result<Vec<u64>> {
        let heads = scores.num_heads;
        let planes = layer * heads..(layer + 1) * heads;
        let caps = &scores.caps()[planes.clone()];
        let equal = total / heads as u64;
        let protected = &scores.floors()[planes];
        if protected.iter().any(|protected| *protected > 0 && equal <= *protected) {
            return Ok(apportion(total, &vec![1; heads], &vec![0; heads], caps));
        }
        let reserved: Vec<u64> = match self.blend {
            Blend::Mix => protected.to_vec(),
            Blend::Reserve => {
                let share = (equal as f64 * self.alpha) as u64;
                protected.iter().zip(caps).map(|(protected, cap)| share.min(*cap).max(*protected)).collect()
            }
        };
        let free = compete(layer, &reserved, total - reserved.iter().sum::<u64>())?;
        if self.blend == Blend::Reserve {
            return Ok(free);
        }
        let one = (1u64 << 20) as f64;
        let alpha = (self.alpha * one) as u64;
        let weights: Vec<u64> =
            free.iter().map(|f| ((1 << 20) - alpha) * f * heads as u64 + alpha * total).collect();
        // Where heads have as many keys, no part lies below what is protected: neither the free budget
        // nor the equal share does.
        Ok(apportion_above(total, &weights, protected, caps))
    }

    fn layers(
        &self,
        scores: &Scores<'_>,
        total: u64,
        out: &mut [u32],
        compete: &mut Compete<'_>,
    ) -> Result<()> {
        let (layers, heads) = (scores.num_layers, scores.num_heads);
        let caps: Vec<u64> = scores.caps().chunks(heads).map(|caps| caps.iter().sum()).collect();
        let totals = apportion(total, &vec![1; layers], &vec![0; layers], &caps);
        for ((layer, total), out) in totals.into_iter().enumerate().zip(out.chunks_exact_mut(heads)) {
            let shares = self.layer(scores, layer, total, compete)?;
            out.iter_mut().zip(shares).for_each(|(out, share)| *out = share as u32);
        }
        Ok(())
    }
}

/// From a layer, what its heads have reserved, and the room, to the counts of its heads.
type Compete<'a> = dyn FnMut(usize, &[u64], u64) -> Result<Vec<u64>> + 'a;

impl Split for AcrossHeads {
    fn budgets(&self, scores: &Scores<'_>, total: u64, out: &mut [u32]) -> Result<()> {
        self.layers(scores, total, out, &mut |layer, reserved, room| {
            Ok(compete(scores, layer, reserved, room))
        })
    }

    fn question(&self, counts: &Scores<'_>, total: u64) -> Result<Question> {
        let heads = counts.num_heads;
        // A layer that asks nothing reserves what is protected, and has no room.
        let (mut all, mut rooms) = (counts.floors(), vec![0; counts.num_layers]);
        let mut out = vec![0; counts.num_planes()];
        self.layers(counts, total, &mut out, &mut |layer, reserved, room| {
            all[layer * heads..(layer + 1) * heads].copy_from_slice(reserved);
            rooms[layer] = room;
            Ok(reserved.to_vec())
        })?;
        Ok(Question::Heads { reserved: all, rooms })
    }

    fn answered(&self, counts: &Scores<'_>, total: u64, answer: &Answer, out: &mut [u32]) -> Result<()> {
        let heads = counts.num_heads;
        let Answer::Heads(held) = answer else { return expect(false, answer) };
        expect(held.len() == counts.num_planes(), answer)?;
        self.layers(counts, total, out, &mut |layer, _, _| Ok(held[layer * heads..][..heads].to_vec()))
    }
}

/// Shares by weight; those below their floor are raised to it at the cost of the greatest.
fn apportion_above(total: u64, weights: &[u64], floors: &[u64], caps: &[u64]) -> Vec<u64> {
    let mut shares = apportion(total, weights, &vec![0; weights.len()], caps);
    for head in 0..shares.len() {
        while shares[head] < floors[head] {
            let room = |&other: &usize| shares[other] - floors[other].min(shares[other]);
            let Some(richest) = (0..shares.len()).filter(|other| room(other) > 0).max_by_key(room) else {
                return shares;
            };
            let moved = (floors[head] - shares[head]).min(room(&richest));
            shares[richest] -= moved;
            shares[head] += moved;
        }
    }
    shares
}

/// Every head holds its top `reserved`, protected tokens first; `room` more tokens go to the
/// greatest scores of the rest, ties to the lowest (head, index). Counts a head.
fn compete(scores: &Scores<'_>, layer: usize, reserved: &[u64], room: u64) -> Vec<u64> {
    let protect = scores.protect;
    let first = layer * scores.num_heads;
    let base = scores.offsets[first];
    let mut rest: Vec<u64> = Vec::new();
    for (head, reserved) in reserved.iter().enumerate() {
        let row = scores.plane(first + head);
        let n = row.len();
        let (sinks, recent) = protect.resolve(n, protect.floor(n));
        let beyond = *reserved as usize - (sinks + recent);
        let begin = rest.len();
        let middle = &row[sinks..n - recent];
        let place = scores.offsets[first + head] - base + sinks;
        let key = |(i, s): (usize, &f32)| u64::from(!order(*s)) << 32 | (place + i) as u64;
        rest.extend(middle.iter().enumerate().map(key));
        if beyond > 0 {
            rest[begin..].select_nth_unstable(beyond - 1);
            rest.drain(begin..begin + beyond);
        }
    }
    let room = (room as usize).min(rest.len());
    if room > 0 && room < rest.len() {
        rest.select_nth_unstable(room - 1);
    }
    let mut counts = reserved.to_vec();
    let ends = &scores.offsets[first + 1..=first + scores.num_heads];
    rest[..room].iter().for_each(|key| {
        let at = base + *key as u32 as usize;
        counts[ends.partition_point(|end| *end <= at)] += 1;
    });
    counts
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::keep::Protect;

    #[test]
    fn the_safeguard_is_mixed_in_or_reserved() {
        let values: Vec<f32> = (0..20).map(|i| if i < 10 { 10.0 + i as f32 } else { 0.0 }).collect();
        let offsets = super::super::even(2, 10);
        let scores =
            |protect| Scores { values: &values, offsets: &offsets, num_layers: 1, num_heads: 2, protect };
        let budgets = |alpha, blend, protect| {
            let mut out = [0; 2];
            AcrossHeads { alpha, blend }.budgets(&scores(protect), 10, &mut out).unwrap();
            out
        };
        let bare = Protect::default();
        assert_eq!(budgets(0.0, Blend::Mix, bare), [10, 0]);
        assert_eq!(budgets(0.2, Blend::Mix, bare), [9, 1]);
        assert_eq!(budgets(0.4, Blend::Mix, bare), [8, 2]);
        assert_eq!(budgets(1.0, Blend::Mix, bare), [5, 5]);
        assert_eq!(budgets(0.0, Blend::Reserve, bare), [10, 0]);
        assert_eq!(budgets(0.4, Blend::Reserve, bare), [8, 2]);
        let window = Protect { recent: 3, ..bare };
        assert_eq!(budgets(0.0, Blend::Mix, window), [7, 3]);
        assert_eq!(budgets(0.0, Blend::Reserve, window), [7, 3]);
    }
}
