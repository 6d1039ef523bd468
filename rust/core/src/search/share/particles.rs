//! Particle filtering (Puri et al. 2025, "A probabilistic inference approach to inference-time scaling", arXiv
//! 2502.01618): after every step all paths are drawn anew, with replacement.

use super::{Round, Share};
use crate::allocate::{WEIGHT_ONE, softmax_weights};
use crate::rng::{Domain, Stream};

/// Paths are drawn by the softmax of `logit(value) / T` of their last value, paths that ended among them, which keep
/// their value. A path that is drawn k times gets k children.
#[derive(Debug)]
pub struct Particles {
    temperature: f64,
    stream: Stream,
    /// Paths that ended: node, and how often it is there.
    pool: Vec<(u32, u64)>,
}

/// Values are kept so far from 0 and 1, as the authors' code has it.
const MARGIN: f64 = 1e-7;

impl Particles {
    /// With the temperature of the softmax, above 0 (the authors' is 1), and the seed of the draws.
    pub fn new(temperature: f64, seed: u64) -> Self {
        Self { temperature, stream: Stream::new(seed, 0), pool: Vec::new() }
    }
}

impl Share for Particles {
    fn range(&self) -> (f64, f64) {
        (0.0, 1.0)
    }

    fn counts(&mut self, round: &Round<'_>, out: &mut [u64]) {
        self.pool.extend(round.ended.iter().map(|&leaf| (leaf, 1)));
        let logit = |leaf: u32| {
            let value = round.value(leaf).clamp(MARGIN, 1.0 - MARGIN);
            (value / (1.0 - value)).ln()
        };
        let mut values: Vec<f64> = round.leaves.iter().map(|&leaf| logit(leaf)).collect();
        values.extend(self.pool.iter().map(|&(leaf, _)| logit(leaf)));
        let mut weights = Vec::new();
        softmax_weights(&values, self.temperature, &mut weights);
        for (weight, (_, copies)) in weights[out.len()..].iter_mut().zip(&self.pool) {
            *weight = weight.saturating_mul(*copies);
        }
        let total: u64 = weights.iter().fold(0u64, |sum, weight| sum.saturating_add(*weight)).max(1);
        debug_assert!(total < u64::MAX && weights.iter().all(|weight| *weight <= WEIGHT_ONE << 20));
        let mut drawn = vec![0u64; weights.len()];
        for particle in 0..round.width {
            let mut at = self.stream.below(total, round.number, Domain::Sample, particle as u32);
            let chosen = weights.iter().position(|&weight| match at.checked_sub(weight) {
                Some(rest) => {
                    at = rest;
                    false
                }
                None => true,
            });
            drawn[chosen.unwrap_or(0)] += 1;
        }
        let (open, ended) = drawn.split_at(out.len());
        let mut room = round.most;
        for (out, count) in out.iter_mut().zip(open) {
            *out = (*count).min(room);
            room -= *out;
        }
        self.pool.iter_mut().zip(ended).for_each(|((_, copies), drawn)| *copies = *drawn);
        self.pool.retain(|(_, copies)| *copies > 0);
    }
}
