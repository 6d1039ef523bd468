//! Draws of a draft: the children of a node, several at a time, in the order of drawing.
//!
//! Distinct children are the tokens of greatest `ln q + Gumbel noise`, which is drawing without
//! replacement in this order (Kool et al. 2019, "Stochastic beams and where to find them"). As in
//! [coupled sampling](crate::ops::sample) the perturbed value is `-ln(exponential / q)`, and the race
//! is decided on `exponential / weight`. Weights are those that verification reads, so the law that
//! tokens are drawn from is the one that they are verified against, to the last bit.
//!
//! Noise is keyed by (seed, sequence, position, node, token). A draft of its own has the domain
//! [`Domain::Draft`] and the position of the round's root; shared noise is that of coupled sampling
//! itself, at the position of the drawn token: then draft and target agree as often as two laws can
//! that do not know each other (Daliri et al. 2024), and no ratio test may follow.

use std::sync::Mutex;

use crate::error::{Error, Result};
use crate::ops::logits::Logits;
use crate::ops::sample::{COUNTERS, head_start, philox16};
use crate::ops::verify::Workspace;
use crate::ops::warp::{Law, Warp};
use crate::parallel::{Parallel, Serial, into_whole};
use crate::rng::{Domain, MAX_NODES, Stream, exponential};
use crate::simd::{Isa, Kernel, Lanes};

/// How children are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noise {
    /// The likeliest, without chance.
    Nothing,
    /// Distinct, by the noise of coupled sampling.
    Shared,
    /// Distinct, by noise of the draft's own.
    Own,
    /// Each from the whole law, by noise of the draft's own.
    Independent,
}

/// What is drawn. Parallel arrays over rows.
#[derive(Debug, Clone, Copy)]
pub struct Draws<'a> {
    /// Raw logits, one row a node.
    pub logits: Logits<'a>,
    /// One a row, or one for all.
    pub warps: &'a [&'a Warp],
    /// How.
    pub noise: Noise,
    /// The seed.
    pub seed: u64,
    /// Which random sequence each row belongs to.
    pub sequences: &'a [u32],
    /// Of the round's root, or of the token drawn if the noise is shared.
    pub positions: &'a [u32],
    /// Number of the node within its tree; of no account if the noise is shared.
    pub nodes: &'a [u32],
    /// Prompt and output of each row, its path included, for penalties.
    pub histories: Option<&'a [(&'a [i64], &'a [i64])]>,
    /// For each row the greatest entropy of its law, in nats, at which children are drawn.
    pub limits: Option<&'a [f64]>,
}

/// A child of a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Child {
    /// The token.
    pub token: u32,
    /// Its probability under the warped law.
    pub probability: f64,
    /// Its perturbed log probability, `ln q + noise`; the plain one without noise and for independent
    /// draws.
    pub score: f64,
}

/// Draws `counts[row]` children of every row, in the order of drawing; fewer where the law has no more, and
/// none where its entropy exceeds the row's limit.
/// Rows run in parallel.
///
/// # Errors
/// [`Error::Shape`] and [`Error::Value`] for arguments that do not fit; [`Error::Logits`] if a row is
/// no distribution, for the lowest such row.
pub fn draw(isa: Isa, pool: &dyn Parallel, draws: &Draws<'_>, counts: &[usize]) -> Result<Vec<Vec<Child>>> {
    check(draws, counts)?;
    let rows = draws.logits.num_rows();
    let slots: Vec<_> = (0..rows).map(|_| Mutex::new(Ok(Vec::new()))).collect();
    let task = |row: usize| {
        let drawn = Workspace::with(|workspace| one(isa, draws, row, workspace, counts[row]));
        if let Ok(mut slot) = slots[row].lock() {
            *slot = drawn;
        }
    };
    // As in verification: below 100 µs of work another thread does not pay.
    let is_short = rows * draws.logits.vocabulary() < 1 << 18;
    let pool = if is_short { &Serial as &dyn Parallel } else { pool };
    pool.run(rows, &task);
    slots.into_iter().map(into_whole).collect()
}

fn check(draws: &Draws<'_>, counts: &[usize]) -> Result<()> {
    let rows = draws.logits.num_rows();
    let expect = |what, got: usize, expected: usize| {
        if got == expected { Ok(()) } else { Err(Error::shape(what, got, expected)) }
    };
    expect("sequences", draws.sequences.len(), rows)?;
    expect("positions", draws.positions.len(), rows)?;
    expect("nodes", draws.nodes.len(), rows)?;
    expect("counts", counts.len(), rows)?;
    if draws.warps.len() != 1 {
        expect("warp", draws.warps.len(), rows)?;
    }
    if let Some(limits) = draws.limits {
        expect("limits", limits.len(), rows)?;
    }
    if let Some(node) = draws.nodes.iter().find(|node| **node as usize >= MAX_NODES) {
        return Err(Error::value("a node", node, format!("0 to {}", MAX_NODES - 1)));
    }
    match draws.histories {
        Some(histories) => expect("history", histories.len(), rows),
        None if draws.warps.iter().any(|warp| warp.has_penalties()) => {
            Err(Error::value("history", "None", "prompt and output, since the warp has penalties"))
        }
        None => Ok(()),
    }
}

fn one(
    isa: Isa,
    draws: &Draws<'_>,
    row: usize,
    workspace: &mut Workspace,
    count: usize,
) -> Result<Vec<Child>> {
    let warp = draws.warps[if draws.warps.len() == 1 { 0 } else { row }];
    let follows = warp.has_penalties();
    let (law, warper, seen) = workspace.for_draws();
    seen.reset(if follows { draws.logits.vocabulary() } else { 0 });
    if let (true, Some(histories)) = (follows, draws.histories) {
        let (prompt, output) = histories[row];
        seen.load(prompt, output)?;
    }
    warper.warp(isa, draws.logits.row(row), warp, seen, law).map_err(|fault| fault.at(row, 0))?;
    let limit = draws.limits.map_or(f64::INFINITY, |limits| limits[row]);
    if count == 0 || (limit < f64::INFINITY && law.entropy(isa) > limit) {
        return Ok(Vec::new());
    }
    let stream = Stream::new(draws.seed, draws.sequences[row]);
    let (position, node) = (draws.positions[row], draws.nodes[row]);
    let total = law.total() as f64;
    let key = match draws.noise {
        Noise::Independent => {
            return Ok((0..count as u32)
                .map(|child| {
                    let [high, low, ..] = stream.words(child, position, Domain::Draft, node);
                    let bits = u128::from(u64::from(high) << 32 | u64::from(low));
                    let token = law.pick(((bits * u128::from(law.total())) >> 64) as u64);
                    let probability = law.probability(i64::from(token));
                    Child { token, probability, score: probability.ln() }
                })
                .collect());
        }
        Noise::Shared => Some((stream, position, Domain::Sample, 0)),
        Noise::Own => Some((stream, position, Domain::Draft, node)),
        Noise::Nothing => None,
    };
    let best = isa.run(Race { law, key, best: Best::new(count) });
    Ok(best
        .entries
        .into_iter()
        .map(|(ratio, token)| Child {
            token,
            probability: law.probability(i64::from(token)),
            score: -(ratio * total).ln(),
        })
        .collect())
}

/// The lowest ratios so far, ascending; of equal ones the lowest token.
struct Best {
    entries: Vec<(f64, u32)>,
    count: usize,
    /// A single-precision bound not below the ratio to beat.
    bound: f32,
}

impl Best {
    fn new(count: usize) -> Self {
        Self { entries: Vec::new(), count, bound: f32::INFINITY }
    }

    #[inline]
    fn enter(&mut self, exponential: f64, weight: f32, token: u32) {
        if weight <= 0.0 {
            return;
        }
        let entry = (exponential / f64::from(weight), token);
        let at = self.entries.partition_point(|other| *other < entry);
        if at == self.count {
            return;
        }
        self.entries.insert(at, entry);
        self.entries.truncate(self.count);
        if self.entries.len() == self.count {
            self.bound = (self.entries[self.count - 1].0 as f32) * (1.0 + 1e-6) + f32::MIN_POSITIVE;
        }
    }
}

struct Race<'a> {
    law: &'a Law,
    key: Option<(Stream, u32, Domain, u32)>,
    best: Best,
}

impl Kernel for Race<'_> {
    type Output = Best;
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> Best {
        let Self { law, key, mut best } = self;
        match key {
            None => likeliest(law, &mut best),
            Some(key) if law.is_dense() => dense(law, key, &mut best),
            Some(key) => listed(law, key, &mut best),
        }
        best
    }
}

fn heaviest(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0f32, |max, &x| if x > max { x } else { max })
}

fn likeliest(law: &Law, best: &mut Best) {
    for (chunk, weights) in law.weights().chunks(4 * COUNTERS).enumerate() {
        if best.bound * heaviest(weights) < 1.0 {
            continue;
        }
        for (entry, &weight) in weights.iter().enumerate() {
            best.enter(1.0, weight, law.id(chunk * 4 * COUNTERS + entry));
        }
    }
}

#[inline(always)]
fn dense(law: &Law, (stream, position, domain, node): (Stream, u32, Domain, u32), best: &mut Best) {
    for (chunk, weights) in law.weights().chunks(4 * COUNTERS).enumerate() {
        if heaviest(weights) == 0.0 {
            continue;
        }
        let begin = chunk * 4 * COUNTERS;
        let mut w = [0.0; 4 * COUNTERS];
        w[..weights.len()].copy_from_slice(weights);
        let blocks = std::array::from_fn(|i| (begin / 4 + i) as u32);
        let words = philox16(blocks, &stream, position, domain, node);
        for lane in 0..4 {
            let mut any = 0u32;
            for i in 0..COUNTERS {
                any |= u32::from(head_start(words[lane][i]) <= best.bound * w[4 * i + lane]) << i;
            }
            while any != 0 {
                let i = any.trailing_zeros() as usize;
                best.enter(exponential(words[lane][i]), w[4 * i + lane], (begin + 4 * i + lane) as u32);
                any &= any - 1;
            }
        }
    }
}

#[inline(always)]
fn listed(law: &Law, (stream, position, domain, node): (Stream, u32, Domain, u32), best: &mut Best) {
    for (ids, weights) in law.ids().chunks(COUNTERS).zip(law.weights().chunks(COUNTERS)) {
        let blocks = std::array::from_fn(|i| ids.get(i).map_or(0, |id| id / 4));
        let words = philox16(blocks, &stream, position, domain, node);
        for (i, (&id, &weight)) in ids.iter().zip(weights).enumerate() {
            let word = words[(id % 4) as usize][i];
            if head_start(word) <= best.bound * weight {
                best.enter(exponential(word), weight, id);
            }
        }
    }
}
