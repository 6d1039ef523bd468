//! Tree attention on the device.

use hornbeam_core::format::Dtype;
use hornbeam_cuda::attention::{self, Extent};
use hornbeam_cuda::params::TreeAttention;
use pyo3::prelude::*;

use super::{OrRaise, PyCudaLane, contiguous, layer_pages, query_heads, strides};
use crate::tensor::{Kind, Tensor, expect_apart};

/// `hornbeam.ops.tree_attention` on the device. `extent` is (items, merged rows) to launch for:
/// the plan's own, or the most that a captured graph will see. `workspace` is float32 with room
/// for the plan's partial rows: `partial rows * num_heads * (head_dim + 2)`.
#[pyfunction]
#[pyo3(name = "cuda_tree_attention", signature = (lane, q, words, chunk, out, lse, workspace, extent, partial_rows, layer, num_kv_heads, scale, window, soft_cap, sinks))]
fn tree_attention(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    q: &Bound<'_, PyAny>,
    words: &Bound<'_, PyAny>,
    chunk: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
    lse: Option<&Bound<'_, PyAny>>,
    workspace: &Bound<'_, PyAny>,
    extent: (usize, usize),
    partial_rows: usize,
    layer: usize,
    num_kv_heads: usize,
    scale: Option<f32>,
    window: Option<u32>,
    soft_cap: Option<f32>,
    sinks: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let (queries, output) = (Tensor::new(q, "q")?, Tensor::new(out, "out")?);
    let (words, chunk) = (super::words(py, words)?, Tensor::new(chunk, "chunk")?);
    let workspace = Tensor::new(workspace, "workspace")?;
    let lse = lse.map(|t| Tensor::new(t, "lse")).transpose()?;
    let sinks = sinks.map(|t| Tensor::new(t, "sinks")).transpose()?;
    let mut all = vec![&queries, &output, &words, &chunk, &workspace];
    all.extend(lse.iter().chain(&sinks));
    let outputs: Vec<&Tensor> = [&output, &workspace].into_iter().chain(&lse).collect();
    expect_apart(py, &outputs, [&queries, &words, &chunk].into_iter().chain(&sinks))?;
    let target = lane.get().target(py, q, &all)?;
    let (layout, pages) = layer_pages(py, &chunk, layer, num_kv_heads)?;
    let (num_rows, num_heads) = query_heads(py, &queries, None, layout.head_dim, num_kv_heads)?;
    let shape = [Some(num_rows), Some(num_heads), Some(layout.head_dim)];
    let floats =
        |tensor: &Tensor, shape: &[Option<usize>]| contiguous(py, tensor, Kind::Float(Dtype::F32), shape);
    let need = attention::workspace_floats(partial_rows, num_heads, layout.head_dim);
    if workspace.kind() != Kind::Float(Dtype::F32) || !workspace.is_contiguous() || workspace.len() < need {
        let got = format!("{} {:?}", workspace.kind(), workspace.shape());
        return Err(workspace.refuse(py, &got, &format!("contiguous float32 of at least {need}")));
    }
    let partials = workspace.address();
    let parameters = TreeAttention {
        q: queries.address(),
        out: output.address(),
        lse: lse.as_ref().map_or(Ok(0), |t| floats(t, &shape[..2]))?,
        plan: words.address(),
        sinks: sinks.as_ref().map_or(Ok(0), |t| floats(t, &[Some(num_heads)]))?,
        partials,
        partial_stats: partials + (partial_rows * num_heads * layout.head_dim * 4) as u64,
        q_strides: strides(py, &queries, shape)?,
        out_strides: strides(py, &output, shape)?,
        pages,
        scale: scale.unwrap_or_else(|| (layout.head_dim as f32).powf(-0.5)),
        soft_cap: soft_cap.unwrap_or(0.0),
        window: window.map_or(i32::MAX, |w| w.min(i32::MAX as u32) as i32),
        num_rows: num_rows as i32,
        num_heads: num_heads as i32,
        dtype: queries.float(py)?.into(),
        out_dtype: output.float(py)?.into(),
        reserved: 0,
    };
    let extent = Extent { num_items: extent.0, num_merged_rows: extent.1 };
    // SAFETY: the tensors are on the device and large enough for what the words name, and
    // torch's stream orders their reuse.
    unsafe { attention::tree_attention(lane.get().lane(), target.device, target.stream, &parameters, extent) }
        .or_raise(py)
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(tree_attention, m)?)
}
