//! Sparse attention: rules, and the pages that rows select by them.

use std::sync::Arc;

use hornbeam_core::Error;
use hornbeam_core::attend::{self, Rule, RuleWords, RuledRows};
use hornbeam_core::format::plan::Plan;
use hornbeam_core::format::selection::Selection;
use hornbeam_core::format::{Dtype, Element};
use hornbeam_core::ops::attention::{AttentionParams, Pages, Queries};
use hornbeam_core::ops::page_summary::{Summaries, Summary};
use hornbeam_core::simd::Isa;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyList};
use smallvec::SmallVec;

use crate::attention::describe;
use crate::error::{OrRaise, attached, to_py};
use crate::parallel::Host;
use crate::plan::PyPlan;
use crate::tensor::Tensor;
use crate::tree::PyTree;

/// How a row chooses the pages that it reads: see `hornbeam.attend`.
#[pyclass(name = "AttendRule", module = "hornbeam._native", frozen, eq)]
#[derive(PartialEq)]
pub(crate) struct PyAttendRule {
    rule: Rule,
}

#[pymethods]
impl PyAttendRule {
    #[new]
    #[pyo3(signature = (
        *, estimate, slack=None, group="max", select, k=None, share=None, p=None, floor=0, cap=None, threshold=None, sinks=0,
        window=0
    ))]
    fn new(
        py: Python<'_>,
        estimate: &str,
        slack: Option<f32>,
        group: &str,
        select: &str,
        k: Option<usize>,
        share: Option<f64>,
        p: Option<f64>,
        floor: usize,
        cap: Option<usize>,
        threshold: Option<f64>,
        sinks: u32,
        window: u32,
    ) -> PyResult<Self> {
        let words =
            RuleWords { estimate, slack, group, select, k, share, p, floor, cap, threshold, sinks, window };
        Ok(Self { rule: Rule::new(&words).or_raise(py)? })
    }

    fn __repr__(&self) -> String {
        format!("AttendRule({:?})", self.rule)
    }
}

/// The entries of a plan's prefix reads that the rows of a step read in one layer, and who sees them.
#[pyclass(name = "Selection", module = "hornbeam._native", frozen)]
pub(crate) struct PySelection {
    pub(crate) selection: Selection,
    plan: Arc<Plan>,
    layer: usize,
}

impl PySelection {
    /// The selection, if it is one of this plan.
    pub(crate) fn of(&self, py: Python<'_>, plan: &PyPlan) -> PyResult<&Selection> {
        if Arc::ptr_eq(&self.plan, &plan.plan) {
            return Ok(&self.selection);
        }
        Err(to_py(py, Error::value("selection", "of another plan", "one of this plan")))
    }
}

#[pymethods]
impl PySelection {
    /// Units that are read, summed over kv heads: a unit is an entry of a prefix read.
    #[getter]
    fn num_units(&self) -> usize {
        self.selection.num_units()
    }

    /// Keys of prefix reads that are read, summed over kv heads.
    #[getter]
    fn union_keys(&self) -> u64 {
        self.selection.union_keys()
    }

    /// Keys of prefix reads that there are, summed over kv heads.
    #[getter]
    fn plan_keys(&self) -> u64 {
        self.selection.plan_keys()
    }

    /// bool `[num_rows, num_entries]`: which entries of the plan a row reads with query head `member` of a kv
    /// head; entries of own reads are false. For tests and pictures: it looks at everything.
    fn mask<'py>(&self, py: Python<'py>, kv_head: usize, member: usize) -> PyResult<Bound<'py, PyAny>> {
        let (heads, group) = (self.selection.num_kv_heads(), self.selection.group());
        for (name, got, limit) in [("kv_head", kv_head, heads), ("member", member, group)] {
            if got >= limit {
                return Err(to_py(py, Error::value(name, got, format!("less than {limit}"))));
            }
        }
        let plane = self.layer * heads + kv_head;
        let seen = attached(py, || Ok(self.selection.seen(&self.plan, plane, kv_head, member)))?;
        let bytes: Vec<u8> = seen.into_iter().map(u8::from).collect();
        let shape = (self.plan.num_rows(), self.plan.entries.len());
        let numpy = py.import("numpy")?;
        if bytes.is_empty() {
            return numpy.call_method1("zeros", (shape, "bool"));
        }
        let array = numpy.call_method1("frombuffer", (PyByteArray::new(py, &bytes), "bool"))?;
        array.call_method1("reshape", shape)
    }

    fn __repr__(&self) -> String {
        let (read, all) = (self.selection.union_keys(), self.selection.plan_keys());
        format!("Selection(num_units={}, union_keys={read}, plan_keys={all})", self.selection.num_units())
    }
}

/// What the rows of a step read in a layer: by each of `rules`, (first row, one past the last, rule), what it
/// selects; other rows read everything. `q [num_rows, num_heads, head_dim]` are their queries, and `chunks` the
/// pages of `tree`, whose columns keep the summaries that estimates are made from.
#[pyfunction]
#[pyo3(signature = (tree, q, chunks, plan, layer, num_kv_heads, scale, rules, isa=None))]
fn select_pages(
    py: Python<'_>,
    tree: &Bound<'_, PyTree>,
    q: &Bound<'_, PyAny>,
    chunks: &Bound<'_, PyList>,
    plan: &Bound<'_, PyPlan>,
    layer: usize,
    num_kv_heads: usize,
    scale: Option<f32>,
    rules: Vec<(u32, u32, Bound<'_, PyAttendRule>)>,
    isa: Option<&str>,
) -> PyResult<PySelection> {
    let q = Tensor::new(q, "q")?;
    let chunks = describe(py, chunks, plan.get())?;
    let held = Arc::clone(&plan.get().plan);
    let plan: &Plan = &held;
    let layout = chunks.layout;
    q.expect_shape(py, &[Some(plan.num_rows()), None, Some(layout.head_dim)])?;
    let num_heads = q.shape()[1];
    let (row_stride, head_stride) = q.row_strides(py, [plan.num_rows(), num_heads, layout.head_dim])?;
    let isa = match isa {
        Some(name) => Isa::from_name(name).or_raise(py)?,
        None => Isa::detected(),
    };
    let rules: Vec<RuledRows> = rules
        .iter()
        .map(|(row_begin, row_end, rule)| RuledRows {
            row_begin: *row_begin,
            row_end: *row_end,
            rule: rule.get().rule,
        })
        .collect();
    let asks = |kind: &Summary| rules.iter().any(|ruled| ruled.rule.estimate() == Some(*kind));
    let kinds: SmallVec<[Summary; 2]> = Summary::ALL.into_iter().filter(asks).collect();
    let params = AttentionParams::new(num_heads, num_kv_heads, layer, layout.head_dim, scale);
    // SAFETY: nobody writes to the queries meanwhile: the caller lends them for the call.
    let data = unsafe { q.float_span(py)? };
    let queries = Queries { data, row_stride, head_stride };
    let tensors = || chunks.tensors().chain([&q]);
    let work = |pages: Pages<'_>, summaries: &mut [Summaries<'_, '_>]| {
        attend::select(isa, &Host, queries, pages, &layout, plan, &params, &rules, summaries)
    };
    fn with<'c, 't, E: Element>(
        py: Python<'_>,
        tree: &PyTree,
        kinds: &[Summary],
        chunks: &'c [&'c [E]],
        layout: &hornbeam_core::format::PageLayout,
        pages: impl FnOnce(&'c [&'c [E]]) -> Pages<'c>,
        tensors: impl Iterator<Item = &'t Tensor>,
        work: impl FnOnce(Pages<'c>, &mut [Summaries<'_, '_>]) -> hornbeam_core::Result<Selection> + Send,
    ) -> PyResult<Selection> {
        let pages = pages(chunks);
        tree.with_summaries(py, kinds, layout, tensors, |summaries| work(pages, summaries))
    }
    let tree = tree.get();
    let selection = match layout.dtype {
        Dtype::F32 => with(py, tree, &kinds, &chunks.views::<f32>(py)?, &layout, Pages::F32, tensors(), work),
        Dtype::Bf16 => {
            with(py, tree, &kinds, &chunks.views::<half::bf16>(py)?, &layout, Pages::Bf16, tensors(), work)
        }
        Dtype::F16 => {
            with(py, tree, &kinds, &chunks.views::<half::f16>(py)?, &layout, Pages::F16, tensors(), work)
        }
    }?;
    Ok(PySelection { selection, plan: held, layer })
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyAttendRule>()?;
    m.add_class::<PySelection>()?;
    m.add_function(wrap_pyfunction!(select_pages, m)?)
}
