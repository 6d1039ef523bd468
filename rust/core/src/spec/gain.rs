//! How many drafted tokens to verify: as many as raise the tokens per second, which may be none.
//!
//! Sequences of other requests in the same step count too: the token that each gets, and its rows, which
//! decide where on the curve a drafted row stands ([`Others`]).
//!
//! A step over B sequences with k_i drafted tokens each yields sum_i E_i(k_i) tokens in
//! T(sum_i (k_i + 1)) seconds, where E_i(k) = 1 + sum_{j <= k} S_ij counts the token that every
//! step gives and S_ij is the probability that the first j tokens are all accepted. T is measured
//! and neither convex nor smooth, so no local rule finds the best lengths; but for a given number
//! of rows the best tokens are those of highest S, and S never rises along a sequence. So: sort all
//! tokens of the batch by S, and take the best prefix. That is the exact maximum.
//!
//! In a tree S is the probability that the whole path to a token is accepted; it never rises from a
//! parent to its child, so the same sort takes tokens that are closed under parents. Siblings
//! exclude each other, so their probabilities are scaled to a sum of at most 1.
//!
//! Two guards bound what being wrong may cost. Trying drafts that look like a loss, since little is known of
//! their acceptance or of what so many rows cost, is limited to a share of the seconds spent ([`Settings::exploration`]). And realised losses are kept in a
//! balance: when drafting has lost more than a share of the seconds spent
//! ([`Settings::tolerance`]) beyond a small allowance, it pauses until the balance recovers: with
//! time, or when the next tokens show what the drafts that were held back would have gained.

use super::acceptance::{Acceptance, Estimate};
use super::cost::{CostCurve, Others};
use super::{Draft, Next};
use crate::allocate::by_rate;
use crate::{Error, Result};

/// Steps of one row a sequence that may be lost before any time was spent: without it no draft
/// could be tried in the first tokens of a run.
const ALLOWANCE_STEPS: f64 = 2.0;
/// Steps that past gains may pay for, so that a text that turns bad is noticed soon.
const CREDIT_STEPS: f64 = 4.0;
/// What a gain that was only seen, not made, counts towards the end of a pause.
const RECOVERY_SHARE: f64 = 0.5;

/// What a [`Gain`] may risk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Share of elapsed seconds for drafts that the estimates of acceptance and costs say are slightly losing.
    pub exploration: f64,
    /// Share of elapsed seconds that drafting may have lost before it stops.
    pub tolerance: f64,
    /// Tokens after which an observation of acceptance counts 1/e.
    pub memory: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { exploration: 0.005, tolerance: 0.01, memory: 64.0 }
    }
}

/// Tokens of each proposal: indices, ascending, closed under parents.
pub type Nodes = Vec<Vec<usize>>;

/// What the steps of some sequences cost beside those of others.
#[derive(Debug, Clone, Copy)]
struct Price<'a> {
    curve: &'a CostCurve,
    /// Sequences of the step, those of others included: its rows and its tokens without a draft.
    plain: usize,
    other_rows: usize,
}

impl<'a> Price<'a> {
    fn new(curve: &'a CostCurve, num_sequences: usize, others: Others) -> Self {
        Self { curve, plain: num_sequences + others.sequences, other_rows: others.rows }
    }

    /// Seconds with so many drafted rows.
    fn seconds(&self, drafted: usize) -> Option<f64> {
        self.curve.seconds_beside(self.plain + drafted, self.plain, self.other_rows, false)
    }

    /// The least that it may be, as far as is known.
    fn hopeful_seconds(&self, drafted: usize) -> Option<f64> {
        self.curve.seconds_beside(self.plain + drafted, self.plain, self.other_rows, true)
    }
}

/// The stop rule of one run: what it learned, and its accounts in seconds.
#[derive(Debug, Clone)]
pub struct Gain {
    settings: Settings,
    acceptance: Acceptance,
    elapsed: f64,
    explored: f64,
    balance: f64,
    /// What the last choice would have been, had the balance allowed it.
    held_back: Nodes,
    /// What the drafts held back of late would have gained; never negative.
    recovery: f64,
}

impl Gain {
    /// A rule that has seen nothing.
    ///
    /// # Errors
    /// [`Error::Value`] unless both shares lie in 0..1 and the memory is at least 1.
    pub fn new(settings: Settings) -> Result<Self> {
        for (what, share) in [("exploration", settings.exploration), ("tolerance", settings.tolerance)] {
            if !(0.0..1.0).contains(&share) {
                return Err(Error::value(what, share, "at least 0 and less than 1"));
            }
        }
        if settings.memory.is_nan() || settings.memory < 1.0 {
            return Err(Error::value("memory", settings.memory, "at least 1"));
        }
        let acceptance = Acceptance::new(settings.memory);
        Ok(Self {
            settings,
            acceptance,
            elapsed: 0.0,
            explored: 0.0,
            balance: 0.0,
            held_back: Vec::new(),
            recovery: 0.0,
        })
    }

    /// The acceptance estimates of a proposal's tokens, each given that those before it on its path hold.
    #[must_use]
    pub fn estimates(&self, draft: Draft<'_>) -> Vec<Estimate> {
        let depths = draft.depths();
        let mut estimates: Vec<_> = (0..draft.len())
            .map(|token| self.acceptance.estimate(draft.signals, token, depths[token]))
            .collect();
        if draft.parents.is_some() {
            share_among_siblings(draft, &mut estimates);
        }
        estimates
    }

    /// The tokens of each proposal that are worth a row. None while the curve is unknown.
    pub fn choose(&mut self, curve: &CostCurve, others: Others, drafts: &[Draft<'_>]) -> Nodes {
        let price = Price::new(curve, drafts.len(), others);
        let none = vec![Vec::new(); drafts.len()];
        self.held_back.clear();
        if drafts.iter().all(|draft| draft.is_empty()) {
            return none;
        }
        let estimates: Vec<_> = drafts.iter().map(|draft| self.estimates(*draft)).collect();
        let survivals = |of: fn(&Estimate) -> f64| -> Vec<Vec<f64>> {
            drafts.iter().zip(&estimates).map(|(draft, own)| draft.survivals(own.iter().map(of))).collect()
        };
        let means = survivals(|estimate| estimate.mean);
        let expected = best_nodes(price.plain, &means, |drafted| price.seconds(drafted));
        if self.exhausted(price) {
            self.held_back = expected;
            return none;
        }
        if expected.iter().any(|nodes| !nodes.is_empty()) || self.settings.exploration == 0.0 {
            return expected;
        }
        // What is not known of acceptance or of costs may be better than expected.
        let hopeful = best_nodes(price.plain, &survivals(|estimate| estimate.hopeful), |drafted| {
            price.hopeful_seconds(drafted)
        });
        let loss = expected_loss(price, &means, &hopeful);
        let is_empty = hopeful.iter().all(Vec::is_empty);
        if is_empty || self.explored + loss > self.settings.exploration * self.elapsed {
            return none;
        }
        self.explored += loss.max(0.0);
        hopeful
    }

    fn exhausted(&self, price: Price<'_>) -> bool {
        price.seconds(0).is_none_or(|base| {
            -(self.balance + self.recovery) > self.settings.tolerance * self.elapsed + ALLOWANCE_STEPS * base
        })
    }

    /// Records a step. `chosen` are the verified tokens of each proposal and `paths` those that were
    /// kept. `next`, where it is known, says which child of the last kept token the target gave: a
    /// judgement of tokens that were *not* verified, which costs nothing.
    ///
    /// # Errors
    /// [`Error::Shape`] when the four differ in length, [`Error::Value`] when the chosen tokens are
    /// not ascending and closed under parents, or a path is none of them.
    pub fn observe(
        &mut self,
        curve: &CostCurve,
        others: Others,
        drafts: &[Draft<'_>],
        chosen: &[Vec<usize>],
        paths: &[Vec<usize>],
        next: &[Next],
    ) -> Result<()> {
        let expected = drafts.len();
        for (what, len) in [("chosen", chosen.len()), ("paths", paths.len()), ("next", next.len())] {
            if len != expected {
                return Err(Error::shape(what, [len], format!("[{expected}]")));
            }
        }
        for ((draft, chosen), path) in drafts.iter().zip(chosen).zip(paths) {
            check_outcome(*draft, chosen, path)?;
        }
        for (((draft, chosen), path), next) in drafts.iter().zip(chosen).zip(paths).zip(next) {
            self.judge(*draft, chosen, path, *next);
        }
        let drafted = chosen.iter().map(Vec::len).sum();
        let kept = paths.iter().map(Vec::len).sum();
        let price = Price::new(curve, expected, others);
        self.account(price, expected, drafted, kept);
        if drafted == 0 && self.held_back.len() == expected {
            self.recover(price, next);
        }
        Ok(())
    }

    /// Tells the estimates about every child of the pending token and of the kept ones.
    fn judge(&mut self, draft: Draft<'_>, chosen: &[usize], path: &[usize], next: Next) {
        let depths = draft.depths();
        for depth in 0..=path.len() {
            let parent = depth.checked_sub(1).map(|above| path[above]);
            let kept = path.get(depth).copied();
            for token in (0..draft.len()).filter(|&token| draft.parent(token) == parent) {
                let is_right = match (kept, next) {
                    (Some(kept), _) => kept == token,
                    (None, _) if chosen.binary_search(&token).is_ok() => false,
                    (None, Next::Token(given)) => given == token,
                    (None, Next::Other) => false,
                    (None, Next::Unknown) => continue,
                };
                self.acceptance.observe(draft.signals, token, depths[token], is_right);
            }
        }
    }

    /// Sums up what the drafts that were held back would have gained at least: their first tokens
    /// that agreed, less the price of all their rows. The sum starts again wherever it turns
    /// negative, so only a lasting gain ends a pause.
    fn recover(&mut self, price: Price<'_>, next: &[Next]) {
        let drafted = self.held_back.iter().map(Vec::len).sum();
        let agrees = |held: &[usize], next: Next| matches!(next, Next::Token(token) if held.contains(&token));
        let right = self.held_back.iter().zip(next).filter(|&(held, &next)| agrees(held, next));
        if let (Some(plain), Some(actual)) = (price.seconds(0), price.seconds(drafted)) {
            let gained = right.count() as f64 * plain / price.plain as f64 - (actual - plain);
            let credited = if gained > 0.0 { RECOVERY_SHARE * gained } else { gained };
            self.recovery = (self.recovery + credited).max(0.0);
        }
    }

    /// A kept token saves one sequence's share of a plain step; the drafted rows cost what the
    /// step took beyond a plain one. What passes are these sequences' shares of it, so that several runs
    /// that learn together count a step once.
    fn account(&mut self, price: Price<'_>, num_sequences: usize, drafted: usize, accepted: usize) {
        if num_sequences == 0 {
            return;
        }
        let (Some(plain), Some(actual)) = (price.seconds(0), price.seconds(drafted)) else { return };
        let share = plain / price.plain as f64;
        let saved = accepted as f64 * share;
        self.elapsed += num_sequences as f64 * share + (actual - plain);
        if drafted > 0 {
            self.balance += std::mem::take(&mut self.recovery);
        }
        self.balance = (self.balance + saved - (actual - plain)).min(CREDIT_STEPS * plain);
    }
}

fn check_outcome(draft: Draft<'_>, chosen: &[usize], path: &[usize]) -> Result<()> {
    for (index, &token) in chosen.iter().enumerate() {
        if token >= draft.len() || (index > 0 && chosen[index - 1] >= token) {
            let expected = format!("ascending and below {}", draft.len());
            return Err(Error::value("a chosen token", token, expected));
        }
        if draft.parent(token).is_some_and(|parent| chosen.binary_search(&parent).is_err()) {
            return Err(Error::value("a chosen token", token, "one whose parent is chosen"));
        }
    }
    for (depth, &token) in path.iter().enumerate() {
        let above = depth.checked_sub(1).map(|above| path[above]);
        if chosen.binary_search(&token).is_err() || draft.parent(token) != above {
            return Err(Error::value("an accepted token", token, "a chosen one, a child of the one before"));
        }
    }
    Ok(())
}

/// Scales the estimates of siblings, at most one of which can be accepted, to a sum of at most 1.
fn share_among_siblings(draft: Draft<'_>, estimates: &mut [Estimate]) {
    const LIMIT: f64 = 0.999;
    let mut sums = vec![(0.0, 0.0); draft.len() + 1];
    let slot = |token| draft.parent(token).map_or(0, |parent| parent + 1);
    for (token, estimate) in estimates.iter().enumerate() {
        let sum = &mut sums[slot(token)];
        *sum = (sum.0 + estimate.mean, sum.1 + estimate.hopeful);
    }
    for (token, estimate) in estimates.iter_mut().enumerate() {
        let (mean, hopeful) = sums[slot(token)];
        estimate.mean *= (LIMIT / mean).min(1.0);
        estimate.hopeful *= (1.0 / hopeful).min(1.0);
    }
}

/// The tokens of highest tokens per second, given each one's survival; ties go to fewer rows. None
/// at all wins when nothing pays, or when the curve is unknown.
fn best_nodes(plain: usize, survivals: &[Vec<f64>], seconds: impl Fn(usize) -> Option<f64>) -> Nodes {
    let mut candidates: Vec<(f64, usize, usize)> = Vec::new();
    for (sequence, own) in survivals.iter().enumerate() {
        candidates.extend(own.iter().enumerate().map(|(token, &survival)| (survival, token, sequence)));
    }
    // A parent comes before its child, so where they tie it is taken first.
    candidates.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));

    let gains = candidates.iter().map(|&(survival, ..)| survival);
    let best = by_rate(plain as f64, gains, seconds);
    let mut nodes = vec![Vec::new(); survivals.len()];
    for &(_, token, sequence) in &candidates[..best] {
        nodes[sequence].push(token);
    }
    nodes.iter_mut().for_each(|own| own.sort_unstable());
    nodes
}

/// Seconds that verifying these tokens is expected to lose against plain steps.
fn expected_loss(price: Price<'_>, survivals: &[Vec<f64>], nodes: &[Vec<usize>]) -> f64 {
    let gained: f64 =
        survivals.iter().zip(nodes).flat_map(|(own, nodes)| nodes.iter().map(|&node| own[node])).sum();
    let drafted = nodes.iter().map(Vec::len).sum();
    match (price.seconds(0), price.seconds(drafted)) {
        (Some(plain), Some(actual)) => actual - plain - gained * plain / price.plain as f64,
        _ => 0.0,
    }
}

#[cfg(test)]
#[path = "gain_tests.rs"]
mod tests;
