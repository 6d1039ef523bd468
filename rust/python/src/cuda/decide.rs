//! Sampling and verification on the device.

use hornbeam_cuda::decide;
use hornbeam_cuda::params::{Follow, Law, Sample};
use pyo3::prelude::*;

use super::tables::{WarpLaw, law_of};
use super::{OrRaise, PyCudaLane, contiguous};
use crate::tensor::{Kind, Tensor};

/// A contiguous integer vector, or an error; its address.
pub(super) fn vector(py: Python<'_>, tensor: &Tensor, kind: Kind, len: Option<usize>) -> PyResult<u64> {
    contiguous(py, tensor, kind, &[len])
}

/// Samples every row of `logits` `[rows, vocabulary]` into `tokens` (int32, -1 for a row that is
/// no distribution) and `faults` (int32: 0, or why it is none). `law` is
/// (temperature, top_k, top_p, min_p) for all sequences, or `laws` of `cuda_pack_laws` has one
/// each. `tree` is (parents, offsets) of draft trees; without it a row is a sequence. `seeds`, int32
/// `[2]`, has the seed's words on the device.
#[pyfunction]
#[pyo3(name = "cuda_sample", signature = (lane, logits, tree, sequences, positions, law, laws, seed, tokens, faults, seeds=None))]
fn sample(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    logits: &Bound<'_, PyAny>,
    tree: Option<(Bound<'_, PyAny>, Bound<'_, PyAny>)>,
    sequences: Option<&Bound<'_, PyAny>>,
    positions: Option<&Bound<'_, PyAny>>,
    law: WarpLaw,
    laws: Option<&Bound<'_, PyAny>>,
    seed: u64,
    tokens: &Bound<'_, PyAny>,
    faults: &Bound<'_, PyAny>,
    seeds: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let rows = Tensor::new(logits, "logits")?;
    rows.expect_shape(py, &[None, None])?;
    let (num_rows, vocabulary) = (rows.shape()[0], rows.shape()[1]);
    if vocabulary == 0 || vocabulary > 1 << 24 || (vocabulary > 1 && rows.strides()[1] != 1) {
        let got = format!("of shape {:?}, strides {:?}", rows.shape(), rows.strides());
        return Err(rows.refuse(py, &got, "1 to 16777216 columns, a unit last stride"));
    }
    let tree = tree
        .map(|(p, o)| PyResult::Ok((Tensor::new(&p, "draft_parents")?, Tensor::new(&o, "offsets")?)))
        .transpose()?;
    let num_sequences = tree.as_ref().map_or(num_rows, |(_, o)| o.len().saturating_sub(1));
    let sequences = sequences.map(|t| Tensor::new(t, "sequences")).transpose()?;
    let positions = positions.map(|t| Tensor::new(t, "positions")).transpose()?;
    let laws = laws.map(|t| Tensor::new(t, "laws")).transpose()?;
    let (tokens, faults) = (Tensor::new(tokens, "tokens")?, Tensor::new(faults, "faults")?);
    let mut all = vec![&rows, &tokens, &faults];
    all.extend(sequences.iter().chain(&positions).chain(&laws));
    all.extend(tree.iter().flat_map(|(parents, offsets)| [parents, offsets]));
    let target = lane.get().target(py, logits, &all)?;
    let seeds = seeds.map(|t| Tensor::new(t, "seeds")).transpose()?;
    // With `seeds` the step is captured: rows and parents are as many as it was captured for.
    if let Some((parents, offsets)) = &tree
        && (offsets.len() == 0 || (seeds.is_none() && parents.len() + num_sequences != num_rows))
    {
        let want = format!("{} rows: one a draft token and one a sequence", parents.len() + num_sequences);
        return Err(rows.refuse(py, &format!("of shape {:?}", rows.shape()), &want));
    }
    let optional = |tensor: &Option<Tensor>| {
        tensor.as_ref().map_or(Ok(0), |t| vector(py, t, Kind::I64, Some(num_sequences)))
    };
    let parameters = Sample {
        logits: rows.address(),
        parents: tree.as_ref().map_or(Ok(0), |(p, _)| vector(py, p, Kind::I32, None))?,
        offsets: tree.as_ref().map_or(Ok(0), |(_, o)| vector(py, o, Kind::I32, None))?,
        sequences: optional(&sequences)?,
        positions: optional(&positions)?,
        laws: laws.as_ref().map_or(Ok(0), |laws| {
            contiguous(py, laws, Kind::U8, &[Some(num_sequences), Some(size_of::<Law>())])
        })?,
        seeds: seeds.as_ref().map_or(Ok(0), |t| vector(py, t, Kind::I32, Some(2)))?,
        tokens: vector(py, &tokens, Kind::I32, Some(num_rows))?,
        faults: vector(py, &faults, Kind::I32, Some(num_rows))?,
        row_stride: rows.strides()[0] as i64,
        law: law_of(law),
        seed: [seed as u32, (seed >> 32) as u32],
        num_rows: num_rows as i32,
        num_sequences: num_sequences as i32,
        vocabulary: vocabulary as i32,
        dtype: rows.float(py)?.into(),
    };
    // SAFETY: the tensors are on the device and of the shapes that were checked; torch's stream
    // orders their reuse.
    unsafe { decide::sample(lane.get().lane(), target.device, target.stream, &parameters) }.or_raise(py)
}

/// Walks draft trees along sampled tokens: see `hornbeam.ops.verify` with rule "coupled".
/// `fault_rows` takes 0, or what `cuda_fault` reads of the row at which a walk broke off. With `captured`
/// vectors are as long as the step was captured for, and `offsets` has the true numbers.
#[pyfunction]
#[pyo3(name = "cuda_follow", signature = (lane, draft_tokens, parents, offsets, tokens, faults, accepted, num_accepted, next_token, fault_rows, captured=false))]
fn follow(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    draft_tokens: &Bound<'_, PyAny>,
    parents: &Bound<'_, PyAny>,
    offsets: &Bound<'_, PyAny>,
    tokens: &Bound<'_, PyAny>,
    faults: &Bound<'_, PyAny>,
    accepted: &Bound<'_, PyAny>,
    num_accepted: &Bound<'_, PyAny>,
    next_token: &Bound<'_, PyAny>,
    fault_rows: &Bound<'_, PyAny>,
    captured: bool,
) -> PyResult<()> {
    let drafts = Tensor::new(draft_tokens, "draft_tokens")?;
    let (parents, offsets) = (Tensor::new(parents, "draft_parents")?, Tensor::new(offsets, "offsets")?);
    let (tokens, faults) = (Tensor::new(tokens, "tokens")?, Tensor::new(faults, "faults")?);
    let (accepted, counts) = (Tensor::new(accepted, "accepted")?, Tensor::new(num_accepted, "num_accepted")?);
    let (next, broken) = (Tensor::new(next_token, "next_token")?, Tensor::new(fault_rows, "fault_rows")?);
    let all = [&drafts, &parents, &offsets, &tokens, &faults, &accepted, &counts, &next, &broken];
    let target = lane.get().target(py, draft_tokens, &all)?;
    let (count, size) = (counts.len(), drafts.len());
    if tokens.len() < size + count && !captured {
        let got = format!("{} rows", tokens.len());
        return Err(tokens.refuse(py, &got, &format!("{} rows", size + count)));
    }
    let parameters = Follow {
        draft_tokens: vector(py, &drafts, Kind::I64, None)?,
        parents: vector(py, &parents, Kind::I32, Some(size))?,
        offsets: vector(py, &offsets, Kind::I32, Some(count + 1))?,
        tokens: vector(py, &tokens, Kind::I32, None)?,
        faults: vector(py, &faults, Kind::I32, Some(tokens.len()))?,
        accepted: contiguous(py, &accepted, Kind::I32, &[Some(count), None])?,
        num_accepted: vector(py, &counts, Kind::I32, None)?,
        next_token: vector(py, &next, Kind::I64, Some(count))?,
        fault_rows: vector(py, &broken, Kind::I32, Some(count))?,
        num_sequences: count as i32,
        max_depth: accepted.shape()[1] as i32,
    };
    // SAFETY: as above.
    unsafe { decide::follow(lane.get().lane(), target.device, target.stream, &parameters) }.or_raise(py)
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(sample, m)?)?;
    m.add_function(wrap_pyfunction!(follow, m)?)
}
