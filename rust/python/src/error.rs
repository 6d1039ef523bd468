//! Rust errors to Python exceptions: the one place.

use hornbeam_core::Error;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

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
    let outcome = py.detach(|| std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)));
    match outcome {
        Ok(result) => result.or_raise(py),
        Err(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .map(|s| (*s).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "unknown panic".to_owned());
            let class = class(py, "HornbeamError")?;
            Err(PyErr::from_type(class.into_bound(py), format!("internal error: {text}")))
        }
    }
}

pub(crate) fn register(_m: &Bound<'_, PyModule>) -> PyResult<()> {
    Ok(())
}
