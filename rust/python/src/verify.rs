//! Warping, sampling and verification.

use hornbeam_core::format::Dtype;
use hornbeam_core::ops::draw::{self, Noise};
use hornbeam_core::ops::law_weights::law_weights;
use hornbeam_core::ops::logits::{Logits, Row};
use hornbeam_core::ops::verify::{self, Parameters, Reads, Verdict, Verification};
use hornbeam_core::ops::warp::Warp as CoreWarp;
use hornbeam_core::simd::Isa;
use hornbeam_core::{Error, Result};
use pyo3::prelude::*;

use crate::error::{OrRaise, attached, detached_on};
use crate::parallel::Host;
use crate::tensor::{Tensor, expect_apart};

/// A validated warp.
#[pyclass(frozen, module = "hornbeam._native")]
struct Warp(CoreWarp);

#[pymethods]
impl Warp {
    #[new]
    #[pyo3(signature = (temperature, top_k, top_p, min_p, bias, repetition_penalty, frequency_penalty, presence_penalty))]
    fn new(
        py: Python<'_>,
        temperature: f64,
        top_k: Option<usize>,
        top_p: Option<f64>,
        min_p: Option<f64>,
        bias: Vec<(u32, f32)>,
        repetition_penalty: Option<f32>,
        frequency_penalty: Option<f32>,
        presence_penalty: Option<f32>,
    ) -> PyResult<Self> {
        let build = || -> Result<CoreWarp> {
            CoreWarp::default()
                .with_temperature(temperature)?
                .with_top_k(top_k)?
                .with_top_p(top_p)?
                .with_min_p(min_p)?
                .with_bias(bias)?
                .with_repetition_penalty(repetition_penalty)?
                .with_frequency_penalty(frequency_penalty)?
                .with_presence_penalty(presence_penalty)
        };
        build().map(Self).or_raise(py)
    }
}

/// The rows of a `[rows, vocabulary]` tensor whose last stride is 1.
///
/// # Safety
/// As [`Tensor::span`].
unsafe fn logits<'a>(py: Python<'_>, tensor: &'a Tensor) -> PyResult<Logits<'a>> {
    tensor.expect_shape(py, &[None, None])?;
    let (rows, vocabulary) = (tensor.shape()[0], tensor.shape()[1]);
    let stride = tensor.strides()[0] as usize;
    tensor.expect_unit_last_stride(py)?;
    // SAFETY: the caller's contract.
    let data = unsafe {
        match tensor.float(py)? {
            Dtype::F32 => Row::F32(tensor.span(py)?),
            Dtype::Bf16 => Row::Bf16(tensor.span(py)?),
            Dtype::F16 => Row::F16(tensor.span(py)?),
        }
    };
    Logits::new(data, rows, stride, vocabulary).or_raise(py)
}

/// Depth of the deepest tree of a batch; checks parents and offsets.
#[pyfunction]
fn tree_depth(py: Python<'_>, parents: &Bound<'_, PyAny>, offsets: &Bound<'_, PyAny>) -> PyResult<usize> {
    let parents = Tensor::with_shape(parents, "draft_parents", &[None])?;
    let offsets = Tensor::with_shape(offsets, "offsets", &[None])?;
    // SAFETY: the GIL is held.
    let (parents, offsets) = unsafe { (parents.i32s(py)?, offsets.i32s(py)?) };
    attached(py, || verify::max_depth(parents, offsets))
}

/// Verifies a batch of drafts; see `hornbeam.ops.verify`.
#[pyfunction]
#[pyo3(name = "verify")]
fn verify_drafts(
    py: Python<'_>,
    draft_tokens: &Bound<'_, PyAny>,
    draft_parents: &Bound<'_, PyAny>,
    offsets: &Bound<'_, PyAny>,
    target_logits: &Bound<'_, PyAny>,
    draft_logits: Option<&Bound<'_, PyAny>>,
    rule: &str,
    epsilon: f64,
    alpha: f64,
    warps: Vec<PyRef<'_, Warp>>,
    draft_warps: Vec<PyRef<'_, Warp>>,
    seed: u64,
    sequences: Option<&Bound<'_, PyAny>>,
    positions: Option<&Bound<'_, PyAny>>,
    histories: Option<Vec<(Bound<'_, PyAny>, Bound<'_, PyAny>)>>,
    accepted: &Bound<'_, PyAny>,
    num_accepted: &Bound<'_, PyAny>,
    next_token: &Bound<'_, PyAny>,
    reads: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let vector = |object: &Bound<'_, PyAny>, name| Tensor::with_shape(object, name, &[None]);
    let optional =
        |object: Option<&Bound<'_, PyAny>>, name| object.map(|object| vector(object, name)).transpose();
    let target = Tensor::new(target_logits, "target_logits")?;
    let draft = draft_logits.map(|object| Tensor::new(object, "draft_logits")).transpose()?;
    let (tokens, parents) = (vector(draft_tokens, "draft_tokens")?, vector(draft_parents, "draft_parents")?);
    let offsets = vector(offsets, "offsets")?;
    let (sequences, positions) = (optional(sequences, "sequences")?, optional(positions, "positions")?);
    let histories: Option<Vec<[Tensor; 2]>> = histories
        .map(|histories| {
            let pair = |(prompt, output): &(Bound<'_, PyAny>, Bound<'_, PyAny>)| {
                PyResult::Ok([vector(prompt, "history prompt")?, vector(output, "history output")?])
            };
            histories.iter().map(pair).collect()
        })
        .transpose()?;
    let (accepted, next_token) = (Tensor::new(accepted, "accepted")?, vector(next_token, "next_token")?);
    let num_accepted = vector(num_accepted, "num_accepted")?;
    let reads = reads.map(|reads| Tensor::with_shape(reads, "reads", &[Some(3)])).transpose()?;
    let outputs: Vec<&Tensor> = [&accepted, &num_accepted, &next_token].into_iter().chain(&reads).collect();
    let inputs = || {
        let given = [&target, &tokens, &parents, &offsets].into_iter().chain(&draft);
        given.chain(&sequences).chain(&positions).chain(histories.iter().flatten().flatten())
    };
    expect_apart(py, &outputs, inputs())?;
    // SAFETY: the outputs share no memory with others and are the caller's to write; callers do not write to
    // inputs meanwhile.
    unsafe {
        let pairs: Option<Vec<(&[i64], &[i64])>> = histories
            .as_ref()
            .map(|all| {
                all.iter()
                    .map(|[prompt, output]| PyResult::Ok((prompt.i64s(py)?, output.i64s(py)?)))
                    .collect()
            })
            .transpose()?;
        let sums = reads.as_ref().map(|reads| reads.i64s_mut(py)).transpose()?;
        let counted = sums.as_ref().map(|_| Reads::default());
        let warps: Vec<&CoreWarp> = warps.iter().map(|warp| &warp.0).collect();
        let draft_warps: Vec<&CoreWarp> = draft_warps.iter().map(|warp| &warp.0).collect();
        let verification = Verification {
            tokens: tokens.i64s(py)?,
            parents: parents.i32s(py)?,
            offsets: offsets.i32s(py)?,
            target: logits(py, &target)?,
            draft: draft.as_ref().map(|draft| logits(py, draft)).transpose()?,
            rule: verify::rule(rule, Parameters { epsilon, alpha }).or_raise(py)?,
            warps: &warps,
            draft_warps: &draft_warps,
            seed,
            sequences: sequences.as_ref().map(|t| t.i64s(py)).transpose()?,
            positions: positions.as_ref().map(|t| t.i64s(py)).transpose()?,
            histories: pairs.as_deref(),
            reads: counted.as_ref(),
        };
        let verdict = Verdict {
            accepted: accepted.i32s_mut(py)?,
            num_accepted: num_accepted.i32s_mut(py)?,
            next_token: next_token.i64s_mut(py)?,
        };
        let all = inputs().chain(outputs.iter().copied());
        detached_on(py, all, || verify::verify(Isa::detected(), &Host, &verification, verdict))?;
        if let (Some(counted), Some(sums)) = (&counted, sums) {
            let more = [counted.target_rows(), counted.draft_rows(), counted.elements()];
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum = sum.wrapping_add(more as i64));
        }
        Ok(())
    }
}

/// The warped laws of rows of logits; see `hornbeam.ops.probabilities`.
#[pyfunction]
#[pyo3(name = "law_weights")]
fn weights_of_laws(
    py: Python<'_>,
    logits_rows: &Bound<'_, PyAny>,
    warps: Vec<PyRef<'_, Warp>>,
    histories: Option<Vec<(Vec<i64>, Vec<i64>)>>,
    weights: &Bound<'_, PyAny>,
    totals: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let rows = Tensor::new(logits_rows, "logits")?;
    let (weights, totals) = (Tensor::new(weights, "weights")?, Tensor::new(totals, "totals")?);
    expect_apart(py, &[&weights, &totals], [&rows])?;
    // SAFETY: an output shares no memory with the input and is the caller's to write; callers do not write to
    // the input meanwhile.
    unsafe {
        let given = logits(py, &rows)?;
        let warps: Vec<&CoreWarp> = warps.iter().map(|warp| &warp.0).collect();
        let pairs: Option<Vec<(&[i64], &[i64])>> = histories
            .as_ref()
            .map(|all| all.iter().map(|(prompt, output)| (&prompt[..], &output[..])).collect());
        let (table, sums) = (weights.slice_mut::<f32>(py)?, totals.i64s_mut(py)?);
        detached_on(py, [&rows, &weights, &totals], || {
            law_weights(Isa::detected(), given, &warps, pairs.as_deref(), table, sums)
        })
    }
}

/// Draws children of the nodes of draft trees, (token, probability, score) each; see
/// `hornbeam.speculation.tree_building`.
#[pyfunction]
#[pyo3(name = "draw")]
fn draw_children(
    py: Python<'_>,
    logits_rows: &Bound<'_, PyAny>,
    noise: &str,
    warps: Vec<PyRef<'_, Warp>>,
    seed: u64,
    sequences: Vec<u32>,
    positions: Vec<u32>,
    nodes: Vec<u32>,
    counts: Vec<usize>,
    histories: Option<Vec<(Vec<i64>, Vec<i64>)>>,
    limits: Option<Vec<f64>>,
) -> PyResult<Vec<Vec<(u32, f64, f64)>>> {
    let noise = match noise {
        "nothing" => Noise::Nothing,
        "shared" => Noise::Shared,
        "own" => Noise::Own,
        "independent" => Noise::Independent,
        other => {
            let error = Error::value("noise", format!("{other:?}"), "nothing, shared, own or independent");
            return Err(error).or_raise(py);
        }
    };
    let rows = Tensor::new(logits_rows, "logits")?;
    let warps: Vec<&CoreWarp> = warps.iter().map(|warp| &warp.0).collect();
    let histories: Option<Vec<(&[i64], &[i64])>> = histories
        .as_ref()
        .map(|histories| histories.iter().map(|(prompt, output)| (&prompt[..], &output[..])).collect());
    let draws = draw::Draws {
        // SAFETY: callers do not write to the tensor meanwhile.
        logits: unsafe { logits(py, &rows)? },
        warps: &warps,
        noise,
        seed,
        sequences: &sequences,
        positions: &positions,
        nodes: &nodes,
        histories: histories.as_deref(),
        limits: limits.as_deref(),
    };
    let drawn = detached_on(py, [&rows], || draw::draw(Isa::detected(), &Host, &draws, &counts))?;
    let triple = |child: draw::Child| (child.token, child.probability, child.score);
    Ok(drawn.into_iter().map(|children| children.into_iter().map(triple).collect()).collect())
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Warp>()?;
    m.add_function(wrap_pyfunction!(tree_depth, m)?)?;
    m.add_function(wrap_pyfunction!(draw_children, m)?)?;
    m.add_function(wrap_pyfunction!(weights_of_laws, m)?)?;
    m.add_function(wrap_pyfunction!(verify_drafts, m)?)
}
