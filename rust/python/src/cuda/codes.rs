//! Pages in codes on the device.

use hornbeam_core::format::Dtype;
use hornbeam_core::format::page::{CodedPage, FORMATS};
use hornbeam_cuda::codes::{self, FORMAT_WORDS};
use hornbeam_cuda::params::{EncodePages, GatherRows, PutRows};
use pyo3::prelude::*;

use super::decide::vector;
use super::{OrRaise, PyCudaLane, contiguous, layer_pages};
use crate::rows::layout_of;
use crate::tensor::{Kind, Tensor};

/// How a page of a format is laid out, for `cuda_encode_pages`.
#[pyfunction]
fn cuda_format_words(py: Python<'_>, chunk: &Bound<'_, PyAny>, format: u8) -> PyResult<Vec<i32>> {
    let layout = layout_of(&Tensor::new(chunk, "chunk")?, py)?;
    let page = crate::error::OrRaise::or_raise(CodedPage::new(format, &layout), py)?;
    Ok(codes::format_words(&page).to_vec())
}

/// The same of all formats in order of their numbers, zeros for those of which a page holds no token: for
/// `cuda_gather_rows`.
#[pyfunction]
fn cuda_all_format_words(py: Python<'_>, chunk: &Bound<'_, PyAny>) -> PyResult<Vec<i32>> {
    Ok(codes::all_format_words(&layout_of(&Tensor::new(chunk, "chunk")?, py)?))
}

/// `hornbeam.ops.quantise_pages` on the device. `addresses` are the chunks', int64: of those that are read,
/// and of those that are written; `moves` int32
/// `[M, 4]`; `runs` int32, where each page's moves begin and the last ones end; `format` int32 of
/// `cuda_format_words`; `fault` int32 `[1]`, takes 1 where a page was not written. All lie there.
#[pyfunction]
fn cuda_encode_pages(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    addresses: (Bound<'_, PyAny>, Bound<'_, PyAny>),
    moves: &Bound<'_, PyAny>,
    runs: &Bound<'_, PyAny>,
    format: &Bound<'_, PyAny>,
    fault: &Bound<'_, PyAny>,
    chunk: &Bound<'_, PyAny>,
    by_page: bool,
) -> PyResult<()> {
    let (from, to) = (Tensor::new(&addresses.0, "addresses")?, Tensor::new(&addresses.1, "addresses")?);
    let list = Tensor::new(moves, "moves")?;
    let (begins, words) = (Tensor::new(runs, "runs")?, Tensor::new(format, "format")?);
    let (broken, chunk) = (Tensor::new(fault, "fault")?, Tensor::new(chunk, "chunk")?);
    let target = lane.get().target(py, moves, &[&list, &from, &to, &begins, &words, &broken, &chunk])?;
    let (_, pages) = layer_pages(py, &chunk, 0, 1)?;
    let parameters = EncodePages {
        chunks: vector(py, &from, Kind::I64, None)?,
        to: vector(py, &to, Kind::I64, None)?,
        moves: contiguous(py, &list, Kind::I32, &[None, Some(4)])?,
        runs: vector(py, &begins, Kind::I32, None)?,
        format: vector(py, &words, Kind::I32, Some(FORMAT_WORDS))?,
        fault: vector(py, &broken, Kind::I32, Some(1))?,
        pages,
        num_runs: begins.len().saturating_sub(1) as i32,
        by_page: i32::from(by_page),
    };
    // SAFETY: the tensors are on the device; the caller checked moves and runs against the pool.
    let done = unsafe { codes::encode_pages(lane.get().lane(), target.device, target.stream, &parameters) };
    OrRaise::or_raise(done, py)
}

/// The addresses of float32 keys and values `[rows, head_dim]`.
fn rows_of(py: Python<'_>, rows: [&Tensor; 2], count: usize, head_dim: usize) -> PyResult<[u64; 2]> {
    let of = |tensor| contiguous(py, tensor, Kind::Float(Dtype::F32), &[Some(count), Some(head_dim)]);
    Ok([of(rows[0])?, of(rows[1])?])
}

/// Copies keys and values of single slots to float32 `keys [N, D]` and `values [N, D]`. `addresses` are the
/// chunks', int64; `held` int32 `[N, 3]` as `KeyTable.entries` gives them; `formats` int32 of
/// `cuda_all_format_words`, where slots in codes are among them. All lie on the device.
#[pyfunction]
fn cuda_gather_rows(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    addresses: &Bound<'_, PyAny>,
    held: &Bound<'_, PyAny>,
    formats: Option<&Bound<'_, PyAny>>,
    keys: &Bound<'_, PyAny>,
    values: &Bound<'_, PyAny>,
    chunk: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (from, list) = (Tensor::new(addresses, "addresses")?, Tensor::new(held, "held")?);
    let words = formats.map(|words| Tensor::new(words, "formats")).transpose()?;
    let (k, v, chunk) =
        (Tensor::new(keys, "keys")?, Tensor::new(values, "values")?, Tensor::new(chunk, "chunk")?);
    let mut all = vec![&list, &from, &k, &v, &chunk];
    all.extend(&words);
    let target = lane.get().target(py, held, &all)?;
    let (layout, pages) = layer_pages(py, &chunk, 0, 1)?;
    let slots = contiguous(py, &list, Kind::I32, &[None, Some(3)])?;
    let [keys, values] = rows_of(py, [&k, &v], list.shape()[0], layout.head_dim)?;
    let most = FORMATS.len() * FORMAT_WORDS;
    let parameters = GatherRows {
        chunks: vector(py, &from, Kind::I64, None)?,
        held: slots,
        formats: words.as_ref().map_or(Ok(0), |words| vector(py, words, Kind::I32, Some(most)))?,
        keys,
        values,
        pages,
        num_rows: list.shape()[0] as i32,
        reserved: 0,
    };
    // SAFETY: the tensors are on the device; the caller checked the slots against the pool.
    let done = unsafe { codes::gather_rows(lane.get().lane(), target.device, target.stream, &parameters) };
    OrRaise::or_raise(done, py)
}

/// Writes float32 `keys [N, D]` and `values [N, D]` to single plain slots, rounded. As `cuda_gather_rows`.
#[pyfunction]
fn cuda_put_rows(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    addresses: &Bound<'_, PyAny>,
    held: &Bound<'_, PyAny>,
    keys: &Bound<'_, PyAny>,
    values: &Bound<'_, PyAny>,
    chunk: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (to, list) = (Tensor::new(addresses, "addresses")?, Tensor::new(held, "held")?);
    let (k, v, chunk) =
        (Tensor::new(keys, "keys")?, Tensor::new(values, "values")?, Tensor::new(chunk, "chunk")?);
    let target = lane.get().target(py, held, &[&list, &to, &k, &v, &chunk])?;
    let (layout, pages) = layer_pages(py, &chunk, 0, 1)?;
    let slots = contiguous(py, &list, Kind::I32, &[None, Some(3)])?;
    let [keys, values] = rows_of(py, [&k, &v], list.shape()[0], layout.head_dim)?;
    let parameters = PutRows {
        chunks: vector(py, &to, Kind::I64, None)?,
        held: slots,
        keys,
        values,
        pages,
        num_rows: list.shape()[0] as i32,
        reserved: 0,
    };
    // SAFETY: as above.
    let done = unsafe { codes::put_rows(lane.get().lane(), target.device, target.stream, &parameters) };
    OrRaise::or_raise(done, py)
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(cuda_format_words, m)?)?;
    m.add_function(wrap_pyfunction!(cuda_all_format_words, m)?)?;
    m.add_function(wrap_pyfunction!(cuda_encode_pages, m)?)?;
    m.add_function(wrap_pyfunction!(cuda_gather_rows, m)?)?;
    m.add_function(wrap_pyfunction!(cuda_put_rows, m)?)
}
