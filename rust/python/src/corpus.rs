//! The corpus index: `hornbeam.speculation.SuffixCorpus` in Python.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use hornbeam_core::parallel::lock_whole;
use hornbeam_core::spec::corpus::{Corpus, CorpusBuilder};
use hornbeam_core::spec::index::Index;
use pyo3::prelude::*;

use crate::error::{OrRaise, class, detached, unlocked};
use crate::tensor::Tensor;

/// An index of documents that many sequences draft from; it never changes.
#[pyclass(module = "hornbeam._native", frozen)]
pub(crate) struct SuffixCorpus {
    pub(crate) core: Arc<Corpus>,
}

#[pymethods]
impl SuffixCorpus {
    #[new]
    fn new(py: Python<'_>, documents: Vec<Vec<u32>>) -> PyResult<Self> {
        let core = detached(py, || Corpus::new(documents))?;
        Ok(Self { core: Arc::new(core) })
    }

    /// The index in an int32 tensor, which is what `save` wrote; that of a mapped file is kept and not copied.
    #[staticmethod]
    fn from_words(py: Python<'_>, words: &Bound<'_, PyAny>) -> PyResult<Self> {
        let words = Tensor::new(words, "words")?.hold_words(py)?;
        let core = Corpus::from_words(words).or_raise(py)?;
        Ok(Self { core: Arc::new(core) })
    }

    /// Writes the index to a new file, or over an old one.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let written: std::io::Result<()> = unlocked(py, || {
            let mut file = BufWriter::new(File::create(path)?);
            self.core.write_to(&mut file)?;
            file.flush()?;
            file.get_ref().sync_all()
        })?;
        Ok(written?)
    }

    /// Reads the whole index and compares it with its checksum.
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, || self.core.check_body())
    }

    /// Tokens held, one separator a document included.
    #[getter]
    fn num_tokens(&self) -> usize {
        self.core.num_tokens()
    }

    #[getter]
    fn num_documents(&self) -> usize {
        self.core.num_documents()
    }

    /// 1 + the largest token id.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.core.vocab_size()
    }

    #[getter]
    fn num_bytes(&self) -> usize {
        self.core.num_bytes()
    }
}

/// Indexes documents one by one.
#[pyclass(module = "hornbeam._native", frozen)]
struct SuffixCorpusBuilder {
    core: Mutex<Option<CorpusBuilder>>,
}

impl SuffixCorpusBuilder {
    fn finished(py: Python<'_>) -> PyErr {
        let text = "the corpus was finished; begin another";
        class(py, "StateError").map_or_else(|e| e, |class| PyErr::from_type(class.into_bound(py), text))
    }
}

#[pymethods]
impl SuffixCorpusBuilder {
    #[new]
    fn new() -> Self {
        Self { core: Mutex::new(Some(CorpusBuilder::default())) }
    }

    /// Adds a document. All or nothing.
    fn push(&self, py: Python<'_>, document: Vec<u32>) -> PyResult<()> {
        let pushed =
            detached(py, || lock_whole(&self.core).as_mut().map(|core| core.push(&document)).transpose())?;
        pushed.ok_or_else(|| Self::finished(py))
    }

    /// The index; nothing can be added after.
    fn finish(&self, py: Python<'_>) -> PyResult<SuffixCorpus> {
        let core = lock_whole(&self.core).take().ok_or_else(|| Self::finished(py))?;
        Ok(SuffixCorpus { core: Arc::new(detached(py, || core.finish())?) })
    }

    #[getter]
    fn num_tokens(&self) -> usize {
        lock_whole(&self.core).as_ref().map_or(0, CorpusBuilder::num_tokens)
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<SuffixCorpus>()?;
    m.add_class::<SuffixCorpusBuilder>()
}
