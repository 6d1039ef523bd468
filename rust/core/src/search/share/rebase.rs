//! REBASE (Wu et al. 2024, "Inference scaling laws", arXiv 2408.00724): children in proportion to `exp(value / T)`.

use super::{Round, Share};
use crate::allocate::{Scratch, by_ceiling, softmax_weights};

/// What is left of the width is shared out over all open leaves; each path that ended takes one with it.
#[derive(Debug)]
pub struct Rebase {
    temperature: f64,
    ended: u64,
    weights: Vec<u64>,
    scratch: Scratch,
}

impl Rebase {
    /// With the temperature of the softmax, above 0; the authors' is 0.2.
    pub fn new(temperature: f64) -> Self {
        Self { temperature, ended: 0, weights: Vec::new(), scratch: Scratch::default() }
    }
}

impl Share for Rebase {
    fn counts(&mut self, round: &Round<'_>, out: &mut [u64]) {
        self.ended += round.ended.len() as u64;
        let room = round.width.saturating_sub(self.ended).min(round.most);
        let values: Vec<f64> = round.leaves.iter().map(|&leaf| round.value(leaf)).collect();
        softmax_weights(&values, self.temperature, &mut self.weights);
        by_ceiling(room, &self.weights, &mut self.scratch, out);
    }
}
