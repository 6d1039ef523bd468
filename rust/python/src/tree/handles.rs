//! What Python holds of a tree: branches, pins, and the open step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hornbeam_core::Error;
use hornbeam_core::tree::{BranchId, NodeId};
use pyo3::prelude::*;
use pyo3::types::{PyList, PySequence};

use super::changes::change;
use super::state::{Dropped, Shared};
use crate::error::OrRaise;
use crate::integers::narrow;

/// An open branch; the last reference closes it, and keeps its tokens cached.
#[pyclass(name = "BranchHandle", module = "hornbeam._native", frozen)]
pub(crate) struct PyBranchHandle {
    pub(super) shared: Arc<Shared>,
    pub(super) branch: BranchId,
}

#[pymethods]
impl PyBranchHandle {
    /// The branch's id.
    #[getter]
    fn id(&self) -> u64 {
        self.branch.into()
    }
}

impl Drop for PyBranchHandle {
    fn drop(&mut self) {
        self.shared.queue().push(Dropped::Branch(self.branch, true));
    }
}

/// A pin; the last reference undoes it.
#[pyclass(name = "Pin", module = "hornbeam._native", frozen)]
pub(crate) struct PyPin {
    pub(super) shared: Arc<Shared>,
    pub(super) node: NodeId,
    pub(super) is_undone: AtomicBool,
}

#[pymethods]
impl PyPin {
    /// Undoes the pin.
    fn undo(&self, py: Python<'_>) -> PyResult<()> {
        let mut state = self.shared.lock(py)?;
        if self.is_undone.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let undone = state.tree.unpin(self.node);
        drop(state);
        undone.or_raise(py)
    }
}

impl Drop for PyPin {
    fn drop(&mut self) {
        if !*self.is_undone.get_mut() {
            self.shared.queue().push(Dropped::Pin(self.node));
        }
    }
}

/// A step; the last reference rolls it back if it is still open.
#[pyclass(name = "StepHandle", module = "hornbeam._native", frozen)]
pub(crate) struct PyStepHandle {
    pub(super) shared: Arc<Shared>,
    pub(super) ticket: u64,
}

#[pymethods]
impl PyStepHandle {
    /// Whether neither commit nor rollback has ended the step.
    #[getter]
    fn is_open(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.shared.lock(py)?.is_open(self.ticket))
    }

    /// Ends the step; `accepted` names the tokens that stay, a path a request. With `is_moved` their rows
    /// lie where the tree wants them already; else they are copied there if the pages are on the host,
    /// `chunks`.
    fn commit(
        &self,
        py: Python<'_>,
        accepted: &Bound<'_, PySequence>,
        chunks: Option<&Bound<'_, PyList>>,
        is_moved: bool,
    ) -> PyResult<()> {
        let accepted = accepted
            .try_iter()?
            .map(|path| narrow::<u32>(py, &path?, "accepted", "an index within the request"))
            .collect::<PyResult<Vec<_>>>()?;
        let paths: Vec<&[u32]> = accepted.iter().map(Vec::as_slice).collect();
        change(&self.shared, py, chunks, |state| {
            if !state.is_open(self.ticket) {
                return Err(Error::State { what: "the step".to_owned(), state: "has ended" });
            }
            if is_moved && state.tree.has_moves() {
                return Err(Error::State { what: "the tree".to_owned(), state: "has copies to make" });
            }
            state.tree.commit(&paths)?;
            if is_moved {
                state.tree.take_moves();
            }
            Ok(())
        })
    }

    /// Ends the step, if it is open, and keeps nothing of it.
    fn rollback(&self, py: Python<'_>) -> PyResult<()> {
        let mut state = self.shared.lock(py)?;
        if state.is_open(self.ticket) {
            state.tree.rollback();
        }
        Ok(())
    }
}

impl Drop for PyStepHandle {
    fn drop(&mut self) {
        self.shared.queue().push(Dropped::Step(self.ticket));
    }
}
