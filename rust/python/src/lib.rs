//! `hornbeam._native`: thin bindings. Each submodule registers its own names.

mod ahead;
mod attend;
mod attention;
mod attention_mass;
mod block_sparse;
mod build;
mod corpus;
mod cuda;
mod error;
mod gain;
mod integers;
mod keep;
mod keep_questions;
mod keep_resident;
mod kept_plans;
mod key_table;
mod linear;
mod pages;
mod parallel;
mod plan;
mod quantise;
mod registered;
mod rows;
mod search;
mod spec;
mod tensor;
mod topk;
mod tree;
mod verify;

use pyo3::prelude::*;

/// The native part of hornbeam; use it through the `hornbeam` package.
#[pymodule(gil_used = false)]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    ahead::register(m)?;
    attend::register(m)?;
    attention::register(m)?;
    attention_mass::register(m)?;
    block_sparse::register(m)?;
    build::register(m)?;
    corpus::register(m)?;
    cuda::register(m)?;
    error::register(m)?;
    gain::register(m)?;
    keep::register(m)?;
    keep_questions::register(m)?;
    keep_resident::register(m)?;
    kept_plans::register(m)?;
    key_table::register(m)?;
    linear::register(m)?;
    pages::register(m)?;
    parallel::register(m)?;
    plan::register(m)?;
    quantise::register(m)?;
    registered::register(m)?;
    rows::register(m)?;
    search::register(m)?;
    spec::register(m)?;
    topk::register(m)?;
    tree::register(m)?;
    verify::register(m)?;
    Ok(())
}
