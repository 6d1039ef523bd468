//! Scores that read keys and values, on the device. Numbers of 64 bits cross as int64.

use hornbeam_core::format::Dtype;
use hornbeam_cuda::params::{ExpectedScores, PlaneSums, RowRule, ScoreRows};
use hornbeam_cuda::score;
use pyo3::prelude::*;

use super::decide::vector;
use super::{OrRaise, PyCudaLane, contiguous};
use crate::tensor::{Kind, Tensor};

type Pair<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>);

const FLOAT: Kind = Kind::Float(Dtype::F32);

fn pair(tensors: &Pair<'_>, names: [&'static str; 2]) -> PyResult<[Tensor; 2]> {
    Ok([Tensor::new(&tensors.0, names[0])?, Tensor::new(&tensors.1, names[1])?])
}

/// Scores float32 rows `[N, D]` into float32 `scores [N]`: by the rule "key_norm" minus their norms; by "times_magnitudes" what
/// is there times the sums of their magnitudes, by "times_length" times their norms.
#[pyfunction]
#[pyo3(name = "cuda_score_rows")]
fn score_rows(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    rows: &Bound<'_, PyAny>,
    rule: &str,
    scores: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (r, s) = (Tensor::new(rows, "rows")?, Tensor::new(scores, "scores")?);
    let target = lane.get().target(py, rows, &[&r, &s])?;
    let address = contiguous(py, &r, FLOAT, &[None, None])?;
    let parameters = ScoreRows {
        rows: address,
        begin: 0,
        lengths: 0,
        anchors: 0,
        scores: vector(py, &s, FLOAT, Some(r.shape()[0]))?,
        num_planes: 0,
        num_rows: r.shape()[0] as i32,
        head_dim: r.shape()[1] as i32,
        rule: RowRule::named(rule).or_raise(py)?,
    };
    // SAFETY: the tensors are on the device and of the shapes that were checked.
    unsafe { score::score_rows(lane.get().lane(), target.device, target.stream, &parameters) }.or_raise(py)
}

/// Writes key differences, float32 `scores [N]`, of float32 `keys [N, D]` of planes that begin at int32 `begin [planes +
/// 1]`, the largest of `most` keys. Scratch: int64 `lengths [N]` and `anchors [planes, D + 1]`.
#[pyfunction]
#[pyo3(name = "cuda_key_differences")]
fn key_differences(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    keys: &Bound<'_, PyAny>,
    begin: &Bound<'_, PyAny>,
    most: u32,
    lengths: &Bound<'_, PyAny>,
    anchors: &Bound<'_, PyAny>,
    scores: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (k, b) = (Tensor::new(keys, "keys")?, Tensor::new(begin, "begin")?);
    let (l, a) = (Tensor::new(lengths, "lengths")?, Tensor::new(anchors, "anchors")?);
    let s = Tensor::new(scores, "scores")?;
    let target = lane.get().target(py, keys, &[&k, &b, &l, &a, &s])?;
    let rows = contiguous(py, &k, FLOAT, &[None, None])?;
    let (count, dim, planes) = (k.shape()[0], k.shape()[1], b.len().saturating_sub(1));
    let parameters = ScoreRows {
        rows,
        begin: vector(py, &b, Kind::I32, None)?,
        lengths: vector(py, &l, Kind::I64, Some(count))?,
        anchors: contiguous(py, &a, Kind::I64, &[Some(planes), Some(dim + 1)])?,
        scores: vector(py, &s, FLOAT, Some(count))?,
        num_planes: planes as i32,
        num_rows: count as i32,
        head_dim: dim as i32,
        rule: RowRule::RowLengths,
    };
    // SAFETY: as above; the caller made the planes from counts of the keys.
    unsafe { score::key_differences(lane.get().lane(), target.device, target.stream, &parameters, most) }
        .or_raise(py)
}

/// Writes expected attention, float32 `scores [N]`. `rows` are float32 keys and values `[N, D]`; `planes` int32 where they
/// begin `[planes + 1]` and how many of the first keys take no part `[planes]`; `expected` the bits of doubles, int64
/// `[planes, group, D]` and, column after column, `[planes, group, D, D]`; `rule` is (scale, epsilon), and `most` the keys of the largest
/// plane. Scratch: int64 `[group, N]` and `[planes, group]`.
#[pyfunction]
#[pyo3(name = "cuda_expected_scores")]
fn expected_scores(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    rows: Pair<'_>,
    planes: Pair<'_>,
    expected: Pair<'_>,
    scratch: Pair<'_>,
    rule: (f64, f64),
    most: u32,
    scores: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let [k, v] = pair(&rows, ["keys", "values"])?;
    let [b, first] = pair(&planes, ["begin", "sinks"])?;
    let [means, covariances] = pair(&expected, ["means", "covariances"])?;
    let [weights, totals] = pair(&scratch, ["weights", "totals"])?;
    let s = Tensor::new(scores, "scores")?;
    let all = [&k, &v, &b, &first, &means, &covariances, &weights, &totals, &s];
    let target = lane.get().target(py, scores, &all)?;
    let keys = contiguous(py, &k, FLOAT, &[None, None])?;
    let (count, dim, num_planes) = (k.shape()[0], k.shape()[1], first.len());
    means.expect_shape(py, &[Some(num_planes), None, Some(dim)])?;
    let group = means.shape()[1];
    let square = [Some(num_planes), Some(group), Some(dim), Some(dim)];
    let parameters = ExpectedScores {
        keys,
        values: contiguous(py, &v, FLOAT, &[Some(count), Some(dim)])?,
        begin: vector(py, &b, Kind::I32, Some(num_planes + 1))?,
        sinks: vector(py, &first, Kind::I32, None)?,
        means: contiguous(py, &means, Kind::I64, &square[..3])?,
        covariances: contiguous(py, &covariances, Kind::I64, &square)?,
        weights: contiguous(py, &weights, Kind::I64, &[Some(group), Some(count)])?,
        totals: contiguous(py, &totals, Kind::I64, &[Some(num_planes), Some(group)])?,
        scores: vector(py, &s, FLOAT, Some(count))?,
        scale: rule.0,
        epsilon: rule.1,
        num_planes: num_planes as i32,
        num_rows: count as i32,
        head_dim: dim as i32,
        group: group as i32,
    };
    // SAFETY: as above.
    unsafe { score::expected_scores(lane.get().lane(), target.device, target.stream, &parameters, most) }
        .or_raise(py)
}

/// Adds up f64 `values [N]` of planes that begin at int32 `begin [planes + 1]`, from the first to the last: f64 `sums
/// [planes]`.
#[pyfunction]
#[pyo3(name = "cuda_plane_sums")]
fn plane_sums(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    values: &Bound<'_, PyAny>,
    begin: &Bound<'_, PyAny>,
    sums: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (v, b, s) =
        (Tensor::new(values, "values")?, Tensor::new(begin, "begin")?, Tensor::new(sums, "sums")?);
    let target = lane.get().target(py, values, &[&v, &b, &s])?;
    let planes = b.len().saturating_sub(1);
    let parameters = PlaneSums {
        values: vector(py, &v, Kind::I64, None)?,
        begin: vector(py, &b, Kind::I32, None)?,
        sums: vector(py, &s, Kind::I64, Some(planes))?,
        num_planes: planes as i32,
        reserved: 0,
    };
    // SAFETY: as above.
    unsafe { score::plane_sums(lane.get().lane(), target.device, target.stream, &parameters) }.or_raise(py)
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(score_rows, m)?)?;
    m.add_function(wrap_pyfunction!(key_differences, m)?)?;
    m.add_function(wrap_pyfunction!(expected_scores, m)?)?;
    m.add_function(wrap_pyfunction!(plane_sums, m)?)
}
