//! Causal attention of a prompt over chosen blocks of its keys.
//!
//! Each query head has a table of truth values: which block of query rows reads which block of keys. One
//! block of rows of one head is one task. It walks its keys in tiles, whose keys may come from any of its
//! blocks: blocks that nobody chose are never touched, and a block of few keys costs what its keys cost. The
//! softmax over the chosen keys is exact, and its sums have one order: the result is the same bits on any
//! number of threads and on any instruction set.

use std::cell::RefCell;
use std::sync::Mutex;

use super::block::{KeyBlock, KeySet, Scratch, TILE_KEYS};
use super::hidden::not_finite;
use super::partial::Partial;
use super::problem::{Floats, FloatsMut, Output, Queries, SERIAL_WORK};
use super::{task, tile};
use crate::error::{Error, Result};
use crate::format::Element;
use crate::parallel::{Parallel, Serial, dynamic, lock_whole};
use crate::simd::{Isa, Kernel, Lanes, MOST_HEAD_DIM, WIDTH};

/// What is read, and the sizes of everything.
#[derive(Debug, Clone, Copy)]
pub struct BlockSparse<'a> {
    /// Query heads; a multiple of `num_kv_heads`.
    pub num_heads: usize,
    /// Key-value heads.
    pub num_kv_heads: usize,
    /// Query rows: those of the last `num_rows` of the `num_keys` positions.
    pub num_rows: usize,
    /// Keys: one for each position from 0 on.
    pub num_keys: usize,
    /// Numbers of a query, a key and a value.
    pub head_dim: usize,
    /// Factor of the scores, usually `head_dim ** -0.5`.
    pub scale: f32,
    /// Rows of a block of queries.
    pub block_rows: usize,
    /// Keys of a block of keys; blocks begin at multiples of it.
    pub block_keys: usize,
    /// `[num_heads, ceil(num_rows / block_rows), ceil(num_keys / block_keys)]`: what is read. Keys that lie
    /// after a row are hidden from it in any case.
    pub blocks: &'a [bool],
}

/// Rows of a block of queries at most: what they need of a thread's memory is bounded so.
const MOST_BLOCK_ROWS: usize = 1024;

impl BlockSparse<'_> {
    fn row_blocks(&self) -> usize {
        self.num_rows.div_ceil(self.block_rows)
    }

    fn key_blocks(&self) -> usize {
        self.num_keys.div_ceil(self.block_keys)
    }

    /// Multiply-adds of the call, about: those of keys that a whole block of rows reads.
    fn work(&self) -> u64 {
        let read = self.blocks.iter().filter(|read| **read).count();
        (read * self.block_keys * self.block_rows * 2 * self.head_dim) as u64
    }
}

/// `softmax(scale * q k^T) v` for every row and head, over the keys of the blocks that its block of rows
/// reads, up to the row's own position.
///
/// Row `i` has position `num_keys - num_rows + i`. `keys` and `values` are `[num_kv_heads, num_keys,
/// head_dim]` by their strides; query head `h` reads kv head `h / (num_heads / num_kv_heads)`. Accumulates in
/// f32 whatever the element types. A row that reads no key gives zeros.
///
/// # Errors
/// Sizes that do not fit each other or the slices, a head dimension of more than 512, blocks of no rows or
/// keys or of more than 1,024 rows. Nothing is written then.
pub fn block_sparse_attention(
    isa: Isa,
    pool: &dyn Parallel,
    queries: Queries<'_>,
    keys: Queries<'_>,
    values: Queries<'_>,
    sparse: &BlockSparse<'_>,
    out: Output<'_>,
) -> Result<()> {
    check(&queries, &keys, &values, sparse, &out)?;
    match (keys.data, values.data) {
        (Floats::F32(k), Floats::F32(v)) => {
            by_output(isa, pool, queries, (keys, k), (values, v), sparse, out)
        }
        (Floats::Bf16(k), Floats::Bf16(v)) => {
            by_output(isa, pool, queries, (keys, k), (values, v), sparse, out)
        }
        (Floats::F16(k), Floats::F16(v)) => {
            by_output(isa, pool, queries, (keys, k), (values, v), sparse, out)
        }
        _ => return Err(Error::shape("v.dtype", "another type than that of k", "the same type")),
    }
    Ok(())
}

fn by_output<E: Element>(
    isa: Isa,
    pool: &dyn Parallel,
    queries: Queries<'_>,
    keys: (Queries<'_>, &[E]),
    values: (Queries<'_>, &[E]),
    sparse: &BlockSparse<'_>,
    out: Output<'_>,
) {
    let Output { data, row_stride, head_stride, lse } = out;
    let places = Places { row_stride, head_stride };
    let call = Call { isa, queries, keys, values, sparse };
    match data {
        FloatsMut::F32(data) => call.run(pool, data, lse, places),
        FloatsMut::Bf16(data) => call.run(pool, data, lse, places),
        FloatsMut::F16(data) => call.run(pool, data, lse, places),
    }
}

/// Where the numbers of a row and of a head lie in the output.
#[derive(Clone, Copy)]
struct Places {
    row_stride: usize,
    head_stride: usize,
}

#[derive(Clone, Copy)]
struct Call<'a, E> {
    isa: Isa,
    queries: Queries<'a>,
    keys: (Queries<'a>, &'a [E]),
    values: (Queries<'a>, &'a [E]),
    sparse: &'a BlockSparse<'a>,
}

/// What a thread keeps from task to task.
#[derive(Default)]
struct Space {
    scratch: Scratch,
    partial: Partial,
}

thread_local! {
    static SPACE: RefCell<Space> = RefCell::default();
}

impl<E: Element> Call<'_, E> {
    fn run<T: Element>(self, pool: &dyn Parallel, out: &mut [T], lse: Option<&mut [f32]>, places: Places) {
        let sparse = self.sparse;
        let tasks = sparse.num_heads * sparse.row_blocks();
        let pool = if sparse.work() < SERIAL_WORK { &Serial } else { pool };
        // A task holds the lock for as long as it takes to write its rows, a thousandth of its time.
        let out = Mutex::new((out, lse));
        dynamic(pool, tasks, &|index| {
            // The last rows have the most keys: they come first, so that no thread is left with one of them.
            let row_block = sparse.row_blocks() - 1 - index / sparse.num_heads;
            let head = index % sparse.num_heads;
            let first = row_block * sparse.block_rows;
            let rows = first..(first + sparse.block_rows).min(sparse.num_rows);
            // Taken out for the time of the task; tasks do not nest, but a fresh one would be right too.
            let mut space = SPACE.take();
            self.isa.run(Block { call: self, head, row_block, rows: rows.clone(), space: &mut space });
            let width = sparse.head_dim.div_ceil(WIDTH);
            let mut out = lock_whole(&out);
            let (out, lse) = &mut *out;
            for (i, row) in rows.enumerate() {
                let (max, sum) = (space.partial.max[i], space.partial.sum[i]);
                let inverse = if sum == 0.0 { 0.0 } else { 1.0 / sum };
                let values = space.partial.values[i * width..][..width].as_flattened();
                let to = &mut out[row * places.row_stride + head * places.head_stride..][..sparse.head_dim];
                for (to, value) in to.iter_mut().zip(values) {
                    *to = T::from_f32(value * inverse);
                }
                if let Some(lse) = lse {
                    let log = crate::simd::math::log_scalar(sum);
                    lse[row * sparse.num_heads + head] =
                        if sum == 0.0 { f32::NEG_INFINITY } else { max + log };
                }
            }
            SPACE.set(space);
        });
    }
}

/// One block of rows of one head.
struct Block<'a, E> {
    call: Call<'a, E>,
    head: usize,
    row_block: usize,
    rows: std::ops::Range<usize>,
    space: &'a mut Space,
}

impl<E: Element> Kernel for Block<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Self { call, head, row_block, rows, space } = self;
        let Space { scratch, partial } = space;
        let sparse = call.sparse;
        let dim = sparse.head_dim;
        let width = dim.div_ceil(WIDTH);
        partial.reset(rows.len(), width);
        scratch.queries.reset(rows.len() * width);
        for (row, to) in rows.clone().zip(scratch.queries.chunks_exact_mut(width)) {
            let at = row * call.queries.row_stride + head * call.queries.head_stride;
            task::load_query(&call.queries, at, sparse.scale, &mut to.as_flattened_mut()[..dim]);
        }
        tile::turn_queries(l, dim, scratch);
        scratch.scores.resize(rows.len().div_ceil(WIDTH) * TILE_KEYS);
        let key_blocks = sparse.key_blocks();
        let kv_head = head / (sparse.num_heads / sparse.num_kv_heads);
        let first_position = sparse.num_keys - sparse.num_rows + rows.start;
        let mut source = Source {
            keys: call.keys,
            values: call.values,
            dim,
            kv_head,
            blocks: &sparse.blocks[(head * sparse.row_blocks() + row_block) * key_blocks..][..key_blocks],
            block_keys: sparse.block_keys,
            at: 0,
            end: first_position + rows.len(),
        };
        // The next tile is known one ahead, so that it can be prefetched.
        let (mut block, mut next) = (&mut KeyBlock::default(), &mut KeyBlock::default());
        source.fill(block);
        while block.shown.count > 0 {
            source.fill(next);
            // Rows before the first key see nothing of the tile: they are left out by sixteens.
            let first_key = block.shown.positions[0] as usize;
            let begin = first_key.saturating_sub(first_position) / WIDTH * WIDTH;
            block.shown.queries = begin..rows.len();
            tile::score(l, dim, block, scratch);
            let hidden = hide(first_position, block, &mut scratch.scores);
            let count = block.shown.count;
            for lanes in begin / WIDTH..rows.len().div_ceil(WIDTH) {
                let scores = &mut scratch.scores[lanes * TILE_KEYS..][..count];
                tile::absorb_lanes(l, lanes, width, scores, partial);
            }
            match not_finite(l, &block.values, hidden) {
                0 => tile::add(l, dim, block, next, scratch, partial),
                bad => add_apart(first_position, dim, block, bad, scratch, partial),
            }
            std::mem::swap(&mut block, &mut next);
        }
    }
}

/// Sets those scores to -inf whose key lies after the row. Returns the keys that some row does not see.
#[inline(always)]
fn hide<E>(first_position: usize, block: &KeyBlock<'_, E>, scores: &mut [[f32; WIDTH]]) -> KeySet {
    let mut hidden = 0;
    for (key, position) in block.shown.positions[..block.shown.count].iter().enumerate() {
        let Some(after) = (*position as usize).checked_sub(first_position).filter(|after| *after > 0) else {
            continue;
        };
        hidden |= 1 << key;
        for query in block.shown.queries.start..after.min(block.shown.queries.end) {
            scores[query / WIDTH * TILE_KEYS + key][query % WIDTH] = f32::NEG_INFINITY;
        }
    }
    hidden
}

/// Adds the weighted values of a tile to its queries, number by number, where those of `bad` keys count as
/// zeros for the queries that do not see them: 0 times an infinity is no number.
#[inline(never)]
fn add_apart<E: Element>(
    first_position: usize,
    dim: usize,
    block: &KeyBlock<'_, E>,
    bad: KeySet,
    scratch: &Scratch,
    partial: &mut Partial,
) {
    let width = dim.div_ceil(WIDTH);
    for query in block.shown.queries.clone() {
        let to = &mut partial.values[query * width..][..width].as_flattened_mut()[..dim];
        for (key, value) in block.values[..block.shown.count].iter().enumerate() {
            if bad >> key & 1 != 0 && block.shown.positions[key] as usize > first_position + query {
                continue;
            }
            let weight = scratch.scores[query / WIDTH * TILE_KEYS + key][query % WIDTH];
            for (to, value) in to.iter_mut().zip(*value) {
                *to = weight.mul_add(value.to_f32(), *to);
            }
        }
    }
}

/// Walks the keys that a block of rows reads.
struct Source<'a, E> {
    keys: (Queries<'a>, &'a [E]),
    values: (Queries<'a>, &'a [E]),
    dim: usize,
    kv_head: usize,
    blocks: &'a [bool],
    block_keys: usize,
    /// The next position to look at.
    at: usize,
    /// One past the last row's own.
    end: usize,
}

impl<'a, E: Element> Source<'a, E> {
    /// The next keys, as many as a tile holds; none at the end.
    #[inline(always)]
    fn fill(&mut self, to: &mut KeyBlock<'a, E>) {
        let mut count = 0;
        while count < TILE_KEYS && self.at < self.end {
            let block = self.at / self.block_keys;
            let end = ((block + 1) * self.block_keys).min(self.end);
            if !self.blocks[block] {
                self.at = end;
                continue;
            }
            while count < TILE_KEYS && self.at < end {
                let (keys, values) = (&self.keys, &self.values);
                let key = self.kv_head * keys.0.head_stride + self.at * keys.0.row_stride;
                let value = self.kv_head * values.0.head_stride + self.at * values.0.row_stride;
                to.keys[count] = &keys.1[key..key + self.dim];
                to.values[count] = &values.1[value..value + self.dim];
                to.shown.positions[count] = self.at as i32;
                count += 1;
                self.at += 1;
            }
        }
        to.shown.count = count;
    }
}

fn check(
    queries: &Queries<'_>,
    keys: &Queries<'_>,
    values: &Queries<'_>,
    sparse: &BlockSparse<'_>,
    out: &Output<'_>,
) -> Result<()> {
    let BlockSparse { num_heads: heads, num_kv_heads: kv_heads, num_rows, num_keys, head_dim, .. } = *sparse;
    if !(1..=MOST_HEAD_DIM).contains(&head_dim) {
        return Err(Error::value("head_dim", head_dim, format!("1 to {MOST_HEAD_DIM}")));
    }
    if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(Error::value("num_heads", heads, format!("a multiple of num_kv_heads, {kv_heads}")));
    }
    if num_rows > num_keys || num_keys > i32::MAX as usize {
        return Err(Error::value("num_keys", num_keys, format!("at least the number of rows, {num_rows}")));
    }
    if !(1..=MOST_BLOCK_ROWS).contains(&sparse.block_rows) {
        return Err(Error::value("block_rows", sparse.block_rows, format!("1 to {MOST_BLOCK_ROWS}")));
    }
    if sparse.block_keys == 0 {
        return Err(Error::value("block_keys", 0, "at least 1"));
    }
    let want = heads * sparse.row_blocks() * sparse.key_blocks();
    if sparse.blocks.len() != want {
        return Err(Error::shape("blocks.len", sparse.blocks.len(), want));
    }
    let span = |heads: usize, rows: usize, head_stride: usize, row_stride: usize| match rows {
        0 => 0,
        _ => (rows - 1) * row_stride + (heads - 1) * head_stride + head_dim,
    };
    let expect = |what, len: usize, want: usize| match len >= want {
        true => Ok(()),
        false => Err(Error::shape(what, len, format!("at least {want}"))),
    };
    expect("q.len", queries.data.len(), span(heads, num_rows, queries.head_stride, queries.row_stride))?;
    expect("k.len", keys.data.len(), span(kv_heads, num_keys, keys.head_stride, keys.row_stride))?;
    expect("v.len", values.data.len(), span(kv_heads, num_keys, values.head_stride, values.row_stride))?;
    expect("out.len", out.data.len(), span(heads, num_rows, out.head_stride, out.row_stride))?;
    if let Some(lse) = &out.lse
        && lse.len() != num_rows * heads
    {
        return Err(Error::shape("lse.len", lse.len(), num_rows * heads));
    }
    Ok(())
}

#[cfg(test)]
#[path = "block_sparse_tests.rs"]
#[allow(clippy::unwrap_used)]
mod tests;
