//! Verification: how much of a draft the target keeps, and which token comes next.
//!
//! A draft is a tree of tokens a sequence; a chain is a tree without branches. Rows of logits are
//! read only where the walk comes by, each is warped at most once, and no table of probabilities is
//! made. Every decision is a pure function of (logits, draft, seed, sequence, position).
//!
//! Draws of the ratio tests (`accept`, `residual`, `bonus`) are keyed by the position of the
//! sequence's *root* and by the row: a round of verification advances its root, so a later round
//! never sees a draw whose outcome shaped an earlier one. Noise of the coupled rule is keyed by the
//! position of the token itself, and by no node.

mod reads;
mod recursive;
mod rule;
mod walk;

methods! { Method: block, chain, coupled, target_only, typical, with_replacement, without_replacement }

use std::sync::Mutex;

use crate::error::{Error, Result};
use crate::ops::logits::Logits;
use crate::ops::warp::Warp;
use crate::parallel::{Parallel, Serial};
use crate::rng::{MAX_NODES, Stream};
use crate::simd::Isa;
pub use reads::Reads;
use rule::Method;
pub use rule::{Parameters, Rule};
pub(super) use walk::Workspace;
use walk::{Accepted, Walk};

/// The rule of a name.
///
/// # Errors
/// [`Error::Value`] if there is none.
pub fn rule(name: &str, parameters: Parameters) -> Result<Rule> {
    match ALL.iter().find(|method| method.name == name) {
        Some(method) => Ok(Rule { method, parameters }),
        None => {
            let names: Vec<_> = ALL.iter().map(|method| method.name).collect();
            Err(Error::value("rule", format!("{name:?}"), format!("one of {}", names.join(", "))))
        }
    }
}

/// What is verified. The fields are parallel arrays over sequences, or over draft tokens.
#[derive(Debug, Clone, Copy)]
pub struct Verification<'a> {
    /// Draft tokens of all sequences, `[N]`.
    pub tokens: &'a [i64],
    /// For each, the index of its parent within the sequence's tree, or -1; parents come first.
    pub parents: &'a [i32],
    /// Where each sequence's tree begins, `[B + 1]`.
    pub offsets: &'a [i32],
    /// Raw logits of the target, `N + B` rows: per sequence one at the root, then one a draft token.
    pub target: Logits<'a>,
    /// Those of the draft, the same rows; `None` for a draft that draws nothing.
    pub draft: Option<Logits<'a>>,
    /// How to verify.
    pub rule: Rule,
    /// One a sequence, or one for all.
    pub warps: &'a [&'a Warp],
    /// The draft's, likewise.
    pub draft_warps: &'a [&'a Warp],
    /// The seed.
    pub seed: u64,
    /// Which random sequence each is, `[B]`; `None` numbers them from 0.
    pub sequences: Option<&'a [i64]>,
    /// Logical position of the token that is sampled at each root, `[B]`.
    pub positions: Option<&'a [i64]>,
    /// Prompt and output of each sequence, for penalties.
    pub histories: Option<&'a [(&'a [i64], &'a [i64])]>,
    /// Counts what is read.
    pub reads: Option<&'a Reads>,
}

/// Where the outcome goes.
#[derive(Debug)]
pub struct Verdict<'a> {
    /// `[B, max_depth]`: accepted rows in order of depth, the row of draft token `i` being `i + 1`; then -1.
    pub accepted: &'a mut [i32],
    /// `[B]`: how many.
    pub num_accepted: &'a mut [i32],
    /// `[B]`: the token after them.
    pub next_token: &'a mut [i64],
}

/// Depth of the deepest tree.
///
/// # Errors
/// [`Error::Shape`] or [`Error::Value`] if offsets do not ascend from 0 to the number of tokens, or a
/// parent does not come before its child.
pub fn max_depth(parents: &[i32], offsets: &[i32]) -> Result<usize> {
    let Some((0, &last)) = offsets.first().copied().zip(offsets.last()) else {
        return Err(Error::shape("offsets", offsets, "one more than sequences, beginning with 0"));
    };
    if last as usize != parents.len() || offsets.windows(2).any(|w| w[0] > w[1]) {
        return Err(Error::shape("offsets", offsets, format!("ascending to {} draft tokens", parents.len())));
    }
    let mut deepest = 0;
    let mut depths = smallvec::SmallVec::<[u32; 128]>::new();
    for bounds in offsets.windows(2) {
        depths.clear();
        for (index, &parent) in parents[bounds[0] as usize..bounds[1] as usize].iter().enumerate() {
            if parent < -1 || parent >= index as i32 {
                let expected = format!("-1 to {}: parents come first", index as i32 - 1);
                return Err(Error::value("a draft token's parent", parent, expected));
            }
            depths.push(if parent < 0 { 1 } else { depths[parent as usize] + 1 });
            deepest = deepest.max(depths[index]);
        }
    }
    Ok(deepest as usize)
}

/// One number a sequence that a counter of the generator holds.
fn counters(what: &'static str, values: Option<&[i64]>, count: usize) -> Result<()> {
    let Some(values) = values else { return Ok(()) };
    expect_len(what, values.len(), count)?;
    match values.iter().find(|x| u32::try_from(**x).is_err()) {
        Some(x) => Err(Error::value(what, x, "0 to 4294967295")),
        None => Ok(()),
    }
}

fn expect_len(what: &'static str, got: usize, expected: usize) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::shape(what, got, expected)) }
}

/// The warp of a sequence.
fn of<'a>(warps: &[&'a Warp], sequence: usize) -> &'a Warp {
    warps[if warps.len() == 1 { 0 } else { sequence }]
}

impl Verification<'_> {
    fn num_sequences(&self) -> usize {
        self.offsets.len() - 1
    }

    fn warp(&self, sequence: usize) -> &Warp {
        of(self.warps, sequence)
    }

    fn stream(&self, sequence: usize) -> Stream {
        Stream::new(self.seed, self.sequences.map_or(sequence as u32, |s| s[sequence] as u32))
    }

    fn position(&self, sequence: usize) -> u32 {
        self.positions.map_or(0, |p| p[sequence] as u32)
    }

    /// Checks everything but the values of logits; returns the depth.
    fn check(&self, verdict: &Verdict<'_>) -> Result<usize> {
        let depth = max_depth(self.parents, self.offsets)?;
        let count = self.num_sequences();
        expect_len("draft_tokens", self.tokens.len(), self.parents.len())?;
        if let Some(token) = self.tokens.iter().find(|t| **t < 0) {
            return Err(Error::value("a draft token", token, "a vocabulary id"));
        }
        if let Some(bounds) = self.offsets.windows(2).find(|w| (w[1] - w[0]) as usize >= MAX_NODES) {
            return Err(Error::value("a draft's size", bounds[1] - bounds[0], format!("below {MAX_NODES}")));
        }
        expect_len("target_logits rows", self.target.num_rows(), self.tokens.len() + count)?;
        if let Some(draft) = &self.draft {
            expect_len("draft_logits rows", draft.num_rows(), self.tokens.len() + count)?;
        }
        for (what, len) in [("warp", self.warps.len()), ("draft_warp", self.draft_warps.len())] {
            if len != 1 {
                expect_len(what, len, count)?;
            }
        }
        counters("sequences", self.sequences, count)?;
        counters("positions", self.positions, count)?;
        let is_random = self.warps.iter().any(|warp| !warp.is_greedy());
        if is_random && self.positions.is_none() && count > 0 {
            return Err(Error::value("positions", "None", "one a sequence, since the warp samples"));
        }
        let draft_warps = self.draft.iter().flat_map(|_| self.draft_warps);
        let has_penalties = self.warps.iter().chain(draft_warps).any(|warp| warp.has_penalties());
        match self.histories {
            Some(histories) => expect_len("history", histories.len(), count)?,
            None if has_penalties => {
                return Err(Error::value(
                    "history",
                    "None",
                    "prompt and output, since the warp has penalties",
                ));
            }
            None => {}
        }
        if self.rule.method.only_chains {
            for bounds in self.offsets.windows(2) {
                let parents = &self.parents[bounds[0] as usize..bounds[1] as usize];
                if let Some(index) = parents.iter().enumerate().position(|(i, p)| *p != i as i32 - 1) {
                    let expected = format!("{}: this rule verifies chains", index as i32 - 1);
                    return Err(Error::value("a draft token's parent", parents[index], expected));
                }
            }
        }
        expect_len("num_accepted", verdict.num_accepted.len(), count)?;
        expect_len("next_token", verdict.next_token.len(), count)?;
        expect_len("accepted", verdict.accepted.len(), count * depth)?;
        Ok(depth)
    }
}

/// Verifies a batch of drafts; sequences run in parallel.
///
/// A greedy target agrees with the first token of a draft, and not with the second:
///
/// ```
/// use hornbeam_core::ops::logits::{Logits, Row};
/// use hornbeam_core::ops::verify::{Parameters, Verdict, Verification, rule, verify};
/// use hornbeam_core::ops::warp::Warp;
/// use hornbeam_core::parallel::Serial;
/// use hornbeam_core::simd::Isa;
///
/// let target = [
///     0.0f32, 9.0, 0.0, 0.0, // what follows the text: token 1
///     0.0, 0.0, 9.0, 0.0, // what follows the draft's first token: 2
///     0.0, 0.0, 0.0, 9.0, // what follows its second
/// ];
/// let greedy = Warp::greedy();
/// let (mut accepted, mut num_accepted, mut next_token) = ([0; 2], [0], [0]);
/// verify(
///     Isa::detected(),
///     &Serial,
///     &Verification {
///         tokens: &[1, 3],
///         parents: &[-1, 0],
///         offsets: &[0, 2],
///         target: Logits::new(Row::F32(&target), 3, 4, 4)?,
///         draft: None,
///         rule: rule("coupled", Parameters::default())?,
///         warps: &[&greedy],
///         draft_warps: &[&greedy],
///         seed: 0,
///         sequences: None,
///         positions: None,
///         histories: None,
///         reads: None,
///     },
///     Verdict {
///         accepted: &mut accepted,
///         num_accepted: &mut num_accepted,
///         next_token: &mut next_token,
///     },
/// )?;
/// assert_eq!((accepted, num_accepted, next_token), ([1, -1], [1], [2]));
/// # Ok::<(), hornbeam_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] and [`Error::Value`] for arguments that do not fit, before anything is read;
/// [`Error::Logits`] if a row that was read is no distribution, for the lowest such sequence.
pub fn verify(isa: Isa, pool: &dyn Parallel, given: &Verification<'_>, verdict: Verdict<'_>) -> Result<()> {
    let depth = given.check(&verdict)?;
    let count = given.num_sequences();
    verdict.accepted.fill(-1);
    let mut accepted = verdict.accepted;
    let slots: smallvec::SmallVec<[Mutex<Slot<'_>>; 8]> = verdict
        .num_accepted
        .iter_mut()
        .zip(verdict.next_token)
        .map(|(num_accepted, next_token)| {
            let (rows, rest) = std::mem::take(&mut accepted).split_at_mut(depth);
            accepted = rest;
            Mutex::new(Slot { rows, num_accepted, next_token })
        })
        .collect();
    let failure = Mutex::new(None::<(usize, Error)>);
    let task = |sequence: usize| {
        let Ok(mut slot) = slots[sequence].lock() else { return };
        if let Err(error) = Workspace::with(|workspace| one(isa, given, sequence, workspace, &mut slot))
            && let Ok(mut failure) = failure.lock()
            && failure.as_ref().is_none_or(|(first, _)| sequence < *first)
        {
            *failure = Some((sequence, error));
        }
    };
    // A row takes at least 0.1 ns a token: below 100 µs of work another thread does not pay.
    let is_short = (count + given.tokens.len()) * given.target.vocabulary() < 1 << 19;
    let pool = if is_short { &Serial as &dyn Parallel } else { pool };
    pool.run(count, &task);
    match failure.into_inner() {
        Ok(Some((_, error))) => Err(error),
        _ => Ok(()),
    }
}

/// Where the outcome of one sequence goes.
struct Slot<'a> {
    rows: &'a mut [i32],
    num_accepted: &'a mut i32,
    next_token: &'a mut i64,
}

fn one(
    isa: Isa,
    given: &Verification<'_>,
    sequence: usize,
    workspace: &mut Workspace,
    slot: &mut Slot<'_>,
) -> Result<()> {
    let mut accepted = Accepted { rows: slot.rows, count: 0 };
    let mut walk = Walk::new(isa, given, sequence, workspace)?;
    let Rule { method, parameters } = &given.rule;
    let is_coupled = given.warp(sequence).is_greedy() || (method.compares && given.draft.is_none());
    let token = match is_coupled {
        true => coupled::walk(&mut walk, &mut accepted)?,
        false => (method.walk)(&mut walk, &mut accepted, parameters)?,
    };
    *slot.num_accepted = accepted.count as i32;
    *slot.next_token = i64::from(token);
    Ok(())
}
