//! The tree behind its lock, and what ends with Python objects.

use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

use hornbeam_core::Error;
use hornbeam_core::parallel::lock_whole;
use hornbeam_core::tree::{BranchId, NodeId, Tree};
use pyo3::prelude::*;

use crate::error::{OrRaise, class, internal, to_py};

/// The tree, and what the core does not know of it.
pub(super) struct State {
    pub(super) tree: Tree,
    /// Steps begun so far: the ticket of the open one, if there is one.
    pub(super) steps: u64,
    /// Who opened it, 0 for nobody in particular.
    pub(super) owner: usize,
    /// Batches of copies made so far: the number of the next one.
    pub(super) made: u64,
    /// Whether a fault of ours ended a call half-way, so that nothing here can be relied on.
    pub(super) poisoned: bool,
}

impl State {
    pub(super) fn is_open(&self, ticket: u64) -> bool {
        self.steps == ticket && self.tree.has_open_step()
    }

    /// The next copies were made.
    pub(super) fn confirm(&mut self) {
        self.tree.confirm_moves();
        self.made += 1;
    }
}

/// Something whose Python object has gone.
pub(super) enum Dropped {
    Step(u64),
    /// And whether its tokens are kept.
    Branch(BranchId, bool),
    Pin(NodeId),
}

pub(super) struct Shared {
    state: Mutex<State>,
    /// Names the thread that has the lock, 0 for none.
    holder: AtomicUsize,
    dropped: Mutex<Vec<Dropped>>,
}

/// The locked state.
pub(super) struct Locked<'a> {
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
    pub(super) fn new(tree: Tree) -> Self {
        let state = State { tree, steps: 0, owner: 0, made: 0, poisoned: false };
        Self { state: Mutex::new(state), holder: AtomicUsize::new(0), dropped: Mutex::default() }
    }

    /// Runs `work` on the locked tree; an error or a panic becomes an exception after the lock is gone.
    pub(super) fn with<T>(
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

    /// The copies of `number` were made, unless that was said before.
    pub(super) fn confirm(&self, py: Python<'_>, number: u64) -> PyResult<()> {
        let mut state = self.lock(py)?;
        if state.made == number && state.tree.has_moves() {
            state.confirm();
        }
        Ok(())
    }

    /// Waits without the GIL, so that whoever has the lock may give up the GIL meanwhile and take it back.
    pub(super) fn lock(&self, py: Python<'_>) -> PyResult<Locked<'_>> {
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

    pub(super) fn queue(&self) -> MutexGuard<'_, Vec<Dropped>> {
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
