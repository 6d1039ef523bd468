//! Many query rows: keys and values are widened once, in pieces that stay in the first-level cache,
//! and register-blocked products go over them.
//!
//! For scores the lanes of a vector are sixteen queries, for values sixteen dimensions. Then both
//! products have the form "broadcast a number of each row, multiply-add a vector", keys need no
//! turning, and the softmax has no sums over lanes.

use super::Problem;
use super::partial::Partial;
use super::task::{self, KeyBlock, Scratch, TILE_KEYS};
use crate::format::Element;
use crate::simd::math::exp_nonpositive;
use crate::simd::product::broadcast;
use crate::simd::{Lanes, WIDTH};

/// Keys that are widened together: with their tile, sixteen queries fit the first-level cache.
const CHUNK: usize = 16;

/// Puts sixteen queries side by side; zeros behind the last one.
#[inline(always)]
pub(super) fn turn_queries<L: Lanes>(l: L, dim: usize, scratch: &mut Scratch) {
    let width = dim.div_ceil(WIDTH);
    let count = scratch.queries.len() / width;
    scratch.turned.resize(count.div_ceil(WIDTH) * width * WIDTH, [0.0; WIDTH]);
    let zeros = [0.0; WIDTH];
    for (block, to) in scratch.turned.chunks_exact_mut(width * WIDTH).enumerate() {
        for (d, to) in to.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
            let rows = std::array::from_fn(|i| {
                let query = block * WIDTH + i;
                if query < count { &scratch.queries[query * width + d] } else { &zeros }
            });
            l.transpose(&rows, to);
        }
    }
}

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
    let dim = problem.layout.head_dim;
    let width = dim.div_ceil(WIDTH);
    let blocks = block.queries.start / WIDTH..block.queries.end.div_ceil(WIDTH);
    scratch.keys.resize(width * CHUNK, [0.0; WIDTH]);
    for first in (0..block.count).step_by(CHUNK) {
        let count = CHUNK.min(block.count - first);
        for (i, to) in scratch.keys.chunks_exact_mut(width).take(count).enumerate() {
            if first + i < next.count {
                task::prefetch(l, next.keys[first + i]);
            }
            widen_row(l, block.keys[first + i], to);
        }
        let keys = scratch.keys.as_flattened();
        for lanes in blocks.clone() {
            let panel = &scratch.turned[lanes * width * WIDTH..][..dim];
            let to = &mut scratch.scores[lanes * TILE_KEYS + first..][..count];
            broadcast::<1, false, L>(l, count, keys, width * WIDTH, dim, panel, to, 1);
        }
    }
    mask(l, problem, first_row, block, &mut scratch.scores);
    for lanes in blocks.clone() {
        absorb_lanes(l, lanes, width, &mut scratch.scores[lanes * TILE_KEYS..][..block.count], partial);
    }
    scratch.values.resize(TILE_KEYS, [0.0; WIDTH]);
    let mut ahead = next.values[..next.count].iter();
    for d in 0..width {
        for value in ahead.by_ref().take(TILE_KEYS.div_ceil(width)) {
            task::prefetch(l, value);
        }
        for (to, value) in scratch.values.iter_mut().zip(&block.values[..block.count]) {
            let value = match value[d * WIDTH..].first_chunk::<WIDTH>() {
                Some(value) => l.load(value),
                None => l.load_partial(&value[d * WIDTH..], 0.0),
            };
            l.store(value, to);
        }
        let panel = &scratch.values[..block.count];
        for lanes in blocks.clone() {
            let queries = block.queries.start.max(lanes * WIDTH)..block.queries.end.min((lanes + 1) * WIDTH);
            let weights = &scratch.scores[lanes * TILE_KEYS..].as_flattened()[queries.start % WIDTH..];
            let to = &mut partial.values[queries.start * width + d..];
            broadcast::<WIDTH, true, L>(l, queries.len(), weights, 1, block.count, panel, to, width);
        }
    }
}

#[inline(always)]
fn widen_row<E: Element, L: Lanes>(l: L, from: &[E], to: &mut [[f32; WIDTH]]) {
    let (blocks, rest) = from.as_chunks::<WIDTH>();
    for (to, block) in to.iter_mut().zip(blocks) {
        l.store(l.load(block), to);
    }
    if !rest.is_empty() {
        l.store(l.load_partial(rest, 0.0), &mut to[blocks.len()]);
    }
}

/// Caps scores, and sets those to -inf that their rows do not see, and those of queries outside of the block.
#[inline(always)]
fn mask<E: Element, L: Lanes>(
    l: L,
    problem: &Problem<'_>,
    first_row: usize,
    block: &KeyBlock<'_, E>,
    scores: &mut [[f32; WIDTH]],
) {
    for scores in
        scores.chunks_mut(TILE_KEYS).take(block.queries.end.div_ceil(WIDTH)).skip(block.queries.start / WIDTH)
    {
        task::cap(l, problem, &mut scores[..block.count]);
    }
    let group = problem.group();
    let mut hide = |query: usize, bits: u64| {
        let scores = &mut scores[query / WIDTH * TILE_KEYS..][..block.count];
        for (i, score) in scores.iter_mut().enumerate() {
            if bits >> i & 1 == 0 {
                score[query % WIDTH] = f32::NEG_INFINITY;
            }
        }
    };
    let outside = block.queries.start / WIDTH * WIDTH..block.queries.start;
    let behind = block.queries.end..block.queries.end.next_multiple_of(WIDTH);
    outside.chain(behind).for_each(|query| hide(query, 0));
    if block.own.is_none() && problem.params.window.is_none() {
        return;
    }
    let all = task::all(block);
    for row in block.queries.start / group..block.queries.end / group {
        let bits = task::visible(problem, block, first_row + row);
        if bits != all {
            (row * group..(row + 1) * group).for_each(|query| hide(query, bits));
        }
    }
}

/// Turns the scores of sixteen queries into weights relative to the new maxima, and rescales what
/// was there; as [`absorb`](super::partial::absorb).
#[inline(always)]
fn absorb_lanes<L: Lanes>(
    l: L,
    lanes: usize,
    width: usize,
    scores: &mut [[f32; WIDTH]],
    partial: &mut Partial,
) {
    let Some((max, _)) = partial.max[lanes * WIDTH..].split_first_chunk_mut::<WIDTH>() else { return };
    let Some((sum, _)) = partial.sum[lanes * WIDTH..].split_first_chunk_mut::<WIDTH>() else { return };
    let old = l.load(max);
    let new = scores.iter().fold(old, |new, s| l.max(l.load(s), new));
    // Where nothing is visible yet any finite shift gives weight 0.
    let shift = l.select(l.eq(new, l.splat(f32::NEG_INFINITY)), l.splat(0.0), new);
    let mut total = l.splat(0.0);
    for s in scores {
        let weight = exp_nonpositive(l, l.sub(l.load(s), shift));
        total = l.add(total, weight);
        l.store(weight, s);
    }
    let factor = exp_nonpositive(l, l.sub(old, shift));
    let first = l.eq(old, l.splat(f32::NEG_INFINITY));
    let changed = l.mask_bits(l.lt(old, new)) & !l.mask_bits(first);
    l.store(l.fma(l.load(sum), factor, total), sum);
    l.store(new, max);
    if changed != 0 {
        let mut factors = [0.0; WIDTH];
        l.store(factor, &mut factors);
        let values = partial.values[lanes * WIDTH * width..].chunks_exact_mut(width);
        for (i, values) in values.take(WIDTH).enumerate().filter(|(i, _)| changed >> i & 1 != 0) {
            let factor = l.splat(factors[i]);
            for v in values {
                l.store(l.mul(l.load(v), factor), v);
            }
        }
    }
}
