//! Changes of a tree: the copies that they decide on, and what they are given.

use std::panic::{AssertUnwindSafe, catch_unwind};

use hornbeam_core::Error;
use hornbeam_core::format::PageLayout;
use hornbeam_core::format::slot::PageMove;
use hornbeam_core::ops::{pages, rows};
use hornbeam_core::tree::{Begin, Codes, Keep, Moves};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::state::{Shared, State};
use crate::error::{OrRaise, detached_on, internal, to_py};
use crate::integers::narrow;
use crate::key_table::PyKeyTable;
use crate::parallel::Host;
use crate::plan::int32s;
use crate::rows::Chunks;

/// Makes the copies that are still to be made. Those that cannot be made are left.
pub(super) fn make_moves(py: Python<'_>, state: &mut State, list: &Bound<'_, PyList>) -> PyResult<()> {
    let layout = *state.tree.layout();
    while let Some(batch) = state.tree.next_moves() {
        let (ids, by_page) = (batch.ids(), batch.is_by_page());
        if !ids.is_empty() {
            let chunks = Chunks::describe(py, list, ids.into_iter(), |_, id| match by_page {
                true => layout.page(id).0,
                false => id as usize / layout.slabs_per_chunk,
            })?;
            let mut bytes = chunks.bytes(py)?;
            detached_on(py, chunks.tensors(), || match batch {
                Moves::Rows(moves) => rows::move_rows(moves, &mut bytes, &layout),
                Moves::Pages(moves) => rows::move_page_rows(moves, &mut bytes, &layout),
                Moves::Codes { format, by_page, moves } => {
                    pages::write_coded_pages(moves, *format, &mut bytes, &layout, *by_page, &Host)
                }
                Moves::AtOnce { moves, codes } => {
                    pages::condense_pages(moves, codes, &mut bytes, &layout, &Host)
                }
            })?;
        }
        state.confirm();
    }
    Ok(())
}

/// Runs a change of the tree. Where the pages are on the host, copies that an earlier call could not make
/// come first, and those that the change decides on follow, also when it fails; else the caller makes them.
pub(super) fn change<T>(
    shared: &Shared,
    py: Python<'_>,
    chunks: Option<&Bound<'_, PyList>>,
    work: impl FnOnce(&mut State) -> hornbeam_core::Result<T>,
) -> PyResult<T> {
    let mut state = shared.lock(py)?;
    if let Some(chunks) = chunks {
        make_moves(py, &mut state, chunks)?;
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| work(&mut state)));
    if let Err(panic) = &outcome {
        state.poisoned = true;
        return Err(internal(py, &**panic));
    }
    let made = chunks.map_or(Ok(()), |chunks| make_moves(py, &mut state, chunks));
    drop(state);
    let outcome = outcome.map_err(|panic| internal(py, &*panic))?.or_raise(py)?;
    made?;
    Ok(outcome)
}

/// Number, kind, moves, format, and (format, moves) of what is encoded together with them.
pub(super) type NextMoves<'py> = (u64, &'static str, Bound<'py, PyAny>, u8, Vec<(u8, Bound<'py, PyAny>)>);

/// A batch of copies, for whoever makes them.
pub(super) fn described<'py>(py: Python<'py>, number: u64, batch: &Moves) -> PyResult<NextMoves<'py>> {
    let array = |moves: &[PageMove]| {
        let words = moves.iter().flat_map(|m| [m.from[0], m.from[1], m.to[0], m.to[1]]);
        int32s(py, words.map(|w| w as i32), Some(4))
    };
    Ok(match batch {
        Moves::Rows(moves) => {
            let words = moves.iter().flat_map(|m| [m.from.slab, m.from.slot, m.to.slab, m.to.slot]);
            (number, "rows", int32s(py, words.map(|w| w as i32), Some(4))?, 0, Vec::new())
        }
        Moves::Pages(moves) => (number, "pages", array(moves)?, 0, Vec::new()),
        Moves::Codes { format, by_page, moves } => {
            (number, if *by_page { "pages" } else { "rows" }, array(moves)?, *format, Vec::new())
        }
        Moves::AtOnce { moves, codes } => {
            let codes = codes.iter().map(|(format, moves)| Ok((*format, array(moves)?)));
            (number, "at_once", array(moves)?, 0, codes.collect::<PyResult<_>>()?)
        }
    })
}

/// Chunks to add first, 0 when all is done; or what the branch shows then; or the slots that would be encoded.
#[derive(IntoPyObject)]
pub(super) enum Changed<'py> {
    Grow(usize),
    Done(PyKeyTable),
    Sources(Bound<'py, PyAny>),
}

/// What is done about the slots that a change would encode.
pub(super) struct Sources<'a, 'py> {
    chunks: Option<&'a Bound<'py, PyList>>,
    /// Report them, and change nothing.
    report: bool,
    slots: Option<Vec<[u32; 2]>>,
    error: Option<PyErr>,
}

impl<'a, 'py> Sources<'a, 'py> {
    pub(super) fn new(chunks: Option<&'a Bound<'py, PyList>>, report: bool) -> Self {
        Self { chunks, report, slots: None, error: None }
    }

    /// Called before anything has changed.
    pub(super) fn check(
        &mut self,
        py: Python<'py>,
        slots: &[[u32; 2]],
        layout: &PageLayout,
    ) -> hornbeam_core::Result<()> {
        let stop = Error::State { what: "the change".to_owned(), state: "was only asked about" };
        if self.report {
            self.slots = Some(slots.to_vec());
            return Err(stop);
        }
        let Some(list) = self.chunks.filter(|_| !slots.is_empty()) else { return Ok(()) };
        let checked = (|| {
            let ids = slots.iter().map(|slot| slot[0]);
            let chunks = Chunks::describe(py, list, ids, |_, page| layout.page(page).0)?;
            let bytes = chunks.bytes(py)?;
            detached_on(py, chunks.tensors(), || pages::check_encodable(slots, &bytes, layout, &Host))
        })();
        checked.map_err(|error| {
            self.error = Some(error);
            stop
        })
    }

    /// What the change came to.
    pub(super) fn changed(self, py: Python<'py>, outcome: PyResult<Changed<'py>>) -> PyResult<Changed<'py>> {
        if let Some(error) = self.error {
            return Err(error);
        }
        match self.slots {
            Some(slots) => {
                let words = slots.iter().flat_map(|[page, slot]| [*page as i32, *slot as i32]);
                Ok(Changed::Sources(int32s(py, words, Some(2))?))
            }
            None => outcome,
        }
    }
}

/// 0 when it is done, else how many chunks to add first.
pub(super) fn chunks_to_add(begin: Begin) -> usize {
    match begin {
        Begin::Open => 0,
        Begin::Grow(chunks) => chunks,
    }
}

pub(super) fn indices(py: Python<'_>, keep: &[Bound<'_, PyAny>]) -> PyResult<Vec<Vec<u32>>> {
    keep.iter().map(|keys| narrow::<u32>(py, keys, "keep", "an index of a key")).collect()
}

pub(super) fn formats(py: Python<'_>, codes: &[Bound<'_, PyAny>]) -> PyResult<Vec<Vec<u8>>> {
    codes.iter().map(|numbers| narrow::<u8>(py, numbers, "codes", "the number of a format")).collect()
}

pub(super) fn codes_of<'a>(py: Python<'_>, lists: &'a [&'a [u8]], by_head: bool) -> PyResult<Codes<'a>> {
    match (by_head, lists) {
        (true, lists) => Ok(Codes::ByHead(lists)),
        (false, [numbers]) => Ok(Codes::Uniform(numbers)),
        (false, lists) => Err(to_py(py, Error::shape("codes", lists.len(), "one list"))),
    }
}

pub(super) fn keep_of<'a>(py: Python<'_>, lists: &'a [&'a [u32]], by_head: bool) -> PyResult<Keep<'a>> {
    match (by_head, lists) {
        (true, lists) => Ok(Keep::ByHead(lists)),
        (false, [keys]) => Ok(Keep::Uniform(keys)),
        (false, lists) => Err(to_py(py, Error::shape("keep", lists.len(), "one list"))),
    }
}

/// Appends a chunk to the list of chunks, and counts it in.
pub(super) fn add_chunk(
    py: Python<'_>,
    shared: &Shared,
    chunks: &Bound<'_, PyList>,
    chunk: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let mut state = shared.lock(py)?;
    chunks.append(chunk)?;
    let added = state.tree.add_chunk();
    if added.is_err() {
        chunks.del_item(chunks.len() - 1)?;
    }
    drop(state);
    added.or_raise(py)
}

/// Drops the empty chunks at the end of the list; returns how many.
pub(super) fn trim(py: Python<'_>, shared: &Shared, chunks: &Bound<'_, PyList>) -> PyResult<usize> {
    let mut state = shared.lock(py)?;
    let dropped = state.tree.trim();
    let (begin, end) = (state.tree.num_chunks(), chunks.len());
    // They go once the tree is free again.
    let gone = chunks.get_slice(begin, end);
    chunks.del_slice(begin, end)?;
    drop(state);
    drop(gone);
    Ok(dropped)
}
