//! Integers that callers give as a list, a tuple or an array.

use hornbeam_core::Error;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::error::to_py;
use crate::tensor::{Kind, Tensor};

/// Integers of a list, a tuple, or a one-dimensional int32 or int64 array on the CPU.
fn integers(object: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Vec<i64>> {
    if object.is_instance_of::<PyList>() || object.is_instance_of::<PyTuple>() {
        return object.extract();
    }
    let py = object.py();
    let tensor = Tensor::with_shape(object, name, &[None])?;
    // SAFETY: `object` is held by the caller while the slice is copied, under the GIL.
    unsafe {
        match tensor.kind() {
            Kind::I32 => Ok(tensor.i32s(py)?.iter().map(|&t| i64::from(t)).collect()),
            _ => tensor.i64s(py).map(<[i64]>::to_vec),
        }
    }
}

/// As `T`, or an error that says what was `expected` of each.
pub(crate) fn narrow<T: TryFrom<i64>>(
    py: Python<'_>,
    object: &Bound<'_, PyAny>,
    name: &'static str,
    expected: &str,
) -> PyResult<Vec<T>> {
    let narrowed = integers(object, name)?
        .into_iter()
        .map(|x| T::try_from(x).map_err(|_| to_py(py, Error::value(name, x, expected))));
    narrowed.collect()
}

/// Token ids, 0 to `i32::MAX`.
pub(crate) fn token_ids(object: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    let py = object.py();
    let tokens: Vec<u32> = narrow(py, object, "token id", "0 to 2147483647")?;
    match tokens.iter().find(|&&t| t > i32::MAX as u32) {
        Some(token) => Err(to_py(py, Error::value("token id", token, "0 to 2147483647"))),
        None => Ok(tokens),
    }
}
