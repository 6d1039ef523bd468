//! `tree_attention`: the binding.

use hornbeam_core::format::PageLayout;
use hornbeam_core::format::plan::Plan;
use hornbeam_core::format::selection::Selection;
use hornbeam_core::format::{Dtype, Element};
use hornbeam_core::ops::attention::{
    self, AttentionParams, FloatsMut, Output, Pages, Queries, STREAM_QUERIES,
};
use hornbeam_core::simd::Isa;
use pyo3::prelude::*;
use pyo3::types::PyList;
use smallvec::SmallVec;

use crate::attend::PySelection;
use crate::error::{OrRaise, attached, detached_on};
use crate::parallel::Host;
use crate::plan::PyPlan;
use crate::rows::Chunks;
use crate::tensor::{Describe, Tensor, expect_apart};

/// Chunks up to which all are described; above, only those that the plan reads.
const FEW_CHUNKS: usize = 8;

/// The chunks that a plan reads, described; `None` where it reads nothing and there are many.
pub(crate) fn describe(py: Python<'_>, list: &Bound<'_, PyList>, plan: &PyPlan) -> PyResult<Chunks> {
    let plan: &Plan = &plan.plan;
    let mut chunks = Chunks::first(py, list)?;
    let layout = chunks.layout;
    let mut look = |chunk| chunks.look(py, list, chunk);
    if list.len() <= FEW_CHUNKS {
        (1..list.len()).try_for_each(look)?;
        return Ok(chunks);
    }
    for read in &plan.reads {
        let range = read.entry_begin as usize..read.entry_end as usize;
        if read.is_own() {
            let rows = read.row_begin as usize..read.row_end as usize;
            let slots = plan.row_slots.get(rows).unwrap_or_default();
            slots.iter().try_for_each(|slot| look(slot.slab as usize / layout.slabs_per_chunk))?;
        } else if read.is_by_head() {
            for [begin, end] in plan.head_ranges.get(range).unwrap_or_default() {
                let run = plan.entries.get(*begin as usize..*end as usize).unwrap_or_default();
                run.iter().try_for_each(|entry| look(layout.page(entry.page).0))?;
            }
        } else {
            let run = plan.entries.get(range).unwrap_or_default();
            run.iter().try_for_each(|entry| look(entry.page as usize / layout.slabs_per_chunk))?;
        }
    }
    Ok(chunks)
}

/// Multiply-adds above which the GIL is released: about 10 µs.
const DETACH_WORK: f64 = (1 << 18) as f64;

/// What a call of attention asks for beside its queries, pages, plan and output.
#[derive(Default)]
pub(crate) struct Asked<'a, 'py> {
    pub(crate) lse: Option<&'a Bound<'py, PyAny>>,
    pub(crate) layer: usize,
    pub(crate) num_kv_heads: usize,
    pub(crate) scale: Option<f32>,
    pub(crate) window: Option<u32>,
    pub(crate) soft_cap: Option<f32>,
    pub(crate) sinks: Option<&'a Bound<'py, PyAny>>,
    /// Whether queries and sinks that do not lie as they are read are copied; else they are refused.
    pub(crate) copies: bool,
    pub(crate) isa: Option<&'a str>,
    pub(crate) selection: Option<&'a Bound<'py, PySelection>>,
    pub(crate) stream_queries: Option<usize>,
    pub(crate) batch_invariant: bool,
}

/// Attention over pages. See `hornbeam.ops.tree_attention`.
#[pyfunction]
#[pyo3(signature = (q, chunks, plan, out, lse, layer, num_kv_heads, scale, window, soft_cap, sinks, isa=None, selection=None, stream_queries=None, batch_invariant=false))]
fn tree_attention(
    q: &Bound<'_, PyAny>,
    chunks: &Bound<'_, PyList>,
    plan: &Bound<'_, PyPlan>,
    out: &Bound<'_, PyAny>,
    lse: Option<&Bound<'_, PyAny>>,
    layer: usize,
    num_kv_heads: usize,
    scale: Option<f32>,
    window: Option<u32>,
    soft_cap: Option<f32>,
    sinks: Option<&Bound<'_, PyAny>>,
    isa: Option<&str>,
    selection: Option<&Bound<'_, PySelection>>,
    stream_queries: Option<usize>,
    batch_invariant: bool,
) -> PyResult<()> {
    let asked = Asked {
        lse,
        layer,
        num_kv_heads,
        scale,
        window,
        soft_cap,
        sinks,
        copies: false,
        isa,
        selection,
        stream_queries,
        batch_invariant,
    };
    attend(q, chunks, plan.get(), out, asked)
}

/// As `tree_attention`.
pub(crate) fn attend(
    q: &Bound<'_, PyAny>,
    chunks: &Bound<'_, PyList>,
    plan: &PyPlan,
    out: &Bound<'_, PyAny>,
    asked: Asked<'_, '_>,
) -> PyResult<()> {
    let py = out.py();
    let (as_queries, as_sinks): (Describe, Describe) = match asked.copies {
        true => (Tensor::unit_last, Tensor::side_by_side),
        false => (Tensor::new, Tensor::new),
    };
    let (q, out) = (as_queries(q, "q")?, Tensor::new(out, "out")?);
    let chunks = describe(py, chunks, plan)?;
    let selection = asked.selection.map(|selection| selection.get().of(py, plan)).transpose()?;
    let plan: &Plan = &plan.plan;
    let layout = chunks.layout;
    q.expect_shape(py, &[Some(plan.num_rows()), None, Some(layout.head_dim)])?;
    let num_heads = q.shape()[1];
    let shape = [plan.num_rows(), num_heads, layout.head_dim];
    let (q_strides, out_strides) = (q.row_strides(py, shape)?, out.row_strides(py, shape)?);
    let isa = match asked.isa {
        Some(name) => Isa::from_name(name).or_raise(py)?,
        None => Isa::detected(),
    };
    let lse = asked.lse.map(|t| Tensor::with_shape(t, "lse", &[Some(plan.num_rows()), Some(num_heads)]));
    let (lse, sinks) = (lse.transpose()?, asked.sinks.map(|t| as_sinks(t, "sinks")).transpose()?);
    if let Some(sinks) = &sinks {
        sinks.expect_shape(py, &[Some(num_heads)])?;
    }
    let outputs: SmallVec<[&Tensor; 2]> = [Some(&out), lse.as_ref()].into_iter().flatten().collect();
    let inputs = || chunks.tensors().chain([&q]).chain(&sinks);
    expect_apart(py, &outputs, inputs())?;
    let all = || inputs().chain(outputs.iter().copied());
    // SAFETY: the outputs share no memory with other arguments; the caller lends them for the call.
    let (lse, sinks) = unsafe {
        (
            lse.as_ref().map(|t| t.slice_mut::<f32>(py)).transpose()?,
            sinks.as_ref().map(|t| t.slice::<f32>(py)).transpose()?,
        )
    };
    let params = AttentionParams {
        window: asked.window,
        soft_cap: asked.soft_cap,
        sinks,
        stream_queries: asked.stream_queries.unwrap_or(STREAM_QUERIES),
        batch_invariant: asked.batch_invariant,
        ..AttentionParams::new(num_heads, asked.num_kv_heads, asked.layer, layout.head_dim, asked.scale)
    };
    // SAFETY: as above.
    let data = unsafe { q.float_span(py)? };
    let queries = Queries { data, row_stride: q_strides.0, head_stride: q_strides.1 };
    // SAFETY: as above.
    let data = unsafe {
        match out.float(py)? {
            Dtype::F32 => FloatsMut::F32(out.span_mut(py)?),
            Dtype::Bf16 => FloatsMut::Bf16(out.span_mut(py)?),
            Dtype::F16 => FloatsMut::F16(out.span_mut(py)?),
        }
    };
    let out = Output { data, row_stride: out_strides.0, head_stride: out_strides.1, lse };
    let call = Call { py, isa, queries, layout: &layout, plan, params: &params, selection, out };
    match layout.dtype {
        Dtype::F32 => call.run(&chunks.views::<f32>(py)?, Pages::F32, all()),
        Dtype::Bf16 => call.run(&chunks.views::<half::bf16>(py)?, Pages::Bf16, all()),
        Dtype::F16 => call.run(&chunks.views::<half::f16>(py)?, Pages::F16, all()),
    }
}

struct Call<'a, 'py> {
    py: Python<'py>,
    isa: Isa,
    queries: Queries<'a>,
    layout: &'a PageLayout,
    plan: &'a Plan,
    params: &'a AttentionParams<'a>,
    selection: Option<&'a Selection>,
    out: Output<'a>,
}

impl Call<'_, '_> {
    fn run<'c, E: Element>(
        self,
        chunks: &'c [&'c [E]],
        pages: impl FnOnce(&'c [&'c [E]]) -> Pages<'c>,
        tensors: impl Iterator<Item = &'c Tensor>,
    ) -> PyResult<()> {
        let Self { py, isa, queries, layout, plan, params, selection, out } = self;
        let pages = pages(chunks);
        let keys: f64 =
            plan.reads.iter().map(|r| f64::from(r.num_keys) * f64::from(r.row_end - r.row_begin)).sum();
        let run =
            || attention::tree_attention(isa, &Host, queries, pages, layout, plan, params, selection, out);
        if keys * (params.num_heads * layout.head_dim) as f64 >= DETACH_WORK {
            return detached_on(py, tensors, run);
        }
        attached(py, run)
    }
}

/// The instruction sets that kernels run on here, best last, and the one in use: `(["portable", "avx2"], "avx2")`.
#[pyfunction]
fn instruction_sets() -> (Vec<&'static str>, &'static str) {
    (Isa::available().map(Isa::name).collect(), Isa::detected().name())
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("STREAM_QUERIES", STREAM_QUERIES)?;
    m.add_function(wrap_pyfunction!(tree_attention, m)?)?;
    m.add_function(wrap_pyfunction!(instruction_sets, m)?)
}
