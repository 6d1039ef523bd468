//! The cost of a step, and the stop rule that weighs it: `hornbeam.speculation.MeasuredGain` in Python.

use std::sync::{Arc, Mutex};

use hornbeam_core::parallel::lock_whole;
use hornbeam_core::spec;
use hornbeam_core::spec::cost::Others;
use hornbeam_core::spec::gain::Settings;
use pyo3::prelude::*;

use crate::error::{OrRaise, attached};
use crate::spec::{Proposal, Signals};

/// Seconds a step as a function of its rows, measured while it runs.
#[pyclass(module = "hornbeam._native", frozen)]
struct CostCurve {
    core: Mutex<spec::cost::CostCurve>,
    /// What stop rules learned on this curve, by their settings: a run goes on where the last ended.
    learned: Mutex<Vec<(Settings, Arc<Mutex<spec::gain::Gain>>)>>,
}

#[pymethods]
impl CostCurve {
    #[new]
    fn new() -> Self {
        Self { core: Mutex::default(), learned: Mutex::default() }
    }

    /// Records that a step of `rows` rows took `seconds`; what is not positive is dropped.
    fn observe(&self, py: Python<'_>, rows: usize, seconds: f64) -> PyResult<()> {
        attached(py, || {
            lock_whole(&self.core).observe(rows, seconds);
            Ok(())
        })
    }

    /// Seconds that a step of `rows` rows takes; `None` before the first observation.
    fn seconds(&self, py: Python<'_>, rows: usize) -> PyResult<Option<f64>> {
        attached(py, || Ok(lock_whole(&self.core).seconds(rows)))
    }

    /// Seconds of a step of `rows` rows, of which `plain` stand for a sequence each, beside `other_rows` rows
    /// that are not charged; `None` before the first observation.
    fn seconds_beside(
        &self,
        py: Python<'_>,
        rows: usize,
        plain: usize,
        other_rows: usize,
    ) -> PyResult<Option<f64>> {
        attached(py, || Ok(lock_whole(&self.core).seconds_beside(rows, plain, other_rows, false)))
    }

    /// The (rows, seconds) that the curve runs through, rows ascending.
    fn points(&self) -> Vec<(f64, f64)> {
        lock_whole(&self.core).points().collect()
    }
}

/// Chooses draft lengths by expected tokens per second, and learns from the outcomes.
#[pyclass(module = "hornbeam._native", frozen)]
struct Gain {
    core: Arc<Mutex<spec::gain::Gain>>,
    curve: Py<CostCurve>,
    /// What the step under way computes for others.
    others: Mutex<Others>,
}

/// Of a proposal of any class: its native signals, and its parents where it is a tree.
struct Proposed {
    signals: Py<Signals>,
    parents: Option<Vec<i32>>,
}

impl Proposed {
    fn of(proposal: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(native) = proposal.cast::<Proposal>() {
            return Ok(Self { signals: native.get().signals.clone_ref(proposal.py()), parents: None });
        }
        let signals = proposal.getattr("signals")?.cast_into::<Signals>()?.unbind();
        let parents = proposal.getattr_opt("parents")?.map(|parents| parents.extract()).transpose()?;
        Ok(Self { signals, parents: parents.flatten() })
    }

    fn draft(&self) -> hornbeam_core::Result<spec::Draft<'_>> {
        spec::Draft::new(&self.signals.get().core, self.parents.as_deref())
    }
}

/// Chosen or accepted tokens of a proposal: how many of the first, or which.
#[derive(FromPyObject, IntoPyObject)]
enum Nodes {
    Count(usize),
    Indices(Vec<usize>),
}

impl Nodes {
    /// The indices of at most `limit` tokens.
    fn indices(self, what: &'static str, limit: usize) -> hornbeam_core::Result<Vec<usize>> {
        match self {
            Self::Indices(indices) => Ok(indices),
            Self::Count(count) if count <= limit => Ok((0..count).collect()),
            Self::Count(count) => Err(hornbeam_core::Error::value(what, count, format!("at most {limit}"))),
        }
    }
}

/// Which token of `proposal`, if any, the target gave after the path.
fn next_of(
    proposal: &Bound<'_, PyAny>,
    draft: spec::Draft<'_>,
    chosen: &[usize],
    path: &[usize],
    given: u32,
) -> PyResult<spec::Next> {
    let children: Vec<usize> = (0..draft.len())
        .filter(|&token| draft.parent(token) == path.last().copied() && !chosen.contains(&token))
        .collect();
    if children.is_empty() {
        return Ok(spec::Next::Other);
    }
    let tokens: Vec<u32> = proposal.getattr("tokens")?.extract()?;
    let found = children.into_iter().find(|&child| tokens.get(child) == Some(&given));
    Ok(found.map_or(spec::Next::Other, spec::Next::Token))
}

#[pymethods]
impl Gain {
    #[new]
    fn new(
        py: Python<'_>,
        curve: Py<CostCurve>,
        exploration: f64,
        tolerance: f64,
        memory: f64,
    ) -> PyResult<Self> {
        let settings = Settings { exploration, tolerance, memory };
        let fresh = spec::gain::Gain::new(settings).or_raise(py)?;
        let core = {
            let mut learned = lock_whole(&curve.get().learned);
            match learned.iter().find(|(of, _)| *of == settings) {
                Some((_, core)) => Arc::clone(core),
                None => {
                    let core = Arc::new(Mutex::new(fresh));
                    learned.push((settings, Arc::clone(&core)));
                    core
                }
            }
        };
        Ok(Self { core, curve, others: Mutex::default() })
    }

    /// Says what the step whose tokens are chosen next computes for other requests: a row and a token for each
    /// of `sequences`, and further `rows`.
    fn see_others(&self, sequences: usize, rows: usize) {
        *lock_whole(&self.others) = Others { sequences, rows };
    }

    /// For each proposal how many of its first tokens, or for a tree which of them.
    fn choose(&self, py: Python<'_>, proposals: Vec<Bound<'_, PyAny>>) -> PyResult<Vec<Nodes>> {
        let proposed = proposals.iter().map(Proposed::of).collect::<PyResult<Vec<_>>>()?;
        let drafts: Vec<_> =
            proposed.iter().map(Proposed::draft).collect::<hornbeam_core::Result<_>>().or_raise(py)?;
        let curve = &self.curve.get().core;
        let others = *lock_whole(&self.others);
        let chosen = attached(py, || Ok(lock_whole(&self.core).choose(&lock_whole(curve), others, &drafts)))?;
        let as_given = |(nodes, draft): (Vec<usize>, &spec::Draft<'_>)| match draft.parents {
            None => Nodes::Count(nodes.len()),
            Some(_) => Nodes::Indices(nodes),
        };
        Ok(chosen.into_iter().zip(&drafts).map(as_given).collect())
    }

    /// Records what became of the chosen tokens.
    #[pyo3(signature = (proposals, chosen, accepted, next_tokens=None))]
    fn observe(
        &self,
        py: Python<'_>,
        proposals: Vec<Bound<'_, PyAny>>,
        chosen: Vec<Nodes>,
        accepted: Vec<Nodes>,
        next_tokens: Option<Vec<u32>>,
    ) -> PyResult<()> {
        let expected = proposals.len();
        let lengths = [
            ("chosen", Some(chosen.len())),
            ("accepted", Some(accepted.len())),
            ("next_tokens", next_tokens.as_ref().map(Vec::len)),
        ];
        for (what, len) in lengths {
            if let Some(len) = len.filter(|len| *len != expected) {
                let error = hornbeam_core::Error::shape(what, [len], format!("[{expected}]"));
                return Err(error).or_raise(py);
            }
        }
        let proposed = proposals.iter().map(Proposed::of).collect::<PyResult<Vec<_>>>()?;
        let drafts: Vec<_> =
            proposed.iter().map(Proposed::draft).collect::<hornbeam_core::Result<_>>().or_raise(py)?;
        let mut nodes = Vec::with_capacity(expected);
        let mut paths = Vec::with_capacity(expected);
        for ((draft, chosen), accepted) in drafts.iter().zip(chosen).zip(accepted) {
            let chosen = chosen.indices("length", draft.len()).or_raise(py)?;
            paths.push(accepted.indices("accepted", chosen.len()).or_raise(py)?);
            nodes.push(chosen);
        }
        let mut next = vec![spec::Next::Unknown; expected];
        if let Some(next_tokens) = next_tokens {
            for (index, given) in next_tokens.into_iter().enumerate() {
                next[index] = next_of(&proposals[index], drafts[index], &nodes[index], &paths[index], given)?;
            }
        }
        let curve = &self.curve.get().core;
        let others = *lock_whole(&self.others);
        attached(py, || {
            lock_whole(&self.core).observe(&lock_whole(curve), others, &drafts, &nodes, &paths, &next)
        })
    }

    /// The learned probability of each token of a proposal, given that those before it hold.
    fn probabilities(&self, py: Python<'_>, proposal: &Bound<'_, PyAny>) -> PyResult<Vec<f64>> {
        let proposed = Proposed::of(proposal)?;
        let estimates = attached(py, || Ok(lock_whole(&self.core).estimates(proposed.draft()?)))?;
        Ok(estimates.into_iter().map(|estimate| estimate.mean).collect())
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<CostCurve>()?;
    m.add_class::<Gain>()
}
