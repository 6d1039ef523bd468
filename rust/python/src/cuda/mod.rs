//! The CUDA lane: an open driver, and where its launches go. One file a group of operations.

mod attention;
mod codes;
mod decide;
mod mass;
mod merge;
mod plan;
mod ratio;
mod rows;
mod score;
mod select;
mod tables;

use hornbeam_core::format::PageLayout;
use hornbeam_core::format::plan::Entry;
use hornbeam_cuda::Lane;
use hornbeam_cuda::params::Pages;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::error::cuda_to_py;
use crate::rows::layout_of;
use crate::tensor::{Kind, Tensor, current_stream};

trait OrRaise<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> OrRaise<T> for hornbeam_cuda::Result<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| cuda_to_py(py, &error))
    }
}

enum Owner {
    Process(&'static Lane),
    Own(Lane),
}

/// An open CUDA driver: the process's own, or the library at a path (a mock, the host emulation).
/// Raises CudaError with the reason when no kernel can run.
#[pyclass(name = "CudaLane", module = "hornbeam._native", frozen)]
struct PyCudaLane {
    owner: Owner,
}

/// Where a launch goes.
struct Target {
    device: i32,
    stream: u64,
}

impl PyCudaLane {
    fn lane(&self) -> &Lane {
        match &self.owner {
            Owner::Process(lane) => lane,
            Owner::Own(lane) => lane,
        }
    }

    /// The device and current stream of a tensor; all others must lie on the same device.
    fn target(&self, py: Python<'_>, object: &Bound<'_, PyAny>, tensors: &[&Tensor]) -> PyResult<Target> {
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

/// The address of a contiguous tensor of a kind and shape, or an error.
fn contiguous(py: Python<'_>, tensor: &Tensor, kind: Kind, shape: &[Option<usize>]) -> PyResult<u64> {
    tensor.expect_shape(py, shape)?;
    if tensor.kind() != kind || !tensor.is_contiguous() {
        return Err(tensor.refuse(py, &tensor.kind().to_string(), &format!("contiguous {kind}")));
    }
    Ok(tensor.address())
}

/// Rows and heads of queries `[rows, heads, head_dim]`: heads are a multiple of the kv heads.
fn query_heads(
    py: Python<'_>,
    queries: &Tensor,
    rows: Option<usize>,
    head_dim: usize,
    num_kv_heads: usize,
) -> PyResult<(usize, usize)> {
    queries.expect_shape(py, &[rows, None, Some(head_dim)])?;
    let (num_rows, num_heads) = (queries.shape()[0], queries.shape()[1]);
    if num_kv_heads == 0 || num_heads % num_kv_heads != 0 {
        let want = format!("a multiple of {num_kv_heads} heads");
        return Err(queries.refuse(py, &format!("with {num_heads} heads"), &want));
    }
    Ok((num_rows, num_heads))
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
    if layout.planes_of(layer, num_kv_heads).is_none() {
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
        py.detach(|| lane.prepare(device)).or_raise(py)
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
    m.add_class::<PyCudaLane>()?;
    m.add("SLOT_BITS", Entry::SLOT_BITS)?;
    plan::register(m)?;
    rows::register(m)?;
    attention::register(m)?;
    mass::register(m)?;
    merge::register(m)?;
    select::register(m)?;
    score::register(m)?;
    codes::register(m)?;
    decide::register(m)?;
    ratio::register(m)?;
    tables::register(m)?;
    m.add_function(wrap_pyfunction!(cuda_status, m)?)
}
