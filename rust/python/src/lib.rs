//! `hornbeam._native`: thin bindings. Each submodule registers its own names.

mod build;
mod error;
mod parallel;
mod spec;
mod attention;
mod error;
mod parallel;
mod plan;
mod rows;
mod tensor;
mod verify;

use pyo3::prelude::*;

/// The native part of hornbeam; use it through the `hornbeam` package.
#[pymodule(gil_used = false)]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    build::register(m)?;
    error::register(m)?;
    parallel::register(m)?;
    spec::register(m)?;
    attention::register(m)?;
    error::register(m)?;
    parallel::register(m)?;
    plan::register(m)?;
    rows::register(m)?;
    verify::register(m)?;
    Ok(())
}
