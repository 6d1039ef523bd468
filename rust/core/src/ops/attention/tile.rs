//! Many query rows: keys and values are widened once, in pieces that stay in the first-level cache,
//! and register-blocked products go over them.
//!
//! For scores the lanes of a vector are sixteen queries, for values sixteen dimensions. Then both
//! products have the form "broadcast a number of each row, multiply-add a vector", keys need no
//! turning, and the softmax has no sums over lanes.

use super::block::{self, KeyBlock, KeySet, Scratch, Shown, TILE_KEYS};
use super::hidden::{not_finite, weigh_apart};
use super::invariant;
use super::partial::{Partial, rescale};
use super::problem::Problem;
use crate::format::Element;
use crate::simd::ahead::Ahead;
use crate::simd::math::exp2_nonpositive;
use crate::simd::product::{Product, RowLayout, groups};
use crate::simd::{Lanes, WIDTH};

/// Keys that are widened together: a multiple of the rows of one group of a product.
const CHUNK: usize = 48;
/// Vectors of queries, and of a value, that meet in one product.
const PANELS: usize = 2;

/// Puts sixteen queries side by side; zeros behind the last one.
#[inline(always)]
pub(super) fn turn_queries<L: Lanes>(l: L, dim: usize, scratch: &mut Scratch) {
    let width = dim.div_ceil(WIDTH);
    let count = scratch.queries.len() / width;
    scratch.turned.resize(count.div_ceil(WIDTH) * width * WIDTH);
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

/// Adds a block of keys to the partial result of its queries. What is needed next is on its way
/// meanwhile: values while the scores are made, the next block's keys while values are weighed.
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
    score(l, problem.layout.head_dim, block, scratch);
    let hidden = mask(l, problem, first_row, &block.shown, &mut scratch.scores);
    let width = problem.layout.head_dim.div_ceil(WIDTH);
    let (begin, end) = blocks(&block.shown);
    for lanes in begin..end {
        let scores = &mut scratch.scores[lanes * TILE_KEYS..][..block.shown.count];
        match problem.params.batch_invariant {
            true => invariant::absorb_lanes(l, lanes, width, scores, partial),
            false => absorb_lanes(l, lanes, width, scores, partial),
        }
    }
    let bad = not_finite(l, &block.values, hidden);
    if bad != 0 {
        let weights = &scratch.scores;
        let weight = |query: usize, key: usize| weights[query / WIDTH * TILE_KEYS + key][query % WIDTH];
        weigh_apart(l, problem, first_row, &block.shown, &block.values, bad, weight, &mut partial.values);
        return;
    }
    add(l, problem.layout.head_dim, block, next, scratch, partial);
}

/// The first of the sixteens of queries that meet a block, and one past the last.
fn blocks(shown: &Shown) -> (usize, usize) {
    (shown.queries.start / WIDTH, shown.queries.end.div_ceil(WIDTH))
}

/// Scores of all queries that meet the block.
#[inline(always)]
pub(super) fn score<E: Element, L: Lanes>(l: L, dim: usize, block: &KeyBlock<'_, E>, scratch: &mut Scratch) {
    let width = dim.div_ceil(WIDTH);
    scratch.keys.resize(width * CHUNK);
    let (begin, end) = blocks(&block.shown);
    for first in (0..block.shown.count).step_by(CHUNK) {
        let count = CHUNK.min(block.shown.count - first);
        for (i, to) in scratch.keys.chunks_exact_mut(width).take(count).enumerate() {
            if first + CHUNK + i < block.shown.count {
                block::prefetch_near(l, block.keys[first + CHUNK + i], 0);
            }
            widen_row(l, block.keys[first + i], to);
        }
        let keys = scratch.keys.as_flattened();
        let (turned, scores) = (&*scratch.turned, &mut *scratch.scores);
        let panel = |lanes: usize| &turned[lanes * width * WIDTH..][..dim];
        let mut values = &block.values[first..first + count];
        for lanes in (begin..end).step_by(PANELS) {
            let last = (lanes + PANELS).min(end) - 1;
            let product = Product {
                a: keys,
                rows: RowLayout::apart(width * WIDTH),
                n: dim,
                panels: &[panel(lanes), panel(last)][..=last - lanes],
                to: &mut scores[lanes * TILE_KEYS + first..],
                to_row: 1,
                to_panel: TILE_KEYS,
            };
            let ahead = &mut Ahead::new(values, groups::<L>(last - lanes + 1, count));
            product.broadcast::<1, false, E, L>(l, count, ahead);
            values = &[];
        }
    }
}

/// Adds the weighted values to all queries, [`PANELS`] vectors at a time.
#[inline(always)]
pub(super) fn add<E: Element, L: Lanes>(
    l: L,
    dim: usize,
    block: &KeyBlock<'_, E>,
    next: &KeyBlock<'_, E>,
    scratch: &mut Scratch,
    partial: &mut Partial,
) {
    let width = dim.div_ceil(WIDTH);
    scratch.values.resize(PANELS * TILE_KEYS);
    let (widened, scores) = (&mut *scratch.values, &*scratch.scores);
    let (count, queries) = (block.shown.count, block.shown.queries.clone());
    let weights = &scores[queries.start / WIDTH * TILE_KEYS..];
    let rows = RowLayout { first: queries.start % WIDTH, stride: 1, block_stride: TILE_KEYS * WIDTH };
    let some = queries.len().min(PANELS * WIDTH);
    let ahead = &mut Ahead::new(&next.keys[..next.shown.count], width / PANELS * groups::<L>(PANELS, some));
    for first in (0..width).step_by(PANELS) {
        let vectors = PANELS.min(width - first);
        if dim >= (first + PANELS) * WIDTH {
            widen_vectors(l, &block.values[..count], first * WIDTH, widened);
        } else {
            for (i, value) in block.values[..count].iter().enumerate() {
                widen_some(l, &value[first * WIDTH..], vectors, &mut widened[i..]);
            }
        }
        let (left, right) = widened.split_at(TILE_KEYS);
        let product = Product {
            a: weights.as_flattened(),
            rows,
            n: count,
            panels: &[&left[..count], &right[..count]][..vectors],
            to: &mut partial.values[queries.start * width + first..],
            to_row: width,
            to_panel: 1,
        };
        product.broadcast::<WIDTH, true, E, L>(l, queries.len(), ahead);
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

/// Widens [`PANELS`] vectors at `at` of each value, to vectors that are `TILE_KEYS` apart, and asks
/// for those behind them.
#[inline(always)]
fn widen_vectors<E: Element, L: Lanes>(l: L, values: &[&[E]], at: usize, to: &mut [[f32; WIDTH]]) {
    let to = &mut to.as_chunks_mut::<TILE_KEYS>().0[..PANELS];
    assert!(values.len() <= TILE_KEYS);
    for (i, value) in values.iter().enumerate() {
        let vectors = &value[at..at + PANELS * WIDTH];
        block::prefetch_near(l, vectors, PANELS * WIDTH);
        for (from, to) in vectors.as_chunks::<WIDTH>().0.iter().zip(&mut *to) {
            l.store(l.load(from), &mut to[i]);
        }
    }
}

/// Widens `vectors` vectors of the end of a value, to vectors that are `TILE_KEYS` apart.
#[inline(always)]
fn widen_some<E: Element, L: Lanes>(l: L, from: &[E], vectors: usize, to: &mut [[f32; WIDTH]]) {
    let (whole, rest) = from.as_chunks::<WIDTH>();
    for (from, to) in whole.iter().take(vectors).zip(to.iter_mut().step_by(TILE_KEYS)) {
        l.store(l.load(from), to);
    }
    if whole.len() < vectors {
        l.store(l.load_partial(rest, 0.0), &mut to[whole.len() * TILE_KEYS]);
    }
}

/// Caps scores, and sets those to -inf that their rows do not see, and those of queries outside of the block.
/// Returns the keys that some row of the block does not see.
#[inline(always)]
fn mask<L: Lanes>(
    l: L,
    problem: &Problem<'_>,
    first_row: usize,
    shown: &Shown,
    scores: &mut [[f32; WIDTH]],
) -> KeySet {
    for scores in
        scores.chunks_mut(TILE_KEYS).take(shown.queries.end.div_ceil(WIDTH)).skip(shown.queries.start / WIDTH)
    {
        block::cap(l, problem, &mut scores[..shown.count]);
    }
    let group = problem.group();
    let mut hide = |query: usize, bits: KeySet| {
        let scores = &mut scores[query / WIDTH * TILE_KEYS..][..shown.count];
        for (i, score) in scores.iter_mut().enumerate() {
            if bits >> i & 1 == 0 {
                score[query % WIDTH] = f32::NEG_INFINITY;
            }
        }
    };
    let outside = shown.queries.start / WIDTH * WIDTH..shown.queries.start;
    let behind = shown.queries.end..shown.queries.end.next_multiple_of(WIDTH);
    outside.chain(behind).for_each(|query| hide(query, 0));
    let by_member = shown.masked.count > 0;
    if !by_member && shown.own.is_none() && problem.params.window.is_none() {
        return 0;
    }
    let all = block::all(shown);
    let mut seen = all;
    if by_member && shown.own.is_none() && problem.params.window.is_none() {
        return mask_units(l, problem, first_row, shown, scores);
    }
    if by_member {
        for query in shown.queries.clone() {
            let bits = block::visible(problem, shown, first_row, query);
            seen &= bits;
            if bits != all {
                hide(query, bits);
            }
        }
        return all & !seen;
    }
    for row in shown.queries.start / group..shown.queries.end / group {
        let bits = block::visible(problem, shown, first_row, row * group);
        seen &= bits;
        if bits != all {
            (row * group..(row + 1) * group).for_each(|query| hide(query, bits));
        }
    }
    all & !seen
}

/// As [`mask`], where only whole units are hidden from some queries: sixteen queries at a time.
#[inline(always)]
fn mask_units<L: Lanes>(
    l: L,
    problem: &Problem<'_>,
    first_row: usize,
    shown: &Shown,
    scores: &mut [[f32; WIDTH]],
) -> KeySet {
    let Some(selection) = problem.selection else { return 0 };
    let masked = &shown.masked;
    // The first query of the piece, counted from the first of the read's rows.
    let first = (first_row as isize - masked.first_row as isize) * problem.group() as isize;
    let hidden_score = l.splat(f32::NEG_INFINITY);
    let mut hidden = 0;
    let (begin, end) = blocks(shown);
    for lanes in begin..end {
        let scores = &mut scores[lanes * TILE_KEYS..][..shown.count];
        let here = shown.queries.start.max(lanes * WIDTH)..shown.queries.end.min((lanes + 1) * WIDTH);
        let queries =
            block::first_keys(here.end - lanes * WIDTH) & !block::first_keys(here.start - lanes * WIDTH);
        let mut key = 0;
        for (&end, &mask) in masked.ends.iter().zip(&masked.masks).take(masked.count) {
            let keys = key..usize::from(end);
            key = keys.end;
            let unseen = !selection.sixteen(mask, first + (lanes * WIDTH) as isize) & queries as u16;
            if unseen == 0 {
                continue;
            }
            hidden |= block::first_keys(keys.end) & !block::first_keys(keys.start);
            let is_seen: [f32; WIDTH] = std::array::from_fn(|i| f32::from(1 - (unseen >> i & 1)));
            let is_hidden = l.eq(l.load(&is_seen), l.splat(0.0));
            for score in &mut scores[keys] {
                l.store(l.select(is_hidden, hidden_score, l.load(score)), score);
            }
        }
    }
    hidden
}

/// Turns the scores of sixteen queries into weights relative to the new maxima, and rescales what
/// was there; as [`absorb`](super::partial::absorb).
#[inline(always)]
pub(super) fn absorb_lanes<L: Lanes>(
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
    // In powers of two: one multiply-add a score beside what 2^x takes.
    let log2_e = l.splat(std::f32::consts::LOG2_E);
    let shift = l.mul(shift, l.splat(-std::f32::consts::LOG2_E));
    let mut total = l.splat(0.0);
    let (pairs, rest) = scores.as_chunks_mut::<2>();
    for pair in pairs {
        let weights = [l.fma(l.load(&pair[0]), log2_e, shift), l.fma(l.load(&pair[1]), log2_e, shift)];
        let weights = exp2_nonpositive(l, weights);
        total = l.add(total, l.add(weights[0], weights[1]));
        l.store(weights[0], &mut pair[0]);
        l.store(weights[1], &mut pair[1]);
    }
    for s in rest {
        let [weight] = exp2_nonpositive(l, [l.fma(l.load(s), log2_e, shift)]);
        total = l.add(total, weight);
        l.store(weight, s);
    }
    // From the rounded shift that the earlier weights have.
    let [factor] = exp2_nonpositive(l, [l.sub(shift, l.mul(old, l.splat(-std::f32::consts::LOG2_E)))]);
    let first = l.eq(old, l.splat(f32::NEG_INFINITY));
    let changed = l.mask_bits(l.lt(old, new)) & !l.mask_bits(first);
    l.store(l.fma(l.load(sum), factor, total), sum);
    l.store(new, max);
    let values = &mut partial.values[lanes * WIDTH * width..];
    rescale(l, changed, factor, width, values);
}
