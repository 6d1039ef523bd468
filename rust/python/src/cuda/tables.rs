//! What the kernels read and write as bytes: tables of small structs, and what their numbers mean.

use hornbeam_cuda::params::{Bias, Fault, Law, Penalties, QUERY_STATS_BYTES, ROW_LAW_BYTES, bytes};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

/// (temperature, top_k, top_p, min_p) of a warp.
pub(super) type WarpLaw = (f64, Option<u64>, Option<f64>, Option<f64>);

/// (repetition, frequency, presence) of a warp, neutral where it has none, and its biases, (token, value).
type WarpPenalties = (f64, f64, f64, Vec<(u32, f64)>);

/// A law from what remains of a warp, which the warp has validated.
pub(super) fn law_of((temperature, top_k, top_p, min_p): WarpLaw) -> Law {
    let greedy = temperature == 0.0;
    Law {
        scale: if greedy { 1.0 } else { (1.0 / temperature) as f32 },
        greedy: i32::from(greedy),
        top_k: top_k.map_or(0, |k| k.min(i32::MAX as u64) as i32),
        reserved: 0,
        top_p: top_p.filter(|p| *p < 1.0).unwrap_or(0.0),
        min_p: min_p.unwrap_or(0.0),
    }
}

/// The laws of some warps, one after the other: bytes `[warps, law]`, of `cuda_sizes`.
#[pyfunction]
fn cuda_pack_laws<'py>(py: Python<'py>, warps: Vec<WarpLaw>) -> Bound<'py, PyBytes> {
    let laws: Vec<Law> = warps.into_iter().map(law_of).collect();
    PyBytes::new(py, bytes(&laws))
}

/// The penalties and the biases of some warps: bytes `[warps, penalties]` and `[biases, bias]`, of `cuda_sizes`.
#[pyfunction]
fn cuda_pack_penalties<'py>(
    py: Python<'py>,
    warps: Vec<WarpPenalties>,
) -> (Bound<'py, PyBytes>, Bound<'py, PyBytes>) {
    let (mut penalties, mut biases) = (Vec::with_capacity(warps.len()), Vec::new());
    for (repetition, frequency, presence, own) in warps {
        let bias_begin = biases.len() as i32;
        biases.extend(own.into_iter().map(|(id, value)| Bias { id, value: value as f32 }));
        penalties.push(Penalties {
            repetition: repetition as f32,
            frequency: frequency as f32,
            presence: presence as f32,
            bias_begin,
            bias_end: biases.len() as i32,
            reserved: 0,
        });
    }
    (PyBytes::new(py, bytes(&penalties)), PyBytes::new(py, bytes(&biases)))
}

/// The bytes of what tables hold: `law`, `penalties`, `bias`, and `row_law` and `query_stats`, the kernels' own.
#[pyfunction]
fn cuda_sizes(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let sizes = PyDict::new(py);
    sizes.set_item("law", size_of::<Law>())?;
    sizes.set_item("penalties", size_of::<Penalties>())?;
    sizes.set_item("bias", size_of::<Bias>())?;
    sizes.set_item("row_law", ROW_LAW_BYTES)?;
    sizes.set_item("query_stats", QUERY_STATS_BYTES)?;
    Ok(sizes)
}

/// The row at which a walk broke off, and what it contains, from a number of `fault_rows`.
#[pyfunction]
fn cuda_fault(told: i32) -> (i32, &'static str) {
    let (row, fault) = Fault::told(told);
    let got = match fault {
        Fault::Sound => "",
        Fault::IsNan => "NaN",
        Fault::IsInfinite => "+inf",
        Fault::IsEmpty => "-inf only",
    };
    (row, got)
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(cuda_pack_laws, m)?)?;
    m.add_function(wrap_pyfunction!(cuda_pack_penalties, m)?)?;
    m.add_function(wrap_pyfunction!(cuda_sizes, m)?)?;
    m.add_function(wrap_pyfunction!(cuda_fault, m)?)
}
