//! `write_rows` and `move_rows`: keys and values into pages.

use half::{bf16, f16};
use hornbeam_core::Error;
use hornbeam_core::format::slot::{Move, PageMove, RowSlot};
use hornbeam_core::format::{Dtype, Element, PageLayout};
use hornbeam_core::ops::rows::{self, LayerPages, RowVectors};
use hornbeam_core::parallel::Parallel;
use pyo3::prelude::*;
use pyo3::types::PyList;
use smallvec::SmallVec;

use crate::error::{OrRaise, attached, detached_on};
use crate::parallel::Host;
use crate::plan::PyPlan;
use crate::tensor::{Describe, Item, Tensor, expect_apart, expect_disjoint};

/// Elements above which the GIL is released: about 10 µs of copying.
const DETACH_ELEMENTS: usize = 1 << 15;

/// The chunks that `slabs` lie in, described; `None` where no slab lies, so that a call costs what
/// it touches and not what the pool holds.
pub(crate) struct Chunks {
    /// Few in place: what is large is slow to hand on.
    tensors: SmallVec<[Option<Tensor>; 2]>,
    pub(crate) layout: PageLayout,
}

/// What one chunk says about the pool.
pub(crate) fn layout_of(chunk: &Tensor, py: Python<'_>) -> PyResult<PageLayout> {
    chunk.expect_shape(py, &[None, None, Some(2), None, None])?;
    let shape = chunk.shape();
    if shape.contains(&0) {
        return Err(chunk.refuse(
            py,
            &format!("a tensor of shape {shape:?}"),
            "pages of at least one element",
        ));
    }
    Ok(PageLayout {
        num_planes: shape[0],
        slabs_per_chunk: shape[1],
        page_tokens: shape[3],
        head_dim: shape[4],
        dtype: chunk.float(py)?,
    })
}

impl Chunks {
    /// The pool as its first chunk says it is; the others are looked at as they are needed.
    pub(crate) fn first(py: Python<'_>, list: &Bound<'_, PyList>) -> PyResult<Self> {
        if list.is_empty() {
            return Err(Error::shape("chunks", "an empty list", "at least one tensor")).or_raise(py);
        }
        let first = Tensor::new(&list.get_item(0)?, "chunks[0]")?;
        let layout = layout_of(&first, py)?;
        let others = (1..list.len()).map(|_| None);
        let tensors = std::iter::once(Some(first)).chain(others).collect();
        Ok(Self { tensors, layout })
    }

    /// Describes one more chunk of the same list. Numbers beyond it are left to the operation's own check.
    pub(crate) fn look(&mut self, py: Python<'_>, list: &Bound<'_, PyList>, chunk: usize) -> PyResult<()> {
        if let Some(slot @ None) = self.tensors.get_mut(chunk) {
            let tensor = Tensor::new(&list.get_item(chunk)?, "chunk")?;
            if layout_of(&tensor, py)? != self.layout {
                let want = format!("that of chunks[0], {:?}", self.layout);
                return Err(tensor.refuse(py, &format!("shape {:?}", tensor.shape()), &want));
            }
            *slot = Some(tensor);
        }
        Ok(())
    }

    /// `chunk_of` maps a slab or page id to its chunk.
    pub(crate) fn describe(
        py: Python<'_>,
        list: &Bound<'_, PyList>,
        ids: impl Iterator<Item = u32>,
        chunk_of: impl Fn(&PageLayout, u32) -> usize,
    ) -> PyResult<Self> {
        let mut chunks = Self::first(py, list)?;
        for id in ids {
            chunks.look(py, list, chunk_of(&chunks.layout, id))?;
        }
        Ok(chunks)
    }

    /// The chunks that were described.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.tensors.iter().flatten()
    }

    #[allow(clippy::mut_from_ref)]
    fn slices<P: Item>(&self, py: Python<'_>) -> PyResult<SmallVec<[&mut [P]; 8]>> {
        expect_disjoint(py, self.tensors())?;
        // SAFETY: no two share memory, and the tree that owns them lets one step write at a time.
        self.tensors
            .iter()
            .map(|t| t.as_ref().map_or(Ok(&mut [] as &mut [P]), |t| unsafe { t.slice_mut::<P>(py) }))
            .collect()
    }

    /// The chunks to be read, empty where none was described.
    pub(crate) fn views<P: Item>(&self, py: Python<'_>) -> PyResult<SmallVec<[&[P]; 8]>> {
        // SAFETY: the tree that owns them writes to them in steps, one at a time.
        self.tensors
            .iter()
            .map(|t| t.as_ref().map_or(Ok(&[] as &[P]), |t| unsafe { t.slice::<P>(py) }))
            .collect()
    }

    /// The chunks to be written, as bytes, empty where none was described.
    #[allow(clippy::mut_from_ref)]
    pub(crate) fn bytes(&self, py: Python<'_>) -> PyResult<SmallVec<[&mut [u8]; 8]>> {
        expect_disjoint(py, self.tensors())?;
        // SAFETY: no two share memory, and the tree that owns them lets one step write at a time.
        self.tensors
            .iter()
            .map(|t| t.as_ref().map_or(Ok(&mut [] as &mut [u8]), |t| unsafe { t.bytes_mut(py) }))
            .collect()
    }
}

/// Writes the keys and values of a step's rows to the pages of one layer. See `hornbeam.ops.write_rows`.
#[pyfunction]
#[pyo3(signature = (k, v, chunks, plan, layer, num_kv_heads))]
pub(crate) fn write_rows(
    k: &Bound<'_, PyAny>,
    v: &Bound<'_, PyAny>,
    chunks: &Bound<'_, PyList>,
    plan: &Bound<'_, PyPlan>,
    layer: usize,
    num_kv_heads: usize,
) -> PyResult<()> {
    write(Tensor::new, k, v, chunks, plan.get(), layer, num_kv_heads)
}

/// As `write_rows`, of keys and values that `describe` makes tensors of.
pub(crate) fn write(
    describe: Describe,
    k: &Bound<'_, PyAny>,
    v: &Bound<'_, PyAny>,
    chunks: &Bound<'_, PyList>,
    plan: &PyPlan,
    layer: usize,
    num_kv_heads: usize,
) -> PyResult<()> {
    let py = chunks.py();
    let slots: &[RowSlot] = &plan.plan.row_slots;
    if slots.is_empty() {
        return Ok(());
    }
    let (k, v) = (describe(k, "k")?, describe(v, "v")?);
    let slabs = slots.iter().map(|s| s.slab);
    let chunks = Chunks::describe(py, chunks, slabs, |layout, slab| slab as usize / layout.slabs_per_chunk)?;
    expect_apart(py, &chunks.tensors().collect::<SmallVec<[&Tensor; 8]>>(), [&k, &v])?;
    let call = Call { k, v, slots, chunks, layer, num_kv_heads };
    match (call.k.float(py)?, call.chunks.layout.dtype) {
        (Dtype::F32, Dtype::F32) => call.run(py, rows::copy_rows::<f32>),
        (Dtype::F32, Dtype::Bf16) => call.run(py, rows::write_rows::<f32, bf16>),
        (Dtype::F32, Dtype::F16) => call.run(py, rows::write_rows::<f32, f16>),
        (Dtype::Bf16, Dtype::F32) => call.run(py, rows::write_rows::<bf16, f32>),
        (Dtype::Bf16, Dtype::Bf16) => call.run(py, rows::copy_rows::<bf16>),
        (Dtype::Bf16, Dtype::F16) => call.run(py, rows::write_rows::<bf16, f16>),
        (Dtype::F16, Dtype::F32) => call.run(py, rows::write_rows::<f16, f32>),
        (Dtype::F16, Dtype::Bf16) => call.run(py, rows::write_rows::<f16, bf16>),
        (Dtype::F16, Dtype::F16) => call.run(py, rows::copy_rows::<f16>),
    }
}

type Write<S, P> = fn(
    RowVectors<'_, S>,
    RowVectors<'_, S>,
    &[RowSlot],
    LayerPages<'_, '_, P>,
    &dyn Parallel,
) -> hornbeam_core::Result<()>;

struct Call<'a> {
    k: Tensor,
    v: Tensor,
    slots: &'a [RowSlot],
    chunks: Chunks,
    layer: usize,
    num_kv_heads: usize,
}

impl Call<'_> {
    fn run<S: Element, P: Element>(&self, py: Python<'_>, write: Write<S, P>) -> PyResult<()> {
        let (keys, values) = (self.rows::<S>(py, &self.k)?, self.rows::<S>(py, &self.v)?);
        let mut slices = self.chunks.slices::<P>(py)?;
        let layout = &self.chunks.layout;
        let target =
            LayerPages { chunks: &mut slices, layout, layer: self.layer, num_kv_heads: self.num_kv_heads };
        if self.slots.len() * self.num_kv_heads * layout.head_dim < DETACH_ELEMENTS {
            return attached(py, || write(keys, values, self.slots, target, &Host));
        }
        let all = self.chunks.tensors().chain([&self.k, &self.v]);
        detached_on(py, all, || write(keys, values, self.slots, target, &Host))
    }

    fn rows<'a, S: Element>(&self, py: Python<'_>, tensor: &'a Tensor) -> PyResult<RowVectors<'a, S>> {
        let layout = &self.chunks.layout;
        let (row_stride, head_stride) =
            tensor.row_strides(py, [self.slots.len(), self.num_kv_heads, layout.head_dim])?;
        // SAFETY: no chunk shares its memory, and nobody else writes to it meanwhile.
        let data = unsafe { tensor.span::<S>(py) }?;
        Ok(RowVectors { data, row_stride, head_stride })
    }
}

/// Copies slots on all planes, in order: `moves` is int32 `[M, 4]` of (from slab, from slot, to
/// slab, to slot). A tree's moves give the same result in order as all at once.
#[pyfunction]
pub(crate) fn move_rows(
    py: Python<'_>,
    chunks: &Bound<'_, PyList>,
    moves: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let moves = quads(py, moves)?;
    if moves.is_empty() {
        return Ok(());
    }
    let moves: Vec<Move> = moves
        .iter()
        .map(|m| Move { from: RowSlot { slab: m[0], slot: m[1] }, to: RowSlot { slab: m[2], slot: m[3] } })
        .collect();
    let slabs = moves.iter().flat_map(|m| [m.from.slab, m.to.slab]);
    let chunks = Chunks::describe(py, chunks, slabs, |layout, slab| slab as usize / layout.slabs_per_chunk)?;
    let mut bytes = chunks.bytes(py)?;
    detached_on(py, chunks.tensors(), || rows::move_rows(&moves, &mut bytes, &chunks.layout))
}

/// Copies slots of single pages, in order: `moves` is int32 `[M, 4]` of (from page, from slot, to
/// page, to slot).
#[pyfunction]
pub(crate) fn move_page_rows(
    py: Python<'_>,
    chunks: &Bound<'_, PyList>,
    moves: &Bound<'_, PyAny>,
) -> PyResult<()> {
    run_page_moves(py, chunks, moves, rows::move_page_rows)
}

/// As `move_page_rows`, but every slot is read before any is written.
#[pyfunction]
pub(crate) fn move_page_rows_at_once(
    py: Python<'_>,
    chunks: &Bound<'_, PyList>,
    moves: &Bound<'_, PyAny>,
) -> PyResult<()> {
    run_page_moves(py, chunks, moves, rows::move_page_rows_at_once)
}

type PageMoves = fn(&[PageMove], &mut [&mut [u8]], &PageLayout) -> hornbeam_core::Result<()>;

fn run_page_moves(
    py: Python<'_>,
    chunks: &Bound<'_, PyList>,
    moves: &Bound<'_, PyAny>,
    run: PageMoves,
) -> PyResult<()> {
    let moves = page_moves(py, moves)?;
    if moves.is_empty() {
        return Ok(());
    }
    let pages = moves.iter().flat_map(|m| [m.from[0], m.to[0]]);
    let chunks = Chunks::describe(py, chunks, pages, |layout, page| layout.page(page).0)?;
    let mut bytes = chunks.bytes(py)?;
    detached_on(py, chunks.tensors(), || run(&moves, &mut bytes, &chunks.layout))
}

/// Moves of slots of pages, from int32 `[M, 4]`.
pub(crate) fn page_moves(py: Python<'_>, moves: &Bound<'_, PyAny>) -> PyResult<Vec<PageMove>> {
    Ok(quads(py, moves)?.iter().map(|m| PageMove { from: [m[0], m[1]], to: [m[2], m[3]] }).collect())
}

fn quads(py: Python<'_>, moves: &Bound<'_, PyAny>) -> PyResult<Vec<[u32; 4]>> {
    let tensor = Tensor::with_shape(moves, "moves", &[None, Some(4)])?;
    // SAFETY: the array is copied at once, with the GIL held.
    let words = unsafe { tensor.i32s(py) }?;
    Ok(words.chunks_exact(4).map(|w| [w[0] as u32, w[1] as u32, w[2] as u32, w[3] as u32]).collect())
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(write_rows, m)?)?;
    m.add_function(wrap_pyfunction!(move_rows, m)?)?;
    m.add_function(wrap_pyfunction!(move_page_rows, m)?)?;
    m.add_function(wrap_pyfunction!(move_page_rows_at_once, m)?)
}
