//! How likely a proposed token is to be accepted, learned while decoding.
//!
//! A Beta estimate per cell of (match length, the source's confidence, first or later token), with
//! exponential forgetting. A cell that saw little leans on a prior, shifted by how the tokens of
//! the same match length fared against it; so what is learned in one place is believed elsewhere
//! until it is contradicted.

use super::Signals;

/// Match lengths 0, 1, 2, 3..4, 5..8, 9..16, 17..32 and more.
const LENGTHS: usize = 8;
/// Upper ends of the classes of confidence, the last one open.
const CONFIDENCES: [f32; 3] = [0.35, 0.6, 0.8];
const CLASSES: usize = CONFIDENCES.len() + 1;
/// Acceptance by match length and class of confidence, before anything was seen. Measured with the
/// suffix source on 40 files of Python source and of documentation (160,000 tokens), the
/// file's own next token standing for the target's. Without a match (row 0, unused) the source's
/// confidence is the prior.
const PRIOR: [[f64; CLASSES]; LENGTHS] = [
    [0.5; CLASSES],
    [0.12, 0.30, 0.47, 0.71],
    [0.19, 0.44, 0.65, 0.83],
    [0.21, 0.58, 0.76, 0.90],
    [0.23, 0.71, 0.84, 0.94],
    [0.25, 0.84, 0.91, 0.96],
    [0.28, 0.92, 0.95, 0.99],
    [0.27, 0.97, 0.98, 0.99],
];
/// Observations that the prior is worth to a match length, and to a cell.
const LENGTH_WEIGHT: f64 = 1.0;
const CELL_WEIGHT: f64 = 3.0;

/// Judged tokens, those accepted, and those that the prior expected to be; all discounted.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    judged: f64,
    accepted: f64,
    expected: f64,
}

impl Tally {
    fn observe(&mut self, accepted: bool, expected: f64, memory: f64) {
        self.judged = self.judged * memory + 1.0;
        self.accepted = self.accepted * memory + f64::from(u8::from(accepted));
        self.expected = self.expected * memory + expected;
    }

    /// What a prior becomes when its log odds move as far as the tally's moved from expectation.
    fn shifted(self, prior: f64) -> f64 {
        let odds = |share: f64| share / (1.0 - share);
        let smooth = |sum: f64| (sum + 0.5 * LENGTH_WEIGHT) / (self.judged + LENGTH_WEIGHT);
        let moved = odds(prior) * odds(smooth(self.accepted)) / odds(smooth(self.expected));
        moved / (1.0 + moved)
    }
}

/// A probability and how far the truth may lie above it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean, below 1.
    pub mean: f64,
    /// One standard deviation above the mean, at most 1.
    pub hopeful: f64,
}

/// The online model of acceptance, given that the tokens before were accepted.
#[derive(Debug, Clone)]
pub struct Acceptance {
    memory: f64,
    lengths: [Tally; LENGTHS],
    cells: [[[Tally; 2]; CLASSES]; LENGTHS],
}

impl Acceptance {
    /// A model that forgets: after `memory` further tokens in a cell an observation counts 1/e.
    #[must_use]
    pub fn new(memory: f64) -> Self {
        Self {
            memory: (-1.0 / memory).exp(),
            lengths: [Tally::default(); LENGTHS],
            cells: [[[Tally::default(); 2]; CLASSES]; LENGTHS],
        }
    }

    fn cell(signals: &Signals, position: usize, depth: usize) -> (usize, usize, usize) {
        let length = match signals.match_lengths[position] {
            length @ 0..=2 => length as usize,
            length => (33 - (length - 1).leading_zeros()) as usize,
        };
        let confidence = signals.confidences[position];
        let class = CONFIDENCES.iter().filter(|&&end| confidence >= end).count();
        (length.min(LENGTHS - 1), class, depth.min(1))
    }

    fn prior(signals: &Signals, position: usize) -> f64 {
        let (length, class, _) = Self::cell(signals, position, 0);
        match length {
            0 => f64::from(signals.confidences[position]).clamp(0.001, 0.999),
            _ => PRIOR[length][class],
        }
    }

    /// The probability that token `position`, `depth` tokens below the pending one, is accepted if
    /// those before it are. Where the prior is a confidence, a cell moves its odds and does not
    /// replace it: siblings of one cell keep their order.
    #[must_use]
    pub fn estimate(&self, signals: &Signals, position: usize, depth: usize) -> Estimate {
        let (length, class, later) = Self::cell(signals, position, depth);
        let first = Self::prior(signals, position);
        let prior = self.lengths[length].shifted(first);
        let cell = self.cells[length][class][later];
        let seen = if length == 0 { cell.judged * cell.shifted(first) } else { cell.accepted };
        let mean = ((seen + CELL_WEIGHT * prior) / (cell.judged + CELL_WEIGHT)).min(0.999);
        let known = cell.judged + CELL_WEIGHT.min(self.lengths[length].judged);
        let hopeful = (mean + (mean * (1.0 - mean) / (known + 1.0)).sqrt()).min(1.0);
        Estimate { mean, hopeful }
    }

    /// Records whether token `position` agreed with the target, given that those before it did.
    pub fn observe(&mut self, signals: &Signals, position: usize, depth: usize, accepted: bool) {
        let (length, class, later) = Self::cell(signals, position, depth);
        let expected = Self::prior(signals, position);
        self.lengths[length].observe(accepted, expected, self.memory);
        self.cells[length][class][later].observe(accepted, expected, self.memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(match_length: u32, confidence: f32) -> Signals {
        let mut signals = Signals::default();
        signals.push(match_length, 1, confidence);
        signals
    }

    #[test]
    fn match_lengths_fall_into_octaves() {
        let octave = |length| Acceptance::cell(&one(length, 0.5), 0, 0).0;
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 9999].map(octave),
            [0, 1, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]
        );
    }

    #[test]
    fn learns_each_cell_and_lends_to_its_neighbours() {
        let mut model = Acceptance::new(50.0);
        let (sure, unsure) = (one(6, 0.9), one(6, 0.1));
        let before = model.estimate(&unsure, 0, 0).mean;
        for _ in 0..200 {
            model.observe(&sure, 0, 0, true);
        }
        assert!(model.estimate(&sure, 0, 0).mean > 0.97);
        assert!(model.estimate(&unsure, 0, 0).mean > before);
        for _ in 0..200 {
            model.observe(&unsure, 0, 0, false);
        }
        assert!(model.estimate(&unsure, 0, 0).mean < 0.05);
        assert!(model.estimate(&sure, 0, 0).mean > 0.85);
    }

    #[test]
    fn a_source_that_does_not_match_text_is_believed_until_it_is_judged() {
        let mut model = Acceptance::new(50.0);
        assert!((model.estimate(&one(0, 0.7), 0, 0).mean - 0.7).abs() < 1e-6);
        (0..20).for_each(|_| model.observe(&one(0, 0.7), 0, 0, false));
        assert!(model.estimate(&one(0, 0.7), 0, 0).mean < 0.15);
    }

    #[test]
    fn siblings_of_one_cell_keep_their_order() {
        let mut model = Acceptance::new(50.0);
        for index in 0..200 {
            model.observe(&one(0, 0.3), 0, 0, index % 2 == 0);
            model.observe(&one(0, 0.02), 0, 0, index % 20 == 0);
        }
        let (high, low) = (model.estimate(&one(0, 0.3), 0, 0).mean, model.estimate(&one(0, 0.02), 0, 0).mean);
        assert!(high > 0.4 && low < 0.15, "{high} and {low}");
    }

    #[test]
    fn follows_a_change_of_regime() {
        let mut model = Acceptance::new(50.0);
        (0..500).for_each(|_| model.observe(&one(3, 0.5), 0, 0, true));
        (0..150).for_each(|_| model.observe(&one(3, 0.5), 0, 0, false));
        assert!(model.estimate(&one(3, 0.5), 0, 0).mean < 0.15);
    }
}
