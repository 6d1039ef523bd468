//! Many query rows: a block of keys and values is widened once, into tiles that stay in the
//! second-level cache, and register-blocked products go over them.
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
    widen(l, width, block, next, scratch);
    let blocks = block.queries.start / WIDTH..block.queries.end.div_ceil(WIDTH);
    for lanes in blocks.clone() {
        let panel = &scratch.turned[lanes * width * WIDTH..][..dim];
        let keys = scratch.keys.as_flattened();
        let to = &mut scratch.scores[lanes * TILE_KEYS..][..block.count];
        broadcast::<1, false, L>(l, block.count, keys, width * WIDTH, panel, to, 1);
        task::cap(l, problem, to);
    }
    mask(problem, first_row, block, &mut scratch.scores);
    for lanes in blocks {
        let scores = &mut scratch.scores[lanes * TILE_KEYS..][..block.count];
        absorb_lanes(l, lanes, width, scores, partial);
        let queries = block.queries.start.max(lanes * WIDTH)..block.queries.end.min((lanes + 1) * WIDTH);
        let weights = &scores.as_flattened()[queries.start % WIDTH..];
        for d in 0..width {
            let panel = &scratch.values[d * TILE_KEYS..][..block.count];
            let to = &mut partial.values[queries.start * width + d..];
            broadcast::<WIDTH, true, L>(l, queries.len(), weights, 1, panel, to, width);
        }
    }
}

/// Copies keys and values into tiles, and asks for those of the next block.
#[inline(always)]
fn widen<E: Element, L: Lanes>(
    l: L,
    width: usize,
    block: &KeyBlock<'_, E>,
    next: &KeyBlock<'_, E>,
    scratch: &mut Scratch,
) {
    scratch.keys.resize(width * TILE_KEYS, [0.0; WIDTH]);
    scratch.values.resize(width * TILE_KEYS, [0.0; WIDTH]);
    for i in 0..block.count {
        if i < next.count {
            task::prefetch(l, next.keys[i]);
            task::prefetch(l, next.values[i]);
        }
        let (keys, rest) = block.keys[i].as_chunks::<WIDTH>();
        let to = &mut scratch.keys[i * width..(i + 1) * width];
        for (to, key) in to.iter_mut().zip(keys) {
            l.store(l.load(key), to);
        }
        if !rest.is_empty() {
            l.store(l.load_partial(rest, 0.0), &mut to[width - 1]);
        }
        let (values, rest) = block.values[i].as_chunks::<WIDTH>();
        let to = scratch.values[i..].iter_mut().step_by(TILE_KEYS);
        for (to, value) in to.zip(values) {
            l.store(l.load(value), to);
        }
        if !rest.is_empty() {
            l.store(l.load_partial(rest, 0.0), &mut scratch.values[(width - 1) * TILE_KEYS + i]);
        }
    }
}

/// Sets the scores to -inf that their rows do not see, and those of queries outside of the block.
#[inline(always)]
fn mask<E>(problem: &Problem<'_>, first_row: usize, block: &KeyBlock<'_, E>, scores: &mut [[f32; WIDTH]]) {
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
