//! Quantisation of matrices in blocks: on flat CPU arrays.

use hornbeam_core::ops::quantise::{Blocks, Quantised};
use pyo3::prelude::*;

use crate::error::{OrRaise, detached_on};
use crate::tensor::{Tensor, expect_apart};

/// Encodes float32 `x [N, C]` in blocks of `tokens` by `channels`: writes uint8 `codes [N, ceil(C * bits
/// / 8)]` and float32 `params [token blocks, channel blocks, 2]` of (least, step). With
/// `channel_scale [C]` channels are divided by sqrt(max |x|) first, and the factors are written.
#[pyfunction]
#[pyo3(signature = (x, bits, tokens, channels, codes, params, channel_scale=None))]
fn quantise(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    bits: u32,
    tokens: usize,
    channels: usize,
    codes: &Bound<'_, PyAny>,
    params: &Bound<'_, PyAny>,
    channel_scale: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let arrays = Arrays::new(py, x, "x", codes, params, channel_scale)?;
    let blocks = arrays.blocks(py, bits, tokens, channels)?;
    let outputs: Vec<&Tensor> = [&arrays.codes, &arrays.params].into_iter().chain(&arrays.scale).collect();
    expect_apart(py, &outputs, [&arrays.x])?;
    // SAFETY: the outputs share no memory with others; the caller lends them for the call.
    let (x, codes, params) = unsafe {
        (arrays.x.slice::<f32>(py)?, arrays.codes.u8s_mut(py)?, arrays.params.slice_mut::<f32>(py)?)
    };
    let scale = match &arrays.scale {
        // SAFETY: as above.
        Some(scale) => Some(unsafe { scale.slice_mut::<f32>(py)? }),
        None => None,
    };
    let width = arrays.x.shape()[1];
    detached_on(py, arrays.all(), || {
        let encoded = match scale {
            Some(_) => blocks.encode_channel_separable(x, width)?,
            None => blocks.encode(x, width)?,
        };
        codes.copy_from_slice(&encoded.codes);
        params.copy_from_slice(encoded.params.as_flattened());
        if let Some(scale) = scale {
            scale.copy_from_slice(&encoded.channel_scale);
        }
        Ok(())
    })
}

/// Decodes what `quantise` wrote into float32 `out [N, C]`.
#[pyfunction]
#[pyo3(signature = (codes, params, bits, tokens, channels, out, channel_scale=None))]
fn dequantise(
    py: Python<'_>,
    codes: &Bound<'_, PyAny>,
    params: &Bound<'_, PyAny>,
    bits: u32,
    tokens: usize,
    channels: usize,
    out: &Bound<'_, PyAny>,
    channel_scale: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let arrays = Arrays::new(py, out, "out", codes, params, channel_scale)?;
    let blocks = arrays.blocks(py, bits, tokens, channels)?;
    let inputs = [&arrays.codes, &arrays.params].into_iter().chain(&arrays.scale);
    expect_apart(py, &[&arrays.x], inputs)?;
    // SAFETY: the output shares no memory with others; the caller lends it for the call.
    let (out, codes, params) =
        unsafe { (arrays.x.slice_mut::<f32>(py)?, arrays.codes.u8s(py)?, arrays.params.slice::<f32>(py)?) };
    let scale: &[f32] = match &arrays.scale {
        // SAFETY: as above.
        Some(scale) => unsafe { scale.slice::<f32>(py)? },
        None => &[],
    };
    let (num_tokens, num_channels) = (arrays.x.shape()[0], arrays.x.shape()[1]);
    detached_on(py, arrays.all(), || {
        let encoded = Quantised {
            blocks,
            num_tokens,
            num_channels,
            codes: codes.to_vec(),
            params: params.as_chunks::<2>().0.to_vec(),
            channel_scale: scale.to_vec(),
        };
        encoded.decode(out)
    })
}

/// The arrays of one encoded matrix.
struct Arrays {
    x: Tensor,
    codes: Tensor,
    params: Tensor,
    scale: Option<Tensor>,
}

impl Arrays {
    fn new(
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        name: &'static str,
        codes: &Bound<'_, PyAny>,
        params: &Bound<'_, PyAny>,
        scale: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let scale = scale.map(|scale| Tensor::new(scale, "channel_scale")).transpose()?;
        let x = Tensor::new(x, name)?;
        x.expect_shape(py, &[None, None])?;
        if let Some(scale) = &scale {
            scale.expect_shape(py, &[Some(x.shape()[1])])?;
        }
        Ok(Self { x, codes: Tensor::new(codes, "codes")?, params: Tensor::new(params, "params")?, scale })
    }

    fn all(&self) -> impl Iterator<Item = &Tensor> {
        [&self.x, &self.codes, &self.params].into_iter().chain(&self.scale)
    }

    fn blocks(&self, py: Python<'_>, bits: u32, tokens: usize, channels: usize) -> PyResult<Blocks> {
        let blocks = Blocks { bits, tokens, channels };
        blocks.check().or_raise(py)?;
        let (n, width) = (self.x.shape()[0], self.x.shape()[1]);
        let (down, across) = blocks.grid(n, width);
        self.codes.expect_shape(py, &[Some(n), Some(blocks.row_bytes(width))])?;
        self.params.expect_shape(py, &[Some(down), Some(across), Some(2)])?;
        Ok(blocks)
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(quantise, m)?)?;
    m.add_function(wrap_pyfunction!(dequantise, m)?)
}
