//! Row writes and row moves on the device.

use hornbeam_cuda::params::{CommitRows, CopyRows, MoveRows, WriteRows};
use hornbeam_cuda::rows;
use pyo3::prelude::*;

use super::decide::vector;
use super::{OrRaise, PyCudaLane, contiguous, layer_pages, strides};
use crate::tensor::{Kind, Tensor};
use crate::tree::PyTree;

/// `hornbeam.ops.write_rows` on the device; `words` of the plan, `chunk` any of the pool's.
#[pyfunction]
#[pyo3(name = "cuda_write_rows")]
fn write_rows(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    k: &Bound<'_, PyAny>,
    v: &Bound<'_, PyAny>,
    words: &Bound<'_, PyAny>,
    chunk: &Bound<'_, PyAny>,
    layer: usize,
    num_kv_heads: usize,
) -> PyResult<()> {
    let (keys, values) = (Tensor::new(k, "k")?, Tensor::new(v, "v")?);
    let (words, chunk) = (super::words(py, words)?, Tensor::new(chunk, "chunk")?);
    let target = lane.get().target(py, k, &[&keys, &values, &words, &chunk])?;
    let (layout, pages) = layer_pages(py, &chunk, layer, num_kv_heads)?;
    let shape = [None, Some(num_kv_heads), Some(layout.head_dim)];
    let k_strides = strides(py, &keys, shape)?;
    let v_strides = strides(py, &values, [Some(keys.shape()[0]), shape[1], shape[2]])?;
    let dtype = keys.float(py)?;
    if values.float(py)? != dtype {
        return Err(values.refuse(py, &values.kind().to_string(), &format!("{}, as k", keys.kind())));
    }
    let parameters = WriteRows {
        k: keys.address(),
        v: values.address(),
        plan: words.address(),
        strides: [k_strides[0], k_strides[1], v_strides[0], v_strides[1]],
        pages,
        dtype: dtype.into(),
        num_rows: keys.shape()[0] as i32,
    };
    // SAFETY: the tensors are on the device, and torch's stream orders their reuse; the words
    // come from a `CudaPlan`, whose entries were checked against the pool.
    unsafe { rows::write_rows(lane.get().lane(), target.device, target.stream, &parameters) }.or_raise(py)
}

/// A tree, and the number of its copies that a launch makes. The launch and its confirmation are one call:
/// made twice, copies along a chain would be wrong.
type Made<'a> = Option<(Bound<'a, PyTree>, u64)>;

fn confirm(py: Python<'_>, made: Made<'_>) -> PyResult<()> {
    made.map_or(Ok(()), |(tree, number)| tree.get().confirm(py, number))
}

/// Moves rows in all planes, or of single pages; `addresses` are the chunks', int64 on the
/// device, `moves` int32 `[M, 4]` there. With `made` the tree is told.
#[pyfunction]
#[pyo3(name = "cuda_move_rows", signature = (lane, addresses, moves, chunk, by_page, made=None))]
fn move_rows(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    addresses: &Bound<'_, PyAny>,
    moves: &Bound<'_, PyAny>,
    chunk: &Bound<'_, PyAny>,
    by_page: bool,
    made: Made<'_>,
) -> PyResult<()> {
    let from = Tensor::new(addresses, "addresses")?;
    let (list, chunk) = (Tensor::new(moves, "moves")?, Tensor::new(chunk, "chunk")?);
    let target = lane.get().target(py, moves, &[&list, &from, &chunk])?;
    let (_, pages) = layer_pages(py, &chunk, 0, 1)?;
    let parameters = MoveRows {
        chunks: vector(py, &from, Kind::I64, None)?,
        moves: contiguous(py, &list, Kind::I32, &[None, Some(4)])?,
        pages,
        num_moves: list.shape()[0] as i32,
        reserved: 0,
    };
    // SAFETY: as above; the caller checked the moves against the pool.
    unsafe { rows::move_rows(lane.get().lane(), target.device, target.stream, &parameters, by_page) }
        .or_raise(py)?;
    confirm(py, made)
}

/// Copies rows of single pages to slots that no move reads. `addresses` are those of the chunks that are
/// read, and of those that are written: int64 on the device; `moves` int32 `[M, 4]` there, with ids of pages.
/// With `made` the tree is told.
#[pyfunction]
#[pyo3(name = "cuda_copy_rows", signature = (lane, addresses, moves, chunk, made=None))]
fn copy_rows(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    addresses: (Bound<'_, PyAny>, Bound<'_, PyAny>),
    moves: &Bound<'_, PyAny>,
    chunk: &Bound<'_, PyAny>,
    made: Made<'_>,
) -> PyResult<()> {
    let (from, to) = (Tensor::new(&addresses.0, "addresses")?, Tensor::new(&addresses.1, "addresses")?);
    let (list, chunk) = (Tensor::new(moves, "moves")?, Tensor::new(chunk, "chunk")?);
    let target = lane.get().target(py, moves, &[&list, &from, &to, &chunk])?;
    let parameters = CopyRows {
        from: vector(py, &from, Kind::I64, None)?,
        to: vector(py, &to, Kind::I64, None)?,
        moves: contiguous(py, &list, Kind::I32, &[None, Some(4)])?,
        pages: layer_pages(py, &chunk, 0, 1)?.1,
        num_moves: list.shape()[0] as i32,
        reserved: 0,
    };
    // SAFETY: as above; the caller checked the moves against both pools.
    unsafe { rows::copy_rows(lane.get().lane(), target.device, target.stream, &parameters) }.or_raise(py)?;
    confirm(py, made)
}

/// Moves the accepted rows of a step behind their sequences' roots, on all planes: the device's part
/// of `Step.commit`. `order` int32 has the step's rows, a sequence's root first, then its draft;
/// `offsets` int32 `[sequences + 1]` counts draft tokens; the verdict is as `cuda_follow` leaves it.
#[pyfunction]
#[pyo3(name = "cuda_commit_rows")]
fn commit_rows(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    words: &Bound<'_, PyAny>,
    order: &Bound<'_, PyAny>,
    offsets: &Bound<'_, PyAny>,
    accepted: &Bound<'_, PyAny>,
    num_accepted: &Bound<'_, PyAny>,
    chunk: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (plan, rows) = (super::words(py, words)?, Tensor::new(order, "order")?);
    let (offsets, paths) = (Tensor::new(offsets, "offsets")?, Tensor::new(accepted, "accepted")?);
    let (counts, chunk) = (Tensor::new(num_accepted, "num_accepted")?, Tensor::new(chunk, "chunk")?);
    let target = lane.get().target(py, words, &[&plan, &rows, &offsets, &paths, &counts, &chunk])?;
    let (_, pages) = layer_pages(py, &chunk, 0, 1)?;
    paths.expect_shape(py, &[Some(counts.len()), None])?;
    if paths.kind() != Kind::I32 || !paths.is_contiguous() {
        return Err(paths.refuse(py, &paths.kind().to_string(), "contiguous int32"));
    }
    let parameters = CommitRows {
        plan: plan.address(),
        order: vector(py, &rows, Kind::I32, None)?,
        offsets: vector(py, &offsets, Kind::I32, Some(counts.len() + 1))?,
        accepted: paths.address(),
        num_accepted: vector(py, &counts, Kind::I32, None)?,
        pages,
        num_sequences: counts.len() as i32,
        max_depth: paths.shape()[1] as i32,
    };
    // SAFETY: as above; the caller's order names rows of the plan.
    unsafe { rows::commit_rows(lane.get().lane(), target.device, target.stream, &parameters) }.or_raise(py)
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(write_rows, m)?)?;
    m.add_function(wrap_pyfunction!(move_rows, m)?)?;
    m.add_function(wrap_pyfunction!(copy_rows, m)?)?;
    m.add_function(wrap_pyfunction!(commit_rows, m)?)
}
