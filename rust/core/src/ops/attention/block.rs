//! Some keys that meet some queries at once, and which of them each query sees.

use super::problem::Problem;
use super::vectors::Vectors;
use crate::format::Element;
use crate::format::page::CodedPage;
use crate::format::selection::Unit;
use crate::simd::{Lanes, WIDTH, math};

/// Keys that are handled together: a tile.
pub(super) const TILE_KEYS: usize = 96;
/// Which keys a block has, and who sees them.
#[derive(Clone)]
pub(super) struct Shown {
    /// How many keys.
    pub(super) count: usize,
    /// Logical positions; filled where there is a window.
    pub(super) positions: [i32; TILE_KEYS],
    /// Own reads: the row that writes key 0; key `i` is of row `own + i`.
    pub(super) own: Option<u32>,
    /// Query rows that see some key, counted from the first of the piece.
    pub(super) queries: std::ops::Range<usize>,
    /// Of selected entries that some query does not see: who sees which.
    pub(super) masked: Masked,
}

/// The keys of a block by the units that they are of.
#[derive(Clone)]
pub(super) struct Masked {
    /// Units, 0 where every query sees every key of the block.
    pub(super) count: usize,
    /// One past the last key of each unit.
    pub(super) ends: [u8; TILE_KEYS],
    /// The mask of each unit, see [`Selection::sees`](crate::format::selection::Selection::sees).
    pub(super) masks: [u32; TILE_KEYS],
    /// The row whose first query is bit 0.
    pub(super) first_row: usize,
}

impl Masked {
    /// Nothing is masked.
    pub(super) const NONE: Self =
        Self { count: 0, ends: [0; TILE_KEYS], masks: [Unit::SEEN_BY_ALL; TILE_KEYS], first_row: 0 };
}

/// Some keys of one page in codes.
#[derive(Clone, Copy)]
pub(super) struct Coded<'a> {
    pub(super) page: &'a CodedPage,
    /// The whole page.
    pub(super) bytes: &'a [u8],
    /// Slot of the first key.
    pub(super) first: usize,
}

/// Some keys of one segment, and where they are.
pub(super) struct KeyBlock<'a, E> {
    pub(super) shown: Shown,
    pub(super) keys: [&'a [E]; TILE_KEYS],
    pub(super) values: [&'a [E]; TILE_KEYS],
    /// Where the keys are those of a page in codes: `keys` and `values` are not filled then.
    pub(super) coded: Option<Coded<'a>>,
}

impl<E> Default for KeyBlock<'_, E> {
    fn default() -> Self {
        let shown =
            Shown { count: 0, positions: [0; TILE_KEYS], own: None, queries: 0..0, masked: Masked::NONE };
        Self { shown, keys: [&[]; TILE_KEYS], values: [&[]; TILE_KEYS], coded: None }
    }
}

/// What a thread keeps from task to task.
#[derive(Default)]
pub(super) struct Scratch {
    /// Scaled queries of the piece, `[queries, width]` vectors.
    pub(super) queries: Vectors,
    /// The same, sixteen queries side by side: `[queries / 16, dim]` vectors of one dimension.
    pub(super) turned: Vectors,
    /// Some keys widened: `[keys, width]` vectors.
    pub(super) keys: Vectors,
    /// Some dimensions of the values widened: `[TILE_KEYS]` vectors for each sixteen.
    pub(super) values: Vectors,
    /// Scores, then weights. Of a stream: `[queries, TILE_KEYS]` numbers; of tiles:
    /// `[queries / 16, TILE_KEYS]` vectors of sixteen queries.
    pub(super) scores: Vectors,
    /// Of a block in codes: queries, and then weights, with its steps folded in.
    pub(super) folded: Vectors,
    /// Keys and values of a block in codes, decoded: twice `[TILE_KEYS, width]` vectors.
    pub(super) decoded: Vectors,
}

/// Asks for the cache lines that are `beyond` elements behind those of `elements`, in the first-level cache.
#[inline(always)]
pub(super) fn prefetch_near<E: Element, L: Lanes>(l: L, elements: &[E], beyond: usize) {
    for at in (0..elements.len()).step_by(64 / size_of::<E>()) {
        l.prefetch_near(elements.as_ptr().wrapping_add(at + beyond));
    }
}

/// Caps the scores in `scores`, where there is a cap.
#[inline(always)]
pub(super) fn cap<L: Lanes>(l: L, problem: &Problem<'_>, scores: &mut [[f32; WIDTH]]) {
    if let Some(cap) = problem.params.soft_cap {
        let (cap, inverse) = (l.splat(cap), l.splat(1.0 / cap));
        for s in scores {
            l.store(l.mul(cap, math::tanh(l, l.mul(l.load(s), inverse))), s);
        }
    }
}

/// A set of keys of a block: bit `i` for key `i`.
pub(super) type KeySet = u128;
const _: () = assert!(TILE_KEYS <= KeySet::BITS as usize);

/// All keys of a block.
#[inline(always)]
pub(super) fn all(shown: &Shown) -> KeySet {
    first_keys(shown.count)
}

/// The first `count` keys.
#[inline(always)]
pub(super) fn first_keys(count: usize) -> KeySet {
    KeySet::MAX.checked_shl(count as u32).map_or(KeySet::MAX, |others| !others)
}

/// Which keys of a block a query sees: query `query` of a piece whose first row is `first_row`. All members of
/// a row see the same keys, but for those of masked units.
#[inline(always)]
pub(super) fn visible(problem: &Problem<'_>, shown: &Shown, first_row: usize, query: usize) -> KeySet {
    let group = problem.group();
    let row = first_row + query / group;
    let mut bits = all(shown);
    if let Some(selection) = problem.selection
        && shown.masked.count > 0
    {
        let masked = &shown.masked;
        let bit = (row - masked.first_row) * group + query % group;
        let mut begin = 0;
        for (&end, &mask) in masked.ends.iter().zip(&masked.masks).take(masked.count) {
            if !selection.sees(mask, bit) {
                bits &= !(first_keys(usize::from(end)) & !first_keys(begin));
            }
            begin = usize::from(end);
        }
    }
    if let Some(first) = shown.own {
        let ends = &problem.plan.row_end[first as usize..first as usize + shown.count];
        bits &= first_keys((row + 1).saturating_sub(first as usize));
        for (i, &end) in ends.iter().enumerate() {
            bits &= !(KeySet::from(row >= end as usize) << i);
        }
    }
    if let Some(window) = problem.params.window {
        let position = i64::from(problem.plan.row_positions[row]);
        for (i, &key) in shown.positions[..shown.count].iter().enumerate() {
            bits &= !(KeySet::from(position - i64::from(key) >= i64::from(window)) << i);
        }
    }
    bits
}
