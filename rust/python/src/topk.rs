//! `hornbeam.ops.topk`, `topp`, `product_key_topk` and `block_topk`.

use half::{bf16, f16};
use hornbeam_core::format::{Dtype, Element};
use hornbeam_core::ops::topk as operations;
use hornbeam_core::ops::topk::{Counts, Order, Rows, Share, Top, TuckerCore};
use hornbeam_core::simd::Isa;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyInt, PyTuple};
use smallvec::SmallVec;

use crate::error::{attached, detached_on};
use crate::parallel::Host;
use crate::tensor::{Item, Tensor, expect_apart};

/// Numbers above which the GIL is released: about 10 µs of work.
const DETACH_ELEMENTS: usize = 1 << 15;

/// The k greatest numbers of every row: `scores [..., n]`, or `[n]` with int64 `offsets [rows + 1]`; `k` for all, or
/// int64 `counts [...]`; `values` and int64 `indices [..., width]`; float32 `hint [...]`. All contiguous.
#[pyfunction]
#[pyo3(signature = (scores, k, counts, offsets, sorted, hint, values, indices))]
fn topk(
    py: Python<'_>,
    scores: &Bound<'_, PyAny>,
    k: usize,
    counts: Option<&Bound<'_, PyAny>>,
    offsets: Option<&Bound<'_, PyAny>>,
    sorted: bool,
    hint: Option<&Bound<'_, PyAny>>,
    values: &Bound<'_, PyAny>,
    indices: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let input = Input::new(py, scores, "scores", offsets)?;
    let output = Output::new(&input, values, indices)?;
    let counts = counts.map(|counts| Tensor::with_shape(counts, "k", &input.leading)).transpose()?;
    let hint = hint.map(|hint| Tensor::with_shape(hint, "hint", &input.leading)).transpose()?;
    let others = || counts.iter().chain(&hint);
    output.expect_apart(py, input.all().chain(others()))?;
    // SAFETY: the outputs share no memory with these; the caller lends them for the call.
    let (each, hints) = unsafe {
        (
            counts.as_ref().map(|counts| counts.i64s(py)).transpose()?,
            hint.as_ref().map(|hint| hint.slice::<f32>(py)).transpose()?,
        )
    };
    let numbers = TopK { counts: each.map_or(Counts::All(k), Counts::Each), order: Order { sorted, hints } };
    run(py, &input, &output, &others().collect::<SmallVec<[&Tensor; 2]>>(), numbers)
}

/// As [`plain`], which says what it takes.
#[pyfunction]
#[pyo3(signature = (scores, k, sorted, out))]
fn plain_topk<'py>(
    scores: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    sorted: bool,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Option<Bound<'py, PyTuple>>> {
    plain(scores, k, sorted, out)
}

/// As `topk` of `k` for all rows, for what most short calls are given: torch's own tensors, contiguous, on the CPU; `k`
/// an `int` that every row has; `out` a pair of the right shapes, or None for new tensors. `None` where something is
/// not so: the caller then sees to it, or says what is wrong.
pub(crate) fn plain<'py>(
    scores: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    sorted: bool,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let py = scores.py();
    let Some(tensor) = Tensor::plain(scores, "scores")? else { return Ok(None) };
    let Some((&length, leading)) = tensor.shape().split_last() else { return Ok(None) };
    let Ok(k) = k.cast_exact::<PyInt>() else { return Ok(None) };
    // Too great a number for an integer of this machine is too great for every row.
    let Some(k) = k.extract::<usize>().ok().filter(|k| *k <= length) else { return Ok(None) };
    let shape: SmallVec<[usize; 6]> = leading.iter().copied().chain([k]).collect();
    let pair = match out {
        None => new_pair(py, scores, &shape)?,
        Some(out) => match out.cast_exact::<PyTuple>() {
            Ok(pair) if pair.len() == 2 => pair.clone(),
            _ => return Ok(None),
        },
    };
    let (values, indices) = (pair.get_item(0)?, pair.get_item(1)?);
    let Some(values) = Tensor::plain(&values, "values")? else { return Ok(None) };
    let Some(indices) = Tensor::plain(&indices, "indices")? else { return Ok(None) };
    if values.shape() != &shape[..] || indices.shape() != &shape[..] {
        return Ok(None);
    }
    let input = Input {
        count: leading.iter().product(),
        leading: leading.iter().copied().map(Some).collect(),
        length,
        scores: tensor,
        offsets: None,
    };
    let output = Output { values, indices, width: k };
    output.expect_apart(py, input.all())?;
    let numbers = TopK { counts: Counts::All(k), order: Order { sorted, hints: None } };
    run(py, &input, &output, &[], numbers)?;
    Ok(Some(pair))
}

/// New tensors `shape` for values, of the type and on the device of `scores`, and for indices.
fn new_pair<'py>(
    py: Python<'py>,
    scores: &Bound<'py, PyAny>,
    shape: &[usize],
) -> PyResult<Bound<'py, PyTuple>> {
    static OPTIONS: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let integers = OPTIONS.get_or_try_init(py, || {
        let options = PyDict::new(py);
        options.set_item("dtype", py.import("torch")?.getattr("int64")?)?;
        Ok::<_, PyErr>(options.unbind())
    })?;
    let (shape, name) = ((PyTuple::new(py, shape)?,), intern!(py, "new_empty"));
    let values = scores.call_method1(name, shape.clone())?;
    let indices = scores.call_method(name, shape, Some(integers.bind(py)))?;
    PyTuple::new(py, [values, indices])
}

struct TopK<'a> {
    counts: Counts<'a>,
    order: Order<'a>,
}

impl Selection for TopK<'_> {
    fn run<E: Element>(self, rows: &Rows<'_, E>, top: Top<'_, E>) -> hornbeam_core::Result<()> {
        operations::top_k(Isa::detected(), &Host, rows, self.counts, self.order, top)
    }
}

/// How many of the greatest weights hold the share `p` of their row's sum: writes int64 `counts [...]`.
#[pyfunction]
#[pyo3(signature = (weights, offsets, p, floor, cap, counts))]
fn topp_counts(
    py: Python<'_>,
    weights: &Bound<'_, PyAny>,
    offsets: Option<&Bound<'_, PyAny>>,
    p: f64,
    floor: usize,
    cap: Option<usize>,
    counts: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let input = Input::new(py, weights, "weights", offsets)?;
    let counts = Tensor::with_shape(counts, "counts", &input.leading)?;
    expect_apart(py, &[&counts], input.all())?;
    // SAFETY: the output shares no memory with the inputs; the caller lends it for the call.
    let to = unsafe { counts.i64s_mut(py)? };
    let share = Share { p, floor, cap: cap.unwrap_or(usize::MAX) };
    let all = || input.all().chain([&counts]);
    fn with<E: Item + Element>(rows: Rows<'_, E>, share: Share, to: &mut [i64]) -> hornbeam_core::Result<()> {
        operations::mass_counts(&Host, &rows, share, to)
    }
    match input.scores.float(py)? {
        Dtype::F32 => {
            let rows = input.rows::<f32>(py)?;
            detached_on(py, all(), || with(rows?, share, to))
        }
        Dtype::Bf16 => {
            let rows = input.rows::<bf16>(py)?;
            detached_on(py, all(), || with(rows?, share, to))
        }
        Dtype::F16 => {
            let rows = input.rows::<f16>(py)?;
            detached_on(py, all(), || with(rows?, share, to))
        }
    }
}

/// The k blocks of every row with the greatest maximum; as `topk`, where `indices` are those of blocks.
#[pyfunction]
#[pyo3(signature = (scores, block, k, offsets, sorted, values, indices))]
fn block_topk(
    py: Python<'_>,
    scores: &Bound<'_, PyAny>,
    block: usize,
    k: usize,
    offsets: Option<&Bound<'_, PyAny>>,
    sorted: bool,
    values: &Bound<'_, PyAny>,
    indices: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let input = Input::new(py, scores, "scores", offsets)?;
    let output = Output::new(&input, values, indices)?;
    output.expect_apart(py, input.all())?;
    run(py, &input, &output, &[], TopBlocks { block, k, sorted })
}

struct TopBlocks {
    block: usize,
    k: usize,
    sorted: bool,
}

impl Selection for TopBlocks {
    fn run<E: Element>(self, rows: &Rows<'_, E>, top: Top<'_, E>) -> hornbeam_core::Result<()> {
        operations::top_blocks(Isa::detected(), &Host, rows, self.block, self.k, self.sorted, top)
    }
}

/// The k greatest of all sums of a score of float32 `scores_a [rows, a]` and one of `scores_b [rows, b]`; with `core
/// [1 or rows, rank, rank]` of all `a . core . b`, of `scores_a [rows, rank * a]`.
#[pyfunction]
#[pyo3(signature = (scores_a, scores_b, k, core, sorted, values, indices))]
fn product_key_topk(
    py: Python<'_>,
    scores_a: &Bound<'_, PyAny>,
    scores_b: &Bound<'_, PyAny>,
    k: usize,
    core: Option<&Bound<'_, PyAny>>,
    sorted: bool,
    values: &Bound<'_, PyAny>,
    indices: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let a = Input::new(py, scores_a, "scores_a", None)?;
    let b = Input::new(py, scores_b, "scores_b", None)?;
    let output = Output::new(&a, values, indices)?;
    let core = core.map(|core| Tensor::with_shape(core, "core", &[None, None, None])).transpose()?;
    let inputs = || a.all().chain(b.all()).chain(&core);
    output.expect_apart(py, inputs())?;
    let rank = core.as_ref().map_or(1, |core| core.shape()[1]);
    // SAFETY: the outputs share no memory with it; the caller lends it for the call.
    let numbers = core.as_ref().map(|core| unsafe { core.slice::<f32>(py) }).transpose()?;
    let (rows_a, rows_b, top) = (a.rows::<f32>(py)?, b.rows::<f32>(py)?, output.top::<f32>(py)?);
    detached_on(py, inputs().chain(output.all()), || {
        let (rows_a, rows_b, isa) = (&rows_a?, &rows_b?, Isa::detected());
        match numbers {
            None => operations::product_top_k(isa, &Host, rows_a, rows_b, k, sorted, top),
            Some(data) => operations::tucker_top_k(
                isa,
                &Host,
                rows_a,
                rows_b,
                TuckerCore { data, rank },
                k,
                sorted,
                top,
            ),
        }
    })
}

/// Rows of numbers, contiguous.
struct Input {
    scores: Tensor,
    offsets: Option<Tensor>,
    /// The shape of what has one number a row.
    leading: SmallVec<[Option<usize>; 6]>,
    count: usize,
    length: usize,
}

impl Input {
    fn new(
        py: Python<'_>,
        scores: &Bound<'_, PyAny>,
        name: &'static str,
        offsets: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let scores = Tensor::new(scores, name)?;
        let Some(offsets) = offsets else {
            let Some((&length, leading)) = scores.shape().split_last() else {
                return Err(scores.refuse(py, "a tensor without dimensions", "shape [..., n]"));
            };
            let (count, leading) = (leading.iter().product(), leading.iter().copied().map(Some).collect());
            return Ok(Self { scores, offsets: None, leading, count, length });
        };
        scores.expect_shape(py, &[None])?;
        let offsets = Tensor::with_shape(offsets, "offsets", &[None])?;
        let count = offsets.len().saturating_sub(1);
        Ok(Self {
            scores,
            offsets: Some(offsets),
            leading: SmallVec::from_slice(&[Some(count)]),
            count,
            length: 0,
        })
    }

    fn all(&self) -> impl Iterator<Item = &Tensor> {
        [&self.scores].into_iter().chain(&self.offsets)
    }

    fn rows<E: Item>(&self, py: Python<'_>) -> PyResult<hornbeam_core::Result<Rows<'_, E>>> {
        // SAFETY: the outputs share no memory with these; the caller lends them for the call.
        let (data, offsets) = unsafe {
            (self.scores.slice::<E>(py)?, self.offsets.as_ref().map(|offsets| offsets.i64s(py)).transpose()?)
        };
        Ok(match offsets {
            Some(offsets) => Rows::ragged(data, offsets),
            None => Rows::even(data, self.count, self.length),
        })
    }
}

/// What was chosen of every row.
struct Output {
    values: Tensor,
    indices: Tensor,
    width: usize,
}

impl Output {
    fn new(input: &Input, values: &Bound<'_, PyAny>, indices: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut shape = input.leading.clone();
        shape.push(None);
        let values = Tensor::with_shape(values, "values", &shape)?;
        let width = values.shape()[shape.len() - 1];
        shape.pop();
        shape.push(Some(width));
        let indices = Tensor::with_shape(indices, "indices", &shape)?;
        Ok(Self { values, indices, width })
    }

    fn all(&self) -> impl Iterator<Item = &Tensor> {
        [&self.values, &self.indices].into_iter()
    }

    fn expect_apart<'a>(&self, py: Python<'_>, inputs: impl IntoIterator<Item = &'a Tensor>) -> PyResult<()> {
        expect_apart(py, &[&self.values, &self.indices], inputs)
    }

    fn top<E: Item>(&self, py: Python<'_>) -> PyResult<Top<'_, E>> {
        // SAFETY: callers saw by `expect_apart` that these share no memory; the caller lends them for the call.
        let (values, indices) = unsafe { (self.values.slice_mut::<E>(py)?, self.indices.i64s_mut(py)?) };
        Ok(Top { values, indices, width: self.width })
    }
}

/// What is chosen of rows of any element type.
trait Selection: Send {
    fn run<E: Element>(self, rows: &Rows<'_, E>, top: Top<'_, E>) -> hornbeam_core::Result<()>;
}

/// Runs a selection, which reads `beside` too.
fn run(
    py: Python<'_>,
    input: &Input,
    output: &Output,
    beside: &[&Tensor],
    selection: impl Selection,
) -> PyResult<()> {
    fn with<E: Item + Element>(
        py: Python<'_>,
        input: &Input,
        output: &Output,
        beside: &[&Tensor],
        selection: impl Selection,
    ) -> PyResult<()> {
        let (rows, top) = (input.rows::<E>(py)?, output.top::<E>(py)?);
        let work = || selection.run(&rows?, top);
        if input.scores.len() < DETACH_ELEMENTS {
            return attached(py, work);
        }
        detached_on(py, input.all().chain(output.all()).chain(beside.iter().copied()), work)
    }
    match input.scores.float(py)? {
        Dtype::F32 => with::<f32>(py, input, output, beside, selection),
        Dtype::Bf16 => with::<bf16>(py, input, output, beside, selection),
        Dtype::F16 => with::<f16>(py, input, output, beside, selection),
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(topk, m)?)?;
    m.add_function(wrap_pyfunction!(plain_topk, m)?)?;
    m.add_function(wrap_pyfunction!(topp_counts, m)?)?;
    m.add_function(wrap_pyfunction!(block_topk, m)?)?;
    m.add_function(wrap_pyfunction!(product_key_topk, m)?)
}
