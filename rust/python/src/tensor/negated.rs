//! Whether torch applies a sign when a tensor is read. Every call asks that of nearly every tensor, so it is asked without
//! looking the method up.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;
use pyo3::{ffi, intern};

/// The class of plain tensors.
pub(super) fn torch_class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "torch", "Tensor")
}

/// The C function behind `torch.Tensor.is_neg`, where it is one without arguments.
static FUNCTION: PyOnceLock<Option<ffi::PyCFunction>> = PyOnceLock::new();

pub(super) fn is_negated(tensor: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = tensor.py();
    if tensor.get_type().is(torch_class(py)?)
        && let Some(function) = FUNCTION.get_or_try_init(py, || function_of(tensor))?
    {
        // SAFETY: the method of this very class, called as the interpreter calls one without arguments.
        let answer =
            unsafe { Bound::from_owned_ptr_or_err(py, function(tensor.as_ptr(), std::ptr::null_mut())) };
        return answer?.is_truthy();
    }
    tensor.call_method0(intern!(py, "is_neg"))?.is_truthy()
}

fn function_of(tensor: &Bound<'_, PyAny>) -> PyResult<Option<ffi::PyCFunction>> {
    let method = tensor.getattr(intern!(tensor.py(), "is_neg"))?;
    // SAFETY: a live object, which is asked only once it is known to be a method in C.
    unsafe {
        let is_plain = ffi::PyCFunction_Check(method.as_ptr()) != 0
            && ffi::PyCFunction_GetFlags(method.as_ptr()) == ffi::METH_NOARGS;
        Ok(if is_plain { ffi::PyCFunction_GetFunction(method.as_ptr()) } else { None })
    }
}
