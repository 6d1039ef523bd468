//! The CUDA lane: packed plans, and launches on torch's current stream.

use hornbeam_core::format::{Dtype, PageLayout};
use hornbeam_cuda::attention::{self, Extent};
use hornbeam_cuda::packed::{Cut, Packed, pack};
use hornbeam_cuda::params::{MoveRows, Pages, TreeAttention, WriteRows, dtype_code};
use hornbeam_cuda::{Lane, decide, rows};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::error::cuda_to_py;
use crate::plan::PyPlan;
use crate::rows::layout_of;
use crate::tensor::{Kind, Tensor, current_stream};

pub(crate) trait OrRaise<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> OrRaise<T> for hornbeam_cuda::Result<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| cuda_to_py(py, &error))
    }
}

/// A plan as one buffer of 32-bit words for a device, with the work list of tree attention in it.
/// `chunks` are the pool's tensors; `multiprocessors` are the device's.
#[pyclass(name = "CudaPlan", module = "hornbeam._native", frozen)]
pub(crate) struct PyCudaPlan {
    packed: Packed,
}

#[pymethods]
impl PyCudaPlan {
    #[new]
    #[pyo3(signature = (plan, chunks, num_heads, num_kv_heads, multiprocessors, share=true, blocks=None, least_tiles=None))]
    fn new(
        py: Python<'_>,
        plan: &Bound<'_, PyPlan>,
        chunks: &Bound<'_, PyList>,
        num_heads: usize,
        num_kv_heads: usize,
        multiprocessors: usize,
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
        let plan = &plan.get().plan;
        let packed = py.detach(|| pack(plan, &addresses, &layout, &cut)).or_raise(py)?;
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

    /// Rows of the step.
    #[getter]
    fn num_rows(&self) -> usize {
        self.packed.num_rows
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

enum Owner {
    Process(&'static Lane),
    Own(Lane),
}

/// An open CUDA driver: the process's own, or the library at a path (a mock, the host emulation).
/// Raises CudaError with the reason when no kernel can run.
#[pyclass(name = "CudaLane", module = "hornbeam._native", frozen)]
pub(crate) struct PyCudaLane {
    owner: Owner,
}

/// Where a launch goes.
pub(crate) struct Target {
    pub(crate) device: i32,
    pub(crate) stream: u64,
}

impl PyCudaLane {
    pub(crate) fn lane(&self) -> &Lane {
        match &self.owner {
            Owner::Process(lane) => lane,
            Owner::Own(lane) => lane,
        }
    }

    /// The device and current stream of a tensor; all others must lie on the same device.
    pub(crate) fn target(
        &self,
        py: Python<'_>,
        object: &Bound<'_, PyAny>,
        tensors: &[&Tensor],
    ) -> PyResult<Target> {
        let emulated = self.lane().is_emulated();
        let (device_type, device) = (if emulated { 1 } else { 2 }, tensors[0].device_id);
        for tensor in tensors {
            if tensor.device_type != device_type || (!emulated && tensor.device_id != device) {
                let got = format!("on device type {} (index {})", tensor.device_type, tensor.device_id);
                let want = if emulated {
                    "a CPU tensor, for the host emulation".to_owned()
                } else {
                    format!("a tensor on CUDA device {device}")
                };
                return Err(tensor.refuse(py, &got, &want));
            }
        }
        if emulated {
            return Ok(Target { device: 0, stream: 0 });
        }
        let stream = match current_stream(&object.get_type(), 2, device)? {
            Some(stream) => stream,
            None => PyModule::import(py, "torch._C")?
                .call_method1("_cuda_getCurrentRawStream", (device,))?
                .extract()?,
        };
        Ok(Target { device, stream })
    }
}

/// The packed words on the device.
fn words(py: Python<'_>, object: &Bound<'_, PyAny>) -> PyResult<Tensor> {
    let words = Tensor::new(object, "words")?;
    if words.kind() != Kind::I32
        || !words.is_contiguous()
        || words.len() < hornbeam_cuda::packed::HEADER_WORDS
    {
        let got = format!("{} {:?}", words.kind(), words.shape());
        return Err(words.refuse(py, &got, "contiguous int32 words of a CudaPlan"));
    }
    Ok(words)
}

/// The strides of rows and heads of a `[rows, heads, dim]` tensor.
fn strides(py: Python<'_>, tensor: &Tensor, shape: [Option<usize>; 3]) -> PyResult<[i64; 2]> {
    tensor.expect_shape(py, &shape)?;
    let strides = tensor.strides();
    if strides[2] != 1 && tensor.shape()[2] > 1 {
        return Err(tensor.refuse(py, &format!("strided {strides:?}"), "a unit last stride"));
    }
    Ok([strides[0] as i64, strides[1] as i64])
}

fn layer_pages(
    py: Python<'_>,
    chunk: &Tensor,
    layer: usize,
    num_kv_heads: usize,
) -> PyResult<(PageLayout, Pages)> {
    let layout = layout_of(chunk, py)?;
    if (layer + 1) * num_kv_heads > layout.num_planes {
        let got = format!("with {} planes", layout.num_planes);
        let want = format!("layer {layer} of {num_kv_heads} kv heads");
        return Err(chunk.refuse(py, &got, &want));
    }
    Ok((layout, Pages::new(&layout, layer, num_kv_heads)))
}

#[pymethods]
impl PyCudaLane {
    #[new]
    #[pyo3(signature = (library=None))]
    fn new(py: Python<'_>, library: Option<&str>) -> PyResult<Self> {
        let owner = match library {
            None => Owner::Process(Lane::of_process().or_raise(py)?),
            Some(path) => Owner::Own(Lane::open(Some(path)).or_raise(py)?),
        };
        Ok(Self { owner })
    }

    /// Whether this is the host emulation, which takes CPU tensors.
    #[getter]
    fn is_emulated(&self) -> bool {
        self.lane().is_emulated()
    }

    /// Devices that the driver sees.
    #[getter]
    fn num_devices(&self) -> i32 {
        self.lane().num_devices()
    }

    /// Name, compute capability and multiprocessors of a device.
    fn device<'py>(&self, py: Python<'py>, index: i32) -> PyResult<Bound<'py, PyDict>> {
        let device = self.lane().device(index).or_raise(py)?;
        let facts = PyDict::new(py);
        facts.set_item("name", &device.name)?;
        facts.set_item("capability", device.capability)?;
        facts.set_item("multiprocessors", device.multiprocessors)?;
        Ok(facts)
    }

    /// Loads all kernels of a device, as a graph capture needs beforehand.
    fn prepare(&self, py: Python<'_>, device: i32) -> PyResult<()> {
        let lane = self.lane();
        py.detach(|| {
            rows::prepare(lane, device)?;
            attention::prepare(lane, device)?;
            decide::prepare(lane, device)
        })
        .or_raise(py)
    }

    /// `hornbeam.ops.write_rows` on the device; `words` of the plan, `chunk` any of the pool's.
    fn write_rows(
        &self,
        py: Python<'_>,
        k: &Bound<'_, PyAny>,
        v: &Bound<'_, PyAny>,
        words: &Bound<'_, PyAny>,
        chunk: &Bound<'_, PyAny>,
        layer: usize,
        num_kv_heads: usize,
    ) -> PyResult<()> {
        let (keys, values) = (Tensor::new(k, "k")?, Tensor::new(v, "v")?);
        let (words, chunk) = (self::words(py, words)?, Tensor::new(chunk, "chunk")?);
        let target = self.target(py, k, &[&keys, &values, &words, &chunk])?;
        let (layout, pages) = layer_pages(py, &chunk, layer, num_kv_heads)?;
        let shape = [None, Some(num_kv_heads), Some(layout.head_dim)];
        let k_strides = strides(py, &keys, shape)?;
        let v_strides = strides(py, &values, [Some(keys.shape()[0]), shape[1], shape[2]])?;
        let dtype = keys.float(py)?;
        if values.float(py)? != dtype {
            return Err(values.refuse(py, &values.kind().to_string(), &format!("{}, as k", keys.kind())));
        }
        let parameters = WriteRows {
            k: keys.address(),
            v: values.address(),
            plan: words.address(),
            strides: [k_strides[0], k_strides[1], v_strides[0], v_strides[1]],
            pages,
            dtype: dtype_code(dtype),
            num_rows: keys.shape()[0] as i32,
        };
        // SAFETY: the tensors are on the device, and torch's stream orders their reuse; the words
        // come from a `CudaPlan`, whose entries were checked against the pool.
        unsafe { rows::write_rows(self.lane(), target.device, target.stream, &parameters) }.or_raise(py)
    }

    /// Moves rows in all planes, or of single pages; `addresses` are the chunks', int64 on the
    /// device, `moves` int32 `[M, 4]` there.
    fn move_rows(
        &self,
        py: Python<'_>,
        addresses: &Bound<'_, PyAny>,
        moves: &Bound<'_, PyAny>,
        chunk: &Bound<'_, PyAny>,
        by_page: bool,
    ) -> PyResult<()> {
        let table = Tensor::new(addresses, "addresses")?;
        let (list, chunk) = (Tensor::new(moves, "moves")?, Tensor::new(chunk, "chunk")?);
        let target = self.target(py, moves, &[&list, &table, &chunk])?;
        list.expect_shape(py, &[None, Some(4)])?;
        if list.kind() != Kind::I32 || !list.is_contiguous() {
            return Err(list.refuse(py, &list.kind().to_string(), "contiguous int32"));
        }
        if table.kind() != Kind::I64 || !table.is_contiguous() {
            return Err(table.refuse(py, &table.kind().to_string(), "contiguous int64"));
        }
        let (layout, pages) = layer_pages(py, &chunk, 0, 1)?;
        if layout.head_dim * layout.dtype.size() % 4 != 0 {
            return Err(chunk.refuse(
                py,
                &format!("head_dim {}", layout.head_dim),
                "keys of whole 32-bit words",
            ));
        }
        let parameters = MoveRows {
            chunks: table.address(),
            moves: list.address(),
            pages,
            num_moves: list.shape()[0] as i32,
            reserved: 0,
        };
        // SAFETY: as above; the caller checked the moves against the pool.
        unsafe { rows::move_rows(self.lane(), target.device, target.stream, &parameters, by_page) }
            .or_raise(py)
    }

    /// `hornbeam.ops.tree_attention` on the device. `extent` is (items, merged rows) to launch for:
    /// the plan's own, or the most that a captured graph will see. `workspace` is float32 with room
    /// for the plan's partial rows: `partial rows * num_heads * (head_dim + 2)`.
    #[pyo3(signature = (q, words, chunk, out, lse, workspace, extent, partial_rows, layer, num_kv_heads, scale, window, soft_cap, sinks))]
    fn tree_attention(
        &self,
        py: Python<'_>,
        q: &Bound<'_, PyAny>,
        words: &Bound<'_, PyAny>,
        chunk: &Bound<'_, PyAny>,
        out: &Bound<'_, PyAny>,
        lse: Option<&Bound<'_, PyAny>>,
        workspace: &Bound<'_, PyAny>,
        extent: (usize, usize),
        partial_rows: usize,
        layer: usize,
        num_kv_heads: usize,
        scale: Option<f32>,
        window: Option<u32>,
        soft_cap: Option<f32>,
        sinks: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (queries, output) = (Tensor::new(q, "q")?, Tensor::new(out, "out")?);
        let (words, chunk) = (self::words(py, words)?, Tensor::new(chunk, "chunk")?);
        let workspace = Tensor::new(workspace, "workspace")?;
        let lse = lse.map(|t| Tensor::new(t, "lse")).transpose()?;
        let sinks = sinks.map(|t| Tensor::new(t, "sinks")).transpose()?;
        let mut all = vec![&queries, &output, &words, &chunk, &workspace];
        all.extend(lse.iter().chain(&sinks));
        let target = self.target(py, q, &all)?;
        let (layout, pages) = layer_pages(py, &chunk, layer, num_kv_heads)?;
        queries.expect_shape(py, &[None, None, Some(layout.head_dim)])?;
        let (num_rows, num_heads) = (queries.shape()[0], queries.shape()[1]);
        if num_kv_heads == 0 || num_heads % num_kv_heads != 0 {
            let want = format!("a multiple of {num_kv_heads} heads");
            return Err(queries.refuse(py, &format!("with {num_heads} heads"), &want));
        }
        let shape = [Some(num_rows), Some(num_heads), Some(layout.head_dim)];
        let floats = |tensor: &Tensor, shape: &[Option<usize>]| {
            tensor.expect_shape(py, shape)?;
            if tensor.kind() != Kind::Float(Dtype::F32) || !tensor.is_contiguous() {
                return Err(tensor.refuse(py, &tensor.kind().to_string(), "contiguous float32"));
            }
            Ok(tensor.address())
        };
        let need = attention::workspace_floats(partial_rows, num_heads, layout.head_dim);
        if workspace.kind() != Kind::Float(Dtype::F32) || !workspace.is_contiguous() || workspace.len() < need
        {
            let got = format!("{} {:?}", workspace.kind(), workspace.shape());
            return Err(workspace.refuse(py, &got, &format!("contiguous float32 of at least {need}")));
        }
        let partials = workspace.address();
        let parameters = TreeAttention {
            q: queries.address(),
            out: output.address(),
            lse: lse.as_ref().map_or(Ok(0), |t| floats(t, &shape[..2]))?,
            plan: words.address(),
            sinks: sinks.as_ref().map_or(Ok(0), |t| floats(t, &[Some(num_heads)]))?,
            partials,
            partial_stats: partials + (partial_rows * num_heads * layout.head_dim * 4) as u64,
            q_strides: strides(py, &queries, shape)?,
            out_strides: strides(py, &output, shape)?,
            pages,
            scale: scale.unwrap_or_else(|| (layout.head_dim as f32).powf(-0.5)),
            soft_cap: soft_cap.unwrap_or(0.0),
            window: window.map_or(i32::MAX, |w| w.min(i32::MAX as u32) as i32),
            num_rows: num_rows as i32,
            num_heads: num_heads as i32,
            dtype: dtype_code(queries.float(py)?),
            out_dtype: dtype_code(output.float(py)?),
            reserved: 0,
        };
        let extent = Extent { num_items: extent.0, num_merged_rows: extent.1 };
        // SAFETY: the tensors are on the device and large enough for what the words name, and
        // torch's stream orders their reuse.
        unsafe { attention::tree_attention(self.lane(), target.device, target.stream, &parameters, extent) }
            .or_raise(py)
    }
}

/// What the CUDA lane is on this machine: `available`, `reason` (empty when available), `kernels`
/// (what was built), `devices` (name, capability, or why a device is of no use).
#[pyfunction]
fn cuda_status(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let facts = PyDict::new(py);
    let devices = PyList::empty(py);
    let mut reason = String::new();
    match Lane::of_process() {
        Err(error) => reason = error.to_string(),
        Ok(lane) => {
            for index in 0..lane.num_devices() {
                match lane.device(index) {
                    Ok(device) => {
                        let (major, minor) = device.capability;
                        devices.append(format!("{} ({major}.{minor})", device.name))?;
                    }
                    Err(error) => {
                        reason = error.to_string();
                        devices.append(&reason)?;
                    }
                }
            }
        }
    }
    facts.set_item("available", reason.is_empty())?;
    facts.set_item("reason", reason)?;
    facts.set_item("kernels", hornbeam_cuda::build_info())?;
    facts.set_item("devices", devices)?;
    Ok(facts)
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyCudaPlan>()?;
    m.add_class::<PyCudaLane>()?;
    m.add_function(wrap_pyfunction!(cuda_status, m)?)
}
