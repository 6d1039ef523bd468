//! How many drafted tokens to verify: as many as raise the tokens per second, which may be none.
//!
//! A step over B sequences with k_i drafted tokens each yields sum_i E_i(k_i) tokens in
//! T(sum_i (k_i + 1)) seconds, where E_i(k) = 1 + sum_{j <= k} S_ij counts the token that every
//! step gives and S_ij is the probability that the first j tokens are all accepted. T is measured
//! and neither convex nor smooth, so no local rule finds the best lengths; but for a given number
//! of rows the best tokens are those of highest S, and S never rises along a sequence. So: sort all
//! tokens of the batch by S, and take the best prefix. That is the exact maximum.
//!
//! Two guards bound what being wrong may cost. Trying drafts that look like a loss is limited to a
//! share of the seconds spent ([`Settings::exploration`]). And realised losses are kept in a
//! balance: when drafting has lost more than a share of the seconds spent
//! ([`Settings::tolerance`]) beyond a small allowance, it pauses until the balance recovers: with
//! time, or when the next tokens show what the drafts that were held back would have gained.

use super::Signals;
use super::acceptance::{Acceptance, Estimate};
use super::cost::CostCurve;
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
    /// Share of elapsed seconds for drafts that the estimates say are slightly losing.
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

/// The stop rule of one run: what it learned, and its accounts in seconds.
#[derive(Debug, Clone)]
pub struct Gain {
    settings: Settings,
    acceptance: Acceptance,
    elapsed: f64,
    explored: f64,
    balance: f64,
    /// What the last choice would have been, had the balance allowed it.
    held_back: Vec<usize>,
    /// What the drafts held back of late would have gained; never negative.
    recovery: f64,
}

/// A length for each sequence, with the rate that it was chosen for.
struct Choice {
    lengths: Vec<usize>,
    num_tokens: usize,
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

    /// The acceptance estimates of a proposal's tokens, each given that those before it hold.
    #[must_use]
    pub fn estimates(&self, signals: &Signals) -> Vec<Estimate> {
        (0..signals.len()).map(|position| self.acceptance.estimate(signals, position)).collect()
    }

    /// One length for each proposal of a step. All 0 while the curve is unknown.
    pub fn choose(&mut self, curve: &CostCurve, proposals: &[&Signals]) -> Vec<usize> {
        let none = vec![0; proposals.len()];
        self.held_back.clear();
        if proposals.iter().all(|signals| signals.is_empty()) {
            return none;
        }
        let estimates: Vec<_> = proposals.iter().map(|signals| self.estimates(signals)).collect();
        let choose_by = |of: fn(&Estimate) -> f64| {
            let chains: Vec<Vec<f64>> =
                estimates.iter().map(|chain| chain.iter().map(of).collect()).collect();
            let choice = best_lengths(curve, &chains);
            let loss = expected_loss(curve, &estimates, &choice.lengths);
            (choice, loss)
        };
        let (expected, _) = choose_by(|estimate| estimate.mean);
        if self.exhausted(curve, proposals.len()) {
            self.held_back = expected.lengths;
            return none;
        }
        if expected.num_tokens > 0 || self.settings.exploration == 0.0 {
            return expected.lengths;
        }
        let (hopeful, loss) = choose_by(|estimate| estimate.hopeful);
        if hopeful.num_tokens == 0 || self.explored + loss > self.settings.exploration * self.elapsed {
            return none;
        }
        self.explored += loss.max(0.0);
        hopeful.lengths
    }

    fn exhausted(&self, curve: &CostCurve, num_sequences: usize) -> bool {
        curve.seconds(num_sequences).is_none_or(|base| {
            -(self.balance + self.recovery) > self.settings.tolerance * self.elapsed + ALLOWANCE_STEPS * base
        })
    }

    /// Records a step. `lengths` are the verified tokens of each proposal and `accepted` how many
    /// of them were kept; `agreed`, where it is known, says whether the first token that was *not*
    /// verified equals the one that the target gave in its place: a judgement of an untried token
    /// that costs nothing.
    ///
    /// # Errors
    /// [`Error::Shape`] when the four differ in length, [`Error::Value`] when a length exceeds its
    /// proposal or an accepted count its length.
    pub fn observe(
        &mut self,
        curve: &CostCurve,
        proposals: &[&Signals],
        lengths: &[usize],
        accepted: &[usize],
        agreed: &[Option<bool>],
    ) -> Result<()> {
        let expected = proposals.len();
        for (what, len) in
            [("lengths", lengths.len()), ("accepted", accepted.len()), ("agreed", agreed.len())]
        {
            if len != expected {
                return Err(Error::shape(what, [len], format!("[{expected}]")));
            }
        }
        for ((signals, &length), &accepted) in proposals.iter().zip(lengths).zip(accepted) {
            if length > signals.len() {
                return Err(Error::value("length", length, format!("at most {}", signals.len())));
            }
            if accepted > length {
                return Err(Error::value("accepted", accepted, format!("at most {length}")));
            }
        }
        for (((signals, &length), &accepted), agreed) in
            proposals.iter().zip(lengths).zip(accepted).zip(agreed)
        {
            for position in 0..accepted {
                self.acceptance.observe(signals, position, true);
            }
            if accepted < length {
                self.acceptance.observe(signals, accepted, false);
            } else if let Some(agreed) = *agreed
                && length < signals.len()
            {
                self.acceptance.observe(signals, length, agreed);
            }
        }
        let (drafted, kept) = (lengths.iter().sum(), accepted.iter().sum());
        self.account(curve, expected, drafted, kept);
        if drafted == 0 && self.held_back.len() == expected {
            self.recover(curve, agreed);
        }
        Ok(())
    }

    /// Sums up what the drafts that were held back would have gained at least: their first tokens
    /// that agreed, less the price of all their rows. The sum starts again wherever it turns
    /// negative, so only a lasting gain ends a pause.
    fn recover(&mut self, curve: &CostCurve, agreed: &[Option<bool>]) {
        let num_sequences = agreed.len();
        let rows = num_sequences + self.held_back.iter().sum::<usize>();
        let right = self.held_back.iter().zip(agreed).filter(|&(&k, &agreed)| k > 0 && agreed == Some(true));
        if let (Some(plain), Some(actual)) = (curve.seconds(num_sequences), curve.seconds(rows)) {
            let gained = right.count() as f64 * plain / num_sequences as f64 - (actual - plain);
            let credited = if gained > 0.0 { RECOVERY_SHARE * gained } else { gained };
            self.recovery = (self.recovery + credited).max(0.0);
        }
    }

    /// A kept token saves one sequence's share of a plain step; the drafted rows cost what the
    /// step took beyond a plain one.
    fn account(&mut self, curve: &CostCurve, num_sequences: usize, drafted: usize, accepted: usize) {
        if num_sequences == 0 {
            return;
        }
        let (Some(plain), Some(actual)) =
            (curve.seconds(num_sequences), curve.seconds(num_sequences + drafted))
        else {
            return;
        };
        let saved = accepted as f64 * plain / num_sequences as f64;
        self.elapsed += actual;
        if drafted > 0 {
            self.balance += std::mem::take(&mut self.recovery);
        }
        self.balance = (self.balance + saved - (actual - plain)).min(CREDIT_STEPS * plain);
    }
}

/// The lengths of highest tokens per second, given each chain's conditional acceptance; ties go to
/// fewer rows. An empty draft of everything wins when nothing pays, or when the curve is unknown.
fn best_lengths(curve: &CostCurve, chains: &[Vec<f64>]) -> Choice {
    let mut candidates: Vec<(f64, usize, usize)> = Vec::new();
    for (sequence, chain) in chains.iter().enumerate() {
        let mut survival = 1.0;
        for (position, acceptance) in chain.iter().enumerate() {
            survival *= acceptance;
            candidates.push((survival, position, sequence));
        }
    }
    candidates.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));

    let num_sequences = chains.len();
    let mut tokens = num_sequences as f64;
    let rate = |tokens: f64, rows| curve.seconds(rows).map_or(0.0, |seconds| tokens / seconds);
    let (mut best, mut best_rate) = (0, rate(tokens, num_sequences));
    for (index, &(survival, ..)) in candidates.iter().enumerate() {
        tokens += survival;
        let rate = rate(tokens, num_sequences + index + 1);
        if rate > best_rate * (1.0 + 1e-9) {
            (best, best_rate) = (index + 1, rate);
        }
    }
    let mut lengths = vec![0; num_sequences];
    for &(_, position, sequence) in &candidates[..best] {
        lengths[sequence] = lengths[sequence].max(position + 1);
    }
    Choice { lengths, num_tokens: best }
}

/// Seconds that verifying these lengths is expected to lose against plain steps.
fn expected_loss(curve: &CostCurve, estimates: &[Vec<Estimate>], lengths: &[usize]) -> f64 {
    let num_sequences = lengths.len();
    let mut gained = 0.0;
    for (chain, &length) in estimates.iter().zip(lengths) {
        let mut survival = 1.0;
        for estimate in &chain[..length] {
            survival *= estimate.mean;
            gained += survival;
        }
    }
    let rows = num_sequences + lengths.iter().sum::<usize>();
    match (curve.seconds(num_sequences), curve.seconds(rows)) {
        (Some(plain), Some(actual)) => actual - plain - gained * plain / num_sequences as f64,
        _ => 0.0,
    }
}

#[cfg(test)]
#[path = "gain_tests.rs"]
mod tests;
