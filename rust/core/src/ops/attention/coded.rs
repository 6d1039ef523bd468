//! Pages in codes, read in registers: codes go from the page to lanes by a load and a mask.
//!
//! For few queries nothing is decoded. Steps of channels are folded into the queries, and those of
//! tokens into the scores or the weights, so that what is left of an element is its code:
//!
//! - by channel `q . k = sum of (q_d step_d) code_d + q . least`;
//! - by token `q . k = step (q . code) + least (sum of q)`;
//! - values `sum of w_t v_td = factor_d (sum of (w_t step_t) code_td + sum of w_t least_t)`.
//!
//! For many queries the keys of a tile are decoded where those of a plain page would be widened.

use std::ops::Range;

use half::f16;

use super::partial::Partial;
use super::task::{KeyBlock, Scratch, TILE_KEYS};
use super::{Problem, stream, tile};
use crate::format::page::{CodedPage, KeyBlocks};
use crate::simd::{Kernel, Lanes, WIDTH};

/// Vectors of one query's scores.
const PANELS: usize = TILE_KEYS / WIDTH;
/// Vectors of the widest head.
const WIDEST: usize = 256 / WIDTH;

/// Some keys of one page in codes.
#[derive(Clone, Copy)]
pub(crate) struct Coded<'a> {
    pub(crate) page: &'a CodedPage,
    /// The whole page.
    pub(crate) bytes: &'a [u8],
    /// Slot of the first key.
    pub(crate) first: usize,
}

impl Coded<'_> {
    /// The codes of the keys, or of the values, from the first one on.
    #[inline(always)]
    fn rows(&self, values: bool) -> &[u8] {
        let at = if values { self.page.value_codes } else { 0 };
        &self.bytes[at + self.first * self.page.row_bytes..]
    }

    /// Asks for the cache lines of the codes of some keys.
    #[inline(always)]
    pub(super) fn prefetch<L: Lanes>(&self, l: L, count: usize) {
        for rows in [self.rows(false), self.rows(true)] {
            for at in (0..count * self.page.row_bytes).step_by(64) {
                l.prefetch(&rows[at]);
            }
        }
    }

    /// Offset of a group of keys by channel: its `least`, then its `step`.
    fn channel_params(&self, slot: usize) -> usize {
        let padded = self.page.head_dim.next_multiple_of(WIDTH);
        self.page.key_params + slot / self.page.key_group() * 4 * padded
    }

    /// Where keys share a block by channel: one past the last key, counted from the first.
    fn group_end(&self, key: usize, count: usize) -> usize {
        match self.page.format.keys {
            KeyBlocks::Token => count,
            KeyBlocks::Channel(_) => {
                let group = self.page.key_group();
                count.min(((self.first + key) / group + 1) * group - self.first)
            }
        }
    }
}

/// Sixteen f16 of a page, widened; zeros behind its end.
#[inline(always)]
fn widen<L: Lanes>(l: L, bytes: &[u8], at: usize) -> L::Vector {
    let mut numbers = [f16::ZERO; WIDTH];
    for (number, bytes) in numbers.iter_mut().zip(bytes[at..].as_chunks::<2>().0) {
        *number = f16::from_le_bytes(*bytes);
    }
    l.load(&numbers)
}

/// The codes of vector `part` of a unit, times `2^(part * bits)`.
#[inline(always)]
fn codes<L: Lanes>(l: L, unit: L::Vector, bits: usize, part: usize) -> L::Vector {
    l.bits_to_float(l.bits_and(unit, ((1u32 << bits) - 1) << (part * bits)))
}

/// `2^-(part * bits)`.
#[inline(always)]
fn unshift(bits: usize, part: usize) -> f32 {
    f32::from_bits((127 - (part * bits) as u32) << 23)
}

/// Adds a block of keys of a page in codes to the partial result of its queries: directly where they
/// are `few`. A kernel of its own, so that it is compiled once for all element types.
pub(super) struct Attend<'a> {
    pub(super) problem: &'a Problem<'a>,
    pub(super) first_row: usize,
    pub(super) coded: Coded<'a>,
    pub(super) count: usize,
    pub(super) positions: &'a [i32; TILE_KEYS],
    pub(super) queries: Range<usize>,
    pub(super) few: bool,
    pub(super) scratch: &'a mut Scratch,
    pub(super) partial: &'a mut Partial,
}

impl Kernel for Attend<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        match (self.few, self.coded.page.format.bits) {
            (true, 2) => self.few::<2, L>(l),
            (true, 4) => self.few::<4, L>(l),
            (true, _) => self.few::<8, L>(l),
            (false, _) => self.many(l),
        }
    }
}

impl Attend<'_> {
    fn block<'k>(&self) -> KeyBlock<'k, f32> {
        KeyBlock {
            count: self.count,
            positions: *self.positions,
            queries: self.queries.clone(),
            ..KeyBlock::default()
        }
    }

    #[inline(always)]
    fn few<const BITS: usize, L: Lanes>(self, l: L) {
        let block = self.block();
        let Self { problem, first_row, coded, count, scratch, partial, .. } = self;
        let width = problem.layout.head_dim.div_ceil(WIDTH);
        let (queries, scores) = (&scratch.queries[..], &mut scratch.scores[..]);
        let mut query = block.queries.start;
        while query < block.queries.end {
            let q = &queries[query * width..];
            let to = &mut scores[query * PANELS..];
            match block.queries.end - query {
                1 => score::<BITS, 1, 4, L>(l, width, q, coded, count, to),
                2 => score::<BITS, 2, 2, L>(l, width, q, coded, count, to),
                3 => score::<BITS, 3, 1, L>(l, width, q, coded, count, to),
                _ => score::<BITS, 4, 1, L>(l, width, q, coded, count, to),
            }
            query += 4;
        }
        stream::soften(l, problem, first_row, &block, scores, partial, width);
        let mut query = block.queries.start;
        while query < block.queries.end {
            let weights = &scores[query * PANELS..];
            let to = &mut partial.values[query * width..];
            match block.queries.end - query {
                1 => add::<BITS, 1, L>(l, width, weights, coded, count, to),
                2 => add::<BITS, 2, L>(l, width, weights, coded, count, to),
                3 => add::<BITS, 3, L>(l, width, weights, coded, count, to),
                _ => add::<BITS, 4, L>(l, width, weights, coded, count, to),
            }
            query += 4;
        }
    }

    #[inline(always)]
    fn many<L: Lanes>(self, l: L) {
        let mut plain = self.block();
        let Self { problem, first_row, coded, count, scratch, partial, .. } = self;
        let dim = problem.layout.head_dim;
        let width = dim.div_ceil(WIDTH);
        let mut decoded = std::mem::take(&mut scratch.decoded);
        decoded.resize(2 * TILE_KEYS * width);
        let (keys, values) = decoded.split_at_mut(TILE_KEYS * width);
        decode(l, coded, false, count, keys);
        decode(l, coded, true, count, values);
        for i in 0..count {
            plain.keys[i] = &keys[i * width..(i + 1) * width].as_flattened()[..dim];
            plain.values[i] = &values[i * width..(i + 1) * width].as_flattened()[..dim];
        }
        tile::attend(l, problem, first_row, &plain, &KeyBlock::default(), scratch, partial);
        scratch.decoded = decoded;
    }
}

/// Scores of `Q` queries, `K` keys at a time.
#[inline(always)]
fn score<const BITS: usize, const Q: usize, const K: usize, L: Lanes>(
    l: L,
    width: usize,
    queries: &[[f32; WIDTH]],
    coded: Coded<'_>,
    count: usize,
    scores: &mut [[f32; WIDTH]],
) {
    let (page, by_token) = (coded.page, coded.page.format.keys == KeyBlocks::Token);
    let scores = &mut scores.as_flattened_mut()[..Q * TILE_KEYS];
    let (rows, padded) = (coded.rows(false), page.head_dim.next_multiple_of(WIDTH));
    let mut folded = [[[0.0f32; WIDTH]; WIDEST]; Q];
    let mut base = [0.0f32; Q];
    let (mut least, mut step) = ([0.0f32; TILE_KEYS], [0.0f32; TILE_KEYS]);
    if by_token {
        token_params(l, coded, page.key_params, count, &mut least, &mut step);
    }
    let mut begin = 0;
    while begin < count {
        let end = coded.group_end(begin, count);
        let params = coded.channel_params(coded.first + begin);
        let mut sums = [l.splat(0.0); Q];
        for v in 0..width {
            let (mut low, mut size) = (l.splat(1.0), l.splat(1.0));
            if !by_token {
                low = widen(l, coded.bytes, params + 2 * v * WIDTH);
                size = widen(l, coded.bytes, params + 2 * (padded + v * WIDTH));
            }
            let size = l.mul(size, l.splat(unshift(BITS, v % (8 / BITS))));
            for q in 0..Q {
                let x = l.load(&queries[q * width + v]);
                sums[q] = l.fma(x, low, sums[q]);
                l.store(l.mul(x, size), &mut folded[q][v]);
            }
        }
        for q in 0..Q {
            base[q] = l.reduce_add(sums[q]);
        }
        for first in (begin..end).step_by(K) {
            let mut sums = [l.splat(0.0); 4];
            for k in 0..K {
                // The last key again where the count is no multiple.
                let key = (first + k).min(end - 1);
                let row = &rows[key * page.row_bytes..(key + 1) * page.row_bytes];
                for (u, unit) in row.as_chunks::<WIDTH>().0.iter().enumerate() {
                    let unit = l.load_bytes(unit);
                    for part in 0..8 / BITS {
                        // Padding beyond the head is zero on both sides.
                        let v = (u * (8 / BITS) + part) % WIDEST;
                        let code = codes(l, unit, BITS, part);
                        for q in 0..Q {
                            sums[k * Q + q] = l.fma(l.load(&folded[q][v]), code, sums[k * Q + q]);
                        }
                    }
                }
            }
            let sums = l.reduce_add4(sums);
            for k in 0..K {
                let key = (first + k).min(end - 1);
                for q in 0..Q {
                    scores[q * TILE_KEYS + key] = match by_token {
                        true => step[key].mul_add(sums[k * Q + q], least[key] * base[q]),
                        false => sums[k * Q + q] + base[q],
                    };
                }
            }
        }
        begin = end;
    }
}

/// Offsets and steps of the tokens of a block, `at` where those of the page begin; zeros behind.
#[inline(always)]
fn token_params<L: Lanes>(
    l: L,
    coded: Coded<'_>,
    at: usize,
    count: usize,
    least: &mut [f32; TILE_KEYS],
    step: &mut [f32; TILE_KEYS],
) {
    for (panel, to) in least.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate().take(count.div_ceil(WIDTH)) {
        l.store(widen(l, coded.bytes, at + 2 * (coded.first + panel * WIDTH)), to);
    }
    let at = at + 2 * coded.page.tokens;
    for (panel, to) in step.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate().take(count.div_ceil(WIDTH)) {
        l.store(widen(l, coded.bytes, at + 2 * (coded.first + panel * WIDTH)), to);
    }
    least[count..].fill(0.0);
    step[count..].fill(0.0);
}

/// Adds the weighted values to `Q` queries, a unit of channels at a time.
#[inline(always)]
fn add<const BITS: usize, const Q: usize, L: Lanes>(
    l: L,
    width: usize,
    weights: &[[f32; WIDTH]],
    coded: Coded<'_>,
    count: usize,
    to: &mut [[f32; WIDTH]],
) {
    let page = coded.page;
    let parts = 8 / BITS;
    let (rows, group_vectors) = (coded.rows(true), page.format.value_channels / WIDTH);
    let (mut least, mut step) = ([0.0f32; TILE_KEYS], [0.0f32; TILE_KEYS]);
    // A unit lies in one group of channels, or its halves lie in two.
    let mut scaled = [[[0.0f32; TILE_KEYS]; Q]; 2];
    let mut base = [[0.0f32; Q]; 2];
    let mut ready = usize::MAX;
    for u in 0..width.div_ceil(parts) {
        let groups = [u * parts, (u * parts + parts / 2).min(width - 1)].map(|v| v / group_vectors);
        if groups[0] != ready {
            ready = groups[0];
            for half in 0..2 {
                if half == 1 && groups[1] == groups[0] {
                    break;
                }
                let params = page.value_params + 4 * groups[half] * page.tokens;
                token_params(l, coded, params, count, &mut least, &mut step);
                for q in 0..Q {
                    let mut sum = l.splat(0.0);
                    for panel in 0..count.div_ceil(WIDTH) {
                        let weight = l.load(&weights[q * PANELS + panel]);
                        let at = panel * WIDTH;
                        let (Some(low), Some(size), Some(scaled)) = (
                            least[at..].first_chunk::<WIDTH>(),
                            step[at..].first_chunk::<WIDTH>(),
                            scaled[half][q][at..].first_chunk_mut::<WIDTH>(),
                        ) else {
                            break;
                        };
                        sum = l.fma(weight, l.load(low), sum);
                        l.store(l.mul(weight, l.load(size)), scaled);
                    }
                    base[half][q] = l.reduce_add(sum);
                }
            }
            if groups[1] == groups[0] {
                scaled[1] = scaled[0];
                base[1] = base[0];
            }
        }
        // As many vectors of the unit at once as there are registers for their sums.
        let at_once = (L::ACCUMULATORS / 4).clamp(1, 2).min(parts);
        for first in (0..parts.min(width - u * parts)).step_by(at_once) {
            let half = 2 * first / parts.max(2);
            let units = rows[u * WIDTH..].chunks(page.row_bytes).take(count);
            let mut sums = [[l.splat(0.0); Q]; 2];
            match at_once {
                1 => [sums[0]] = weigh::<BITS, Q, 1, L>(l, units, &scaled[half], first),
                _ => sums = weigh::<BITS, Q, 2, L>(l, units, &scaled[half], first),
            }
            for part in 0..at_once.min(width - u * parts - first) {
                let v = u * parts + first + part;
                let mut factor = l.splat(1.0);
                if page.format.value_factors {
                    factor = widen(l, coded.bytes, page.factors + 2 * v * WIDTH);
                }
                for q in 0..Q {
                    let sum =
                        l.fma(sums[part][q], l.splat(unshift(BITS, first + part)), l.splat(base[half][q]));
                    l.store(l.fma(sum, factor, l.load(&to[q * width + v])), &mut to[q * width + v]);
                }
            }
        }
    }
}

/// The sums over the tokens of `weights[q][t] * code` for `P` vectors of a unit, `first` the first of
/// them. `units` begin where the unit does in the row of each token.
#[inline(always)]
fn weigh<'u, const BITS: usize, const Q: usize, const P: usize, L: Lanes>(
    l: L,
    units: impl Iterator<Item = &'u [u8]>,
    weights: &[[f32; TILE_KEYS]; Q],
    first: usize,
) -> [[L::Vector; Q]; P] {
    let mut sums = [[l.splat(0.0); Q]; P];
    for (t, unit) in units.take(TILE_KEYS).enumerate() {
        let Some(unit) = unit.first_chunk::<WIDTH>() else { break };
        let unit = l.load_bytes(unit);
        for part in 0..P {
            let code = codes(l, unit, BITS, first + part);
            for q in 0..Q {
                sums[part][q] = l.fma(l.splat(weights[q][t]), code, sums[part][q]);
            }
        }
    }
    sums
}

/// Decodes keys, or values, to rows of whole vectors; numbers behind the head are any.
#[inline(always)]
pub(super) fn decode<L: Lanes>(l: L, coded: Coded<'_>, values: bool, count: usize, to: &mut [[f32; WIDTH]]) {
    let page = coded.page;
    let (bits, width) = (page.format.bits, page.head_dim.div_ceil(WIDTH));
    let (parts, padded) = (8 / bits, width * WIDTH);
    let by_token = values || page.format.keys == KeyBlocks::Token;
    let rows = coded.rows(values);
    let (mut least, mut step) = ([0.0f32; TILE_KEYS], [0.0f32; TILE_KEYS]);
    let mut ready = usize::MAX;
    for v in 0..width {
        let group = if values { v * WIDTH / page.format.value_channels } else { 0 };
        if by_token && group != ready {
            ready = group;
            let params = if values { page.value_params + 4 * group * page.tokens } else { page.key_params };
            token_params(l, coded, params, count, &mut least, &mut step);
        }
        let scale = l.splat(unshift(bits, v % parts));
        let mut factor = l.splat(1.0);
        if values && page.format.value_factors {
            factor = widen(l, coded.bytes, page.factors + 2 * v * WIDTH);
        }
        let mut begin = 0;
        while begin < count {
            let end = if by_token { count } else { coded.group_end(begin, count) };
            let (mut low, mut size) = (l.splat(0.0), l.splat(0.0));
            if !by_token {
                let params = coded.channel_params(coded.first + begin);
                low = widen(l, coded.bytes, params + 2 * v * WIDTH);
                size = widen(l, coded.bytes, params + 2 * (padded + v * WIDTH));
            }
            for t in begin..end {
                let at = t * page.row_bytes + v / parts * WIDTH;
                let Some(unit) = rows[at..].first_chunk::<WIDTH>() else { break };
                let code = l.mul(codes(l, l.load_bytes(unit), bits, v % parts), scale);
                if by_token {
                    (low, size) = (l.splat(least[t]), l.splat(step[t]));
                }
                l.store(l.mul(l.fma(code, size, low), factor), &mut to[t * width + v]);
            }
            begin = end;
        }
    }
}
