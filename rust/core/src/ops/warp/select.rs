//! Thresholds without sorting: top-k by the maxima of blocks, top-p by a histogram of masses.

use super::passes::BLOCK;
use crate::format::Element;
use crate::simd::{Isa, row as simd_row};

/// Calls `visit(id, logit)` for logits of at least `cut`, in order, skipping blocks by their maximum.
pub(super) fn each_from<E: Element>(
    isa: Isa,
    row: &[E],
    maxima: &[f32],
    cut: f32,
    mut visit: impl FnMut(usize, f32),
) {
    let below = cut.next_down();
    for (index, (block, max)) in row.chunks(BLOCK).zip(maxima).enumerate() {
        if *max >= cut {
            simd_row::for_each_above(isa, block, below, |i, x| visit(index * BLOCK + i, x));
        }
    }
}

/// Buffers of top-k.
#[derive(Debug, Default)]
pub(super) struct SelectTopK {
    keys: Vec<f32>,
}

impl SelectTopK {
    /// Visits the `k` greatest logits in order of id; of equal ones those of lowest id. `k` is
    /// below the length of the row.
    ///
    /// The k-th greatest block maximum bounds the k-th greatest logit from below, so only logits
    /// from there up are looked at, about k of them where the greatest are spread over blocks. Returns
    /// the bounds of its two passes.
    pub(super) fn select<E: Element>(
        &mut self,
        isa: Isa,
        row: &[E],
        maxima: &[f32],
        k: usize,
        mut visit: impl FnMut(usize, f32),
    ) -> [f32; 2] {
        let bound = if k <= maxima.len() {
            self.keys.clear();
            self.keys.extend_from_slice(maxima);
            *self.keys.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
        } else {
            f32::NEG_INFINITY
        };
        self.keys.clear();
        each_from(isa, row, maxima, bound, |_, x| self.keys.push(x + 0.0));
        let (mut threshold, mut equals) = (bound, usize::MAX);
        if self.keys.len() > k {
            threshold = *self.keys.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1;
            equals = k - self.keys[..k].iter().filter(|x| **x > threshold).count();
        }
        each_from(isa, row, maxima, threshold, |id, x| {
            if x > threshold {
                visit(id, x);
            } else if equals > 0 {
                equals -= 1;
                visit(id, x);
            }
        });
        [bound, threshold]
    }
}

/// Bits of a weight that the three levels of the histogram look at: a positive f32 has 31.
const LEVELS: [(u32, usize); 3] = [(20, 2048), (10, 1024), (0, 1024)];

/// Buffers of top-p.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    masses: Vec<u64>,
}

impl Histogram {
    /// The least weight t such that the mass of greater weights is below `limit`, and how many
    /// tokens of weight t have less than `limit` before them.
    pub(super) fn cut(&mut self, weights: &[f32], limit: u64) -> (f32, u64) {
        let (mut prefix, mut above) = (0u32, 0u64);
        for (level, &(shift, size)) in LEVELS.iter().enumerate() {
            let known = LEVELS.get(level.wrapping_sub(1)).map_or(31, |(shift, _)| *shift);
            self.masses.clear();
            self.masses.resize(size, 0);
            for &weight in weights {
                let bits = weight.to_bits();
                if bits >> known == prefix {
                    self.masses[(bits >> shift) as usize & (size - 1)] += weight as u64;
                }
            }
            let mut bin = size - 1;
            while bin > 0 && above + self.masses[bin] < limit {
                above += self.masses[bin];
                bin -= 1;
            }
            prefix = prefix << (known - shift) | bin as u32;
        }
        let weight = prefix as u64;
        let threshold = f32::from_bits(weight as u32);
        if threshold < 1.0 {
            return (0.0, 0);
        }
        (threshold, limit.saturating_sub(above).div_ceil(threshold as u64))
    }
}
