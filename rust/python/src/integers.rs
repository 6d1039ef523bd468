//! Integers that callers give as a list, a tuple or an array.

use hornbeam_core::Error;
use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyList, PyTuple};

use crate::error::to_py;
use crate::tensor::Tensor;

/// As `T`, or an error that says what was `expected` of each. Takes a list or tuple of integers, or a
/// one-dimensional array or CPU tensor of any integer type, byte order and stride. Floats and truth values are
/// refused: 1.5 is no token, and a mask is no list of indices.
pub(crate) fn narrow<T: TryFrom<i64>>(
    py: Python<'_>,
    object: &Bound<'_, PyAny>,
    name: &'static str,
    expected: &str,
) -> PyResult<Vec<T>> {
    let outside = |x: &dyn std::fmt::Display| to_py(py, Error::value(name, x, expected));
    let one = |item: &Bound<'_, PyAny>| -> PyResult<T> {
        let wide: i64 = match item.extract() {
            Ok(wide) if !item.is_instance_of::<PyBool>() => wide,
            Err(error) if error.is_instance_of::<PyOverflowError>(py) => return Err(outside(&item.str()?)),
            Err(error) if !error.is_instance_of::<PyTypeError>(py) => return Err(error),
            _ => {
                let class = item.get_type().qualname()?;
                return Err(PyTypeError::new_err(format!("{name} holds a {class}, expected integers")));
            }
        };
        T::try_from(wide).map_err(|_| outside(&wide))
    };
    if let Ok(list) = object.cast::<PyList>() {
        return list.iter().map(|item| one(&item)).collect();
    }
    if let Ok(tuple) = object.cast::<PyTuple>() {
        return tuple.iter().map(|item| one(&item)).collect();
    }
    let wide = Tensor::new(object, name)?.integers(py)?;
    let wide = wide.ok_or_else(|| outside(&"above 9223372036854775807"))?;
    wide.into_iter().map(|x| T::try_from(x).map_err(|_| outside(&x))).collect()
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
