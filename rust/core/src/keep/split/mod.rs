//! Who gets how much: one absolute budget of tokens over all planes becomes one integer a plane,
//! and the integers sum to it exactly. One file an implementation.

mod chosen;

methods! { Method<dyn Split>:
    across_heads,
    global_prefix,
    head_scores,
    layer_groups,
    pyramid,
    uniform,
}

use std::fmt::Debug;

pub use across_heads::{AcrossHeads, Blend};
pub use chosen::select_planes;
pub use global_prefix::GlobalPrefix;
pub use head_scores::HeadScores;
pub use layer_groups::LayerGroups;
pub use pyramid::{Pyramid, Slope};
pub use uniform::Uniform;

use super::method::{self, Method};
use super::{Params, Protect};
pub use crate::allocate::apportion;
use crate::error::{Error, Result};

/// The scores of all planes of one sequence. After a first eviction planes hold different numbers of
/// keys.
#[derive(Debug, Clone, Copy)]
pub struct Scores<'a> {
    /// Plane after plane, `[num_layers][num_heads]`. Empty for [`Split::question`] and [`Split::answered`].
    pub values: &'a [f32],
    /// Where each plane begins in `values`, and the end: one more than there are planes.
    pub offsets: &'a [usize],
    /// Layers.
    pub num_layers: usize,
    /// Kv heads of a layer.
    pub num_heads: usize,
    /// What is kept whatever its score.
    pub protect: Protect,
}

impl<'a> Scores<'a> {
    /// Layers times heads.
    pub fn num_planes(&self) -> usize {
        self.num_layers * self.num_heads
    }

    /// The budget that can be spent: `total`, or all tokens of all planes where that is less.
    pub fn spendable(&self, total: u64) -> u64 {
        total.min(self.offsets[self.num_planes()] as u64)
    }

    /// The scores of one plane, `layer * num_heads + head`.
    pub fn plane(&self, plane: usize) -> &'a [f32] {
        &self.values[self.offsets[plane]..self.offsets[plane + 1]]
    }

    /// Keys of one plane.
    pub fn num_keys(&self, plane: usize) -> usize {
        self.offsets[plane + 1] - self.offsets[plane]
    }

    /// Keys of every plane: no budget is above them.
    pub fn caps(&self) -> Vec<u64> {
        (0..self.num_planes()).map(|plane| self.num_keys(plane) as u64).collect()
    }

    /// What is protected on every plane.
    pub fn floors(&self) -> Vec<u64> {
        (0..self.num_planes()).map(|plane| self.protect.floor(self.num_keys(plane)) as u64).collect()
    }
}

/// What a rule has to know of scores that lie elsewhere, beside how many there are of each plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Nothing.
    Nothing,
    /// In each layer every head holds its top `reserved`, what is protected among them, and `rooms` more keys go to
    /// the greatest scores of the rest of all heads, ties to the lowest (head, index): how many does each hold?
    Heads {
        /// One a plane.
        reserved: Vec<u64>,
        /// One a layer.
        rooms: Vec<u64>,
    },
    /// Columns of all layers (see [`GlobalPrefix`]) are bought in order until they hold so many keys beyond what is
    /// protected: how many columns of each layer are bought whole, and what is left for which layer's next?
    Columns {
        /// What there is to spend.
        keys: u64,
    },
}

/// The answer to a [`Question`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To [`Question::Nothing`].
    Nothing,
    /// What each plane holds.
    Heads(Vec<u64>),
    /// What was bought.
    Columns {
        /// One a layer.
        whole: Vec<u64>,
        /// The layer of the next column, and how many of its keys are bought.
        next: (usize, u64),
    },
}

/// A rule that shares a budget out.
pub trait Split: Debug + Send + Sync {
    /// Writes one budget a plane, `[num_layers][num_heads]`, none above its keys; their sum is
    /// [`Scores::spendable`] of `total`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the split was made for another number of layers or heads.
    fn budgets(&self, scores: &Scores<'_>, total: u64, out: &mut [u32]) -> Result<()>;

    /// What the rule has to know of the scores. There is at least one key.
    ///
    /// # Errors
    /// As [`Split::budgets`].
    fn question(&self, _counts: &Scores<'_>, _total: u64) -> Result<Question> {
        Ok(Question::Nothing)
    }

    /// [`Split::budgets`] from the answer to [`Split::question`].
    ///
    /// # Errors
    /// As [`Split::budgets`], and [`Error::Shape`] if the answer is to another question.
    fn answered(&self, counts: &Scores<'_>, total: u64, answer: &Answer, out: &mut [u32]) -> Result<()> {
        expect(answer == &Answer::Nothing, answer)?;
        self.budgets(counts, total, out)
    }

    /// The layer whose scores decide what `layer` keeps.
    fn leader(&self, layer: usize) -> usize {
        layer
    }
}

/// Shares `total` out after checking lengths.
///
/// # Errors
/// [`Error::Shape`] if lengths disagree, and as [`Split::budgets`].
pub fn split(rule: &dyn Split, scores: &Scores<'_>, total: u64, out: &mut [u32]) -> Result<()> {
    check(scores, scores.values.len())?;
    let planes = scores.num_planes();
    if out.len() != planes {
        return Err(Error::shape("budgets", out.len(), format!("{planes} planes")));
    }
    if scores.values.is_empty() {
        out.fill(0);
        return Ok(());
    }
    rule.budgets(scores, total, out)
}

/// What `rule` has to know of scores that lie elsewhere.
///
/// # Errors
/// As [`split`].
pub fn question(rule: &dyn Split, counts: &Scores<'_>, total: u64) -> Result<Question> {
    let keys = counts.offsets.last().copied().unwrap_or(0);
    check(counts, keys)?;
    if keys == 0 { Ok(Question::Nothing) } else { rule.question(counts, total) }
}

/// As [`split`], from the answer to [`question`].
///
/// # Errors
/// As [`split`], and [`Error::Shape`] if the answer is to another question.
pub fn answered(
    rule: &dyn Split,
    counts: &Scores<'_>,
    total: u64,
    answer: &Answer,
    out: &mut [u32],
) -> Result<()> {
    let keys = counts.offsets.last().copied().unwrap_or(0);
    check(counts, keys)?;
    if out.len() != counts.num_planes() {
        return Err(Error::shape("budgets", out.len(), format!("{} planes", counts.num_planes())));
    }
    if keys == 0 {
        out.fill(0);
        return Ok(());
    }
    rule.answered(counts, total, answer, out)
}

/// Offsets are those of planes of so many keys in all.
fn check(scores: &Scores<'_>, keys: usize) -> Result<()> {
    let planes = scores.num_planes();
    let rising = scores.offsets.windows(2).all(|pair| pair[0] <= pair[1]);
    if scores.offsets.len() != planes + 1 || !rising || scores.offsets[planes] != keys {
        let want = format!("{planes} planes of {keys} scores in all");
        return Err(Error::shape("offsets", format!("{:?}", scores.offsets), want));
    }
    Ok(())
}

/// An error unless the answer is one to the rule's question.
fn expect(fits: bool, answer: &Answer) -> Result<()> {
    match fits {
        true => Ok(()),
        false => Err(Error::shape("answer", format!("{answer:?}"), "one to the question of the split")),
    }
}

/// The split of a name, with its parameters.
///
/// # Errors
/// [`Error::Value`] if the name or a parameter is unknown, or a parameter lies outside of its range.
pub fn build(name: &str, params: Params) -> Result<Box<dyn Split>> {
    method::build("split", ALL, name, params)
}

/// Offsets of planes that all have `num_tokens` keys.
pub fn even(num_planes: usize, num_tokens: usize) -> Vec<usize> {
    (0..=num_planes).map(|plane| plane * num_tokens).collect()
}

/// Real weights as integers, relative to the greatest.
fn fixed(weights: &[f64]) -> Vec<u64> {
    let greatest = weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    weights.iter().map(|w| (w / greatest * (1u64 << 32) as f64 + 0.5) as u64).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::keep::Param;
    use crate::keep::testing::noise;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn budgets_sum_exactly(
            layers in 1usize..6, heads in 1usize..4, tokens in 0usize..20, total in 0u64..400,
            sinks in 0u32..4, recent in 0u32..4, flat in any::<bool>(), seed in any::<u32>(),
            ragged in any::<bool>(),
        ) {
            let planes = layers * heads;
            let mut offsets = even(planes, tokens);
            if ragged {
                let missing = noise(seed ^ 9, planes).into_iter().map(|x| (x.abs() * tokens as f32 / 2.0) as usize);
                let mut end = 0;
                for (offset, missing) in offsets[1..].iter_mut().zip(missing) {
                    end += tokens.saturating_sub(missing);
                    *offset = end;
                }
            }
            let keys = offsets[planes];
            let values = match flat {
                true => vec![0.25; keys],
                false => noise(seed, keys).into_iter().map(f32::abs).collect(),
            };
            let protect = Protect { sinks, recent, recent_percent: 0 };
            let scores = Scores { values: &values, offsets: &offsets, num_layers: layers, num_heads: heads, protect };
            let weights = |len| Param::Numbers(noise(seed, len).into_iter().map(|x| f64::from(x.abs())).collect());
            let rules = [
                ("uniform", vec![]),
                ("pyramid", vec![]),
                ("pyramid", vec![("slope", Param::Text("fitted".into()))]),
                ("global_prefix", vec![]),
                ("global_prefix", vec![("profile", weights(layers))]),
                ("across_heads", vec![]),
                ("across_heads", vec![("blend", Param::Text("reserve".into()))]),
                ("head_scores", vec![("scores", weights(planes))]),
                ("layer_groups", vec![("size", Param::Number(2.0))]),
            ];
            for (name, params) in rules {
                let params = params.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
                let rule = build(name, params).unwrap();
                let mut out = vec![u32::MAX; planes];
                split(&*rule, &scores, total, &mut out).unwrap();
                let caps = scores.caps();
                prop_assert!(out.iter().zip(&caps).all(|(b, cap)| u64::from(*b) <= *cap), "{:?} {:?}", rule, out);
                let sum: u64 = out.iter().map(|b| u64::from(*b)).sum();
                prop_assert_eq!(sum, scores.spendable(total), "{:?} {:?}", rule, out);
                // Where the budget holds what is protected everywhere, every plane keeps it.
                let floors = scores.floors();
                if total >= planes as u64 * floors.iter().max().unwrap() {
                    let held = out.iter().zip(&floors).all(|(b, floor)| u64::from(*b) >= *floor);
                    prop_assert!(held, "{:?} {:?}", rule, out);
                }
            }
        }
    }
}
