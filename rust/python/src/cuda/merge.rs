//! Merges of evicted keys and values on the device.

use hornbeam_core::format::Dtype;
use hornbeam_cuda::merge;
use hornbeam_cuda::params::{MergeRows, MergeRule};
use pyo3::prelude::*;

use super::decide::vector;
use super::{OrRaise, PyCudaLane, contiguous};
use crate::tensor::{Kind, Tensor};

type Pair<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>);
type Triple<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>);

/// Merges rows of planes. `rows` are float32 keys and values `[N, D]`; `kept` and `asked` are (int32 rows, plane
/// after plane, float32 scores of them, int32 where planes begin and the last one ends); `rule` is the name
/// of the reduction, with its threshold; `most` are the rows kept, and asked,
/// of the largest plane. Scratch: float32 `[(K + A) * D + A]`, int64 `[K + 2 A]`, int32 `[planes]`. Takes float32 `out`
/// keys and values `[K, D]`, and `weights` as `keep_reduce`: int32 targets `[A]`, float32 `[A]`, zeros, and
/// float32 own ones `[K]`.
#[pyfunction]
#[pyo3(name = "cuda_merge_rows")]
fn merge_rows(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    rows: Pair<'_>,
    kept: Triple<'_>,
    asked: Triple<'_>,
    rule: (&str, f64),
    most: (u32, u32),
    scratch: Triple<'_>,
    out: Pair<'_>,
    weights: Triple<'_>,
) -> PyResult<()> {
    let (k, v) = (Tensor::new(&rows.0, "keys")?, Tensor::new(&rows.1, "values")?);
    let [ki, ks, kb] = triple(&kept, ["kept", "scores", "kept_begin"])?;
    let [ai, sc, ab] = triple(&asked, ["asked", "scores", "asked_begin"])?;
    let [floats, doubles, merged] = triple(&scratch, ["floats", "doubles", "merged"])?;
    let (ok, ov) = (Tensor::new(&out.0, "out_keys")?, Tensor::new(&out.1, "out_values")?);
    let [targets, joined, own] = triple(&weights, ["targets", "weights", "own"])?;
    let all =
        [&k, &v, &ki, &ks, &kb, &ai, &sc, &ab, &floats, &doubles, &merged, &ok, &ov, &targets, &joined, &own];
    let target = lane.get().target(py, &rows.0, &all)?;
    let float = Kind::Float(Dtype::F32);
    k.expect_shape(py, &[None, None])?;
    let (n, d) = (k.shape()[0], k.shape()[1]);
    let (num_kept, num_asked, planes) = (ki.len(), ai.len(), kb.len().saturating_sub(1));
    let matrix = |tensor: &Tensor, rows: usize| contiguous(py, tensor, float, &[Some(rows), Some(d)]);
    let floats = vector(py, &floats, float, Some((num_kept + num_asked) * d + num_asked))?;
    let doubles = vector(py, &doubles, Kind::I64, Some(num_kept + 2 * num_asked))?;
    let (after, size) = (|base: u64, count: usize, size: usize| base + (count * size) as u64, (4, 8));
    let parameters = MergeRows {
        keys: matrix(&k, n)?,
        values: matrix(&v, n)?,
        kept: vector(py, &ki, Kind::I32, None)?,
        asked: vector(py, &ai, Kind::I32, None)?,
        kept_begin: vector(py, &kb, Kind::I32, None)?,
        asked_begin: vector(py, &ab, Kind::I32, Some(planes + 1))?,
        kept_scores: vector(py, &ks, float, Some(num_kept))?,
        asked_scores: vector(py, &sc, float, Some(num_asked))?,
        kept_directions: floats,
        asked_directions: after(floats, num_kept * d, size.0),
        kept_sizes: doubles,
        asked_sizes: after(doubles, num_kept, size.1),
        cosines: after(floats, (num_kept + num_asked) * d, size.0),
        raw: after(doubles, num_kept + num_asked, size.1),
        merged: vector(py, &merged, Kind::I32, Some(planes))?,
        targets: vector(py, &targets, Kind::I32, Some(num_asked))?,
        weights: vector(py, &joined, float, Some(num_asked))?,
        own: vector(py, &own, float, Some(num_kept))?,
        out_keys: matrix(&ok, num_kept)?,
        out_values: matrix(&ov, num_kept)?,
        threshold: rule.1,
        num_planes: planes as i32,
        num_kept: num_kept as i32,
        num_asked: num_asked as i32,
        head_dim: d as i32,
        rule: MergeRule::named(rule.0).or_raise(py)?,
        reserved: 0,
    };
    let lane = lane.get().lane();
    // SAFETY: the tensors are on the device and of the shapes that were checked; the caller made the rows from
    // those of the tables.
    unsafe { merge::merge_rows(lane, target.device, target.stream, &parameters, most.0, most.1) }.or_raise(py)
}

fn triple<'py>(tensors: &Triple<'py>, names: [&'static str; 3]) -> PyResult<[Tensor; 3]> {
    Ok([
        Tensor::new(&tensors.0, names[0])?,
        Tensor::new(&tensors.1, names[1])?,
        Tensor::new(&tensors.2, names[2])?,
    ])
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(merge_rows, m)?)
}
