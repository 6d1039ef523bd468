//! The operations of `torch.ops.hornbeam` on the CPU of which a short call is to cost little: torch calls these functions
//! as they stand here, with the arguments of their schemas. Plans are words; inputs that do not lie as they are read
//! are copied. The others are Python's (`hornbeam/ops/registered`).

use std::borrow::Cow;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::attention::{Asked, attend};
use crate::kept_plans::plan_of;
use crate::linear::multiply;
use crate::rows::write;
use crate::tensor::Tensor;
use crate::topk::plain;

/// `linear`.
#[pyfunction]
#[pyo3(signature = (x, weight, bias=None))]
fn registered_linear<'py>(
    x: &Bound<'py, PyAny>,
    weight: &Bound<'py, PyAny>,
    bias: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    multiply(Tensor::side_by_side, x, weight, bias, None)
}

/// `linear_out`.
#[pyfunction]
#[pyo3(signature = (x, weight, bias=None, *, out))]
fn registered_linear_out<'py>(
    x: &Bound<'py, PyAny>,
    weight: &Bound<'py, PyAny>,
    bias: Option<&Bound<'py, PyAny>>,
    out: Bound<'py, PyAny>,
) -> PyResult<()> {
    multiply(Tensor::side_by_side, x, weight, bias, Some(out)).map(|_| ())
}

/// `topk`.
#[pyfunction]
#[pyo3(signature = (scores, k, *, offsets=None, sorted=false, hint=None))]
fn registered_topk<'py>(
    py: Python<'py>,
    scores: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    offsets: Option<&Bound<'py, PyAny>>,
    sorted: bool,
    hint: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    if offsets.is_none()
        && hint.is_none()
        && let Some(pair) = plain(scores, k, sorted, None)?
    {
        return Ok(pair.into_any());
    }
    any_topk(py, scores, k, offsets, sorted, hint, None)
}

/// `topk_out`.
#[pyfunction]
#[pyo3(signature = (scores, k, *, offsets=None, sorted=false, hint=None, values, indices))]
fn registered_topk_out<'py>(
    py: Python<'py>,
    scores: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    offsets: Option<&Bound<'py, PyAny>>,
    sorted: bool,
    hint: Option<&Bound<'py, PyAny>>,
    values: Bound<'py, PyAny>,
    indices: Bound<'py, PyAny>,
) -> PyResult<()> {
    let out = (values, indices).into_pyobject(py)?;
    if offsets.is_none() && hint.is_none() && plain(scores, k, sorted, Some(&out))?.is_some() {
        return Ok(());
    }
    any_topk(py, scores, k, offsets, sorted, hint, Some(&out)).map(|_| ())
}

/// Of any arguments, as Python looks at them.
fn any_topk<'py>(
    py: Python<'py>,
    scores: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    offsets: Option<&Bound<'py, PyAny>>,
    sorted: bool,
    hint: Option<&Bound<'py, PyAny>>,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let options = PyDict::new(py);
    for (name, value) in [("offsets", offsets), ("hint", hint), ("out", out)] {
        options.set_item(name, value)?;
    }
    options.set_item("sorted", sorted)?;
    py.import("hornbeam.ops.topk")?.getattr("topk")?.call((scores, k), Some(&options))
}

/// `write_rows`.
#[pyfunction]
#[pyo3(signature = (k, v, chunks, plan, layer, num_kv_heads))]
fn registered_write_rows(
    k: &Bound<'_, PyAny>,
    v: &Bound<'_, PyAny>,
    chunks: &Bound<'_, PyAny>,
    plan: &Bound<'_, PyAny>,
    layer: usize,
    num_kv_heads: usize,
) -> PyResult<()> {
    let plan = plan_of(plan)?;
    write(Tensor::unit_last, k, v, &*pool(chunks)?, plan.get(), layer, num_kv_heads)
}

/// `tree_attention`.
#[pyfunction]
#[pyo3(signature = (
    q, chunks, plan, layer, num_kv_heads, *, scale=None, window=None, soft_cap=None, sinks=None, batch_invariant=false
))]
fn registered_tree_attention<'py>(
    q: &Bound<'py, PyAny>,
    chunks: &Bound<'py, PyAny>,
    plan: &Bound<'py, PyAny>,
    layer: usize,
    num_kv_heads: usize,
    scale: Option<f32>,
    window: Option<u32>,
    soft_cap: Option<f32>,
    sinks: Option<&Bound<'py, PyAny>>,
    batch_invariant: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let py = q.py();
    let out = q.call_method1(intern!(py, "new_empty"), (q.getattr(intern!(py, "shape"))?,))?;
    registered_tree_attention_out(
        q,
        chunks,
        plan,
        layer,
        num_kv_heads,
        scale,
        window,
        soft_cap,
        sinks,
        batch_invariant,
        &out,
        None,
    )?;
    Ok(out)
}

/// `tree_attention_out`.
#[pyfunction]
#[pyo3(signature = (
    q, chunks, plan, layer, num_kv_heads, *, scale=None, window=None, soft_cap=None, sinks=None, batch_invariant=false,
    out, lse=None
))]
fn registered_tree_attention_out(
    q: &Bound<'_, PyAny>,
    chunks: &Bound<'_, PyAny>,
    plan: &Bound<'_, PyAny>,
    layer: usize,
    num_kv_heads: usize,
    scale: Option<f32>,
    window: Option<u32>,
    soft_cap: Option<f32>,
    sinks: Option<&Bound<'_, PyAny>>,
    batch_invariant: bool,
    out: &Bound<'_, PyAny>,
    lse: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let asked = Asked {
        lse,
        layer,
        num_kv_heads,
        scale,
        window,
        soft_cap,
        sinks,
        batch_invariant,
        copies: true,
        ..Asked::default()
    };
    attend(q, &*pool(chunks)?, plan_of(plan)?.get(), out, asked)
}

/// The chunks as a list: torch takes a tuple for a list too.
fn pool<'a, 'py>(chunks: &'a Bound<'py, PyAny>) -> PyResult<Cow<'a, Bound<'py, PyList>>> {
    match chunks.cast::<PyList>() {
        Ok(list) => Ok(Cow::Borrowed(list)),
        Err(_) => Ok(Cow::Owned(chunks.cast::<PyTuple>()?.to_list())),
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(registered_linear, m)?)?;
    m.add_function(wrap_pyfunction!(registered_linear_out, m)?)?;
    m.add_function(wrap_pyfunction!(registered_topk, m)?)?;
    m.add_function(wrap_pyfunction!(registered_topk_out, m)?)?;
    m.add_function(wrap_pyfunction!(registered_write_rows, m)?)?;
    m.add_function(wrap_pyfunction!(registered_tree_attention, m)?)?;
    m.add_function(wrap_pyfunction!(registered_tree_attention_out, m)?)
}
