//! Summaries of a tree's pages, which its columns keep.

use hornbeam_core::Error;
use hornbeam_core::format::PageLayout;
use hornbeam_core::ops::page_summary::{SPAN_BYTES, Summaries, Summary};
use hornbeam_core::store::{ColumnId, Scope};
use hornbeam_core::tree::Tree;
use pyo3::prelude::*;
use smallvec::SmallVec;

use super::PyTree;
use crate::error::{OrRaise, unlocked};
use crate::tensor::Tensor;

impl PyTree {
    /// Runs `work` without the GIL on the summaries of the tree's pages, whose columns are registered at the
    /// first call. Nobody changes the tree meanwhile. `layout` is that of the chunks at hand, and the storages of
    /// `tensors` are held.
    pub(crate) fn with_summaries<'a, T: Send>(
        &self,
        py: Python<'_>,
        kinds: &[Summary],
        layout: &PageLayout,
        tensors: impl IntoIterator<Item = &'a Tensor>,
        work: impl FnOnce(&mut [Summaries<'_, '_>]) -> hornbeam_core::Result<T> + Send,
    ) -> PyResult<T> {
        let held: SmallVec<[Option<Py<PyAny>>; 16]> =
            tensors.into_iter().map(|tensor| tensor.storage(py)).collect::<PyResult<_>>()?;
        let mut state = self.shared.lock(py)?;
        let outcome = match columns_of(&mut state.tree, kinds, layout) {
            Ok(columns) => {
                let mut parts = state.tree.columns_mut().parts_mut(columns.as_flattened());
                unlocked(py, || {
                    let pairs = parts.as_chunks_mut::<2>().0.iter_mut().zip(kinds);
                    let mut summaries: SmallVec<[Summaries<'_, '_>; 2]> = pairs
                        .map(|([values, spans], summary)| Summaries { summary: *summary, values, spans })
                        .collect();
                    work(&mut summaries)
                })
            }
            Err(error) => Ok(Err(error)),
        };
        // A fault may leave summaries half made.
        state.poisoned |= outcome.is_err();
        drop(state);
        drop(held);
        outcome?.or_raise(py)
    }
}

/// Values and spans of each kind.
fn columns_of(
    tree: &mut Tree,
    kinds: &[Summary],
    layout: &PageLayout,
) -> hornbeam_core::Result<SmallVec<[[ColumnId; 2]; 2]>> {
    if tree.layout() != layout {
        let want = format!("pages of the tree, {:?}", tree.layout());
        return Err(Error::shape("chunks", layout, want));
    }
    if tree.has_moves() {
        return Err(Error::State { what: "the tree".to_owned(), state: "has copies to make" });
    }
    let mut column = |name: String, bytes: usize| match tree.columns().find(&name) {
        Ok(column) => Ok(column),
        Err(_) => tree.add_column(&name, Scope::Page, bytes),
    };
    let pair = |kind: &Summary| {
        let bytes = kind.elements(layout.head_dim) * layout.dtype.size();
        let values = column(format!("attend.{}", kind.name()), bytes)?;
        Ok([values, column(format!("attend.{}.slots", kind.name()), SPAN_BYTES)?])
    };
    kinds.iter().map(pair).collect()
}
