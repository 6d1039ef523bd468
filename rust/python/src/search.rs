//! Search policies and the ledger: `hornbeam.search` in Python.

use std::sync::Mutex;

use hornbeam_core::Error;
use hornbeam_core::ledger::{self, Amounts, Cost, KINDS};
use hornbeam_core::parallel::lock_whole;
use hornbeam_core::search::share::{Beam, Independent, Particles, Rebase, Share, Subtrees};
use hornbeam_core::search::{BestFirst, CostSoFar, Outcome, Policy, Rounds, State};
use pyo3::prelude::*;

use crate::error::{OrRaise, attached};

/// A policy: what to expand next.
#[pyclass(module = "hornbeam._native", frozen)]
struct SearchPolicy {
    core: Mutex<Box<dyn Policy>>,
}

impl SearchPolicy {
    fn rounds(share: impl Share + 'static, width: u64, max_depth: u32) -> Self {
        Self { core: Mutex::new(Box::new(Rounds::new(Box::new(share), width, max_depth))) }
    }
}

#[pymethods]
impl SearchPolicy {
    /// Best of n.
    #[staticmethod]
    fn independent(width: u64, max_depth: u32) -> Self {
        Self::rounds(Independent, width, max_depth)
    }

    /// The best leaves get `children` each.
    #[staticmethod]
    fn beam(width: u64, max_depth: u32, children: u64) -> Self {
        Self::rounds(Beam::new(children), width, max_depth)
    }

    /// Subtrees of `children`, each greedy.
    #[staticmethod]
    fn subtrees(width: u64, max_depth: u32, children: u64) -> Self {
        Self::rounds(Subtrees { children }, width, max_depth)
    }

    /// In proportion to `exp(value / temperature)`.
    #[staticmethod]
    fn rebase(width: u64, max_depth: u32, temperature: f64) -> Self {
        Self::rounds(Rebase::new(temperature), width, max_depth)
    }

    /// Drawn by `softmax(logit(value) / temperature)`.
    #[staticmethod]
    fn particles(width: u64, max_depth: u32, temperature: f64, seed: u64) -> Self {
        Self::rounds(Particles::new(temperature, seed), width, max_depth)
    }

    /// The leaf of least cost and doubt next. `cost` is `"nothing"`, `"doubt"` or `"falls"`.
    #[staticmethod]
    fn best_first(py: Python<'_>, children: u64, max_depth: u32, cost: &str, answers: u64) -> PyResult<Self> {
        let cost = match cost {
            "nothing" => CostSoFar::Nothing,
            "doubt" => CostSoFar::Doubt,
            "falls" => CostSoFar::Falls,
            other => {
                return Err(Error::value("cost", format!("{other:?}"), "nothing, doubt or falls"))
                    .or_raise(py);
            }
        };
        Ok(Self { core: Mutex::new(Box::new(BestFirst::new(children, max_depth, cost, answers))) })
    }

    /// What to do next: (trial, leaf, first child, number of children) each.
    fn ask(&self, py: Python<'_>, most: u64) -> PyResult<Vec<(u64, u32, u32, u32)>> {
        attached(py, || {
            let asked = lock_whole(&self.core).ask(most);
            Ok(asked.into_iter().map(|e| (e.trial, e.leaf, e.first_child, e.children)).collect())
        })
    }

    /// What became of the children of a trial.
    fn tell(&self, py: Python<'_>, trial: u64, values: Vec<f64>, finished: Vec<bool>) -> PyResult<()> {
        attached(py, || {
            if values.len() != finished.len() {
                return Err(Error::shape("finished", finished.len(), values.len()));
            }
            let outcomes: Vec<Outcome> = values
                .iter()
                .zip(&finished)
                .map(|(&value, &is_finished)| Outcome { value, is_finished })
                .collect();
            lock_whole(&self.core).tell(trial, &outcomes)
        })
    }

    /// Whether nothing is left to ask and to be told.
    #[getter]
    fn is_over(&self) -> bool {
        lock_whole(&self.core).is_over()
    }

    /// Which nodes may still be gone on with, by number.
    fn live(&self, py: Python<'_>) -> PyResult<Vec<bool>> {
        attached(py, || Ok(lock_whole(&self.core).live()))
    }

    /// (parent, depth, value, state) of every node; states are `"asked"`, `"open"` and `"finished"`.
    fn nodes(&self, py: Python<'_>) -> PyResult<Vec<(u32, u32, f64, &'static str)>> {
        attached(py, || {
            let state = |state| match state {
                State::Asked => "asked",
                State::Open => "open",
                State::Finished => "finished",
            };
            let core = lock_whole(&self.core);
            Ok(core.nodes().all().iter().map(|n| (n.parent, n.depth, n.value, state(n.state))).collect())
        })
    }
}

/// What may be spent, and what was. Amounts are tokens, forwards, bytes, verifier calls and nanoseconds.
#[pyclass(module = "hornbeam._native", frozen)]
struct Ledger {
    core: Mutex<ledger::Ledger>,
}

fn cost_of(kind: usize) -> hornbeam_core::Result<Cost> {
    [Cost::Tokens, Cost::Forwards, Cost::KvBytes, Cost::VerifierCalls, Cost::Nanoseconds]
        .get(kind)
        .copied()
        .ok_or_else(|| Error::value("kind", kind, "0 to 4"))
}

#[pymethods]
impl Ledger {
    #[new]
    fn new(limits: [Option<u64>; KINDS]) -> Self {
        Self { core: Mutex::new(ledger::Ledger::new(limits)) }
    }

    /// A new account below `parent`.
    fn open(&self, py: Python<'_>, parent: usize, limits: [Option<u64>; KINDS]) -> PyResult<usize> {
        attached(py, || {
            let mut core = lock_whole(&self.core);
            let parent = core.account(parent)?;
            Ok(core.open(parent, limits)?.number())
        })
    }

    /// Charges work that is to be done, if it fits; says whether it did.
    fn reserve(&self, py: Python<'_>, account: usize, amounts: Amounts) -> PyResult<bool> {
        attached(py, || {
            let mut core = lock_whole(&self.core);
            let account = core.account(account)?;
            core.reserve(account, amounts)
        })
    }

    /// Ends a reservation, of which `used` was spent.
    fn settle(&self, py: Python<'_>, account: usize, reserved: Amounts, used: Amounts) -> PyResult<()> {
        attached(py, || {
            let mut core = lock_whole(&self.core);
            let account = core.account(account)?;
            core.settle(account, reserved, used)
        })
    }

    /// Notes what was spent without a reservation.
    fn spend(&self, py: Python<'_>, account: usize, kind: usize, amount: u64) -> PyResult<()> {
        attached(py, || {
            let mut core = lock_whole(&self.core);
            let account = core.account(account)?;
            core.spend(account, cost_of(kind)?, amount)
        })
    }

    /// How much of a kind can still be reserved; `None` without a limit.
    fn left(&self, py: Python<'_>, account: usize, kind: usize) -> PyResult<Option<u64>> {
        attached(py, || {
            let core = lock_whole(&self.core);
            let left = core.left(core.account(account)?, cost_of(kind)?)?;
            Ok((left < u64::MAX).then_some(left))
        })
    }

    /// The kind of which nothing is left.
    fn exhausted(&self, py: Python<'_>, account: usize) -> PyResult<Option<&'static str>> {
        attached(py, || {
            let core = lock_whole(&self.core);
            Ok(core.exhausted(core.account(account)?)?.map(|cost| ledger::NAMES[cost as usize]))
        })
    }

    /// What an account and those below it have spent.
    fn spent(&self, py: Python<'_>, account: usize) -> PyResult<Amounts> {
        attached(py, || {
            let core = lock_whole(&self.core);
            core.spent(core.account(account)?)
        })
    }

    /// Gives bytes of pages back that are held.
    fn release(&self, py: Python<'_>, account: usize, bytes: u64) -> PyResult<()> {
        attached(py, || {
            let mut core = lock_whole(&self.core);
            let account = core.account(account)?;
            core.release(account, bytes)
        })
    }

    /// The most bytes of pages that were held at a time.
    fn peak_bytes(&self, py: Python<'_>, account: usize) -> PyResult<u64> {
        attached(py, || {
            let core = lock_whole(&self.core);
            core.peak_bytes(core.account(account)?)
        })
    }

    /// What is reserved and not settled.
    fn reserved(&self, py: Python<'_>, account: usize) -> PyResult<Amounts> {
        attached(py, || {
            let core = lock_whole(&self.core);
            core.reserved(core.account(account)?)
        })
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<SearchPolicy>()?;
    m.add_class::<Ledger>()
}
