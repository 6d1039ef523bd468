//! Few query rows: keys and values go from their pages to registers once.
//!
//! A step of one row is bound by memory, so each key is read when its scores are made, each value
//! when it is weighed, and the next block's are prefetched meanwhile.

use super::block::{self, KeyBlock, KeySet, Scratch, Shown, TILE_KEYS};
use super::hidden::{not_finite, weigh_apart};
use super::partial::{Partial, absorb};
use super::problem::Problem;
use crate::format::Element;
use crate::simd::ahead::MemoryRange;
use crate::simd::product::{dots, weigh};
use crate::simd::{Lanes, WIDTH};

/// Vectors of one query's scores.
const PANELS: usize = TILE_KEYS / WIDTH;

/// Adds a block of keys to the partial result of its queries.
#[inline(always)]
pub(super) fn attend<E: Element, L: Lanes>(
    l: L,
    problem: &Problem<'_>,
    first_row: usize,
    block: &KeyBlock<'_, E>,
    next: &KeyBlock<'_, E>,
    scratch: &mut Scratch,
    partial: &mut Partial,
) {
    let width = problem.layout.head_dim.div_ceil(WIDTH);
    let (queries, scores) = (&*scratch.queries, &mut *scratch.scores);
    let mut ahead = next.keys[..next.shown.count].iter();
    let mut query = block.shown.queries.start;
    while query < block.shown.queries.end {
        let q = &queries[query * width..];
        let to = &mut scores[query * PANELS..];
        match block.shown.queries.end - query {
            1 => score::<1, 4, E, L>(l, width, q, block, &mut ahead, to),
            2 => score::<2, 2, E, L>(l, width, q, block, &mut ahead, to),
            3 => score::<3, 1, E, L>(l, width, q, block, &mut ahead, to),
            _ => score::<4, 1, E, L>(l, width, q, block, &mut ahead, to),
        }
        query += 4;
    }
    let hidden = soften(l, problem, first_row, &block.shown, scores, partial, width);
    let bad = not_finite(l, &block.values, hidden);
    if bad != 0 {
        let weights = scores.as_flattened();
        let weight = |query: usize, key: usize| weights[query * TILE_KEYS + key];
        weigh_apart(l, problem, first_row, &block.shown, &block.values, bad, weight, &mut partial.values);
        return;
    }
    let mut ahead = next.values[..next.shown.count].iter();
    let mut query = block.shown.queries.start;
    while query < block.shown.queries.end {
        let weights = &scores[query * PANELS..];
        let to = &mut partial.values[query * width..];
        match block.shown.queries.end - query {
            1 => add::<1, E, L>(l, width, weights, block, &mut ahead, to),
            2 => add::<2, E, L>(l, width, weights, block, &mut ahead, to),
            3 => add::<3, E, L>(l, width, weights, block, &mut ahead, to),
            _ => add::<4, E, L>(l, width, weights, block, &mut ahead, to),
        }
        query += 4;
    }
}

/// Scores of `Q` queries, `K` keys at a time.
#[inline(always)]
fn score<const Q: usize, const K: usize, E: Element, L: Lanes>(
    l: L,
    width: usize,
    queries: &[[f32; WIDTH]],
    block: &KeyBlock<'_, E>,
    ahead: &mut std::slice::Iter<'_, &[E]>,
    scores: &mut [[f32; WIDTH]],
) {
    let queries: [&[[f32; WIDTH]]; Q] = std::array::from_fn(|q| &queries[q * width..][..width]);
    let scores = &mut scores.as_flattened_mut()[..Q * TILE_KEYS];
    for first in (0..block.shown.count).step_by(K) {
        for key in ahead.by_ref().take(K) {
            MemoryRange::of(key).prefetch(l);
        }
        // The last keys again where the count is no multiple.
        let index: [usize; K] = std::array::from_fn(|k| (first + k).min(block.shown.count - 1));
        let sums = dots(l, queries, index.map(|i| block.keys[i]));
        for k in 0..K {
            for q in 0..Q {
                scores[q * TILE_KEYS + index[k]] = sums[k * Q + q];
            }
        }
    }
}

/// Caps, masks and exponentiates the scores, row by row. Returns the keys that some row does not see.
#[inline(always)]
pub(super) fn soften<L: Lanes>(
    l: L,
    problem: &Problem<'_>,
    first_row: usize,
    shown: &Shown,
    scores: &mut [[f32; WIDTH]],
    partial: &mut Partial,
    width: usize,
) -> KeySet {
    let group = problem.group();
    let panels = shown.count.div_ceil(WIDTH);
    let by_member = shown.masked.count > 0;
    let masked = by_member || shown.own.is_some() || problem.params.window.is_some();
    let all = block::all(shown);
    let mut bits = all;
    let mut seen = all;
    for query in shown.queries.clone() {
        if masked && (by_member || query % group == 0 || query == shown.queries.start) {
            bits = block::visible(problem, shown, first_row, query);
            seen &= bits;
        }
        let scores = &mut scores[query * PANELS..][..panels];
        block::cap(l, problem, scores);
        let flat = scores.as_flattened_mut();
        // Lanes past the last key, and keys that the row does not see.
        flat[shown.count..].fill(f32::NEG_INFINITY);
        if bits != all {
            for (i, s) in flat[..shown.count].iter_mut().enumerate() {
                if bits >> i & 1 == 0 {
                    *s = f32::NEG_INFINITY;
                }
            }
        }
        let values = &mut partial.values[query * width..(query + 1) * width];
        absorb(l, scores, &mut partial.max[query], &mut partial.sum[query], values);
    }
    all & !seen
}

/// Adds the weighted values to `Q` queries, sixteen dimensions at a time.
#[inline(always)]
fn add<const Q: usize, E: Element, L: Lanes>(
    l: L,
    width: usize,
    weights: &[[f32; WIDTH]],
    block: &KeyBlock<'_, E>,
    ahead: &mut std::slice::Iter<'_, &[E]>,
    to: &mut [[f32; WIDTH]],
) {
    let weights = weights.as_flattened();
    let weights: [&[f32]; Q] = std::array::from_fn(|q| &weights[q * TILE_KEYS..][..block.shown.count]);
    let values = &block.values[..block.shown.count];
    let each = TILE_KEYS.div_ceil(width);
    for d in 0..width {
        for value in ahead.by_ref().take(each) {
            MemoryRange::of(value).prefetch(l);
        }
        let mut sums = [l.splat(0.0); Q];
        for q in 0..Q {
            sums[q] = l.load(&to[q * width + d]);
        }
        let sums = weigh(l, weights, values, d * WIDTH, sums);
        for q in 0..Q {
            l.store(sums[q], &mut to[q * width + d]);
        }
    }
}
