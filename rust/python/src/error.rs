//! Rust errors to Python exceptions: the one place.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use hornbeam_core::Error;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;
use smallvec::SmallVec;

use crate::tensor::Tensor;

/// The exception classes live in `hornbeam.errors`, so that Python can document and subclass them.
pub(crate) fn class(py: Python<'_>, name: &'static str) -> PyResult<Py<PyType>> {
    static ERRORS: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let module = ERRORS.get_or_try_init(py, || PyModule::import(py, "hornbeam.errors").map(Bound::unbind))?;
    Ok(module.bind(py).getattr(name)?.cast_into::<PyType>()?.unbind())
}

/// The Python exception that `error` becomes.
pub(crate) fn to_py(py: Python<'_>, error: Error) -> PyErr {
    let name = match &error {
        Error::Shape { .. } => "ShapeError",
        Error::OutOfPages { .. } => "OutOfPages",
        Error::State { .. } => "StateError",
        Error::Logits { .. } => "LogitsError",
        _ => "ArgumentError",
    };
    match class(py, name) {
        Ok(class) => PyErr::from_type(class.into_bound(py), error.to_string()),
        Err(failure) => failure,
    }
}

/// The `CudaError` that says why no kernel ran.
pub(crate) fn cuda_to_py(py: Python<'_>, error: &hornbeam_cuda::Error) -> PyErr {
    match class(py, "CudaError") {
        Ok(class) => PyErr::from_type(class.into_bound(py), error.to_string()),
        Err(failure) => failure,
    }
}

/// `?` from a core result inside a `#[pyfunction]`.
pub(crate) trait OrRaise<T> {
    /// Converts the error.
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> OrRaise<T> for hornbeam_core::Result<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| to_py(py, error))
    }
}

/// Releases the GIL, runs `work`, and turns an error or a panic into an exception. Every
/// operation that takes more than about 10 µs goes through here; shorter ones keep the GIL.
pub(crate) fn detached<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> hornbeam_core::Result<T> + Send,
) -> PyResult<T> {
    unlocked(py, work)?.or_raise(py)
}

/// As [`detached`], of work whose errors are of another kind.
pub(crate) fn unlocked<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> PyResult<T> {
    py.detach(|| catch_unwind(AssertUnwindSafe(work))).map_err(|panic| internal(py, &*panic))
}

/// As [`detached`], of work on the memory of `tensors`, whose storages are held meanwhile.
pub(crate) fn detached_on<'a, T: Send>(
    py: Python<'_>,
    tensors: impl IntoIterator<Item = &'a Tensor>,
    work: impl FnOnce() -> hornbeam_core::Result<T> + Send,
) -> PyResult<T> {
    let held: SmallVec<[Option<Py<PyAny>>; 16]> =
        tensors.into_iter().map(|tensor| tensor.storage(py)).collect::<PyResult<_>>()?;
    let outcome = detached(py, work);
    drop(held);
    outcome
}

/// Runs `work` with the GIL held, and turns an error or a panic into an exception.
pub(crate) fn attached<T>(py: Python<'_>, work: impl FnOnce() -> hornbeam_core::Result<T>) -> PyResult<T> {
    let outcome = catch_unwind(AssertUnwindSafe(work));
    outcome.map_err(|panic| internal(py, &*panic))?.or_raise(py)
}

/// The `InternalError` that a panic becomes: a fault of ours, which names itself and ends one call.
pub(crate) fn internal(py: Python<'_>, panic: &(dyn Any + Send)) -> PyErr {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = format!("internal error: {}", text.unwrap_or("a panic without a message"));
    match class(py, "InternalError") {
        Ok(class) => PyErr::from_type(class.into_bound(py), text),
        Err(failure) => failure,
    }
}

pub(crate) fn register(_m: &Bound<'_, PyModule>) -> PyResult<()> {
    Ok(())
}
