//! `hornbeam._native`: thin bindings. Each submodule registers its own names.

mod error;
mod linear;
mod parallel;
mod tensor;

use pyo3::prelude::*;

/// The native part of hornbeam; use it through the `hornbeam` package.
#[pymodule(gil_used = false)]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    error::register(m)?;
    linear::register(m)?;
    parallel::register(m)?;
    Ok(())
}
