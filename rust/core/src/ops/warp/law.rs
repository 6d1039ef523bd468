//! A law over the vocabulary: integer weights, either of every token or of a short list.

use super::passes::{self, BLOCK, UNIT};
use super::select::Histogram;
use crate::format::Element;
use crate::simd::{Isa, math};

/// Weights of tokens. The probability of a token is its weight over [`Law::total`].
///
/// Buffers are reused from row to row.
#[derive(Debug, Default)]
pub struct Law {
    /// Weights of the whole vocabulary, in the first `row_len` elements; 0 if the law is a list.
    row: Vec<f32>,
    row_len: usize,
    /// The listed tokens, ascending, their logits (while made) and weights.
    ids: Vec<u32>,
    logits: Vec<f32>,
    list: Vec<f32>,
    sums: Vec<u64>,
    total: u64,
}

impl Law {
    /// Whether every token has an entry; otherwise [`Law::ids`] lists those that have.
    pub fn is_dense(&self) -> bool {
        self.row_len > 0
    }

    /// The weights: of the whole vocabulary, or of the listed tokens. Each is an integer below 2^41.
    pub fn weights(&self) -> &[f32] {
        if self.is_dense() { &self.row[..self.row_len] } else { &self.list }
    }

    /// The listed tokens, ascending; empty for a dense law.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The token of an entry of [`Law::weights`].
    pub fn id(&self, entry: usize) -> u32 {
        if self.is_dense() { entry as u32 } else { self.ids[entry] }
    }

    /// The sum of all weights.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The weight of any token, 0 outside of the support.
    pub fn weight(&self, token: i64) -> f32 {
        let Ok(token) = u32::try_from(token) else { return 0.0 };
        if self.is_dense() {
            return self.weights().get(token as usize).copied().unwrap_or(0.0);
        }
        self.ids.binary_search(&token).map_or(0.0, |entry| self.list[entry])
    }

    /// The probability of any token.
    pub fn probability(&self, token: i64) -> f64 {
        f64::from(self.weight(token)) / self.total as f64
    }

    /// The entropy in nats, within about 1e-6.
    pub fn entropy(&self, isa: Isa) -> f64 {
        let surprise = passes::surprise(isa, self.weights()) as f64 / self.total as f64;
        surprise + f64::from(math::log_scalar((self.total as f64 / f64::from(UNIT)) as f32))
    }

    /// The token at which the running total first exceeds `target`, which is below [`Law::total`].
    pub fn pick(&self, target: u64) -> u32 {
        let weights = self.weights();
        self.id(passes::locate(&self.sums, target, |entry| weights[entry] as u64))
    }

    /// The weights of `self` for the entries of `other`; `buffer` holds them if they must be copied.
    pub fn aligned_to<'a>(&'a self, other: &Self, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        if other.is_dense() && self.is_dense() {
            return self.weights();
        }
        buffer.clear();
        if other.is_dense() {
            buffer.resize(other.row_len, 0.0);
            for (&id, &weight) in self.ids.iter().zip(&self.list) {
                if let Some(entry) = buffer.get_mut(id as usize) {
                    *entry = weight;
                }
            }
        } else if self.is_dense() {
            let weights = self.weights();
            buffer.extend(other.ids.iter().map(|&id| weights.get(id as usize).copied().unwrap_or(0.0)));
        } else {
            let mut entries = self.ids.iter().zip(&self.list).peekable();
            buffer.extend(other.ids.iter().map(|id| {
                while entries.next_if(|(mine, _)| *mine < id).is_some() {}
                entries.next_if(|(mine, _)| *mine == id).map_or(0.0, |(_, weight)| *weight)
            }));
        }
        buffer
    }

    /// The law that is sure of one token.
    pub(super) fn set_point(&mut self, token: u32) {
        self.clear();
        self.ids.push(token);
        self.list.push(UNIT);
        self.total = UNIT as u64;
        self.sums.clear();
        self.sums.push(self.total);
    }

    /// Starts an empty list.
    pub(super) fn clear(&mut self) {
        self.row_len = 0;
        self.ids.clear();
        self.logits.clear();
        self.list.clear();
    }

    /// Lists a token. Tokens come in ascending order.
    pub(super) fn push(&mut self, token: usize, logit: f32) {
        self.ids.push(token as u32);
        self.logits.push(logit);
    }

    /// Weighs the listed tokens.
    pub(super) fn weigh_candidates(&mut self, isa: Isa, max: f32, scale: f32) {
        self.list.resize(self.logits.len(), 0.0);
        self.total = passes::weights(isa, &self.logits, &[], max, scale, &mut self.list, &mut self.sums);
    }

    /// Weighs the whole vocabulary.
    pub(super) fn weigh_row<E: Element>(
        &mut self,
        isa: Isa,
        row: &[E],
        maxima: &[f32],
        max: f32,
        scale: f32,
    ) {
        self.clear();
        if self.row.len() < row.len() {
            self.row.resize(row.len(), 0.0);
        }
        self.row_len = row.len();
        let out = &mut self.row[..row.len()];
        self.total = passes::weights(isa, row, maxima, max, scale, out, &mut self.sums);
    }

    /// Lists the tokens that can belong to the nucleus of mass `limit`: a token of weight w has at
    /// least `total - vocabulary * w` before it.
    pub(super) fn narrow(&mut self, isa: Isa, limit: u64, maxima: &[f32], max: f32, scale: f32) {
        let lowest = (self.total - limit.min(self.total)) / self.row_len as u64;
        let lowest = (lowest as f32).max(1.0) * (1.0 - 1e-6);
        let row = &self.row[..self.row_len];
        for (index, (block, block_max)) in row.chunks(BLOCK).zip(maxima).enumerate() {
            let bound = math::exp_scalar((block_max - max) * scale) * UNIT;
            if bound * (1.0 + 1e-6) < lowest {
                continue;
            }
            let (ids, list) = (&mut self.ids, &mut self.list);
            crate::simd::row::for_each_above(isa, block, lowest, |i, weight| {
                ids.push((index * BLOCK + i) as u32);
                list.push(weight);
            });
        }
        self.row_len = 0;
    }

    /// Keeps the likeliest listed tokens before which the mass is below `limit`; of equal weights
    /// those of lowest id.
    pub(super) fn keep_mass(&mut self, limit: u64, histogram: &mut Histogram) {
        let (threshold, mut equals) = histogram.cut(&self.list, limit);
        self.retain(|weight| {
            let ties = weight == threshold && equals > 0;
            equals -= u64::from(ties);
            weight > threshold || ties
        });
    }

    /// Keeps listed tokens whose weight is at least `lowest`.
    pub(super) fn keep_from(&mut self, lowest: f64) {
        self.retain(|weight| f64::from(weight) >= lowest);
    }

    fn retain(&mut self, mut keep: impl FnMut(f32) -> bool) {
        let mut kept = 0;
        for entry in 0..self.list.len() {
            if keep(self.list[entry]) {
                self.list[kept] = self.list[entry];
                self.ids[kept] = self.ids[entry];
                kept += 1;
            }
        }
        self.list.truncate(kept);
        self.ids.truncate(kept);
    }

    /// Sums a list after cuts.
    pub(super) fn finish(&mut self, isa: Isa) {
        if !self.is_dense() {
            self.total = passes::sums(isa, &self.list, &mut self.sums);
        }
    }
}
