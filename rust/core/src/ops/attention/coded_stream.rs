//! Few query rows over a page in codes: codes go from the page to lanes by a load and a mask.
//!
//! Steps of channels are folded into the queries, and those of tokens into the scores or the weights,
//! so that what is left of an element is its code:
//!
//! - by channel `q . k = sum of (q_d step_d) code_d + q . least`;
//! - by token `q . k = step (q . code) + least (sum of q)`;
//! - values `sum of w_t v_td = factor_d (sum of (w_t step_t) code_td + sum of w_t least_t)`.

use super::block::{Coded, TILE_KEYS};
use super::coded::CodedBlock;
use super::stream;
use crate::format::page::KeyBlocks;
use crate::simd::codes::{Unit, code_dots, unshift, weigh_codes};
use crate::simd::{Lanes, WIDTH};

/// Vectors of one query's scores.
const PANELS: usize = TILE_KEYS / WIDTH;
/// Queries that go over the codes together.
const TOGETHER: usize = 4;
/// The number of each lane.
const LANES: [f32; WIDTH] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];

/// Adds a block of keys to the partial result of its queries. The next block is on its way meanwhile.
#[inline(always)]
pub(super) fn attend<const BITS: usize, L: Lanes>(l: L, block: CodedBlock<'_>) {
    let CodedBlock { problem, first_row, shown, coded, mut ahead, scratch, partial } = block;
    let (width, count) = (problem.layout.head_dim.div_ceil(WIDTH), shown.count);
    let (queries, scores) = (&scratch.queries[..], &mut scratch.scores[..]);
    scratch.folded.resize(TOGETHER * PANELS.max(coded.units() * 8 / BITS));
    let folded = &mut scratch.folded[..];
    let mut query = shown.queries.start;
    while query < shown.queries.end {
        let q = &queries[query * width..];
        let to = &mut scores[query * PANELS..];
        let ahead = ahead.take();
        match shown.queries.end - query {
            1 => score::<BITS, 1, 4, L>(l, width, q, folded, coded, ahead, count, to),
            2 => score::<BITS, 2, 2, L>(l, width, q, folded, coded, ahead, count, to),
            3 => score::<BITS, 3, 1, L>(l, width, q, folded, coded, ahead, count, to),
            _ => score::<BITS, 4, 1, L>(l, width, q, folded, coded, ahead, count, to),
        }
        query += TOGETHER;
    }
    let hidden = stream::soften(l, problem, first_row, shown, scores, partial, width) != 0;
    let mut query = shown.queries.start;
    while query < shown.queries.end {
        let weights = &scores[query * PANELS..];
        let to = &mut partial.values[query * width..];
        match shown.queries.end - query {
            1 => add::<BITS, 1, L>(l, width, weights, folded, coded, count, hidden, to),
            2 => add::<BITS, 2, L>(l, width, weights, folded, coded, count, hidden, to),
            3 => add::<BITS, 3, L>(l, width, weights, folded, coded, count, hidden, to),
            _ => add::<BITS, 4, L>(l, width, weights, folded, coded, count, hidden, to),
        }
        query += TOGETHER;
    }
}

/// Scores of `Q` queries, `K` keys at a time.
#[inline(always)]
fn score<const BITS: usize, const Q: usize, const K: usize, L: Lanes>(
    l: L,
    width: usize,
    queries: &[[f32; WIDTH]],
    folded: &mut [[f32; WIDTH]],
    coded: Coded<'_>,
    ahead: Option<(Coded<'_>, usize)>,
    count: usize,
    scores: &mut [[f32; WIDTH]],
) {
    let (rows, units) = (coded.rows(false), coded.units());
    let mut base = [0.0f32; Q];
    let flat = &mut scores.as_flattened_mut().as_chunks_mut::<TILE_KEYS>().0[..Q];
    let by_token = coded.page.format.keys == KeyBlocks::Token;
    let mut begin = 0;
    while begin < count {
        let end = coded.group_end(begin, count);
        let params = if by_token { None } else { Some(coded.channel_params(coded.first + begin)) };
        fold::<BITS, Q, L>(l, width, queries, coded, params, folded, &mut base);
        let mut rows = rows[begin * units..end * units].chunks_exact(units);
        for first in (begin..end).step_by(4) {
            if let Some((ahead, keys)) = ahead {
                ahead.prefetch(l, first.min(keys)..(first + 4).min(keys));
            }
            for first in (first..end.min(first + 4)).step_by(K) {
                // The last key again where the count is no multiple.
                let mut some: [&[Unit]; K] = [rows.next().unwrap_or_default(); K];
                for k in 1..K {
                    some[k] = rows.next().unwrap_or(some[k - 1]);
                }
                let sums = code_dots::<BITS, Q, K, L>(l, folded, some);
                for k in 0..K {
                    let key = (first + k).min(end - 1);
                    if key < TILE_KEYS {
                        for q in 0..Q {
                            flat[q][key] = sums[k * Q + q];
                        }
                    }
                }
            }
        }
        if !by_token {
            for q in 0..Q {
                for score in &mut flat[q][begin..end] {
                    *score += base[q];
                }
            }
        }
        begin = end;
    }
    if let Some((ahead, keys)) = ahead {
        ahead.prefetch(l, count.min(keys)..keys);
    }
    if by_token {
        for panel in 0..count.div_ceil(WIDTH) {
            let (least, step) = coded.token_params(l, coded.page.key_params, panel * WIDTH);
            for q in 0..Q {
                let score = &mut scores[q * PANELS + panel];
                l.store(l.fma(step, l.load(score), l.mul(least, l.splat(base[q]))), score);
            }
        }
    }
}

/// Queries times the steps of channels whose parameters are at `params`, or as they are, for each unit the
/// vectors that meet its parts, the `Q` queries side by side; and the dot products of the queries
/// with the offsets of channels, or with ones.
#[inline(always)]
fn fold<const BITS: usize, const Q: usize, L: Lanes>(
    l: L,
    width: usize,
    queries: &[[f32; WIDTH]],
    coded: Coded<'_>,
    params: Option<usize>,
    folded: &mut [[f32; WIDTH]],
    base: &mut [f32; Q],
) {
    let padded = coded.page.head_dim.next_multiple_of(WIDTH);
    let mut sums = [l.splat(0.0); Q];
    let folded = folded.as_chunks_mut::<Q>().0;
    for v in 0..width {
        let (mut low, mut size) = (l.splat(1.0), l.splat(unshift(BITS, v % (8 / BITS))));
        if let Some(at) = params {
            low = coded.numbers(l, at + 2 * v * WIDTH);
            size = l.mul(coded.numbers(l, at + 2 * (padded + v * WIDTH)), size);
        }
        let to = &mut folded[v];
        for q in 0..Q {
            let x = l.load(&queries[q * width + v]);
            sums[q] = l.fma(x, low, sums[q]);
            l.store(l.mul(x, size), &mut to[q]);
        }
    }
    // Codes behind the head are zeros; what they meet has to be finite.
    for to in &mut folded[width..coded.units() * 8 / BITS] {
        *to = [[0.0; WIDTH]; Q];
    }
    for q in 0..Q {
        base[q] = l.reduce_add(sums[q]);
    }
}

/// Adds the weighted values to `Q` queries, one or two vectors of a unit at a time: as many as there are
/// registers for their sums.
#[inline(always)]
fn add<const BITS: usize, const Q: usize, L: Lanes>(
    l: L,
    width: usize,
    weights: &[[f32; WIDTH]],
    scaled: &mut [[f32; WIDTH]],
    coded: Coded<'_>,
    count: usize,
    hidden: bool,
    to: &mut [[f32; WIDTH]],
) {
    if BITS < 8 && 2 * Q <= L::ACCUMULATORS {
        add_some::<BITS, Q, 2, L>(l, width, weights, scaled, coded, count, hidden, to);
    } else {
        add_some::<BITS, Q, 1, L>(l, width, weights, scaled, coded, count, hidden, to);
    }
}

/// [`add`], `P` vectors of a unit at a time.
#[inline(always)]
fn add_some<const BITS: usize, const Q: usize, const P: usize, L: Lanes>(
    l: L,
    width: usize,
    weights: &[[f32; WIDTH]],
    scaled: &mut [[f32; WIDTH]],
    coded: Coded<'_>,
    count: usize,
    hidden: bool,
    to: &mut [[f32; WIDTH]],
) {
    let (page, parts) = (coded.page, 8 / BITS);
    let (rows, group_vectors) = (coded.rows(true), page.format.value_channels / WIDTH);
    let mut base = [0.0f32; Q];
    for v in (0..width).step_by(P) {
        // A group has an even number of vectors, so what is added together lies in one.
        if v % group_vectors == 0 {
            let params = page.value_params + 4 * (v / group_vectors) * page.tokens;
            scale::<Q, L>(l, weights, coded, params, count, hidden, scaled, &mut base);
        }
        let mut some: [&[f32]; Q] = [&[]; Q];
        for q in 0..Q {
            some[q] = &scaled[q * PANELS..(q + 1) * PANELS].as_flattened()[..count];
        }
        let sums = weigh_codes::<BITS, Q, P, L>(l, &rows[v / parts..], coded.units(), count, some, v % parts);
        for part in 0..P {
            if v + part < width {
                let mut factor = l.splat(1.0);
                if page.format.value_factors {
                    factor = coded.numbers(l, page.factors + 2 * (v + part) * WIDTH);
                }
                let unshift = l.splat(unshift(BITS, v % parts + part));
                for q in 0..Q {
                    let sum = l.fma(sums[part * Q + q], unshift, l.splat(base[q]));
                    let to = &mut to[q * width + v + part];
                    l.store(l.fma(sum, factor, l.load(to)), to);
                }
            }
        }
    }
}

/// Weights times the steps of tokens whose parameters are at `params`, `PANELS` vectors a query, and the
/// sums of the weights times the offsets. Behind the last key, and where a query does not see a key if any
/// is `hidden`, both are 0, whatever the page holds there.
#[inline(always)]
fn scale<const Q: usize, L: Lanes>(
    l: L,
    weights: &[[f32; WIDTH]],
    coded: Coded<'_>,
    params: usize,
    count: usize,
    hidden: bool,
    scaled: &mut [[f32; WIDTH]],
    base: &mut [f32; Q],
) {
    let mut sums = [l.splat(0.0); Q];
    for panel in 0..count.div_ceil(WIDTH) {
        let (mut least, mut step) = coded.token_params(l, params, panel * WIDTH);
        let (left, zero) = (count - panel * WIDTH, l.splat(0.0));
        if left < WIDTH {
            let is_key = l.lt(l.load(&LANES), l.splat(left as f32));
            (least, step) = (l.select(is_key, least, zero), l.select(is_key, step, zero));
        }
        for q in 0..Q {
            let weight = l.load(&weights[q * PANELS + panel]);
            let (mut least, mut step) = (least, step);
            if hidden {
                let none = l.eq(weight, zero);
                (least, step) = (l.select(none, zero, least), l.select(none, zero, step));
            }
            sums[q] = l.fma(weight, least, sums[q]);
            l.store(l.mul(weight, step), &mut scaled[q * PANELS + panel]);
        }
    }
    for q in 0..Q {
        base[q] = l.reduce_add(sums[q]);
    }
}
