//! The one place that turns a torch tensor (or a numpy array) into a view.
//!
//! Fast route: DLPack's C exchange API, a table of C functions that torch publishes as a capsule
//! on the tensor class (about 0.1 µs a tensor). Where there is none: Python attributes.
//!
//! # Who keeps the memory
//! A [`Tensor`] owns a reference to its object, and every view borrows the [`Tensor`]: neither an emptied
//! list nor a dropped name frees what an operation works on. While the GIL is released the storage is held
//! beside the object ([`Tensor::storage`]), so that `set_` and `.data =` of another thread change the object
//! alone. What nobody can hold: `resize_` of a torch tensor or storage, and `ndarray.resize(refcheck=False)`,
//! exchange the memory inside of the storage. Whoever calls them while an operation runs elsewhere breaks
//! torch's and numpy's own operations alike.

mod attributes;
mod dlpack;
mod integers;
mod negated;
mod overlap;
mod views;

use hornbeam_core::Error;
use hornbeam_core::format::{Dtype, Element};
use pyo3::exceptions::{PyException, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use smallvec::SmallVec;

pub(crate) use self::dlpack::current_stream;
pub(crate) use self::overlap::{expect_apart, expect_disjoint};
use crate::error::to_py;

/// Element types that cross the boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Float(Dtype),
    I64,
    I32,
    U8,
    Bool,
    /// Of the others only lists of integers are read.
    I8,
    I16,
    U16,
    U32,
    U64,
}

impl Kind {
    fn size(self) -> usize {
        match self {
            Self::Float(dtype) => dtype.size(),
            Self::I64 | Self::U64 => 8,
            Self::I32 | Self::U32 => 4,
            Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Float(Dtype::F32) => "float32",
            Self::Float(Dtype::Bf16) => "bfloat16",
            Self::Float(Dtype::F16) => "float16",
            Self::I64 => "int64",
            Self::I32 => "int32",
            Self::U8 => "uint8",
            Self::Bool => "bool",
            Self::I8 => "int8",
            Self::I16 => "int16",
            Self::U16 => "uint16",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
        })
    }
}

/// Rust types that a tensor can be viewed as.
pub(crate) trait Item: Copy {
    const KIND: Kind;
}
impl<T: Element> Item for T {
    const KIND: Kind = Kind::Float(T::DTYPE);
}

/// A description of a tensor, and a reference that keeps its object alive: whatever happens to the list or
/// the name that it came from, the views that borrow from this have their memory.
#[derive(Debug)]
pub(crate) struct Tensor {
    name: &'static str,
    owner: Py<PyAny>,
    /// Whether the object is a numpy array, and no torch tensor.
    is_array: bool,
    /// Whether numpy forbids to write. torch keeps no such flag: it warns where a tensor is made of memory
    /// that may not be written, and forgets it.
    read_only: bool,
    /// Whether the elements have the other machine's byte order.
    swapped: bool,
    data: *mut u8,
    shape: SmallVec<[usize; 6]>,
    strides: SmallVec<[isize; 6]>,
    kind: Kind,
    /// DLPack device type: 1 is the CPU, 2 is CUDA.
    pub(crate) device_type: i32,
    pub(crate) device_id: i32,
}

// SAFETY: a description and a reference that is `Send`; the views made from it are made under the contracts
// below.
unsafe impl Send for Tensor {}
// SAFETY: as above.
unsafe impl Sync for Tensor {}

/// Makes a tensor of an argument of this name.
pub(crate) type Describe = fn(&Bound<'_, PyAny>, &'static str) -> PyResult<Tensor>;

impl Tensor {
    /// Describes `object`. `name` is the argument's name in error messages.
    #[inline]
    pub(crate) fn new(object: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        let tensor = Self::as_stored(object, name)?;
        tensor.expect_resolved(object.py())?;
        Ok(tensor)
    }

    /// Describes `object`, or a copy of it where its elements do not lie one after the other.
    pub(crate) fn side_by_side(object: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        Self::or_copied(object, name, Self::is_contiguous)
    }

    /// Describes `object`, or a copy of it where neighbours along the last dimension are none in memory.
    pub(crate) fn unit_last(object: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        Self::or_copied(object, name, |tensor| tensor.strides.last() == Some(&1) || tensor.is_contiguous())
    }

    fn or_copied(
        object: &Bound<'_, PyAny>,
        name: &'static str,
        fits: impl Fn(&Self) -> bool,
    ) -> PyResult<Self> {
        let tensor = Self::as_stored(object, name)?;
        if fits(&tensor) {
            tensor.expect_resolved(object.py())?;
            return Ok(tensor);
        }
        Self::new(&object.call_method0(intern!(object.py(), "contiguous"))?, name)
    }

    /// Describes `object` if it is what short calls are mostly given: of torch's own class, contiguous, on the CPU.
    /// `None` otherwise, also for what cannot be read: [`Tensor::new`] says why.
    pub(crate) fn plain(object: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Option<Self>> {
        let py = object.py();
        if !object.get_type().is(negated::torch_class(py)?) {
            return Ok(None);
        }
        let Ok(tensor) = Self::as_stored(object, name) else { return Ok(None) };
        if tensor.device_type != 1 || !tensor.is_contiguous() || tensor.is_negated(py)? {
            return Ok(None);
        }
        Ok(Some(tensor))
    }

    /// As [`Tensor::new`]; callers see to [`Tensor::expect_resolved`].
    fn as_stored(object: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        let py = object.py();
        let described = match dlpack::describe(object, name) {
            Ok(Some(tensor)) => Ok(tensor),
            Ok(None) => attributes::describe(object, name),
            Err(error) => Err(error),
        };
        let mut tensor = described.map_err(|error| unreadable(py, name, error))?;
        if tensor.size().is_none() {
            return Err(tensor.refuse(
                py,
                &format!("of shape {:?}", tensor.shape),
                "a size that fits memory",
            ));
        }
        if tensor.data.is_null() && tensor.len() > 0 {
            return Err(tensor.refuse(py, "a tensor without memory (meta or fake)", "a real tensor"));
        }
        // Where there is one row, nobody steps to the next: numpy leaves any number there.
        for (stride, size) in tensor.strides.iter_mut().zip(&tensor.shape) {
            if *size <= 1 && *stride < 0 {
                *stride = 0;
            }
        }
        Ok(tensor)
    }

    /// Errors for a view of which torch applies the sign when it is read, such as `x.conj().imag`.
    #[inline]
    fn expect_resolved(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_negated(py)? {
            return Err(self.refuse(py, "a view whose sign is not applied yet", "x.resolve_neg()"));
        }
        Ok(())
    }

    #[inline]
    fn is_negated(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(!self.is_array && negated::is_negated(self.owner.bind(py))?)
    }

    /// What holds the memory beside the object itself: see the head of this file.
    pub(crate) fn storage(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        match self.is_array {
            true => Ok(None),
            false => self.owner.call_method0(py, intern!(py, "untyped_storage")).map(Some),
        }
    }

    /// Describes `object`, whose shape must be `expected`, see [`Tensor::expect_shape`].
    pub(crate) fn with_shape(
        object: &Bound<'_, PyAny>,
        name: &'static str,
        expected: &[Option<usize>],
    ) -> PyResult<Self> {
        let tensor = Self::new(object, name)?;
        tensor.expect_shape(object.py(), expected)?;
        Ok(tensor)
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(crate) fn strides(&self) -> &[isize] {
        &self.strides
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The address of the first element, for launches on a device.
    pub(crate) fn address(&self) -> u64 {
        self.data as u64
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of all elements, if the address space has as many.
    fn size(&self) -> Option<usize> {
        let product = |all: usize, size: &usize| all.checked_mul(*size);
        let bytes = self.shape.iter().filter(|size| **size > 0).try_fold(self.kind.size(), product)?;
        isize::try_from(bytes).is_ok().then_some(bytes)
    }

    /// The float type, or an error.
    #[inline]
    pub(crate) fn float(&self, py: Python<'_>) -> PyResult<Dtype> {
        match self.kind {
            Kind::Float(dtype) => Ok(dtype),
            other => Err(self.refuse(py, &other.to_string(), "float32, bfloat16 or float16")),
        }
    }

    /// Errors unless the shape is `expected`, where `None` matches any size.
    pub(crate) fn expect_shape(&self, py: Python<'_>, expected: &[Option<usize>]) -> PyResult<()> {
        let fits = self.shape.len() == expected.len()
            && self.shape.iter().zip(expected).all(|(got, want)| want.is_none_or(|want| want == *got));
        if fits {
            return Ok(());
        }
        let want: Vec<String> =
            expected.iter().map(|size| size.map_or_else(|| "any".to_owned(), |s| s.to_string())).collect();
        Err(self.refuse(
            py,
            &format!("a tensor of shape {:?}", self.shape),
            &format!("shape [{}]", want.join(", ")),
        ))
    }

    /// Errors unless neighbours along the last dimension are neighbours in memory.
    pub(crate) fn expect_unit_last_stride(&self, py: Python<'_>) -> PyResult<()> {
        match (self.shape.last(), self.strides.last()) {
            (Some(&size), Some(&stride)) if size > 1 && stride != 1 => {
                Err(self.refuse(py, &format!("strided {:?}", self.strides), "a unit last stride"))
            }
            _ => Ok(()),
        }
    }

    /// The strides of rows and of heads of a tensor of shape `[rows, heads, dim]`.
    pub(crate) fn row_strides(&self, py: Python<'_>, shape: [usize; 3]) -> PyResult<(usize, usize)> {
        self.expect_shape(py, &shape.map(Some))?;
        self.expect_unit_last_stride(py)?;
        Ok((self.strides[0] as usize, self.strides[1] as usize))
    }

    /// As torch sees it: without elements, any strides are contiguous.
    #[inline]
    pub(crate) fn is_contiguous(&self) -> bool {
        if self.len() == 0 {
            return true;
        }
        let mut expected = 1isize;
        for (&size, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if size != 1 && stride != expected {
                return false;
            }
            expected *= size as isize;
        }
        true
    }

    /// Errors where numpy or autograd forbids to write.
    fn check_writable(&self, py: Python<'_>) -> PyResult<()> {
        if self.read_only {
            return Err(to_py(py, Error::value(self.name, "read-only", "memory that may be written")));
        }
        if !self.is_array && self.owner.getattr(py, intern!(py, "requires_grad"))?.is_truthy(py)? {
            let torch = py.import(intern!(py, "torch"))?;
            if torch.call_method0(intern!(py, "is_grad_enabled"))?.is_truthy()? {
                let want = "a tensor outside of autograd's graph, or torch.no_grad()";
                return Err(to_py(py, Error::value(self.name, "a tensor that requires grad", want)));
            }
        }
        Ok(())
    }

    #[inline]
    fn check_kind(&self, py: Python<'_>, kind: Kind) -> PyResult<()> {
        if self.kind != kind {
            return Err(self.refuse(py, &self.kind.to_string(), &kind.to_string()));
        }
        if self.device_type != 1 {
            return Err(self.refuse_device(py));
        }
        if self.swapped {
            let got = format!("{} of the other byte order", self.kind);
            return Err(self.refuse(py, &got, &format!("{} of this machine's", self.kind)));
        }
        if !self.is_plain() {
            let got = format!("{} at an address that is no multiple", self.kind);
            return Err(self.refuse(py, &got, &format!("memory aligned to {} bytes", self.kind.size())));
        }
        Ok(())
    }

    /// Whether elements can be read where they lie.
    #[inline]
    fn is_plain(&self) -> bool {
        let aligned = (self.data as usize).is_multiple_of(self.kind.size());
        !self.swapped && (aligned || self.len() == 0)
    }

    fn refuse_device(&self, py: Python<'_>) -> PyErr {
        let device = format!("on device type {} (index {})", self.device_type, self.device_id);
        self.refuse(py, &device, "a CPU tensor")
    }

    #[inline]
    fn check(&self, py: Python<'_>, kind: Kind) -> PyResult<()> {
        self.check_kind(py, kind)?;
        if !self.is_contiguous() {
            let strides = format!("strided {:?} with shape {:?}", self.strides, self.shape);
            return Err(self.refuse(py, &strides, "a contiguous tensor"));
        }
        Ok(())
    }

    /// A `ShapeError` that names the argument.
    pub(crate) fn refuse(&self, py: Python<'_>, got: &str, expected: &str) -> PyErr {
        to_py(py, Error::Shape { what: self.name, got: got.to_owned(), expected: expected.to_owned() })
    }
}

/// What torch says of an object that has no elements in memory (sparse, quantised, inside of a transform),
/// with the argument's name.
fn unreadable(py: Python<'_>, name: &str, error: PyErr) -> PyErr {
    if error.is_instance_of::<PyTypeError>(py) || !error.is_instance_of::<PyException>(py) {
        return error;
    }
    let named = PyTypeError::new_err(format!("{name} has no elements that can be read: {}", error.value(py)));
    named.set_cause(py, Some(error));
    named
}

fn contiguous_strides(shape: &[usize]) -> SmallVec<[isize; 6]> {
    let mut strides: SmallVec<[isize; 6]> = shape.iter().map(|_| 1).collect();
    for i in (0..shape.len().saturating_sub(1)).rev() {
        strides[i] = strides[i + 1] * shape[i + 1] as isize;
    }
    strides
}
