//! `block_sparse_attention`: the binding.

use hornbeam_core::format::Dtype;
use hornbeam_core::ops::attention::{BlockSparse, FloatsMut, Output, Queries, block_sparse_attention};
use hornbeam_core::simd::Isa;
use pyo3::prelude::*;
use smallvec::SmallVec;

use crate::error::{OrRaise, detached_on};
use crate::parallel::Host;
use crate::tensor::{Tensor, expect_apart};

/// Attention of a prompt over chosen blocks. See `hornbeam.ops.block_sparse_attention`.
#[pyfunction]
#[pyo3(name = "block_sparse_attention")]
#[pyo3(signature = (q, k, v, blocks, out, lse, scale, block_rows, block_keys, isa=None))]
fn attention(
    py: Python<'_>,
    q: &Bound<'_, PyAny>,
    k: &Bound<'_, PyAny>,
    v: &Bound<'_, PyAny>,
    blocks: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
    lse: Option<&Bound<'_, PyAny>>,
    scale: Option<f32>,
    block_rows: usize,
    block_keys: usize,
    isa: Option<&str>,
) -> PyResult<()> {
    let q = Tensor::with_shape(q, "q", &[None, None, None])?;
    let [heads, rows, dim] = [q.shape()[0], q.shape()[1], q.shape()[2]];
    let k = Tensor::with_shape(k, "k", &[None, None, Some(dim)])?;
    let [kv_heads, keys] = [k.shape()[0], k.shape()[1]];
    let v = Tensor::with_shape(v, "v", &[Some(kv_heads), Some(keys), Some(dim)])?;
    let out = Tensor::with_shape(out, "out", &[Some(rows), Some(heads), Some(dim)])?;
    if v.kind() != k.kind() {
        return Err(v.refuse(py, &v.kind().to_string(), &format!("the type of k, {}", k.kind())));
    }
    let shape = [Some(heads), Some(blocks_of(rows, block_rows)), Some(blocks_of(keys, block_keys))];
    let blocks = Tensor::with_shape(blocks, "blocks", &shape)?;
    let lse = lse.map(|t| Tensor::with_shape(t, "lse", &[Some(rows), Some(heads)])).transpose()?;
    let isa = match isa {
        Some(name) => Isa::from_name(name).or_raise(py)?,
        None => Isa::detected(),
    };
    let out_strides = out.row_strides(py, [rows, heads, dim])?;
    let row = heads.saturating_sub(1) * out_strides.1 + dim;
    if (out_strides.1 < dim && heads > 1) || (out_strides.0 < row && rows > 1) {
        return Err(out.refuse(py, &format!("strided {:?}", out.strides()), "rows that do not overlap"));
    }
    let outputs: SmallVec<[&Tensor; 2]> = [Some(&out), lse.as_ref()].into_iter().flatten().collect();
    let inputs = || [&q, &k, &v, &blocks].into_iter();
    expect_apart(py, &outputs, inputs())?;
    let sizes = [heads, rows, dim];
    let (queries, keys_data, values) = (
        strided(py, &q, sizes)?,
        strided(py, &k, [kv_heads, keys, dim])?,
        strided(py, &v, [kv_heads, keys, dim])?,
    );
    // SAFETY: the outputs share no memory with other arguments; the caller lends them for the call.
    let (data, lse, blocks_data) = unsafe {
        let data = match out.float(py)? {
            Dtype::F32 => FloatsMut::F32(out.span_mut(py)?),
            Dtype::Bf16 => FloatsMut::Bf16(out.span_mut(py)?),
            Dtype::F16 => FloatsMut::F16(out.span_mut(py)?),
        };
        (data, lse.as_ref().map(|t| t.slice_mut::<f32>(py)).transpose()?, blocks.bools(py)?)
    };
    let sparse = BlockSparse {
        num_heads: heads,
        num_kv_heads: kv_heads,
        num_rows: rows,
        num_keys: keys,
        head_dim: dim,
        scale: scale.unwrap_or_else(|| (dim as f32).powf(-0.5)),
        block_rows,
        block_keys,
        blocks: blocks_data,
    };
    let result = Output { data, row_stride: out_strides.0, head_stride: out_strides.1, lse };
    detached_on(py, inputs().chain(outputs.iter().copied()), || {
        block_sparse_attention(isa, &Host, queries, keys_data, values, &sparse, result)
    })
}

/// How many blocks of `size` hold `count`; a size of 0 is refused where the operation looks at it.
fn blocks_of(count: usize, size: usize) -> usize {
    count.div_ceil(size.max(1))
}

/// A tensor `[heads, rows, dim]` of any strides with a unit last one.
fn strided<'a>(py: Python<'_>, tensor: &'a Tensor, shape: [usize; 3]) -> PyResult<Queries<'a>> {
    let (head_stride, row_stride) = tensor.row_strides(py, shape)?;
    // SAFETY: the caller lends the tensor for the call, and no output shares its memory.
    let data = unsafe { tensor.float_span(py)? };
    Ok(Queries { data, row_stride, head_stride })
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(attention, m)?)
}
