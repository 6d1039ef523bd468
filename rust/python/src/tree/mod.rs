//! `Tree`: the prefix tree as Python sees it. `hornbeam.PrefixTree` is the interface for people.
//!
//! What Python holds of a tree - branches, pins, the open step - are objects that end with their last
//! reference, so that an exception, or an interrupt, between the call that made one and the statement that
//! stores it leaves nothing behind. Finalisers may run anywhere, also while the tree is locked: they only
//! write down what ended, and the next call sees to it.
//!
//! A change and the copies that it decides on are one call, with no Python code in between.

mod changes;
mod handles;
mod state;
mod steps;
mod summaries;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hornbeam_core::Error;
use hornbeam_core::format::{Dtype, PageLayout};
use hornbeam_core::store::Scope;
use hornbeam_core::tree::{BranchId, Condensed, Tree};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyByteArray, PyBytes, PyDict, PyList};

use crate::error::OrRaise;
use crate::integers::token_ids;
use crate::key_table::PyKeyTable;
use crate::plan::int32s;
use changes::{
    Changed, NextMoves, Sources, add_chunk, change, chunks_to_add, codes_of, described, formats, indices,
    keep_of, make_moves, trim,
};
use handles::{PyBranchHandle, PyPin, PyStepHandle};
use state::{Dropped, Shared};
use steps::{Asked, Started, int64_bytes, open_step};

/// A node of a branch: (id, start, num_tokens, num_keys, digest).
type PathNode = (u64, usize, usize, usize, u64);

/// A prefix tree over pages that the caller allocates; branches and nodes are 64-bit ids.
#[pyclass(name = "Tree", module = "hornbeam._native", frozen)]
pub(crate) struct PyTree {
    shared: Arc<Shared>,
}

impl PyTree {
    fn handle(&self, branch: BranchId) -> PyBranchHandle {
        PyBranchHandle { shared: Arc::clone(&self.shared), branch }
    }

    /// The copies of `number` were made, unless that was said before.
    pub(crate) fn confirm(&self, py: Python<'_>, number: u64) -> PyResult<()> {
        self.shared.confirm(py, number)
    }
}

#[pymethods]
impl PyTree {
    #[new]
    #[pyo3(signature = (num_planes, slabs_per_chunk, page_tokens, head_dim, dtype, max_chunks=None))]
    fn new(
        py: Python<'_>,
        num_planes: usize,
        slabs_per_chunk: usize,
        page_tokens: usize,
        head_dim: usize,
        dtype: &str,
        max_chunks: Option<usize>,
    ) -> PyResult<Self> {
        let dtype = Dtype::from_name(dtype).or_raise(py)?;
        let layout = PageLayout { num_planes, slabs_per_chunk, page_tokens, head_dim, dtype };
        let tree = Tree::new(layout, max_chunks.unwrap_or(usize::MAX)).or_raise(py)?;
        Ok(Self { shared: Arc::new(Shared::new(tree)) })
    }

    /// Opens an empty branch.
    fn branch(&self, py: Python<'_>) -> PyResult<PyBranchHandle> {
        Ok(self.handle(self.shared.with(py, |tree| Ok(tree.branch()))?))
    }

    /// A second branch with the same tokens.
    fn fork(&self, py: Python<'_>, branch: u64) -> PyResult<PyBranchHandle> {
        self.shared.with(py, |tree| tree.fork(branch.into()).map(|fork| self.handle(fork)))
    }

    /// Closes a branch.
    fn release(&self, py: Python<'_>, branch: u64, keep: bool) -> PyResult<()> {
        self.shared.with(py, |tree| tree.release(branch.into(), keep))
    }

    /// Closes a branch at the next call, or as soon as it is in no open step any more.
    fn drop_branch(&self, branch: u64, keep: bool) {
        self.shared.queue().push(Dropped::Branch(branch.into(), keep));
    }

    /// Whether a branch is open.
    fn is_open(&self, py: Python<'_>, branch: u64) -> PyResult<bool> {
        self.shared.with(py, |tree| Ok(tree.is_open(branch.into())))
    }

    /// Tokens of a branch.
    fn length(&self, py: Python<'_>, branch: u64) -> PyResult<usize> {
        self.shared.with(py, |tree| tree.length(branch.into()))
    }

    /// The tokens of a branch: int64 as bytes.
    fn token_ids<'py>(&self, py: Python<'py>, branch: u64) -> PyResult<Bound<'py, PyByteArray>> {
        let tokens = self.shared.with(py, |tree| tree.token_ids(branch.into()))?;
        Ok(int64_bytes(py, tokens.into_iter().map(i64::from)))
    }

    /// The keys that a plane of a branch shows: int32 `[num_keys, 4]` of (1 by head or 0, page or
    /// slab, slot, position).
    fn keys<'py>(&self, py: Python<'py>, branch: u64, plane: usize) -> PyResult<Bound<'py, PyAny>> {
        let keys = self.shared.with(py, |tree| {
            let planes = tree.layout().num_planes;
            if plane >= planes {
                return Err(Error::value("plane", plane, format!("less than {planes}")));
            }
            tree.keys(branch.into(), plane)
        })?;
        let words =
            keys.into_iter().flat_map(|(h, page, slot, at)| [i32::from(h), page as i32, slot as i32, at]);
        int32s(py, words, Some(4))
    }

    /// The nodes of a branch: (id, start, num_tokens, num_keys, digest) from the root.
    fn path_nodes(&self, py: Python<'_>, branch: u64) -> PyResult<Vec<PathNode>> {
        let nodes = self.shared.with(py, |tree| tree.path_nodes(branch.into()))?;
        Ok(nodes.into_iter().map(|n| (n.id.into(), n.start, n.num_tokens, n.num_keys, n.digest)).collect())
    }

    /// Pins the node that a branch stands on.
    fn pin(&self, py: Python<'_>, branch: u64) -> PyResult<PyPin> {
        self.shared.with(py, |tree| {
            let node = tree.pin(branch.into())?;
            Ok(PyPin { shared: Arc::clone(&self.shared), node, is_undone: AtomicBool::new(false) })
        })
    }

    /// A branch at the longest exact prefix held of the first `max_tokens` tokens.
    #[pyo3(signature = (tokens, max_tokens=None))]
    fn matching(
        &self,
        py: Python<'_>,
        tokens: &Bound<'_, PyAny>,
        max_tokens: Option<usize>,
    ) -> PyResult<PyBranchHandle> {
        let tokens = token_ids(tokens)?;
        let limit = max_tokens.unwrap_or(tokens.len()).min(tokens.len());
        Ok(self.handle(self.shared.with(py, |tree| Ok(tree.matching(&tokens[..limit])))?))
    }

    /// Opens a step over (branch, tokens, parents or None); or says how many chunks to add first. `owner` is
    /// who may have it rolled back by `recover`; what is committed of a request without `exact` is never
    /// matched.
    fn begin<'py>(
        &self,
        py: Python<'py>,
        requests: Vec<Asked<'py>>,
        owner: usize,
        exact: Vec<bool>,
        chunks: Option<&Bound<'py, PyList>>,
    ) -> PyResult<Started<'py>> {
        open_step(py, &self.shared, &requests, owner, &exact, chunks)
    }

    /// Rolls the open step back if it is of `owner`, 0 for one that nobody in particular opened.
    fn recover(&self, py: Python<'_>, owner: usize) -> PyResult<()> {
        let mut state = self.shared.lock(py)?;
        if state.owner == owner {
            state.tree.rollback();
        }
        Ok(())
    }

    /// Whether a step is open.
    fn has_open_step(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.shared.lock(py)?.tree.has_open_step())
    }

    /// Makes the copies that are still to be made.
    fn make_moves(&self, py: Python<'_>, chunks: &Bound<'_, PyList>) -> PyResult<()> {
        let mut state = self.shared.lock(py)?;
        make_moves(py, &mut state, chunks)
    }

    /// The copies to make next: their number; `rows`, `pages` or `at_once`; int32 `[M, 4]`; the number of the
    /// format to encode them in, or 0; and what is to be encoded together with them, as (number of the
    /// format, int32 `[M, 4]`). None when all are made.
    fn next_moves<'py>(&self, py: Python<'py>) -> PyResult<Option<NextMoves<'py>>> {
        let mut state = self.shared.lock(py)?;
        let (number, batch) = (state.made, state.tree.next_moves().cloned());
        drop(state);
        batch.map(|batch| described(py, number, &batch)).transpose()
    }

    /// The copies of this number were made. Saying so again does nothing.
    fn confirm_moves(&self, py: Python<'_>, number: u64) -> PyResult<()> {
        self.confirm(py, number)
    }

    /// Gives a branch a version of a node that keeps only some keys: one list of indices, or one a
    /// plane; or says how many chunks to add first.
    fn compact(
        &self,
        py: Python<'_>,
        branch: u64,
        node: u64,
        keep: Vec<Bound<'_, PyAny>>,
        digest: u64,
        by_head: bool,
        chunks: Option<&Bound<'_, PyList>>,
    ) -> PyResult<usize> {
        let lists = indices(py, &keep)?;
        let lists: Vec<&[u32]> = lists.iter().map(Vec::as_slice).collect();
        let keep = keep_of(py, &lists, by_head)?;
        change(&self.shared, py, chunks, |state| state.tree.compact(branch.into(), node.into(), keep, digest))
            .map(chunks_to_add)
    }

    /// Gives a branch a version of a node in pages of codes: the number of a format for each key, or a
    /// list a plane; or says how many chunks to add first. With `report`, says which slots it would encode,
    /// int32 `[N, 2]` of (page, slot), if there are any, and changes nothing.
    fn quantise<'py>(
        &self,
        py: Python<'py>,
        branch: u64,
        node: u64,
        codes: Vec<Bound<'py, PyAny>>,
        partial: bool,
        digest: u64,
        by_head: bool,
        chunks: Option<&Bound<'py, PyList>>,
        report: bool,
    ) -> PyResult<Changed<'py>> {
        let lists = formats(py, &codes)?;
        let lists: Vec<&[u8]> = lists.iter().map(Vec::as_slice).collect();
        let codes = codes_of(py, &lists, by_head)?;
        let mut sources = Sources::new(chunks, report);
        let outcome = change(&self.shared, py, chunks, |state| {
            let layout = *state.tree.layout();
            let check = |slots: &[[u32; 2]]| sources.check(py, slots, &layout);
            state.tree.quantise(branch.into(), node.into(), codes, partial, digest, check)
        });
        sources.changed(py, outcome.map(|begin| Changed::Grow(chunks_to_add(begin))))
    }

    /// Gives a branch one node that shows only some of the keys of its `table`: one list of indices, or one a
    /// plane, and with `codes` the number of the format that each shall have. Gives the table of what it shows
    /// then, or says how many chunks to add first. With `report` as `quantise`.
    fn condense<'py>(
        &self,
        py: Python<'py>,
        branch: u64,
        table: &Bound<'py, PyKeyTable>,
        keep: Vec<Bound<'py, PyAny>>,
        codes: Option<Vec<Bound<'py, PyAny>>>,
        digest: u64,
        by_head: bool,
        chunks: Option<&Bound<'py, PyList>>,
        report: bool,
    ) -> PyResult<Changed<'py>> {
        let lists = indices(py, &keep)?;
        let lists: Vec<&[u32]> = lists.iter().map(Vec::as_slice).collect();
        let keep = keep_of(py, &lists, by_head)?;
        let numbers = codes.map(|codes| formats(py, &codes)).transpose()?;
        let numbers: Option<Vec<&[u8]>> = numbers.as_ref().map(|n| n.iter().map(Vec::as_slice).collect());
        let codes = numbers.as_ref().map(|numbers| codes_of(py, numbers, by_head)).transpose()?;
        let mut sources = Sources::new(chunks, report);
        let outcome = change(&self.shared, py, chunks, |state| {
            let layout = *state.tree.layout();
            let check = |slots: &[[u32; 2]]| sources.check(py, slots, &layout);
            state.tree.condense(branch.into(), &table.get().table, keep, codes, digest, check)
        });
        let changed = outcome.map(|condensed| match condensed {
            Condensed::Done(table) => Changed::Done(PyKeyTable::of(table)),
            Condensed::Grow(chunks) => Changed::Grow(chunks),
        });
        sources.changed(py, changed)
    }

    /// The keys that the planes of a branch show, with `in_step` those of its rows in the open step too.
    fn key_table(&self, py: Python<'_>, branch: u64, in_step: bool) -> PyResult<PyKeyTable> {
        let table = self.shared.with(py, |tree| match in_step {
            true => tree.key_table_in_step(branch.into()),
            false => tree.key_table(branch.into()),
        })?;
        Ok(PyKeyTable::of(table))
    }

    /// Pages of each plane of which a branch shows a slot.
    fn pages_by_plane(&self, py: Python<'_>, branch: u64) -> PyResult<Vec<usize>> {
        self.shared.with(py, |tree| tree.pages_by_plane(branch.into()))
    }

    /// Appends `chunk` to the list of chunks, and counts it in.
    fn add_chunk(
        &self,
        py: Python<'_>,
        chunks: &Bound<'_, PyList>,
        chunk: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        add_chunk(py, &self.shared, chunks, chunk)
    }

    /// Drops the empty chunks at the end of the list; returns how many.
    fn trim(&self, py: Python<'_>, chunks: &Bound<'_, PyList>) -> PyResult<usize> {
        trim(py, &self.shared, chunks)
    }

    /// Releases every node that no branch and no pin needs.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.shared.with(py, |tree| {
            tree.clear();
            Ok(())
        })
    }

    /// Fails as a fault of ours would, for tests.
    #[expect(clippy::panic, reason = "that is what it is for")]
    fn run_faulty_change(&self, py: Python<'_>) -> PyResult<()> {
        self.shared.with(py, |_| panic!("a change is faulty"))
    }

    /// Nothing that is here now is matched again.
    fn invalidate(&self, py: Python<'_>) -> PyResult<()> {
        self.shared.with(py, |tree| {
            tree.invalidate();
            Ok(())
        })
    }

    /// The rows that a step can have without letting go of what is cached.
    fn rows_to_spare(&self, py: Python<'_>) -> PyResult<usize> {
        self.shared.with(py, |tree| Ok(tree.rows_to_spare()))
    }

    /// Counts of nodes, branches, tokens and slabs.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.shared.with(py, |tree| Ok(tree.stats()))?;
        let counts = [
            ("nodes", stats.nodes),
            ("branches", stats.branches),
            ("tokens", stats.tokens),
            ("slabs", stats.slabs),
            ("free_slabs", stats.free_slabs),
            ("provisional_slabs", stats.provisional_slabs),
            ("cached_slabs", stats.cached_slabs),
            ("broken_slabs", stats.broken_slabs),
        ];
        counts.into_py_dict(py)
    }

    /// Raises AssertionError with the first invariant that does not hold.
    fn debug_check(&self, py: Python<'_>) -> PyResult<()> {
        self.shared
            .with(py, |tree| Ok(tree.debug_check()))?
            .map_err(pyo3::exceptions::PyAssertionError::new_err)
    }

    /// Registers a column of scope `slot`, `page` or `node`.
    fn add_column(&self, py: Python<'_>, name: &str, scope: &str, element_bytes: usize) -> PyResult<()> {
        self.shared.with(py, |tree| tree.add_column(name, Scope::from_name(scope)?, element_bytes).map(drop))
    }

    /// A copy of one chunk's part of a column (of the whole column, for nodes).
    fn column<'py>(&self, py: Python<'py>, name: &str, part: usize) -> PyResult<Bound<'py, PyByteArray>> {
        let bytes = self.shared.with(py, |tree| {
            let column = tree.columns().find(name)?;
            Ok(tree.columns().part(column, part).to_vec())
        })?;
        Ok(PyByteArray::new(py, &bytes))
    }

    /// Writes one chunk's part of a column.
    fn set_column(
        &self,
        py: Python<'_>,
        name: &str,
        part: usize,
        bytes: &Bound<'_, PyBytes>,
    ) -> PyResult<()> {
        let bytes = bytes.as_bytes();
        self.shared.with(py, |tree| {
            let column = tree.columns().find(name)?;
            tree.columns_mut().write(column, part, bytes)
        })
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyBranchHandle>()?;
    m.add_class::<PyPin>()?;
    m.add_class::<PyStepHandle>()?;
    m.add_class::<PyTree>()
}
