//! Many query rows: a block of keys and values is widened once, into tiles that stay in the
//! second-level cache, and register-blocked products go over them.
//!
//! Keys are turned, so that the lanes of a vector are sixteen keys: a score needs no sum over
//! lanes. Both products then have the form "broadcast a number of each row, multiply-add a vector".

use super::partial::Partial;
use super::task::{KeyBlock, Scratch, TILE_KEYS};
use crate::format::Element;
use crate::simd::{Lanes, WIDTH};

/// Scores of the block's queries against its keys; fills the tiles of both keys and values.
#[inline(always)]
pub(super) fn scores<E: Element, L: Lanes>(
    l: L,
    dim: usize,
    block: &KeyBlock<'_, E>,
    next: &KeyBlock<'_, E>,
    scratch: &mut Scratch,
) {
    turn_keys(l, dim, block, next, scratch);
    widen_values(l, dim, block, next, scratch);
    let width = dim.div_ceil(WIDTH);
    let Scratch { queries, keys, scores, .. } = scratch;
    for (panel, keys) in keys.chunks_exact(dim).take(block.count.div_ceil(WIDTH)).enumerate() {
        let mut query = block.queries.start;
        while query < block.queries.end {
            let left = block.queries.end - query;
            let q = &queries[query * width..];
            let to = &mut scores[query..];
            query += match left {
                12.. if L::ACCUMULATORS >= 12 => score_rows::<12, L>(l, dim, q, keys, panel, to),
                6.. => score_rows::<6, L>(l, dim, q, keys, panel, to),
                5 => score_rows::<5, L>(l, dim, q, keys, panel, to),
                4 => score_rows::<4, L>(l, dim, q, keys, panel, to),
                3 => score_rows::<3, L>(l, dim, q, keys, panel, to),
                2 => score_rows::<2, L>(l, dim, q, keys, panel, to),
                _ => score_rows::<1, L>(l, dim, q, keys, panel, to),
            };
        }
    }
}

/// `Q` rows against sixteen keys.
#[inline(always)]
fn score_rows<const Q: usize, L: Lanes>(
    l: L,
    dim: usize,
    queries: &[[f32; WIDTH]],
    keys: &[[f32; WIDTH]],
    panel: usize,
    scores: &mut [[[f32; WIDTH]; TILE_KEYS / WIDTH]],
) -> usize {
    let stride = dim.div_ceil(WIDTH) * WIDTH;
    let queries: [&[f32]; Q] = std::array::from_fn(|q| &queries.as_flattened()[q * stride..][..dim]);
    let keys = &keys[..dim];
    let mut sums = [l.splat(0.0); Q];
    for d in 0..dim {
        let key = l.load(&keys[d]);
        for q in 0..Q {
            sums[q] = l.fma(l.splat(queries[q][d]), key, sums[q]);
        }
    }
    for q in 0..Q {
        l.store(sums[q], &mut scores[q][panel]);
    }
    Q
}

/// Panels of sixteen keys, dimension by dimension; zeros where keys are missing.
#[inline(always)]
fn turn_keys<E: Element, L: Lanes>(
    l: L,
    dim: usize,
    block: &KeyBlock<'_, E>,
    next: &KeyBlock<'_, E>,
    scratch: &mut Scratch,
) {
    let zeros = [E::default(); WIDTH];
    scratch.keys.resize(TILE_KEYS * dim / WIDTH, [0.0; WIDTH]);
    for key in &next.keys[..next.count] {
        for line in key.chunks(64 / size_of::<E>()) {
            l.prefetch(line.as_ptr());
        }
    }
    for (panel, to) in scratch.keys.chunks_exact_mut(dim).take(block.count.div_ceil(WIDTH)).enumerate() {
        let keys = &block.keys[panel * WIDTH..block.count.min((panel + 1) * WIDTH)];
        let (squares, rest) = to.as_chunks_mut::<WIDTH>();
        for (d, to) in squares.iter_mut().enumerate() {
            let rows = std::array::from_fn(|i| {
                keys.get(i).and_then(|key| key[d * WIDTH..].first_chunk::<WIDTH>()).unwrap_or(&zeros)
            });
            l.transpose(&rows, to);
        }
        // Half a square where the head dimension is an odd multiple of eight.
        for (d, to) in rest.iter_mut().enumerate() {
            let d = squares.len() * WIDTH + d;
            *to = std::array::from_fn(|i| keys.get(i).map_or(0.0, |key| key[d].to_f32()));
        }
    }
}

/// Panels of sixteen dimensions, key by key.
#[inline(always)]
fn widen_values<E: Element, L: Lanes>(
    l: L,
    dim: usize,
    block: &KeyBlock<'_, E>,
    next: &KeyBlock<'_, E>,
    scratch: &mut Scratch,
) {
    let width = dim.div_ceil(WIDTH);
    scratch.values.resize(width * TILE_KEYS, [0.0; WIDTH]);
    for value in &next.values[..next.count] {
        for line in value.chunks(64 / size_of::<E>()) {
            l.prefetch(line.as_ptr());
        }
    }
    for (i, value) in block.values[..block.count].iter().enumerate() {
        let (blocks, rest) = value.as_chunks::<WIDTH>();
        for (d, block) in blocks.iter().enumerate() {
            l.store(l.load(block), &mut scratch.values[d * TILE_KEYS + i]);
        }
        if !rest.is_empty() {
            l.store(l.load_partial(rest, 0.0), &mut scratch.values[blocks.len() * TILE_KEYS + i]);
        }
    }
}

/// Adds the weighted values of the block to the partial result.
#[inline(always)]
pub(super) fn values<E: Element, L: Lanes>(
    l: L,
    dim: usize,
    block: &KeyBlock<'_, E>,
    scratch: &Scratch,
    partial: &mut Partial,
) {
    let width = dim.div_ceil(WIDTH);
    for d in 0..width {
        let panel = &scratch.values[d * TILE_KEYS..][..block.count];
        let mut query = block.queries.start;
        while query < block.queries.end {
            let weights = &scratch.scores[query..block.queries.end];
            let to = &mut partial.values[query * width + d..];
            query += match weights.len() {
                12.. if L::ACCUMULATORS >= 12 => weigh_rows::<12, L>(l, weights, panel, to, width),
                6.. => weigh_rows::<6, L>(l, weights, panel, to, width),
                5 => weigh_rows::<5, L>(l, weights, panel, to, width),
                4 => weigh_rows::<4, L>(l, weights, panel, to, width),
                3 => weigh_rows::<3, L>(l, weights, panel, to, width),
                2 => weigh_rows::<2, L>(l, weights, panel, to, width),
                _ => weigh_rows::<1, L>(l, weights, panel, to, width),
            };
        }
    }
}

/// Sixteen dimensions of `Q` rows.
#[inline(always)]
fn weigh_rows<const Q: usize, L: Lanes>(
    l: L,
    weights: &[[[f32; WIDTH]; TILE_KEYS / WIDTH]],
    panel: &[[f32; WIDTH]],
    to: &mut [[f32; WIDTH]],
    width: usize,
) -> usize {
    let weights: [&[f32]; Q] = std::array::from_fn(|q| &weights[q].as_flattened()[..panel.len()]);
    let mut sums: [L::Vector; Q] = std::array::from_fn(|q| l.load(&to[q * width]));
    for (i, value) in panel.iter().enumerate() {
        let value = l.load(value);
        for q in 0..Q {
            sums[q] = l.fma(l.splat(weights[q][i]), value, sums[q]);
        }
    }
    for q in 0..Q {
        l.store(sums[q], &mut to[q * width]);
    }
    Q
}
