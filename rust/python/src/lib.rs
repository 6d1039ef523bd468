//! `hornbeam._native`: thin bindings. Each submodule registers its own names.

mod error;
mod keep;
mod parallel;
mod plan;
mod rows;
mod tensor;

use pyo3::prelude::*;

/// The native part of hornbeam; use it through the `hornbeam` package.
#[pymodule(gil_used = false)]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    error::register(m)?;
    keep::register(m)?;
    parallel::register(m)?;
    plan::register(m)?;
    rows::register(m)?;
    Ok(())
}
