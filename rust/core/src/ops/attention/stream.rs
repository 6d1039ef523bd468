//! Few query rows: keys and values go from their pages to registers once.
//!
//! A step of one row is bound by memory, so each key is read when its scores are made, each value
//! when it is weighed, and the next block's are prefetched meanwhile.

use super::partial::Partial;
use super::task::{KeyBlock, Scratch};
use crate::format::Element;
use crate::simd::{Lanes, WIDTH};

/// Asks for the cache lines of one key or value.
#[inline(always)]
fn prefetch<E: Element, L: Lanes>(l: L, row: &[E]) {
    for line in row.chunks(64 / size_of::<E>()) {
        l.prefetch(line.as_ptr());
    }
}

/// Scores of the block's queries against its keys.
#[inline(always)]
pub(super) fn scores<E: Element, L: Lanes>(
    l: L,
    dim: usize,
    block: &KeyBlock<'_, E>,
    next: &KeyBlock<'_, E>,
    scratch: &mut Scratch,
) {
    for key in &next.keys[..next.count] {
        prefetch(l, key);
    }
    let mut query = block.queries.start;
    while query < block.queries.end {
        match block.queries.end - query {
            1 => scores_of::<1, 4, E, L>(l, dim, block, query, scratch),
            2 => scores_of::<2, 2, E, L>(l, dim, block, query, scratch),
            3 => scores_of::<3, 1, E, L>(l, dim, block, query, scratch),
            _ => scores_of::<4, 1, E, L>(l, dim, block, query, scratch),
        }
        query += 4;
    }
}

/// `Q` query rows against `K` keys at a time; `Q * K` is at most 4.
#[inline(always)]
fn scores_of<const Q: usize, const K: usize, E: Element, L: Lanes>(
    l: L,
    dim: usize,
    block: &KeyBlock<'_, E>,
    query: usize,
    scratch: &mut Scratch,
) {
    let width = dim.div_ceil(WIDTH);
    let queries: [&[[f32; WIDTH]]; Q] =
        std::array::from_fn(|q| &scratch.queries[(query + q) * width..][..width]);
    let scores = &mut scratch.scores[query..query + Q];
    for first in (0..block.count).step_by(K) {
        // The last keys again where the count is no multiple.
        let index: [usize; K] = std::array::from_fn(|k| (first + k).min(block.count - 1));
        let keys = index.map(|i| block.keys[i].as_chunks::<WIDTH>());
        let mut sums = [[l.splat(0.0); Q]; K];
        let whole = dim / WIDTH;
        let blocks: [&[[E; WIDTH]]; K] = keys.map(|(blocks, _)| &blocks[..whole]);
        for d in 0..whole {
            for k in 0..K {
                let key = l.load(&blocks[k][d]);
                for q in 0..Q {
                    sums[k][q] = l.fma(l.load(&queries[q][d]), key, sums[k][q]);
                }
            }
        }
        if whole < width {
            for k in 0..K {
                let key = l.load_partial(keys[k].1, 0.0);
                for q in 0..Q {
                    sums[k][q] = l.fma(l.load(&queries[q][whole]), key, sums[k][q]);
                }
            }
        }
        let sums =
            l.reduce_add4(std::array::from_fn(|i| if i < Q * K { sums[i / Q][i % Q] } else { l.splat(0.0) }));
        for k in 0..K {
            for q in 0..Q {
                scores[q].as_flattened_mut()[index[k]] = sums[k * Q + q];
            }
        }
    }
}

/// Adds the weighted values of the block to the partial result.
#[inline(always)]
pub(super) fn values<E: Element, L: Lanes>(
    l: L,
    dim: usize,
    block: &KeyBlock<'_, E>,
    next: &KeyBlock<'_, E>,
    scratch: &Scratch,
    partial: &mut Partial,
) {
    for value in &next.values[..next.count] {
        prefetch(l, value);
    }
    let mut query = block.queries.start;
    while query < block.queries.end {
        match block.queries.end - query {
            1 => values_of::<1, E, L>(l, dim, block, query, scratch, partial),
            2 => values_of::<2, E, L>(l, dim, block, query, scratch, partial),
            3 => values_of::<3, E, L>(l, dim, block, query, scratch, partial),
            _ => values_of::<4, E, L>(l, dim, block, query, scratch, partial),
        }
        query += 4;
    }
}

#[inline(always)]
fn values_of<const Q: usize, E: Element, L: Lanes>(
    l: L,
    dim: usize,
    block: &KeyBlock<'_, E>,
    query: usize,
    scratch: &Scratch,
    partial: &mut Partial,
) {
    let width = dim.div_ceil(WIDTH);
    let weights: [&[f32]; Q] =
        std::array::from_fn(|q| &scratch.scores[query + q].as_flattened()[..block.count]);
    let values = &block.values[..block.count];
    let to = &mut partial.values[query * width..(query + Q) * width];
    for d in 0..width {
        let mut sums: [L::Vector; Q] = std::array::from_fn(|q| l.load(&to[q * width + d]));
        for (i, value) in values.iter().enumerate() {
            let value = match value[d * WIDTH..].first_chunk::<WIDTH>() {
                Some(value) => l.load(value),
                None => l.load_partial(&value[d * WIDTH..], 0.0),
            };
            for q in 0..Q {
                sums[q] = l.fma(l.splat(weights[q][i]), value, sums[q]);
            }
        }
        for q in 0..Q {
            l.store(sums[q], &mut to[q * width + d]);
        }
    }
}
