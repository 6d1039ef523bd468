//! Packed plans.

use hornbeam_cuda::mass::segments;
use hornbeam_cuda::packed::{Cut, Packed, pack};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::OrRaise;
use crate::error::{attached, unlocked};
use crate::plan::PyPlan;
use crate::rows::layout_of;
use crate::tensor::Tensor;

/// A plan as one buffer of 32-bit words for a device, with the work list of tree attention in it.
/// `chunks` are the pool's tensors; `multiprocessors` are the device's. With `num_rows` the plan is
/// padded to so many rows: the rest see nothing, give zeros, and are written nowhere.
#[pyclass(name = "CudaPlan", module = "hornbeam._native", frozen)]
struct PyCudaPlan {
    packed: Packed,
}

#[pymethods]
impl PyCudaPlan {
    #[new]
    #[pyo3(signature = (plan, chunks, num_heads, num_kv_heads, multiprocessors, num_rows=None, share=true, blocks=None, least_tiles=None))]
    fn new(
        py: Python<'_>,
        plan: &Bound<'_, PyPlan>,
        chunks: &Bound<'_, PyList>,
        num_heads: usize,
        num_kv_heads: usize,
        multiprocessors: usize,
        num_rows: Option<usize>,
        share: bool,
        blocks: Option<usize>,
        least_tiles: Option<usize>,
    ) -> PyResult<Self> {
        let tensors = chunks.iter().map(|c| Tensor::new(&c, "chunk")).collect::<PyResult<Vec<Tensor>>>()?;
        let Some(first) = tensors.first() else {
            return Err(pyo3::exceptions::PyIndexError::new_err("chunks is empty, expected at least one"));
        };
        let layout = layout_of(first, py)?;
        for tensor in &tensors {
            if layout_of(tensor, py)? != layout || !tensor.is_contiguous() {
                let got = format!("shape {:?}, strides {:?}", tensor.shape(), tensor.strides());
                return Err(tensor.refuse(py, &got, &format!("contiguous, like chunks[0], {layout:?}")));
            }
        }
        let addresses: Vec<u64> = tensors.iter().map(Tensor::address).collect();
        let mut cut = Cut::new(num_heads, num_kv_heads, multiprocessors).or_raise(py)?;
        if !share {
            cut.costs.item = f64::INFINITY;
        }
        cut.blocks = blocks.unwrap_or(cut.blocks);
        cut.least_tiles = least_tiles.unwrap_or(cut.least_tiles);
        cut.num_rows = num_rows.unwrap_or(0);
        let plan = &plan.get().plan;
        let packed = unlocked(py, || pack(plan, &addresses, &layout, &cut))?.or_raise(py)?;
        Ok(Self { packed })
    }

    /// The buffer: bytes of little-endian int32 words.
    #[getter]
    fn words<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let words = &self.packed.words;
        PyBytes::new_with(py, words.len() * 4, |bytes| {
            for (to, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
                *to = word.to_le_bytes();
            }
            Ok(())
        })
    }

    /// Rows of the step, padding included.
    #[getter]
    fn num_rows(&self) -> usize {
        self.packed.num_rows
    }

    /// The work list of key mass for the columns `(read, begin, count)` of `mass_columns`: bytes of int32
    /// `[segments, 4]`.
    fn mass_segments<'py>(
        &self,
        py: Python<'py>,
        columns: Vec<(u32, u32, u32)>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let begins = columns.into_iter().map(|(read, begin, _)| (read, begin));
        let words = attached(py, || Ok(segments(&self.packed, begins)))?;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Ok(PyBytes::new(py, &bytes))
    }

    /// Pieces of attention work, each launched once a kv head.
    #[getter]
    fn num_items(&self) -> usize {
        self.packed.num_items
    }

    /// Rows that several pieces share.
    #[getter]
    fn num_merged_rows(&self) -> usize {
        self.packed.num_merged_rows
    }

    /// Rows of the attention workspace.
    #[getter]
    fn num_partial_rows(&self) -> usize {
        self.packed.num_partial_rows
    }
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyCudaPlan>()
}
