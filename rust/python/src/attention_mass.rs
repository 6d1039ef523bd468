//! `attention_mass`: the binding.

use hornbeam_core::format::{Dtype, Element};
use hornbeam_core::ops::attention::{self, AttentionParams, MassOutput, Pages, Queries};
use hornbeam_core::simd::Isa;
use pyo3::prelude::*;
use pyo3::types::PyList;
use smallvec::SmallVec;

use crate::attention::describe;
use crate::error::{OrRaise, attached, detached_on};
use crate::integers::narrow;
use crate::parallel::Host;
use crate::plan::PyPlan;
use crate::tensor::{Tensor, expect_apart};

fn rows_of(py: Python<'_>, rows: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    narrow(py, rows, "rows", "a row of the plan")
}

/// The columns of `attention_mass`: (read, first column, columns) of every read that a row sees.
#[pyfunction]
fn mass_columns(
    py: Python<'_>,
    plan: &Bound<'_, PyPlan>,
    rows: &Bound<'_, PyAny>,
) -> PyResult<Vec<(u32, u32, u32)>> {
    let rows = rows_of(py, rows)?;
    let columns = attached(py, || attention::mass_columns(&plan.get().plan, &rows))?;
    Ok(columns.into_iter().map(|c| (c.read, c.begin, c.count)).collect())
}

/// Probability mass by kv head and key. See `hornbeam.ops.attention_mass`.
#[pyfunction]
#[pyo3(signature = (q, chunks, plan, rows, mass, seen, lse, layer, num_kv_heads, scale, window, soft_cap, sinks, isa=None))]
fn attention_mass(
    py: Python<'_>,
    q: &Bound<'_, PyAny>,
    chunks: &Bound<'_, PyList>,
    plan: &Bound<'_, PyPlan>,
    rows: &Bound<'_, PyAny>,
    mass: &Bound<'_, PyAny>,
    seen: Option<&Bound<'_, PyAny>>,
    lse: Option<&Bound<'_, PyAny>>,
    layer: usize,
    num_kv_heads: usize,
    scale: Option<f32>,
    window: Option<u32>,
    soft_cap: Option<f32>,
    sinks: Option<&Bound<'_, PyAny>>,
    isa: Option<&str>,
) -> PyResult<()> {
    let chunks = describe(py, chunks, plan.get())?;
    let plan = &*plan.get().plan;
    let rows = rows_of(py, rows)?;
    let columns = attention::mass_columns(plan, &rows).or_raise(py)?;
    let width = columns.last().map_or(0, |last| (last.begin + last.count) as usize);
    let layout = chunks.layout;
    let q = Tensor::new(q, "q")?;
    q.expect_shape(py, &[Some(rows.len()), None, Some(layout.head_dim)])?;
    let num_heads = q.shape()[1];
    let q_strides = q.row_strides(py, [rows.len(), num_heads, layout.head_dim])?;
    let isa = match isa {
        Some(name) => Isa::from_name(name).or_raise(py)?,
        None => Isa::detected(),
    };
    let by_key = [Some(num_kv_heads), Some(width)];
    let mass = Tensor::with_shape(mass, "out", &by_key)?;
    let seen = seen.map(|t| Tensor::with_shape(t, "seen", &by_key)).transpose()?;
    let by_query = [Some(rows.len()), Some(num_heads)];
    let lse = lse.map(|t| Tensor::with_shape(t, "lse", &by_query)).transpose()?;
    let sinks = sinks.map(|t| Tensor::with_shape(t, "sinks", &[Some(num_heads)])).transpose()?;
    let outputs: SmallVec<[&Tensor; 3]> =
        [Some(&mass), seen.as_ref(), lse.as_ref()].into_iter().flatten().collect();
    let inputs = || chunks.tensors().chain([&q]).chain(&sinks);
    expect_apart(py, &outputs, inputs())?;
    let all = || inputs().chain(outputs.iter().copied());
    // SAFETY: the outputs share no memory with other arguments; the caller lends them for the call.
    let (mass, seen, lse, sinks) = unsafe {
        (
            mass.i64s_mut(py)?,
            seen.as_ref().map(|t| t.i32s_mut(py)).transpose()?,
            lse.as_ref().map(|t| t.slice_mut::<f32>(py)).transpose()?,
            sinks.as_ref().map(|t| t.slice::<f32>(py)).transpose()?,
        )
    };
    // SAFETY: as above.
    let data = unsafe { q.float_span(py)? };
    let queries = Queries { data, row_stride: q_strides.0, head_stride: q_strides.1 };
    let params = AttentionParams {
        window,
        soft_cap,
        sinks,
        ..AttentionParams::new(num_heads, num_kv_heads, layer, layout.head_dim, scale)
    };
    let out = MassOutput { mass, seen, lse };
    let run = |pages: Pages<'_>| {
        attention::attention_mass(isa, &Host, queries, pages, &layout, plan, &params, &rows, out)
    };
    fn with<'c, E: Element, T: Send>(
        py: Python<'_>,
        chunks: &'c [&'c [E]],
        pages: impl FnOnce(&'c [&'c [E]]) -> Pages<'c>,
        tensors: impl Iterator<Item = &'c Tensor>,
        run: impl FnOnce(Pages<'c>) -> hornbeam_core::Result<T> + Send,
    ) -> PyResult<T> {
        let pages = pages(chunks);
        detached_on(py, tensors, || run(pages))
    }
    match layout.dtype {
        Dtype::F32 => with(py, &chunks.views::<f32>(py)?, Pages::F32, all(), run),
        Dtype::Bf16 => with(py, &chunks.views::<half::bf16>(py)?, Pages::Bf16, all(), run),
        Dtype::F16 => with(py, &chunks.views::<half::f16>(py)?, Pages::F16, all(), run),
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("MASS_ONE", hornbeam_core::ops::key_mass::MASS_ONE)?;
    m.add_function(wrap_pyfunction!(mass_columns, m)?)?;
    m.add_function(wrap_pyfunction!(attention_mass, m)?)
}
