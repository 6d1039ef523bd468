//! Draft sources and what they propose: `hornbeam.speculation` in Python.

use std::sync::{Arc, Mutex};

use hornbeam_core::parallel::lock_whole;
use hornbeam_core::spec;
use pyo3::prelude::*;

use crate::corpus::SuffixCorpus;
use crate::error::{OrRaise, attached, detached};

/// What a draft source knows about each proposed token: one item a token in each list.
#[pyclass(module = "hornbeam._native", frozen)]
pub(crate) struct Signals {
    pub(crate) core: spec::Signals,
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
pub(crate) struct Proposal {
    tokens: Vec<u32>,
    pub(crate) signals: Py<Signals>,
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
    /// Shared with forks until one of them adds to it.
    core: Mutex<Arc<spec::suffix::SuffixDraft>>,
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
        let draft = Self { core: Mutex::new(Arc::new(core)) };
        draft.extend(py, tokens)?;
        Ok(draft)
    }

    /// Appends committed tokens. All or none.
    fn extend(&self, py: Python<'_>, tokens: Vec<u32>) -> PyResult<()> {
        // A token takes about a microsecond, so a few of them do not pay for releasing the GIL.
        if tokens.len() <= 16 {
            attached(py, || Arc::make_mut(&mut lock_whole(&self.core)).extend(&tokens))
        } else {
            detached(py, || Arc::make_mut(&mut lock_whole(&self.core)).extend(&tokens))
        }
    }

    /// A second one at the same place.
    fn fork(&self) -> Self {
        Self { core: Mutex::new(Arc::clone(&lock_whole(&self.core))) }
    }

    /// Guesses up to `max_length` tokens after the committed text and `pending`; changes nothing.
    fn propose(&self, py: Python<'_>, pending: Vec<u32>, max_length: usize) -> PyResult<Proposal> {
        let proposal = attached(py, || Ok(lock_whole(&self.core).propose_after(&pending, max_length)))?;
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
        let tree = attached(py, || {
            let core = lock_whole(&self.core);
            Ok(core.propose_tree(&pending, max_tokens, max_depth, min_probability))
        })?;
        let signals = Py::new(py, Signals { core: tree.signals })?;
        Ok(TreeProposal { tokens: tree.tokens, parents: tree.parents, signals })
    }

    /// Length of the longest suffix of the committed text that occurred earlier in it.
    #[getter]
    fn match_length(&self) -> u32 {
        lock_whole(&self.core).match_length()
    }

    #[getter]
    fn num_tokens(&self) -> usize {
        lock_whole(&self.core).automaton().text().len()
    }

    #[getter]
    fn num_bytes(&self) -> usize {
        lock_whole(&self.core).automaton().num_bytes()
    }
}

/// Prompt lookup on one sequence.
#[pyclass(module = "hornbeam._native", frozen)]
struct NGramDraft {
    settings: spec::ngram::NGram,
    /// Shared with forks until one of them adds to it.
    text: Mutex<Arc<Vec<u32>>>,
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
        Ok(Self { settings, text: Mutex::new(Arc::new(tokens)) })
    }

    /// Appends committed tokens.
    fn extend(&self, tokens: Vec<u32>) {
        Arc::make_mut(&mut lock_whole(&self.text)).extend(tokens);
    }

    /// A second one at the same place.
    fn fork(&self) -> Self {
        Self { settings: self.settings.clone(), text: Mutex::new(Arc::clone(&lock_whole(&self.text))) }
    }

    /// Guesses up to `max_length` tokens after the committed text and `pending`; changes nothing.
    fn propose(&self, py: Python<'_>, pending: Vec<u32>, max_length: usize) -> PyResult<Proposal> {
        let proposal =
            detached(py, || Ok(self.settings.propose(&lock_whole(&self.text), &pending, max_length)))?;
        Proposal::from_core(py, proposal)
    }

    #[getter]
    fn num_tokens(&self) -> usize {
        lock_whole(&self.text).len()
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Signals>()?;
    m.add_class::<Proposal>()?;
    m.add_class::<TreeProposal>()?;
    m.add_class::<SuffixDraft>()?;
    m.add_class::<NGramDraft>()
}
