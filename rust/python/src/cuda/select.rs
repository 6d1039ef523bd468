//! Which keys stay, on the device.

use hornbeam_core::format::Dtype;
use hornbeam_cuda::params::{ColumnSums, CompeteHeads, SelectKeys};
use hornbeam_cuda::select;
use pyo3::prelude::*;

use super::decide::vector;
use super::{OrRaise, PyCudaLane, contiguous};
use crate::keep::Protected;
use crate::tensor::{Kind, Tensor};

/// More tokens than a plane has.
const MANY: u32 = (1 << 30) - 1;

/// (sinks, recent, percent) as the kernels take them: no sum passes an int32.
fn protect((sinks, recent, percent): Protected) -> [i32; 3] {
    [sinks.min(MANY) as i32, recent.min(MANY) as i32, percent.min(100) as i32]
}

/// Writes which keys stay, bool `kept [T]`, of float32 `scores [T]`, plane after plane, which begin at int32
/// `begin [planes + 1]` and keep int32 `budgets [planes]`. `leaders` are int32 planes whose scores decide `[planes]` and
/// positions `[T]`. All on the device.
#[pyfunction]
#[pyo3(name = "cuda_select_keys", signature = (lane, scores, begin, budgets, leaders, protected, unit, kept))]
fn select_keys(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    scores: &Bound<'_, PyAny>,
    begin: &Bound<'_, PyAny>,
    budgets: &Bound<'_, PyAny>,
    leaders: Option<(Bound<'_, PyAny>, Bound<'_, PyAny>)>,
    protected: Protected,
    unit: u32,
    kept: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (s, b) = (Tensor::new(scores, "scores")?, Tensor::new(begin, "begin")?);
    let (shares, k) = (Tensor::new(budgets, "budgets")?, Tensor::new(kept, "kept")?);
    let (total, planes) = (s.len(), shares.len());
    let target = lane.get().target(py, scores, &[&s, &b, &shares, &k])?;
    let (mut leading, mut positions) = (0, 0);
    if let Some((list, at)) = &leaders {
        let (list, at) = (Tensor::new(list, "leaders")?, Tensor::new(at, "positions")?);
        lane.get().target(py, scores, &[&s, &list, &at])?;
        leading = vector(py, &list, Kind::I32, Some(planes))?;
        positions = vector(py, &at, Kind::I32, Some(total))?;
    }
    let [sinks, recent, recent_percent] = protect(protected);
    let parameters = SelectKeys {
        scores: vector(py, &s, Kind::Float(Dtype::F32), None)?,
        begin: vector(py, &b, Kind::I32, Some(planes + 1))?,
        budgets: vector(py, &shares, Kind::I32, None)?,
        leaders: leading,
        positions,
        kept: vector(py, &k, Kind::Bool, Some(total))?,
        num_planes: planes as i32,
        unit: unit.clamp(1, MANY) as i32,
        sinks,
        recent,
        recent_percent,
        reserved: 0,
    };
    // SAFETY: the tensors are on the device and of the shapes that were checked; the caller made the planes from
    // counts of the scores.
    unsafe { select::select_keys(lane.get().lane(), target.device, target.stream, &parameters) }.or_raise(py)
}

/// Writes how many keys each head holds, int32 `counts [planes]`: the answer to a question of "heads", int32 `reserved
/// [planes]` and `rooms [L]`. Scores and planes as for `cuda_select_keys`.
#[pyfunction]
#[pyo3(name = "cuda_compete_heads")]
fn compete_heads(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    scores: &Bound<'_, PyAny>,
    begin: &Bound<'_, PyAny>,
    reserved: &Bound<'_, PyAny>,
    rooms: &Bound<'_, PyAny>,
    protected: Protected,
    counts: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (s, b) = (Tensor::new(scores, "scores")?, Tensor::new(begin, "begin")?);
    let (own, open) = (Tensor::new(reserved, "reserved")?, Tensor::new(rooms, "rooms")?);
    let c = Tensor::new(counts, "counts")?;
    let target = lane.get().target(py, scores, &[&s, &b, &own, &open, &c])?;
    let (layers, planes) = (open.len(), own.len());
    if layers == 0 || planes % layers != 0 {
        return Err(own.refuse(py, &format!("{planes} planes"), &format!("those of {layers} layers")));
    }
    let [sinks, recent, recent_percent] = protect(protected);
    let parameters = CompeteHeads {
        scores: vector(py, &s, Kind::Float(Dtype::F32), None)?,
        begin: vector(py, &b, Kind::I32, Some(planes + 1))?,
        reserved: vector(py, &own, Kind::I32, None)?,
        rooms: vector(py, &open, Kind::I32, None)?,
        counts: vector(py, &c, Kind::I32, Some(planes))?,
        num_layers: layers as i32,
        num_heads: (planes / layers) as i32,
        sinks,
        recent,
        recent_percent,
        reserved_word: 0,
    };
    // SAFETY: as above.
    unsafe { select::compete_heads(lane.get().lane(), target.device, target.stream, &parameters) }
        .or_raise(py)
}

/// Writes the sums of columns, int64 `sums [L, width]`, not in order, -1 where there is none. Scores and planes as for
/// `cuda_select_keys`.
#[pyfunction]
#[pyo3(name = "cuda_column_sums")]
fn column_sums(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    scores: &Bound<'_, PyAny>,
    begin: &Bound<'_, PyAny>,
    sums: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (s, b) = (Tensor::new(scores, "scores")?, Tensor::new(begin, "begin")?);
    let out = Tensor::new(sums, "sums")?;
    let target = lane.get().target(py, scores, &[&s, &b, &out])?;
    out.expect_shape(py, &[None, None])?;
    let (layers, width, planes) = (out.shape()[0], out.shape()[1], b.len().saturating_sub(1));
    if layers == 0 || planes % layers != 0 {
        return Err(b.refuse(py, &format!("{planes} planes"), &format!("those of {layers} layers")));
    }
    let parameters = ColumnSums {
        scores: vector(py, &s, Kind::Float(Dtype::F32), None)?,
        begin: vector(py, &b, Kind::I32, None)?,
        sums: contiguous(py, &out, Kind::I64, &[None, None])?,
        num_layers: layers as i32,
        num_heads: (planes / layers) as i32,
        width: width as i32,
        reserved: 0,
    };
    // SAFETY: as above; no plane is longer than the width.
    unsafe { select::column_sums(lane.get().lane(), target.device, target.stream, &parameters) }.or_raise(py)
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(select_keys, m)?)?;
    m.add_function(wrap_pyfunction!(compete_heads, m)?)?;
    m.add_function(wrap_pyfunction!(column_sums, m)?)
}
