//! Search policies and the ledger: `hornbeam.search` in Python.

use std::sync::Mutex;

use hornbeam_core::Error;
use hornbeam_core::allocate::{NO_CLUSTER, Tree};
use hornbeam_core::ledger::{self, Amounts, Cost, KINDS};
use hornbeam_core::parallel::lock_whole;
use hornbeam_core::search::feature::Feature;
use hornbeam_core::search::share::{Beam, Ets, EtsSettings, Independent, Particles, Rebase, Share, Subtrees};
use hornbeam_core::search::{BestFirst, CostSoFar, Outcome, Policy, Rounds, State};
use pyo3::prelude::*;

use crate::error::{OrRaise, attached};

/// Steps are compared by runs of up to so many tokens.
const LONGEST: usize = 2;

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

    /// As `rebase`, over the leaves of the subtree that is worth what it costs.
    #[staticmethod]
    fn ets(width: u64, max_depth: u32, temperature: f64, cost: f64, coverage: f64, distance: f64) -> Self {
        let settings = EtsSettings { temperature, cost, coverage, distance };
        Self::rounds(Ets::new(settings), width, max_depth)
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

    /// What became of the children of a trial. `costs` is what it costs to hold each; `steps` has the tokens of each,
    /// or `features` a vector of each, to tell them apart by.
    #[pyo3(signature = (trial, values, finished, costs=None, steps=None, features=None))]
    #[allow(clippy::too_many_arguments)]
    fn tell(
        &self,
        py: Python<'_>,
        trial: u64,
        values: Vec<f64>,
        finished: Vec<bool>,
        costs: Option<Vec<u64>>,
        steps: Option<Vec<Vec<u32>>>,
        features: Option<Vec<Vec<f32>>>,
    ) -> PyResult<()> {
        attached(py, || {
            let one_each = |name, found: Option<usize>| match found {
                Some(found) if found != values.len() => Err(Error::shape(name, found, values.len())),
                _ => Ok(()),
            };
            one_each("finished", Some(finished.len()))?;
            one_each("costs", costs.as_ref().map(Vec::len))?;
            one_each("steps", steps.as_ref().map(Vec::len))?;
            one_each("features", features.as_ref().map(Vec::len))?;
            let mut outcomes: Vec<Outcome> = values
                .iter()
                .zip(&finished)
                .map(|(&value, &is_finished)| Outcome::new(value, is_finished))
                .collect();
            for (index, outcome) in outcomes.iter_mut().enumerate() {
                if let Some(costs) = &costs {
                    outcome.cost = costs[index];
                }
                if let Some(features) = &features {
                    outcome.feature = Feature::Dense(features[index].clone());
                } else if let Some(steps) = &steps {
                    outcome.feature = Feature::ngrams(&steps[index], LONGEST);
                }
            }
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

/// The subtree of greatest worth: (its worth, whether each node is in it). Worths are read to 44 bits behind the point.
#[pyfunction]
fn best_subtree(
    py: Python<'_>,
    parents: Vec<u32>,
    gains: Vec<f64>,
    clusters: Vec<Option<u32>>,
    bonuses: Vec<f64>,
) -> PyResult<(f64, Vec<bool>)> {
    attached(py, || {
        let n = parents.len();
        for (name, found) in [("gains", gains.len()), ("clusters", clusters.len())] {
            if found != n {
                return Err(Error::shape(name, found, n));
            }
        }
        for (node, &parent) in parents.iter().enumerate() {
            if parent as usize >= node.max(1) {
                return Err(Error::value("parents", parent, format!("a node before node {node}")));
            }
        }
        let total: f64 = gains.iter().chain(&bonuses).map(|worth| worth.abs()).sum();
        if !total.is_finite() || total > WORTH_LIMIT {
            let expected = format!("finite numbers that sum to at most {WORTH_LIMIT}");
            return Err(Error::value("the absolute worths together", total, expected));
        }
        if let Some(bonus) = bonuses.iter().find(|bonus| **bonus < 0.0) {
            return Err(Error::value("bonuses", bonus, "numbers of 0 or more"));
        }
        let mut has_child = vec![false; n];
        parents.iter().skip(1).for_each(|&parent| has_child[parent as usize] = true);
        for (node, cluster) in clusters.iter().enumerate() {
            match cluster {
                Some(cluster) if *cluster as usize >= bonuses.len() || has_child[node] => {
                    let expected = format!("of leaves alone, and less than {}", bonuses.len());
                    return Err(Error::value("clusters", cluster, expected));
                }
                _ => {}
            }
        }
        if let Some((_, gain)) = gains.iter().enumerate().find(|&(node, &gain)| has_child[node] && gain > 0.0)
        {
            return Err(Error::value("gains", gain, "0 or less but for leaves"));
        }
        if n == 0 {
            return Err(Error::value("parents", "empty", "at least the root"));
        }
        let fixed =
            |worths: &[f64]| worths.iter().map(|w| (w * WORTH_ONE).round() as i64).collect::<Vec<_>>();
        let clusters: Vec<u32> = clusters.iter().map(|cluster| cluster.unwrap_or(NO_CLUSTER)).collect();
        let (gains, bonuses) = (fixed(&gains), fixed(&bonuses));
        let tree = Tree { parents: &parents, gains: &gains, clusters: &clusters, bonuses: &bonuses };
        let (worth, chosen) = hornbeam_core::allocate::best_subtree(&tree);
        Ok((worth as f64 / WORTH_ONE, chosen))
    })
}

/// The greatest sum of worths, so that no sum of them overflows.
const WORTH_LIMIT: f64 = 65536.0;
/// One, in the core's integers.
const WORTH_ONE: f64 = (1u64 << 44) as f64;

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
    m.add_function(wrap_pyfunction!(best_subtree, m)?)?;
    m.add_class::<Ledger>()
}
