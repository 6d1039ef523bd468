//! Many query rows over a page in codes: the keys of a tile are decoded where those of a plain page would
//! be widened.

use super::block::{KeyBlock, TILE_KEYS};
use super::coded::{CodedBlock, decode};
use super::tile;
use crate::simd::{Lanes, WIDTH};

/// Adds a block of keys to the partial result of its queries.
#[inline(always)]
pub(super) fn attend<L: Lanes>(l: L, block: CodedBlock<'_>) {
    let CodedBlock { problem, first_row, shown, coded, ahead, scratch, partial } = block;
    if let Some((ahead, count)) = ahead {
        ahead.prefetch(l, 0..count);
    }
    let mut plain = KeyBlock { shown: shown.clone(), ..KeyBlock::default() };
    let (dim, count) = (problem.layout.head_dim, shown.count);
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
