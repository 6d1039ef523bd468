//! `Plan`: the reads of a step, as Python sees them.

use std::sync::Arc;

use hornbeam_core::format::plan::{Entry, Plan, Read, RowSlot};
use pyo3::prelude::*;
use pyo3::types::PyByteArray;

use crate::error::attached;
use crate::tensor::Tensor;

/// The reads of one step: what every row sees, and where it is written.
///
/// A tree's step makes one; this constructor is for callers that keep their own tables. All
/// arguments are int32 arrays (numpy, or torch on the CPU), contiguous:
/// `entries [E, 4]` of (page, first | count << 16, position, positions_at), `positions [P]`,
/// `head_ranges [R, 2]`, `reads [R, 8]` of (entry_begin, entry_end, row_begin, row_end, num_keys,
/// flags, mask, rotary_offset), `row_positions [N]`, `row_end [N]`, `row_slots [N, 2]` of (slab, slot).
/// Raises ShapeError for other shapes and ArgumentError for what an operation could not follow: indices
/// outside of their arrays, negative positions, a `num_keys` that the entries do not add up to, own entries
/// that are not their rows' slots. Operations check the slots against the chunks that they are given.
#[pyclass(name = "Plan", module = "hornbeam._native", frozen)]
pub(crate) struct PyPlan {
    pub(crate) plan: Arc<Plan>,
}

impl PyPlan {
    pub(crate) fn of(plan: Arc<Plan>) -> Self {
        Self { plan }
    }
}

fn words(object: &Bound<'_, PyAny>, name: &'static str, width: Option<usize>) -> PyResult<Vec<i32>> {
    let tensor = match width {
        Some(_) => Tensor::with_shape(object, name, &[None, width])?,
        None => Tensor::with_shape(object, name, &[None])?,
    };
    // SAFETY: the array is copied at once, with the GIL held.
    unsafe { tensor.i32s(object.py()) }.map(<[i32]>::to_vec)
}

fn rows_of<const W: usize, T>(
    object: &Bound<'_, PyAny>,
    name: &'static str,
    row: impl Fn([i32; W]) -> T,
) -> PyResult<Vec<T>> {
    Ok(words(object, name, Some(W))?.as_chunks().0.iter().copied().map(row).collect())
}

#[pymethods]
impl PyPlan {
    // One argument an array: the signature is the format.
    #[new]
    #[pyo3(signature = (entries, positions, head_ranges, reads, row_positions, row_end, row_slots))]
    fn new(
        py: Python<'_>,
        entries: &Bound<'_, PyAny>,
        positions: &Bound<'_, PyAny>,
        head_ranges: &Bound<'_, PyAny>,
        reads: &Bound<'_, PyAny>,
        row_positions: &Bound<'_, PyAny>,
        row_end: &Bound<'_, PyAny>,
        row_slots: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let plan = Plan {
            entries: rows_of(entries, "entries", Entry::from_words)?,
            positions: words(positions, "positions", None)?,
            head_ranges: rows_of(head_ranges, "head_ranges", |at: [i32; 2]| at.map(|at| at as u32))?,
            reads: rows_of(reads, "reads", Read::from_words)?,
            row_positions: words(row_positions, "row_positions", None)?,
            row_end: words(row_end, "row_end", None)?.into_iter().map(|w| w as u32).collect(),
            row_slots: rows_of(row_slots, "row_slots", RowSlot::from_words)?,
        };
        attached(py, || plan.check())?;
        Ok(Self::of(Arc::new(plan)))
    }

    /// The plan of int32 `words [W]`, as `words` gives them. Raises ShapeError for words that are no plan, and
    /// as the constructor.
    #[staticmethod]
    fn from_words(py: Python<'_>, words: &Bound<'_, PyAny>) -> PyResult<Self> {
        let tensor = Tensor::with_shape(words, "words", &[None])?;
        // SAFETY: the words are read at once, with the GIL held.
        let words = unsafe { tensor.i32s(py) }?;
        Ok(Self::of(Arc::new(attached(py, || Plan::from_words(words))?)))
    }

    /// int32 `[W]`: all of the plan in one array, the same on every device; a copy.
    #[getter]
    fn words<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        int32s(py, self.plan.to_words().into_iter(), None)
    }

    /// Rows of the step.
    #[getter]
    fn num_rows(&self) -> usize {
        self.plan.num_rows()
    }

    /// int32 `[E, 4]`: (page, first | count << 16, position, positions_at); a copy.
    #[getter]
    fn entries<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        int32s(py, self.plan.entries.iter().flat_map(Entry::words), Some(4))
    }

    /// int32 `[P]`: positions of slots that are not consecutive; a copy.
    #[getter]
    fn positions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        int32s(py, self.plan.positions.iter().copied(), None)
    }

    /// int32 `[R, 2]`: ranges of `entries`, one a plane, for reads by head; a copy.
    #[getter]
    fn head_ranges<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        int32s(py, self.plan.head_ranges.iter().flat_map(|r| [r[0] as i32, r[1] as i32]), Some(2))
    }

    /// int32 `[R, 8]`: (entry_begin, entry_end, row_begin, row_end, num_keys, flags, mask, rotary_offset); a copy.
    #[getter]
    fn reads<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        int32s(py, self.plan.reads.iter().flat_map(Read::words), Some(8))
    }

    /// int32 `[N]`: logical position of each row; a copy.
    #[getter]
    fn row_positions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        int32s(py, self.plan.row_positions.iter().copied(), None)
    }

    /// int32 `[N]`: one past the last row of each row's subtree; a copy.
    #[getter]
    fn row_end<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        int32s(py, self.plan.row_end.iter().map(|&w| w as i32), None)
    }

    /// int32 `[N, 2]`: (slab, slot) that each row is written to; a copy.
    #[getter]
    fn row_slots<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        int32s(py, self.plan.row_slots.iter().flat_map(RowSlot::words), Some(2))
    }

    fn __repr__(&self) -> String {
        let plan = &self.plan;
        format!(
            "Plan(num_rows={}, reads={}, entries={})",
            plan.num_rows(),
            plan.reads.len(),
            plan.entries.len()
        )
    }
}

/// A fresh numpy array over its own bytes.
pub(crate) fn int32s<'py>(
    py: Python<'py>,
    words: impl Iterator<Item = i32>,
    width: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let bytes: Vec<u8> = words.flat_map(i32::to_ne_bytes).collect();
    let rows = bytes.len() / 4 / width.unwrap_or(1);
    let numpy = py.import("numpy")?;
    if bytes.is_empty() {
        let shape = width.map_or_else(|| vec![0], |width| vec![0, width]);
        return numpy.call_method1("zeros", (shape, "int32"));
    }
    let array = numpy.call_method1("frombuffer", (PyByteArray::new(py, &bytes), "int32"))?;
    match width {
        Some(width) => array.call_method1("reshape", (rows, width)),
        None => Ok(array),
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyPlan>()
}
