//! Pages in codes: where their parts lie, and what their codes say.

use std::ops::Range;

use half::f16;

use super::block::{Coded, Scratch, Shown, TILE_KEYS};
use super::partial::Partial;
use super::problem::Problem;
use crate::format::page::KeyBlocks;
use crate::simd::codes::{Unit, codes, unshift};
use crate::simd::{Lanes, WIDTH};

impl<'a> Coded<'a> {
    /// The codes of the keys, or of the values, from the first one on.
    #[inline(always)]
    pub(super) fn rows(&self, values: bool) -> &'a [Unit] {
        let at = if values { self.page.value_codes } else { 0 };
        self.bytes[at + self.first * self.page.row_bytes..].as_chunks().0
    }

    /// Units of one key, or of one value.
    #[inline(always)]
    pub(super) fn units(&self) -> usize {
        self.page.row_bytes / WIDTH
    }

    /// Asks for the codes of some keys and their values, and for as many cache lines of steps and factors.
    #[inline(always)]
    pub(super) fn prefetch<L: Lanes>(&self, l: L, keys: Range<usize>) {
        // Addresses without checks: a request for what is not there has no effect.
        let (page, start) = (self.page, self.bytes.as_ptr());
        for at in
            (page.key_params + keys.start * 64..page.end().min(page.key_params + keys.end * 64)).step_by(64)
        {
            l.prefetch(start.wrapping_add(at));
        }
        let first = (self.first + keys.start) * page.row_bytes;
        for at in (first..(self.first + keys.end) * page.row_bytes).step_by(64) {
            l.prefetch(start.wrapping_add(at));
            l.prefetch(start.wrapping_add(page.value_codes + at));
        }
    }

    /// Offset of a group of keys by channel: its `least`, then its `step`.
    #[inline(always)]
    pub(super) fn channel_params(&self, slot: usize) -> usize {
        let padded = self.page.head_dim.next_multiple_of(WIDTH);
        self.page.key_params + slot / self.page.key_group() * 4 * padded
    }

    /// Where keys share a block by channel: one past the last key, counted from the first.
    #[inline(always)]
    pub(super) fn group_end(&self, key: usize, count: usize) -> usize {
        match self.page.format.keys {
            KeyBlocks::Token => count,
            KeyBlocks::Channel(_) => {
                let group = self.page.key_group();
                count.min(((self.first + key) / group + 1) * group - self.first)
            }
        }
    }

    /// Sixteen f16 of the page, widened; zeros behind its end.
    #[inline(always)]
    pub(super) fn numbers<L: Lanes>(&self, l: L, at: usize) -> L::Vector {
        let mut numbers = [f16::ZERO; WIDTH];
        let bytes = &self.bytes[at..];
        if let Some(bytes) = bytes.first_chunk::<{ 2 * WIDTH }>() {
            for i in 0..WIDTH {
                numbers[i] = f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
            }
        } else {
            for (number, bytes) in numbers.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *number = f16::from_le_bytes(*bytes);
            }
        }
        l.load(&numbers)
    }

    /// Offsets and steps of sixteen keys, from `key` on, `at` where those of the page begin.
    #[inline(always)]
    pub(super) fn token_params<L: Lanes>(&self, l: L, at: usize, key: usize) -> (L::Vector, L::Vector) {
        let at = at + 2 * (self.first + key);
        (self.numbers(l, at), self.numbers(l, at + 2 * self.page.tokens))
    }
}

/// Some keys of a page in codes, and the queries to whose partial result they are added.
pub(super) struct CodedBlock<'a> {
    pub(super) problem: &'a Problem<'a>,
    pub(super) first_row: usize,
    pub(super) shown: &'a Shown,
    pub(super) coded: Coded<'a>,
    /// The next block, where it is in codes too, and its number of keys.
    pub(super) ahead: Option<(Coded<'a>, usize)>,
    pub(super) scratch: &'a mut Scratch,
    pub(super) partial: &'a mut Partial,
}

/// Decodes keys, or values, to rows of whole vectors; numbers behind the head are any.
#[inline(always)]
pub(super) fn decode<L: Lanes>(l: L, coded: Coded<'_>, values: bool, count: usize, to: &mut [[f32; WIDTH]]) {
    let page = coded.page;
    let (bits, width) = (page.format.bits, page.head_dim.div_ceil(WIDTH));
    let (parts, padded) = (8 / bits, width * WIDTH);
    let by_token = values || page.format.keys == KeyBlocks::Token;
    let rows = coded.rows(values);
    let (mut least, mut step) = ([[0.0f32; WIDTH]; TILE_KEYS / WIDTH], [[0.0f32; WIDTH]; TILE_KEYS / WIDTH]);
    let mut ready = usize::MAX;
    for v in 0..width {
        let group = if values { v * WIDTH / page.format.value_channels } else { 0 };
        if by_token && group != ready {
            ready = group;
            let params = if values { page.value_params + 4 * group * page.tokens } else { page.key_params };
            for panel in 0..count.div_ceil(WIDTH) {
                let (low, size) = coded.token_params(l, params, panel * WIDTH);
                l.store(low, &mut least[panel]);
                l.store(size, &mut step[panel]);
            }
        }
        let scale = l.splat(unshift(bits, v % parts));
        let mut factor = l.splat(1.0);
        if values && page.format.value_factors {
            factor = coded.numbers(l, page.factors + 2 * v * WIDTH);
        }
        let mut begin = 0;
        while begin < count {
            let end = if by_token { count } else { coded.group_end(begin, count) };
            let (mut low, mut size) = (l.splat(0.0), l.splat(0.0));
            if !by_token {
                let params = coded.channel_params(coded.first + begin);
                low = coded.numbers(l, params + 2 * v * WIDTH);
                size = coded.numbers(l, params + 2 * (padded + v * WIDTH));
            }
            for t in begin..end {
                let unit = l.load_bytes(&rows[t * coded.units() + v / parts]);
                let code = match bits {
                    2 => codes::<2, L>(l, unit, v % parts),
                    4 => codes::<4, L>(l, unit, v % parts),
                    _ => codes::<8, L>(l, unit, v % parts),
                };
                let code = l.mul(code, scale);
                if by_token {
                    (low, size) = (l.splat(least[t / WIDTH][t % WIDTH]), l.splat(step[t / WIDTH][t % WIDTH]));
                }
                l.store(l.mul(l.fma(code, size, low), factor), &mut to[t * width + v]);
            }
            begin = end;
        }
    }
}
