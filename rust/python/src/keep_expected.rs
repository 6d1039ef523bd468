//! What queries seen lead to expect of those to come, for scores that are found on a device.

use std::sync::{Mutex, PoisonError};

use hornbeam_core::keep::Layer;
use hornbeam_core::keep::score::ExpectedAttention;
use hornbeam_core::parallel::Parallel;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::{OrRaise, detached};
use crate::keep::params;
use crate::parallel::Host;
use crate::tensor::Tensor;

/// Writes the means and covariances that expected attention has of float32 `queries [L, H, W, D]` at int32 `rows [W]`:
/// the bits of doubles, int64 `means [.., D]` and `covariances [.., D, D]`, head after head.
#[pyfunction]
fn keep_expectations(
    py: Python<'_>,
    score: &Bound<'_, PyDict>,
    queries: &Bound<'_, PyAny>,
    rows: &Bound<'_, PyAny>,
    num_seen: usize,
    means: &Bound<'_, PyAny>,
    covariances: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let mut params = params(score)?;
    let rule = ExpectedAttention::from_params(&mut params).or_raise(py)?;
    params.finish().or_raise(py)?;
    let (q, r) = (Tensor::new(queries, "queries")?, Tensor::new(rows, "rows")?);
    let (m, c) = (Tensor::new(means, "means")?, Tensor::new(covariances, "covariances")?);
    q.expect_shape(py, &[None; 4])?;
    let &[layers, heads, num_rows, head_dim] = q.shape() else { unreachable!("four sizes") };
    r.expect_shape(py, &[Some(num_rows)])?;
    for (tensor, len) in [(&m, layers * heads * head_dim), (&c, layers * heads * head_dim * head_dim)] {
        if tensor.len() != len {
            return Err(tensor.refuse(py, &format!("{} numbers", tensor.len()), &format!("{len}")));
        }
    }
    // SAFETY: the objects are held by the caller, who lends the outputs for the call.
    let (q, r, m, c) = unsafe { (q.slice::<f32>(py)?, r.i32s(py)?, m.i64s_mut(py)?, c.i64s_mut(py)?) };
    let positions: Vec<u32> = r.iter().map(|row| *row as u32).collect();
    detached(py, || {
        let layer = Layer {
            planes: &[],
            group: 1,
            num_tokens: 0,
            num_seen,
            num_rows,
            row_positions: &positions,
            head_dim,
            scale: 1.0,
        };
        layer.check()?;
        rule.check(&layer)?;
        let width = head_dim.max(1);
        let parts: Vec<_> =
            m.chunks_exact_mut(width).zip(c.chunks_exact_mut(width * width)).map(Mutex::new).collect();
        Host.run(parts.len(), &|head| {
            let (mean, covariance) =
                rule.statistics(&layer, &q[head * num_rows * width..][..num_rows * width]);
            let mut part = parts[head].lock().unwrap_or_else(PoisonError::into_inner);
            part.0.iter_mut().zip(mean).for_each(|(to, x)| *to = x.to_bits() as i64);
            part.1.iter_mut().zip(covariance).for_each(|(to, x)| *to = x.to_bits() as i64);
        });
        Ok(())
    })
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(keep_expectations, m)?)
}
