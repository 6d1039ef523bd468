//! `hornbeam._native`: thin bindings. Each submodule registers its own names.

mod error;
mod parallel;
mod tensor;
mod verify;

use pyo3::prelude::*;

/// The native part of hornbeam; use it through the `hornbeam` package.
#[pymodule(gil_used = false)]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    error::register(m)?;
    parallel::register(m)?;
    verify::register(m)?;
    Ok(())
}
