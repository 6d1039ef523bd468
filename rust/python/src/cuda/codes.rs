//! Pages in codes on the device.

use hornbeam_core::format::page::CodedPage;
use hornbeam_cuda::codes::{self, FORMAT_WORDS};
use hornbeam_cuda::params::EncodePages;
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

/// `hornbeam.ops.quantise_pages` on the device. `addresses` are the chunks', int64; `moves` int32
/// `[M, 4]`; `runs` int32, where each page's moves begin and the last ones end; `format` int32 of
/// `cuda_format_words`; `fault` int32 `[1]`, takes 1 where a page was not written. All lie there.
#[pyfunction]
fn cuda_encode_pages(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    addresses: &Bound<'_, PyAny>,
    moves: &Bound<'_, PyAny>,
    runs: &Bound<'_, PyAny>,
    format: &Bound<'_, PyAny>,
    fault: &Bound<'_, PyAny>,
    chunk: &Bound<'_, PyAny>,
    by_page: bool,
) -> PyResult<()> {
    let (table, list) = (Tensor::new(addresses, "addresses")?, Tensor::new(moves, "moves")?);
    let (begins, words) = (Tensor::new(runs, "runs")?, Tensor::new(format, "format")?);
    let (broken, chunk) = (Tensor::new(fault, "fault")?, Tensor::new(chunk, "chunk")?);
    let target = lane.get().target(py, moves, &[&list, &table, &begins, &words, &broken, &chunk])?;
    let (_, pages) = layer_pages(py, &chunk, 0, 1)?;
    let parameters = EncodePages {
        chunks: vector(py, &table, Kind::I64, None)?,
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

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(cuda_format_words, m)?)?;
    m.add_function(wrap_pyfunction!(cuda_encode_pages, m)?)
}
