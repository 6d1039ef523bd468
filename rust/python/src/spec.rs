//! Draft sources and stop rules: `hornbeam.spec` in Python.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hornbeam_core::spec;
use hornbeam_core::spec::gain::Settings;
use pyo3::prelude::*;

use crate::corpus::SuffixCorpus;
use crate::error::{OrRaise, detached};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a draft source knows about each proposed token: one item a token in each list.
#[pyclass(module = "hornbeam._native", frozen)]
struct Signals {
    core: spec::Signals,
}

#[pymethods]
impl Signals {
    /// For sources written in Python; `match_lengths` and `counts` default to zeros.
    #[new]
    #[pyo3(signature = (confidences, match_lengths=None, counts=None))]
    fn new(
        py: Python<'_>,
        confidences: Vec<f32>,
        match_lengths: Option<Vec<u32>>,
        counts: Option<Vec<u32>>,
    ) -> PyResult<Self> {
        let expected = confidences.len();
        let zeros = || vec![0; expected];
        let core = spec::Signals {
            match_lengths: match_lengths.unwrap_or_else(zeros),
            counts: counts.unwrap_or_else(zeros),
            confidences,
        };
        for (what, len) in [("match_lengths", core.match_lengths.len()), ("counts", core.counts.len())] {
            if len != expected {
                let error = hornbeam_core::Error::shape(what, [len], format!("[{expected}]"));
                return Err(error).or_raise(py);
            }
        }
        if let Some(confidence) = core.confidences.iter().find(|c| !(0.0..=1.0).contains(*c)) {
            return Err(hornbeam_core::Error::value("confidence", confidence, "in 0..=1")).or_raise(py);
        }
        Ok(Self { core })
    }

    #[getter]
    fn match_lengths(&self) -> Vec<u32> {
        self.core.match_lengths.clone()
    }

    #[getter]
    fn counts(&self) -> Vec<u32> {
        self.core.counts.clone()
    }

    #[getter]
    fn confidences(&self) -> Vec<f32> {
        self.core.confidences.clone()
    }

    fn __len__(&self) -> usize {
        self.core.len()
    }
}

/// A chain of guessed tokens with their signals.
#[pyclass(module = "hornbeam._native", frozen)]
struct Proposal {
    tokens: Vec<u32>,
    signals: Py<Signals>,
}

impl Proposal {
    fn from_core(py: Python<'_>, proposal: spec::Proposal) -> PyResult<Self> {
        let signals = Py::new(py, Signals { core: proposal.signals })?;
        Ok(Self { tokens: proposal.tokens, signals })
    }
}

#[pymethods]
impl Proposal {
    #[getter]
    fn tokens(&self) -> Vec<u32> {
        self.tokens.clone()
    }

    #[getter]
    fn signals(&self, py: Python<'_>) -> Py<Signals> {
        self.signals.clone_ref(py)
    }

    fn __len__(&self) -> usize {
        self.tokens.len()
    }
}

/// A tree of guessed tokens with their signals, parents first.
#[pyclass(module = "hornbeam._native", frozen)]
struct TreeProposal {
    tokens: Vec<u32>,
    parents: Vec<i32>,
    signals: Py<Signals>,
}

#[pymethods]
impl TreeProposal {
    #[getter]
    fn tokens(&self) -> Vec<u32> {
        self.tokens.clone()
    }

    /// For each token the index of its parent, or -1 for a first token.
    #[getter]
    fn parents(&self) -> Vec<i32> {
        self.parents.clone()
    }

    #[getter]
    fn signals(&self, py: Python<'_>) -> Py<Signals> {
        self.signals.clone_ref(py)
    }

    fn __len__(&self) -> usize {
        self.tokens.len()
    }
}

/// The suffix draft source of one sequence.
#[pyclass(module = "hornbeam._native", frozen)]
struct SuffixDraft {
    core: Mutex<spec::suffix::SuffixDraft>,
}

#[pymethods]
impl SuffixDraft {
    #[new]
    #[pyo3(signature = (tokens, corpus=None, min_match=1))]
    fn new(
        py: Python<'_>,
        tokens: Vec<u32>,
        corpus: Option<&SuffixCorpus>,
        min_match: u32,
    ) -> PyResult<Self> {
        let corpus = corpus.map(|corpus| Arc::clone(&corpus.core));
        let core = spec::suffix::SuffixDraft::new(corpus, min_match).or_raise(py)?;
        let draft = Self { core: Mutex::new(core) };
        draft.extend(py, tokens)?;
        Ok(draft)
    }

    /// Appends committed tokens. All or none.
    fn extend(&self, py: Python<'_>, tokens: Vec<u32>) -> PyResult<()> {
        // A token takes about a microsecond, so a few of them do not pay for releasing the GIL.
        if tokens.len() <= 16 {
            lock(&self.core).extend(&tokens).or_raise(py)
        } else {
            detached(py, || lock(&self.core).extend(&tokens))
        }
    }

    /// Guesses up to `max_length` tokens after the committed text and `pending`; changes nothing.
    fn propose(&self, py: Python<'_>, pending: Vec<u32>, max_length: usize) -> PyResult<Proposal> {
        let proposal = lock(&self.core).propose_after(&pending, max_length);
        Proposal::from_core(py, proposal)
    }

    /// Guesses a tree of up to `max_tokens` tokens and `max_depth` levels; changes nothing.
    fn propose_tree(
        &self,
        py: Python<'_>,
        pending: Vec<u32>,
        max_tokens: usize,
        max_depth: usize,
        min_probability: f32,
    ) -> PyResult<TreeProposal> {
        let tree = lock(&self.core).propose_tree(&pending, max_tokens, max_depth, min_probability);
        let signals = Py::new(py, Signals { core: tree.signals })?;
        Ok(TreeProposal { tokens: tree.tokens, parents: tree.parents, signals })
    }

    /// Length of the longest suffix of the committed text that occurred earlier in it.
    #[getter]
    fn match_length(&self) -> u32 {
        lock(&self.core).match_length()
    }

    #[getter]
    fn num_tokens(&self) -> usize {
        lock(&self.core).automaton().text().len()
    }

    #[getter]
    fn num_bytes(&self) -> usize {
        lock(&self.core).automaton().num_bytes()
    }
}

/// Prompt lookup on one sequence.
#[pyclass(module = "hornbeam._native", frozen)]
struct NGramDraft {
    settings: spec::ngram::NGram,
    text: Mutex<Vec<u32>>,
}

#[pymethods]
impl NGramDraft {
    #[new]
    fn new(
        py: Python<'_>,
        tokens: Vec<u32>,
        min_ngram: usize,
        max_ngram: usize,
        stop_ids: Vec<u32>,
    ) -> PyResult<Self> {
        let settings = spec::ngram::NGram::new(min_ngram, max_ngram, stop_ids).or_raise(py)?;
        Ok(Self { settings, text: Mutex::new(tokens) })
    }

    /// Appends committed tokens.
    fn extend(&self, tokens: Vec<u32>) {
        lock(&self.text).extend(tokens);
    }

    /// Guesses up to `max_length` tokens after the committed text and `pending`; changes nothing.
    fn propose(&self, py: Python<'_>, pending: Vec<u32>, max_length: usize) -> PyResult<Proposal> {
        let proposal = detached(py, || Ok(self.settings.propose(&lock(&self.text), &pending, max_length)))?;
        Proposal::from_core(py, proposal)
    }

    #[getter]
    fn num_tokens(&self) -> usize {
        lock(&self.text).len()
    }
}

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
    fn observe(&self, rows: usize, seconds: f64) {
        lock(&self.core).observe(rows, seconds);
    }

    /// Seconds that a step of `rows` rows takes; `None` before the first observation.
    fn seconds(&self, rows: usize) -> Option<f64> {
        lock(&self.core).seconds(rows)
    }

    /// The (rows, seconds) that the curve runs through, rows ascending.
    fn points(&self) -> Vec<(f64, f64)> {
        lock(&self.core).points().collect()
    }
}

/// Chooses draft lengths by expected tokens per second, and learns from the outcomes.
#[pyclass(module = "hornbeam._native", frozen)]
struct Gain {
    core: Arc<Mutex<spec::gain::Gain>>,
    curve: Py<CostCurve>,
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
            let mut learned = lock(&curve.get().learned);
            match learned.iter().find(|(of, _)| *of == settings) {
                Some((_, core)) => Arc::clone(core),
                None => {
                    let core = Arc::new(Mutex::new(fresh));
                    learned.push((settings, Arc::clone(&core)));
                    core
                }
            }
        };
        Ok(Self { core, curve })
    }

    /// For each proposal how many of its first tokens, or for a tree which of them.
    fn choose(&self, py: Python<'_>, proposals: Vec<Bound<'_, PyAny>>) -> PyResult<Vec<Nodes>> {
        let proposed = proposals.iter().map(Proposed::of).collect::<PyResult<Vec<_>>>()?;
        let drafts: Vec<_> =
            proposed.iter().map(Proposed::draft).collect::<hornbeam_core::Result<_>>().or_raise(py)?;
        let chosen = lock(&self.core).choose(&lock(&self.curve.get().core), &drafts);
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
        lock(&self.core).observe(&lock(&self.curve.get().core), &drafts, &nodes, &paths, &next).or_raise(py)
    }

    /// The learned probability of each token of a proposal, given that those before it hold.
    fn probabilities(&self, py: Python<'_>, proposal: &Bound<'_, PyAny>) -> PyResult<Vec<f64>> {
        let proposed = Proposed::of(proposal)?;
        let estimates = lock(&self.core).estimates(proposed.draft().or_raise(py)?);
        Ok(estimates.into_iter().map(|estimate| estimate.mean).collect())
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Signals>()?;
    m.add_class::<Proposal>()?;
    m.add_class::<TreeProposal>()?;
    m.add_class::<SuffixDraft>()?;
    m.add_class::<NGramDraft>()?;
    m.add_class::<CostCurve>()?;
    m.add_class::<Gain>()
}
