//! `KeyTable`: the resident keys of a branch, and what is read and planned by it.

use std::sync::Arc;

use half::{bf16, f16};
use hornbeam_core::format::key_table::{KeyTable, ResidentKey};
use hornbeam_core::format::slot::RowSlot;
use hornbeam_core::format::{Dtype, Element};
use hornbeam_core::ops::gather::Resident;
use hornbeam_core::plan;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::error::{attached, detached_on};
use crate::parallel::Host;
use crate::plan::{PyPlan, int32s};
use crate::rows::Chunks;
use crate::tensor::{Item, Tensor, expect_apart};

/// The resident keys of a branch: where the keys lie that each plane shows, plane after plane, in order of
/// position. The tree gives one of a branch; it can be written by hand as well, as int32 `counts
/// [num_planes]` and `entries [num_keys, 3]` of (page, slot, position), where the number of the page's
/// format lies above the twelve bits of the slot.
#[pyclass(name = "KeyTable", module = "hornbeam._native", frozen)]
pub(crate) struct PyKeyTable {
    pub(crate) table: Arc<KeyTable>,
}

impl PyKeyTable {
    pub(crate) fn of(table: KeyTable) -> Self {
        Self { table: Arc::new(table) }
    }
}

#[pymethods]
impl PyKeyTable {
    #[new]
    fn new(py: Python<'_>, counts: &Bound<'_, PyAny>, entries: &Bound<'_, PyAny>) -> PyResult<Self> {
        let (c, e) = (Tensor::new(counts, "counts")?, Tensor::new(entries, "entries")?);
        c.expect_shape(py, &[None])?;
        e.expect_shape(py, &[None, Some(3)])?;
        // SAFETY: the arrays are copied at once, with the GIL held.
        let (counts, words) = unsafe { (c.i32s(py)?, e.i32s(py)?) };
        let key = |w: &[i32]| ResidentKey { page: w[0] as u32, slot: w[1] as u32, position: w[2] };
        let keys = words.chunks_exact(3).map(key).collect();
        match KeyTable::from_counts(counts.iter().copied(), keys) {
            Some(table) => Ok(Self::of(table)),
            None => Err(c.refuse(py, &format!("{counts:?}"), &format!("{} entries in all", e.shape()[0]))),
        }
    }

    /// int32 `[num_planes]`: the keys of each plane; a copy.
    #[getter]
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        int32s(py, self.table.planes().map(|keys| keys.len() as i32), None)
    }

    /// int32 `[num_keys, 3]` of (page, slot, position); a copy.
    #[getter]
    fn entries<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let words = self.table.keys().iter().flat_map(|key| [key.page as i32, key.slot as i32, key.position]);
        int32s(py, words, Some(3))
    }

    /// Whether all planes show keys at the same positions.
    #[getter]
    fn is_even(&self) -> bool {
        self.table.is_even()
    }

    /// Pages of each plane that hold a key.
    fn pages_by_plane(&self) -> Vec<usize> {
        self.table.pages_by_plane()
    }
}

/// The chunks that the keys of a table lie in, described.
pub(crate) fn chunks_of(py: Python<'_>, chunks: &Bound<'_, PyList>, table: &KeyTable) -> PyResult<Chunks> {
    let pages = table.keys().iter().map(|key| key.page);
    Chunks::describe(py, chunks, pages, |layout, page| layout.page(page).0)
}

/// Copies resident keys: writes float32 `keys [T, D]` and `values [T, D]`.
#[pyfunction]
fn gather_rows(
    py: Python<'_>,
    chunks: &Bound<'_, PyList>,
    table: &Bound<'_, PyKeyTable>,
    keys: &Bound<'_, PyAny>,
    values: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let table = &*table.get().table;
    let chunks = chunks_of(py, chunks, table)?;
    let (k, v) = (Tensor::new(keys, "keys")?, Tensor::new(values, "values")?);
    let shape = [Some(table.keys().len()), Some(chunks.layout.head_dim)];
    k.expect_shape(py, &shape)?;
    v.expect_shape(py, &shape)?;
    expect_apart(py, &[&k, &v], chunks.tensors())?;
    let all = chunks.tensors().chain([&k, &v]);
    // SAFETY: the outputs share no memory with others; the caller lends them for the call.
    let (k, v) = unsafe { (k.slice_mut::<f32>(py)?, v.slice_mut::<f32>(py)?) };
    match chunks.layout.dtype {
        Dtype::F32 => copy_out::<f32>(py, table, &chunks, all, k, v),
        Dtype::Bf16 => copy_out::<bf16>(py, table, &chunks, all, k, v),
        Dtype::F16 => copy_out::<f16>(py, table, &chunks, all, k, v),
    }
}

fn copy_out<'a, P: Element + Item>(
    py: Python<'_>,
    table: &KeyTable,
    chunks: &Chunks,
    tensors: impl Iterator<Item = &'a Tensor>,
    k: &mut [f32],
    v: &mut [f32],
) -> PyResult<()> {
    let views = chunks.views::<P>(py)?;
    detached_on(py, tensors, || Resident::new(table, &views, &chunks.layout)?.gather_all(&Host, k, v))
}

/// The plan of rows at ascending positions int32 `rows [R]` over resident keys, and int32 `[T]`: the column
/// of each key in its `mass_columns`, or -1 where no row sees it. With int32 `own_slots [R, 2]` the rows are
/// those of an open step, whose keys are the last of every plane.
#[pyfunction]
#[pyo3(signature = (table, rows, own_slots=None))]
fn resident_plan<'py>(
    py: Python<'py>,
    table: &Bound<'py, PyKeyTable>,
    rows: &Bound<'py, PyAny>,
    own_slots: Option<&Bound<'py, PyAny>>,
) -> PyResult<(PyPlan, Bound<'py, PyAny>)> {
    let r = Tensor::new(rows, "rows")?;
    r.expect_shape(py, &[None])?;
    let own = own_slots.map(|slots| Tensor::new(slots, "own_slots")).transpose()?;
    // SAFETY: the arrays are copied at once, with the GIL held.
    let rows = unsafe { r.i32s(py)? };
    let own: Vec<RowSlot> = match &own {
        None => Vec::new(),
        Some(own) => {
            own.expect_shape(py, &[Some(rows.len()), Some(2)])?;
            // SAFETY: as above.
            let words = unsafe { own.i32s(py)? };
            words.chunks_exact(2).map(|w| RowSlot { slab: w[0] as u32, slot: w[1] as u32 }).collect()
        }
    };
    let table = &*table.get().table;
    let (plan, columns) = attached(py, || plan::resident_plan(table, rows, &own))?;
    Ok((PyPlan::of(Arc::new(plan)), int32s(py, columns.into_iter(), None)?))
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyKeyTable>()?;
    m.add_function(wrap_pyfunction!(gather_rows, m)?)?;
    m.add_function(wrap_pyfunction!(resident_plan, m)?)
}
