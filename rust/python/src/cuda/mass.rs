//! Key mass on the device.

use hornbeam_core::format::Dtype;
use hornbeam_cuda::mass;
use hornbeam_cuda::params::{KeyMass, MassPhase, QUERY_STATS_BYTES};
use pyo3::prelude::*;

use super::decide::vector;
use super::{OrRaise, PyCudaLane, contiguous, layer_pages, query_heads, strides};
use crate::tensor::{Kind, Tensor, expect_apart};

/// `hornbeam.ops.attention_mass` on the device. `rows`, int32, and `segments`, int32 `[S, 4]` of
/// `CudaPlan.mass_segments`, lie there; `stats` is uint8 `[rows * heads, query_stats]`, of `cuda_sizes`, zeros; `mass` and `seen` are
/// contiguous and added to.
#[pyfunction]
#[pyo3(name = "cuda_key_mass", signature = (lane, q, words, chunk, rows, segments, stats, mass, seen, lse, layer, num_kv_heads, scale, window, soft_cap, sinks))]
fn key_mass(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    q: &Bound<'_, PyAny>,
    words: &Bound<'_, PyAny>,
    chunk: &Bound<'_, PyAny>,
    rows: &Bound<'_, PyAny>,
    segments: &Bound<'_, PyAny>,
    stats: &Bound<'_, PyAny>,
    mass: &Bound<'_, PyAny>,
    seen: Option<&Bound<'_, PyAny>>,
    lse: Option<&Bound<'_, PyAny>>,
    layer: usize,
    num_kv_heads: usize,
    scale: Option<f32>,
    window: Option<u32>,
    soft_cap: Option<f32>,
    sinks: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let queries = Tensor::new(q, "q")?;
    let (words, chunk) = (super::words(py, words)?, Tensor::new(chunk, "chunk")?);
    let (rows, segments) = (Tensor::new(rows, "rows")?, Tensor::new(segments, "segments")?);
    let (stats, total) = (Tensor::new(stats, "stats")?, Tensor::new(mass, "out")?);
    let seen = seen.map(|t| Tensor::new(t, "seen")).transpose()?;
    let lse = lse.map(|t| Tensor::new(t, "lse")).transpose()?;
    let sinks = sinks.map(|t| Tensor::new(t, "sinks")).transpose()?;
    let mut all = vec![&queries, &words, &chunk, &rows, &segments, &stats, &total];
    all.extend(seen.iter().chain(&lse).chain(&sinks));
    let outputs: Vec<&Tensor> = [&total, &stats].into_iter().chain(&seen).chain(&lse).collect();
    let inputs = [&queries, &words, &chunk, &rows, &segments].into_iter().chain(&sinks);
    expect_apart(py, &outputs, inputs)?;
    let target = lane.get().target(py, q, &all)?;
    let (layout, pages) = layer_pages(py, &chunk, layer, num_kv_heads)?;
    let (num_rows, num_heads) = query_heads(py, &queries, Some(rows.len()), layout.head_dim, num_kv_heads)?;
    let of = |tensor: &Tensor, kind, shape: &[Option<usize>]| contiguous(py, tensor, kind, shape);
    let float = Kind::Float(Dtype::F32);
    let mass_address = of(&total, Kind::I64, &[Some(num_kv_heads), None])?;
    let columns = total.shape()[1];
    let parameters = KeyMass {
        q: queries.address(),
        plan: words.address(),
        rows: vector(py, &rows, Kind::I32, None)?,
        segments: of(&segments, Kind::I32, &[None, Some(4)])?,
        sinks: sinks.as_ref().map_or(Ok(0), |t| of(t, float, &[Some(num_heads)]))?,
        stats: of(&stats, Kind::U8, &[Some(num_rows * num_heads), Some(QUERY_STATS_BYTES)])?,
        mass: mass_address,
        seen: seen.as_ref().map_or(Ok(0), |t| of(t, Kind::I32, &[Some(num_kv_heads), Some(columns)]))?,
        lse: lse.as_ref().map_or(Ok(0), |t| of(t, float, &[Some(num_rows), Some(num_heads)]))?,
        q_strides: strides(py, &queries, [Some(num_rows), Some(num_heads), Some(layout.head_dim)])?,
        pages,
        scale: scale.unwrap_or_else(|| (layout.head_dim as f32).powf(-0.5)),
        soft_cap: soft_cap.unwrap_or(0.0),
        window: window.map_or(i32::MAX, |w| w.min(i32::MAX as u32) as i32),
        num_rows: num_rows as i32,
        num_heads: num_heads as i32,
        dtype: queries.float(py)?.into(),
        num_segments: segments.shape()[0] as i32,
        num_columns: columns as i32,
        phase: MassPhase::Largest,
        reserved: 0,
    };
    // SAFETY: the tensors are on the device and of the shapes that were checked; rows and segments are
    // of the plan in the words, and torch's stream orders their reuse.
    unsafe { mass::key_mass(lane.get().lane(), target.device, target.stream, &parameters) }.or_raise(py)
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(key_mass, m)?)
}
