//! Pages in codes: their formats, and writing them.

use hornbeam_core::format::page::{CodedPage, FORMATS};
use hornbeam_core::ops::pages;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::error::detached_on;
use crate::parallel::Host;
use crate::rows::{Chunks, layout_of, page_moves};
use crate::tensor::Tensor;

/// The formats in order of their numbers, from 1 on: name, and tokens of a page of `chunk`, or 0
/// where a page does not hold a single one.
#[pyfunction]
fn page_formats(py: Python<'_>, chunk: &Bound<'_, PyAny>) -> PyResult<Vec<(&'static str, usize)>> {
    let layout = layout_of(&Tensor::new(chunk, "chunk")?, py)?;
    let tokens = |i: usize| CodedPage::new(i as u8 + 1, &layout).map_or(0, |page| page.tokens);
    Ok(FORMATS.iter().enumerate().map(|(i, format)| (format.name, tokens(i))).collect())
}

/// Writes pages in codes. See `hornbeam.ops.quantise_pages`.
#[pyfunction]
fn quantise_pages(
    py: Python<'_>,
    chunks: &Bound<'_, PyList>,
    moves: &Bound<'_, PyAny>,
    format: u8,
    by_page: bool,
) -> PyResult<()> {
    let moves = page_moves(py, moves)?;
    let ids = moves.iter().flat_map(|m| [m.from[0], m.to[0]]);
    let chunks = Chunks::describe(py, chunks, ids, |layout, id| match by_page {
        true => layout.page(id).0,
        false => id as usize / layout.slabs_per_chunk,
    })?;
    let mut bytes = chunks.bytes(py)?;
    detached_on(py, chunks.tensors(), || {
        pages::write_coded_pages(&moves, format, &mut bytes, &chunks.layout, by_page, &Host)
    })
}

/// Copies plain slots and writes pages in codes, (format, moves), everything at once, with ids of pages.
#[pyfunction]
fn condense_pages(
    py: Python<'_>,
    chunks: &Bound<'_, PyList>,
    moves: &Bound<'_, PyAny>,
    codes: Vec<(u8, Bound<'_, PyAny>)>,
) -> PyResult<()> {
    let moves = page_moves(py, moves)?;
    let codes =
        codes.iter().map(|(n, moves)| Ok((*n, page_moves(py, moves)?))).collect::<PyResult<Vec<_>>>()?;
    let all = codes.iter().flat_map(|(_, moves)| moves).chain(&moves);
    let ids = all.flat_map(|m| [m.from[0], m.to[0]]);
    let chunks = Chunks::describe(py, chunks, ids, |layout, id| layout.page(id).0)?;
    let mut bytes = chunks.bytes(py)?;
    detached_on(py, chunks.tensors(), || {
        pages::condense_pages(&moves, &codes, &mut bytes, &chunks.layout, &Host)
    })
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(page_formats, m)?)?;
    m.add_function(wrap_pyfunction!(quantise_pages, m)?)?;
    m.add_function(wrap_pyfunction!(condense_pages, m)?)
}
