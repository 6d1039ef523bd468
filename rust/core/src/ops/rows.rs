//! RowVectors into pages: writing the keys and values of a step, and moving slots after a commit.
//!
//! Both work plane by plane, and the planes of a chunk are disjoint, so that heads can be written
//! by different threads without a lock that anybody waits for.

use std::sync::Mutex;

use crate::error::{Error, Result};
use crate::format::slot::{Move, PageMove, RowSlot};
use crate::format::{Element, PageLayout};
use crate::parallel::{Parallel, lock_whole};

/// Elements below which one thread writes them all: about 100 µs of copying.
const SERIAL_ELEMENTS: usize = 1 << 18;

/// Keys or values of the rows of a step, `[num_rows, num_heads, head_dim]` with unit last stride.
#[derive(Debug, Clone, Copy)]
pub struct RowVectors<'a, S> {
    /// From the first element on.
    pub data: &'a [S],
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one head to the next.
    pub head_stride: usize,
}

impl<'a, S> RowVectors<'a, S> {
    fn vector(&self, row: usize, head: usize, head_dim: usize) -> &'a [S] {
        let at = row * self.row_stride + head * self.head_stride;
        &self.data[at..at + head_dim]
    }
}

/// The pages of one layer: all chunks, and which planes of them.
#[derive(Debug)]
pub struct LayerPages<'c, 'a, P> {
    /// The memory of each chunk, empty where no slot lies.
    pub chunks: &'c mut [&'a mut [P]],
    /// The geometry of a page.
    pub layout: &'c PageLayout,
    /// Physical layer.
    pub layer: usize,
    /// Planes of a layer.
    pub num_kv_heads: usize,
}

/// Writes row `i` of `keys` and `values` to `slots[i]` on the planes of a layer, converting to the
/// pages' element type (to nearest, ties to even).
///
/// Slots of different rows must differ. Bounds are checked before anything is written.
///
/// ```
/// use half::bf16;
/// use hornbeam_core::format::plan::RowSlot;
/// use hornbeam_core::format::{Dtype, PageLayout};
/// use hornbeam_core::ops::rows::{LayerPages, RowVectors, write_rows};
/// use hornbeam_core::parallel::Serial;
///
/// let layout =
///     PageLayout { num_planes: 1, slabs_per_chunk: 1, page_tokens: 2, head_dim: 2, dtype: Dtype::Bf16 };
/// let mut chunk = vec![bf16::ZERO; layout.chunk_elements()];
/// let rows = |data| RowVectors { data, row_stride: 2, head_stride: 2 };
/// write_rows(
///     rows(&[1.0f32, 2.0]),
///     rows(&[3.0f32, 4.0]),
///     &[RowSlot { slab: 0, slot: 1 }],
///     LayerPages { chunks: &mut [&mut chunk], layout: &layout, layer: 0, num_kv_heads: 1 },
///     &Serial,
/// )?;
/// // The keys of both slots, then their values.
/// assert_eq!(chunk, [0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 3.0, 4.0].map(bf16::from_f32));
/// # Ok::<(), hornbeam_core::Error>(())
/// ```
pub fn write_rows<S: Element, P: Element>(
    keys: RowVectors<'_, S>,
    values: RowVectors<'_, S>,
    slots: &[RowSlot],
    target: LayerPages<'_, '_, P>,
    pool: &dyn Parallel,
) -> Result<()> {
    write_with(keys, values, slots, target, pool, |from, to| {
        for (to, from) in to.iter_mut().zip(from) {
            *to = P::from_f32(from.to_f32());
        }
    })
}

/// As [`write_rows`], for rows of the pages' own element type.
pub fn copy_rows<P: Element>(
    keys: RowVectors<'_, P>,
    values: RowVectors<'_, P>,
    slots: &[RowSlot],
    target: LayerPages<'_, '_, P>,
    pool: &dyn Parallel,
) -> Result<()> {
    write_with(keys, values, slots, target, pool, |from, to| to.copy_from_slice(from))
}

fn write_with<S: Element, P: Element>(
    keys: RowVectors<'_, S>,
    values: RowVectors<'_, S>,
    slots: &[RowSlot],
    target: LayerPages<'_, '_, P>,
    pool: &dyn Parallel,
    convert: impl Fn(&[S], &mut [P]) + Sync,
) -> Result<()> {
    let LayerPages { chunks, layout, layer, num_kv_heads } = target;
    let Some(planes) = layout.planes_of(layer, num_kv_heads) else {
        let layers = layout.num_planes / num_kv_heads.max(1);
        return Err(Error::value("layer", layer, format!("less than {layers}")));
    };
    let place = |slab: u32| (slab as usize / layout.slabs_per_chunk, slab as usize % layout.slabs_per_chunk);
    for (i, slot) in slots.iter().enumerate() {
        let held = chunks.get(place(slot.slab).0).is_some_and(|c| c.len() == layout.chunk_elements());
        if !held || slot.slot as usize >= layout.page_tokens {
            let got = format!("slab {}, slot {} at row {i}", slot.slab, slot.slot);
            return Err(Error::value("row_slots", got, "a slot of the given chunks"));
        }
    }
    let head_dim = layout.head_dim;
    let write = |plane: &mut [P], index: usize, slot: usize, row: usize, head: usize| {
        let key = index * layout.page_elements() + slot * head_dim;
        let value = key + layout.page_tokens * head_dim;
        convert(keys.vector(row, head, head_dim), &mut plane[key..key + head_dim]);
        convert(values.vector(row, head, head_dim), &mut plane[value..value + head_dim]);
    };
    let plane_elements = layout.slabs_per_chunk * layout.page_elements();
    let elements = slots.len() * num_kv_heads * head_dim;
    if elements < SERIAL_ELEMENTS || num_kv_heads < 2 || pool.num_threads() < 2 {
        for (head, plane) in planes.enumerate() {
            for (row, slot) in slots.iter().enumerate() {
                let (chunk, index) = place(slot.slab);
                let plane = &mut chunks[chunk][plane * plane_elements..(plane + 1) * plane_elements];
                write(plane, index, slot.slot as usize, row, head);
            }
        }
        return Ok(());
    }
    // One task a head, which owns its plane of every chunk: a lock that nobody ever waits for.
    let mut owned: Vec<Vec<&mut [P]>> = (0..num_kv_heads).map(|_| Vec::new()).collect();
    for chunk in chunks.iter_mut() {
        let mut parts = chunk.chunks_exact_mut(plane_elements).skip(planes.start);
        owned.iter_mut().for_each(|planes| planes.push(parts.next().unwrap_or_default()));
    }
    let tasks: Vec<Mutex<Vec<&mut [P]>>> = owned.into_iter().map(Mutex::new).collect();
    pool.run(num_kv_heads, &|head| {
        let mut planes = lock_whole(&tasks[head]);
        for (row, slot) in slots.iter().enumerate() {
            let (chunk, index) = place(slot.slab);
            write(planes[chunk], index, slot.slot as usize, row, head);
        }
    });
    Ok(())
}

/// Copies slots on all planes, in order. `chunks[c]` is the memory of chunk `c` as bytes, empty
/// where no slot lies; `layout` is in its own element type.
pub fn move_rows(moves: &[Move], chunks: &mut [&mut [u8]], layout: &PageLayout) -> Result<()> {
    let chunk_bytes = layout.chunk_elements() * layout.dtype.size();
    for side in moves.iter().flat_map(|m| [m.from, m.to]) {
        let chunk = side.slab as usize / layout.slabs_per_chunk;
        let held = chunks.get(chunk).is_some_and(|chunk| chunk.len() == chunk_bytes);
        if !held || side.slot as usize >= layout.page_tokens {
            let got = format!("slab {}, slot {}", side.slab, side.slot);
            return Err(Error::value("moves", got, "a slot of the given chunks"));
        }
    }
    let width = layout.head_dim * layout.dtype.size();
    let half = layout.page_tokens * width;
    for plane in 0..layout.num_planes {
        for m in moves {
            let (from_chunk, from) = layout.slab_page(m.from.slab, plane);
            let (to_chunk, to) = layout.slab_page(m.to.slab, plane);
            let from = from * layout.dtype.size() + m.from.slot as usize * width;
            let to = to * layout.dtype.size() + m.to.slot as usize * width;
            for (from, to) in [(from, to), (from + half, to + half)] {
                copy(chunks, (from_chunk, from), (to_chunk, to), width);
            }
        }
    }
    Ok(())
}

/// Copies slots of single pages, in order; as [`move_rows`] otherwise.
pub fn move_page_rows(moves: &[PageMove], chunks: &mut [&mut [u8]], layout: &PageLayout) -> Result<()> {
    let chunk_bytes = layout.chunk_elements() * layout.dtype.size();
    for [page, slot] in moves.iter().flat_map(|m| [m.from, m.to]) {
        let held = chunks.get(layout.page(page).0).is_some_and(|chunk| chunk.len() == chunk_bytes);
        if !held || slot as usize >= layout.page_tokens {
            let got = format!("page {page}, slot {slot}");
            return Err(Error::value("moves", got, "a slot of the given chunks"));
        }
    }
    let width = layout.head_dim * layout.dtype.size();
    let half = layout.page_tokens * width;
    for m in moves {
        let [(from_chunk, from), (to_chunk, to)] = [m.from, m.to].map(|[page, slot]| {
            let (chunk, element) = layout.page(page);
            (chunk, element * layout.dtype.size() + slot as usize * width)
        });
        for (from, to) in [(from, to), (from + half, to + half)] {
            copy(chunks, (from_chunk, from), (to_chunk, to), width);
        }
    }
    Ok(())
}

/// As [`move_page_rows`], but every slot is read before any is written.
pub fn move_page_rows_at_once(
    moves: &[PageMove],
    chunks: &mut [&mut [u8]],
    layout: &PageLayout,
) -> Result<()> {
    let chunk_bytes = layout.chunk_elements() * layout.dtype.size();
    let width = layout.head_dim * layout.dtype.size();
    let half = layout.page_tokens * width;
    let place = |[page, slot]: [u32; 2]| {
        let (chunk, element) = layout.page(page);
        (chunk, element * layout.dtype.size() + slot as usize * width)
    };
    for side in moves.iter().flat_map(|m| [m.from, m.to]) {
        let held = chunks.get(place(side).0).is_some_and(|chunk| chunk.len() == chunk_bytes);
        if !held || side[1] as usize >= layout.page_tokens {
            let got = format!("page {}, slot {}", side[0], side[1]);
            return Err(Error::value("moves", got, "a slot of the given chunks"));
        }
    }
    let mut staged = Vec::with_capacity(moves.len() * 2 * width);
    for m in moves {
        let (chunk, at) = place(m.from);
        staged.extend_from_slice(&chunks[chunk][at..at + width]);
        staged.extend_from_slice(&chunks[chunk][at + half..at + half + width]);
    }
    for (m, row) in moves.iter().zip(staged.chunks_exact(2 * width)) {
        let (chunk, at) = place(m.to);
        chunks[chunk][at..at + width].copy_from_slice(&row[..width]);
        chunks[chunk][at + half..at + half + width].copy_from_slice(&row[width..]);
    }
    Ok(())
}

fn copy(chunks: &mut [&mut [u8]], from: (usize, usize), to: (usize, usize), width: usize) {
    if from.0 == to.0 {
        chunks[from.0].copy_within(from.1..from.1 + width, to.1);
    } else if let Ok([source, target]) = chunks.get_disjoint_mut([from.0, to.0]) {
        target[to.1..to.1 + width].copy_from_slice(&source[from.1..from.1 + width]);
    }
}
