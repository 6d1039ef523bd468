//! `Tree`: the prefix tree as Python sees it. `hornbeam.PrefixTree` is the interface for people.
//!
//! What Python holds of a tree - branches, pins, the open step - are objects that end with their last
//! reference, so that an exception, or an interrupt, between the call that made one and the statement that
//! stores it leaves nothing behind. Finalisers may run anywhere, also while the tree is locked: they only
//! write down what ended, and the next call sees to it.
//!
//! A change and the copies that it decides on are one call, with no Python code in between.

use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use hornbeam_core::Error;
use hornbeam_core::format::slot::PageMove;
use hornbeam_core::format::{Dtype, PageLayout};
use hornbeam_core::ops::{pages, rows};
use hornbeam_core::parallel::lock_whole;
use hornbeam_core::plan::step_plan;
use hornbeam_core::store::Scope;
use hornbeam_core::tree::{Begin, BranchId, Codes, Keep, Moves, NodeId, Request, Tree};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyList, PySequence};

use crate::error::{OrRaise, class, detached_on, internal, to_py};
use crate::integers::{narrow, token_ids};
use crate::parallel::Host;
use crate::plan::{PyPlan, int32s};
use crate::rows::Chunks;

/// A node of a branch: (id, start, num_tokens, num_keys, digest).
type PathNode = (u64, usize, usize, usize, u64);

/// The tree, and what the core does not know of it.
struct State {
    tree: Tree,
    /// Steps begun so far: the ticket of the open one, if there is one.
    steps: u64,
    /// Who opened it, 0 for nobody in particular.
    owner: usize,
    /// Batches of copies made so far: the number of the next one.
    made: u64,
    /// Whether a fault of ours ended a call half-way, so that nothing here can be relied on.
    poisoned: bool,
}

impl State {
    fn is_open(&self, ticket: u64) -> bool {
        self.steps == ticket && self.tree.has_open_step()
    }

    /// The next copies were made.
    fn confirm(&mut self) {
        self.tree.confirm_moves();
        self.made += 1;
    }
}

/// Something whose Python object has gone.
enum Dropped {
    Step(u64),
    /// And whether its tokens are kept.
    Branch(BranchId, bool),
    Pin(NodeId),
}

struct Shared {
    state: Mutex<State>,
    /// Names the thread that has the lock, 0 for none.
    holder: AtomicUsize,
    dropped: Mutex<Vec<Dropped>>,
}

/// The locked state.
struct Locked<'a> {
    state: MutexGuard<'a, State>,
    holder: &'a AtomicUsize,
}

impl Deref for Locked<'_> {
    type Target = State;
    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.holder.store(0, Ordering::Relaxed);
    }
}

/// What every call gets after a fault.
fn poisoned(py: Python<'_>) -> PyErr {
    let text = "an earlier internal error has left this tree unusable; make a new one";
    class(py, "InternalError")
        .map_or_else(|error| error, |class| PyErr::from_type(class.into_bound(py), text))
}

/// A number of this thread, not 0.
fn this_thread() -> usize {
    thread_local!(static MARK: u8 = const { 0 });
    MARK.with(|mark| std::ptr::from_ref(mark) as usize)
}

impl Shared {
    /// Waits without the GIL, so that whoever has the lock may give up the GIL meanwhile and take it back.
    fn lock(&self, py: Python<'_>) -> PyResult<Locked<'_>> {
        let me = this_thread();
        let state = loop {
            match self.state.try_lock() {
                Ok(state) => break state,
                Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
                // A finaliser that ran while this thread was at work on the tree.
                Err(TryLockError::WouldBlock) if self.holder.load(Ordering::Relaxed) == me => {
                    let error =
                        Error::State { what: "the tree".to_owned(), state: "is at work in this thread" };
                    return Err(to_py(py, error));
                }
                Err(TryLockError::WouldBlock) => py.detach(|| drop(self.state.lock())),
            }
        };
        if state.poisoned {
            return Err(poisoned(py));
        }
        self.holder.store(me, Ordering::Relaxed);
        let mut locked = Locked { state, holder: &self.holder };
        self.clean(&mut locked);
        Ok(locked)
    }

    fn queue(&self) -> MutexGuard<'_, Vec<Dropped>> {
        lock_whole(&self.dropped)
    }

    /// Ends what was dropped. What is over already needs nothing.
    fn clean(&self, state: &mut State) {
        let dropped = std::mem::take(&mut *self.queue());
        if dropped.iter().any(|gone| matches!(gone, Dropped::Step(ticket) if state.is_open(*ticket))) {
            state.tree.rollback();
        }
        for gone in dropped {
            match gone {
                Dropped::Step(_) => {}
                Dropped::Pin(node) => drop(state.tree.unpin(node)),
                Dropped::Branch(branch, _) if state.tree.is_stepping(branch) => self.queue().push(gone),
                Dropped::Branch(branch, keep) => drop(state.tree.release(branch, keep)),
            }
        }
    }
}

/// An open branch; the last reference closes it, and keeps its tokens cached.
#[pyclass(name = "BranchHandle", module = "hornbeam._native", frozen)]
pub(crate) struct PyBranchHandle {
    shared: Arc<Shared>,
    branch: BranchId,
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
    shared: Arc<Shared>,
    node: NodeId,
    is_undone: AtomicBool,
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
    shared: Arc<Shared>,
    ticket: u64,
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

/// Makes the copies that are still to be made. Those that cannot be made are left.
fn make_moves(py: Python<'_>, state: &mut State, list: &Bound<'_, PyList>) -> PyResult<()> {
    let layout = *state.tree.layout();
    while let Some(batch) = state.tree.next_moves() {
        let ids: Vec<u32> = match batch {
            Moves::Rows(moves) => moves.iter().flat_map(|m| [m.from.slab, m.to.slab]).collect(),
            Moves::Pages(moves) | Moves::Codes { moves, .. } => ids_of(moves).collect(),
            Moves::AtOnce { moves, codes } => {
                ids_of(moves).chain(codes.iter().flat_map(|(_, moves)| ids_of(moves))).collect()
            }
        };
        let by_page = match batch {
            Moves::Rows(_) => false,
            Moves::Codes { by_page, .. } => *by_page,
            Moves::Pages(_) | Moves::AtOnce { .. } => true,
        };
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

fn ids_of(moves: &[PageMove]) -> impl Iterator<Item = u32> + '_ {
    moves.iter().flat_map(|m| [m.from[0], m.to[0]])
}

/// Runs a change of the tree. Where the pages are on the host, copies that an earlier call could not make
/// come first, and those that the change decides on follow, also when it fails; else the caller makes them.
fn change<T>(
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

/// A prefix tree over pages that the caller allocates; branches and nodes are 64-bit ids.
#[pyclass(name = "Tree", module = "hornbeam._native", frozen)]
pub(crate) struct PyTree {
    shared: Arc<Shared>,
}

impl PyTree {
    fn lock<'a>(&'a self, py: Python<'_>) -> PyResult<Locked<'a>> {
        self.shared.lock(py)
    }

    /// Runs `work` on the locked tree; an error or a panic becomes an exception after the lock is gone.
    fn with<T>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Tree) -> hornbeam_core::Result<T>,
    ) -> PyResult<T> {
        let mut state = self.lock(py)?;
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&mut state.tree)));
        state.poisoned = outcome.is_err();
        drop(state);
        outcome.map_err(|panic| internal(py, &*panic))?.or_raise(py)
    }

    fn handle(&self, branch: BranchId) -> PyBranchHandle {
        PyBranchHandle { shared: Arc::clone(&self.shared), branch }
    }

    /// The copies of `number` were made, unless that was said before.
    pub(crate) fn confirm(&self, py: Python<'_>, number: u64) -> PyResult<()> {
        let mut state = self.lock(py)?;
        if state.made == number && state.tree.has_moves() {
            state.confirm();
        }
        Ok(())
    }
}

fn int64_bytes<'py>(py: Python<'py>, numbers: impl Iterator<Item = i64>) -> Bound<'py, PyByteArray> {
    PyByteArray::new(py, &numbers.flat_map(i64::to_ne_bytes).collect::<Vec<u8>>())
}

/// The step, its plan, token ids and positions of the rows, rows of each request: int64 as bytes.
type Opened<'py> = (
    PyStepHandle,
    Bound<'py, PyPlan>,
    Bound<'py, PyByteArray>,
    Bound<'py, PyByteArray>,
    Vec<Bound<'py, PyByteArray>>,
);

/// Number, kind, moves, format, and (format, moves) of what is encoded together with them.
type NextMoves<'py> = (u64, &'static str, Bound<'py, PyAny>, u8, Vec<(u8, Bound<'py, PyAny>)>);

/// Branch, tokens, parents.
type Asked<'py> = (u64, Bound<'py, PyAny>, Option<Bound<'py, PyAny>>);

#[derive(IntoPyObject)]
enum Started<'py> {
    Grow(usize),
    Open(Opened<'py>),
}

/// Chunks to add first, 0 when all is done; or the slots that would be encoded.
#[derive(IntoPyObject)]
enum Changed<'py> {
    Grow(usize),
    Sources(Bound<'py, PyAny>),
}

/// What is done about the slots that a change would encode.
struct Sources<'a, 'py> {
    chunks: Option<&'a Bound<'py, PyList>>,
    /// Report them, and change nothing.
    report: bool,
    slots: Option<Vec<[u32; 2]>>,
    error: Option<PyErr>,
}

impl<'a, 'py> Sources<'a, 'py> {
    fn new(chunks: Option<&'a Bound<'py, PyList>>, report: bool) -> Self {
        Self { chunks, report, slots: None, error: None }
    }

    /// Called before anything has changed.
    fn check(
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
    fn changed(self, py: Python<'py>, outcome: PyResult<Begin>) -> PyResult<Changed<'py>> {
        if let Some(error) = self.error {
            return Err(error);
        }
        match self.slots {
            Some(slots) => {
                let words = slots.iter().flat_map(|[page, slot]| [*page as i32, *slot as i32]);
                Ok(Changed::Sources(int32s(py, words, Some(2))?))
            }
            None => outcome.map(|begin| Changed::Grow(chunks_to_add(begin))),
        }
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
        let dtype = match dtype {
            "float32" => Dtype::F32,
            "bfloat16" => Dtype::Bf16,
            "float16" => Dtype::F16,
            other => return Err(to_py(py, Error::value("dtype", other, "float32, bfloat16 or float16"))),
        };
        let layout = PageLayout { num_planes, slabs_per_chunk, page_tokens, head_dim, dtype };
        let tree = Tree::new(layout, max_chunks.unwrap_or(usize::MAX)).or_raise(py)?;
        let state = State { tree, steps: 0, owner: 0, made: 0, poisoned: false };
        let shared =
            Shared { state: Mutex::new(state), holder: AtomicUsize::new(0), dropped: Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Opens an empty branch.
    fn branch(&self, py: Python<'_>) -> PyResult<PyBranchHandle> {
        Ok(self.handle(self.with(py, |tree| Ok(tree.branch()))?))
    }

    /// A second branch with the same tokens.
    fn fork(&self, py: Python<'_>, branch: u64) -> PyResult<PyBranchHandle> {
        self.with(py, |tree| tree.fork(branch.into()).map(|fork| self.handle(fork)))
    }

    /// Closes a branch.
    fn release(&self, py: Python<'_>, branch: u64, keep: bool) -> PyResult<()> {
        self.with(py, |tree| tree.release(branch.into(), keep))
    }

    /// Closes a branch at the next call, or as soon as it is in no open step any more.
    fn drop_branch(&self, branch: u64, keep: bool) {
        self.shared.queue().push(Dropped::Branch(branch.into(), keep));
    }

    /// Whether a branch is open.
    fn is_open(&self, py: Python<'_>, branch: u64) -> PyResult<bool> {
        self.with(py, |tree| Ok(tree.is_open(branch.into())))
    }

    /// Tokens of a branch.
    fn length(&self, py: Python<'_>, branch: u64) -> PyResult<usize> {
        self.with(py, |tree| tree.length(branch.into()))
    }

    /// The tokens of a branch: int64 as bytes.
    fn token_ids<'py>(&self, py: Python<'py>, branch: u64) -> PyResult<Bound<'py, PyByteArray>> {
        let tokens = self.with(py, |tree| tree.token_ids(branch.into()))?;
        Ok(int64_bytes(py, tokens.into_iter().map(i64::from)))
    }

    /// The keys that a plane of a branch shows: int32 `[num_keys, 4]` of (1 by head or 0, page or
    /// slab, slot, position).
    fn keys<'py>(&self, py: Python<'py>, branch: u64, plane: usize) -> PyResult<Bound<'py, PyAny>> {
        let keys = self.with(py, |tree| {
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
        let nodes = self.with(py, |tree| tree.path_nodes(branch.into()))?;
        Ok(nodes.into_iter().map(|n| (n.id.into(), n.start, n.num_tokens, n.num_keys, n.digest)).collect())
    }

    /// Pins the node that a branch stands on.
    fn pin(&self, py: Python<'_>, branch: u64) -> PyResult<PyPin> {
        self.with(py, |tree| {
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
        Ok(self.handle(self.with(py, |tree| Ok(tree.matching(&tokens[..limit])))?))
    }

    /// Opens a step over (branch, tokens, parents or None); or says how many chunks to add first. `owner` is
    /// who may have it rolled back by `recover`; without `exact` what is committed of it is never matched.
    fn begin<'py>(
        &self,
        py: Python<'py>,
        requests: Vec<Asked<'py>>,
        owner: usize,
        exact: bool,
        chunks: Option<&Bound<'py, PyList>>,
    ) -> PyResult<Started<'py>> {
        type Parsed = (BranchId, Vec<u32>, Option<Vec<i32>>);
        let parsed: Vec<Parsed> = requests
            .iter()
            .map(|(branch, tokens, parents)| {
                let parents = match parents {
                    Some(parents) => {
                        Some(narrow(py, parents, "parents", "-1 or the index of an earlier token")?)
                    }
                    None => None,
                };
                Ok(((*branch).into(), token_ids(tokens)?, parents))
            })
            .collect::<PyResult<_>>()?;
        let requests: Vec<Request<'_>> = parsed
            .iter()
            .map(|(branch, tokens, parents)| Request { branch: *branch, tokens, parents: parents.as_deref() })
            .collect();
        let opened = change(&self.shared, py, chunks, |state| {
            if let Begin::Grow(chunks) = state.tree.begin(&requests)? {
                return Ok(Err(chunks));
            }
            if !exact {
                state.tree.mark_inexact();
            }
            state.steps += 1;
            state.owner = owner;
            let step = PyStepHandle { shared: Arc::clone(&self.shared), ticket: state.steps };
            let tree = &state.tree;
            let plan = Arc::new(step_plan(tree));
            Ok(Ok((step, plan, tree.row_tokens().to_vec(), tree.rows())))
        })?;
        let (step, plan, tokens, rows) = match opened {
            Ok(opened) => opened,
            Err(chunks) => return Ok(Started::Grow(chunks)),
        };
        let positions = int64_bytes(py, plan.row_positions.iter().map(|&p| i64::from(p)));
        let tokens = int64_bytes(py, tokens.into_iter().map(i64::from));
        let rows = rows.into_iter().map(|rows| int64_bytes(py, rows.into_iter().map(i64::from))).collect();
        Ok(Started::Open((step, Bound::new(py, PyPlan::of(plan))?, tokens, positions, rows)))
    }

    /// Rolls the open step back if it is of `owner`, 0 for one that nobody in particular opened.
    fn recover(&self, py: Python<'_>, owner: usize) -> PyResult<()> {
        let mut state = self.lock(py)?;
        if state.owner == owner {
            state.tree.rollback();
        }
        Ok(())
    }

    /// Whether a step is open.
    fn has_open_step(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.lock(py)?.tree.has_open_step())
    }

    /// Makes the copies that are still to be made.
    fn make_moves(&self, py: Python<'_>, chunks: &Bound<'_, PyList>) -> PyResult<()> {
        let mut state = self.lock(py)?;
        make_moves(py, &mut state, chunks)
    }

    /// The copies to make next: their number; `rows`, `pages` or `at_once`; int32 `[M, 4]`; the number of the
    /// format to encode them in, or 0; and what is to be encoded together with them, as (number of the
    /// format, int32 `[M, 4]`). None when all are made.
    fn next_moves<'py>(&self, py: Python<'py>) -> PyResult<Option<NextMoves<'py>>> {
        let mut state = self.lock(py)?;
        let (number, batch) = (state.made, state.tree.next_moves().cloned());
        drop(state);
        let array = |moves: &[PageMove]| {
            let words = moves.iter().flat_map(|m| [m.from[0], m.from[1], m.to[0], m.to[1]]);
            int32s(py, words.map(|w| w as i32), Some(4))
        };
        Ok(Some(match batch {
            None => return Ok(None),
            Some(Moves::Rows(moves)) => {
                let words = moves.iter().flat_map(|m| [m.from.slab, m.from.slot, m.to.slab, m.to.slot]);
                (number, "rows", int32s(py, words.map(|w| w as i32), Some(4))?, 0, Vec::new())
            }
            Some(Moves::Pages(moves)) => (number, "pages", array(&moves)?, 0, Vec::new()),
            Some(Moves::Codes { format, by_page, moves }) => {
                (number, if by_page { "pages" } else { "rows" }, array(&moves)?, format, Vec::new())
            }
            Some(Moves::AtOnce { moves, codes }) => {
                let codes = codes.iter().map(|(format, moves)| Ok((*format, array(moves)?)));
                (number, "at_once", array(&moves)?, 0, codes.collect::<PyResult<_>>()?)
            }
        }))
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
        sources.changed(py, outcome)
    }

    /// Gives a branch one node that shows only some of its keys: one list of indices, or one a plane, and
    /// with `codes` the number of the format that each shall have; or says how many chunks to add first. With
    /// `report` as `quantise`.
    fn condense<'py>(
        &self,
        py: Python<'py>,
        branch: u64,
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
            state.tree.condense(branch.into(), keep, codes, digest, check)
        });
        sources.changed(py, outcome)
    }

    /// The keys that the planes of a branch show, with `in_step` those of its rows in the open step too:
    /// int32 `[num_planes]` counts, and int32 `[num_keys, 3]` of (page, slot, position) plane by plane, in
    /// order of position. Above the twelve bits of the slot lies the number of the page's format.
    fn held<'py>(
        &self,
        py: Python<'py>,
        branch: u64,
        in_step: bool,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let held = self.with(py, |tree| match in_step {
            true => tree.held_in_step(branch.into()),
            false => tree.held(branch.into()),
        })?;
        let counts = int32s(py, held.iter().map(|keys| keys.len() as i32), None)?;
        let words = held.iter().flatten().flat_map(|key| [key.0 as i32, key.1 as i32, key.2]);
        Ok((counts, int32s(py, words, Some(3))?))
    }

    /// Pages of each plane of which a branch shows a slot.
    fn pages_by_plane(&self, py: Python<'_>, branch: u64) -> PyResult<Vec<usize>> {
        self.with(py, |tree| tree.pages_by_plane(branch.into()))
    }

    /// Appends `chunk` to the list of chunks, and counts it in.
    fn add_chunk(
        &self,
        py: Python<'_>,
        chunks: &Bound<'_, PyList>,
        chunk: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let mut state = self.lock(py)?;
        chunks.append(chunk)?;
        let added = state.tree.add_chunk();
        if added.is_err() {
            chunks.del_item(chunks.len() - 1)?;
        }
        drop(state);
        added.or_raise(py)
    }

    /// Drops the empty chunks at the end of the list; returns how many.
    fn trim(&self, py: Python<'_>, chunks: &Bound<'_, PyList>) -> PyResult<usize> {
        let mut state = self.lock(py)?;
        let dropped = state.tree.trim();
        let (begin, end) = (state.tree.num_chunks(), chunks.len());
        // They go once the tree is free again.
        let gone = chunks.get_slice(begin, end);
        chunks.del_slice(begin, end)?;
        drop(state);
        drop(gone);
        Ok(dropped)
    }

    /// Releases every node that no branch and no pin needs.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |tree| {
            tree.clear();
            Ok(())
        })
    }

    /// Fails as a fault of ours would, for tests.
    #[expect(clippy::panic, reason = "that is what it is for")]
    fn run_faulty_change(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |_| panic!("a change is faulty"))
    }

    /// Nothing that is here now is matched again.
    fn invalidate(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |tree| {
            tree.invalidate();
            Ok(())
        })
    }

    /// The rows that a step can have without letting go of what is cached.
    fn rows_to_spare(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |tree| Ok(tree.rows_to_spare()))
    }

    /// Counts of nodes, branches, tokens and slabs.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.with(py, |tree| Ok(tree.stats()))?;
        let counts = PyDict::new(py);
        counts.set_item("nodes", stats.nodes)?;
        counts.set_item("branches", stats.branches)?;
        counts.set_item("tokens", stats.tokens)?;
        counts.set_item("slabs", stats.slabs)?;
        counts.set_item("free_slabs", stats.free_slabs)?;
        counts.set_item("provisional_slabs", stats.provisional_slabs)?;
        counts.set_item("cached_slabs", stats.cached_slabs)?;
        counts.set_item("broken_slabs", stats.broken_slabs)?;
        Ok(counts)
    }

    /// Raises AssertionError with the first invariant that does not hold.
    fn debug_check(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |tree| Ok(tree.debug_check()))?.map_err(pyo3::exceptions::PyAssertionError::new_err)
    }

    /// Registers a column of scope `slot`, `page` or `node`.
    fn add_column(&self, py: Python<'_>, name: &str, scope: &str, element_bytes: usize) -> PyResult<()> {
        let scope = match scope {
            "slot" => Scope::Slot,
            "page" => Scope::Page,
            "node" => Scope::Node,
            other => return Err(to_py(py, Error::value("scope", other, "slot, page or node"))),
        };
        self.with(py, |tree| tree.add_column(name, scope, element_bytes).map(drop))
    }

    /// A copy of one chunk's part of a column (of the whole column, for nodes).
    fn column<'py>(&self, py: Python<'py>, name: &str, part: usize) -> PyResult<Bound<'py, PyByteArray>> {
        let bytes = self.with(py, |tree| {
            let column = tree.columns().find(name).ok_or_else(|| unknown_column(name))?;
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
        self.with(py, |tree| {
            let column = tree.columns().find(name).ok_or_else(|| unknown_column(name))?;
            let target = tree.columns_mut().part_mut(column, part);
            if target.len() != bytes.len() {
                return Err(Error::shape("column bytes", bytes.len(), target.len()));
            }
            target.copy_from_slice(bytes);
            Ok(())
        })
    }
}

/// 0 when it is done, else how many chunks to add first.
fn chunks_to_add(begin: Begin) -> usize {
    match begin {
        Begin::Open => 0,
        Begin::Grow(chunks) => chunks,
    }
}

fn indices(py: Python<'_>, keep: &[Bound<'_, PyAny>]) -> PyResult<Vec<Vec<u32>>> {
    keep.iter().map(|keys| narrow::<u32>(py, keys, "keep", "an index of a key")).collect()
}

fn formats(py: Python<'_>, codes: &[Bound<'_, PyAny>]) -> PyResult<Vec<Vec<u8>>> {
    codes.iter().map(|numbers| narrow::<u8>(py, numbers, "codes", "the number of a format")).collect()
}

fn codes_of<'a>(py: Python<'_>, lists: &'a [&'a [u8]], by_head: bool) -> PyResult<Codes<'a>> {
    match (by_head, lists) {
        (true, lists) => Ok(Codes::ByHead(lists)),
        (false, [numbers]) => Ok(Codes::Uniform(numbers)),
        (false, lists) => Err(to_py(py, Error::shape("codes", lists.len(), "one list"))),
    }
}

fn keep_of<'a>(py: Python<'_>, lists: &'a [&'a [u32]], by_head: bool) -> PyResult<Keep<'a>> {
    match (by_head, lists) {
        (true, lists) => Ok(Keep::ByHead(lists)),
        (false, [keys]) => Ok(Keep::Uniform(keys)),
        (false, lists) => Err(to_py(py, Error::shape("keep", lists.len(), "one list"))),
    }
}

fn unknown_column(name: &str) -> Error {
    Error::value("column name", name, "a registered column")
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyBranchHandle>()?;
    m.add_class::<PyPin>()?;
    m.add_class::<PyStepHandle>()?;
    m.add_class::<PyTree>()
}
