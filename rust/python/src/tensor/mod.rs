//! The one place that turns a torch tensor (or a numpy array) into a view.
//!
//! Fast route: DLPack's C exchange API, a table of C functions that torch publishes as a capsule
//! on the tensor class (about 0.1 µs a tensor). Where there is none: Python attributes.

mod attributes;
mod dlpack;

use std::sync::Arc;

use hornbeam_core::format::{Dtype, Element};
use pyo3::prelude::*;
use smallvec::SmallVec;

pub(crate) use self::dlpack::current_stream;
use crate::error::to_py;

/// Element types that cross the boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Float(Dtype),
    I64,
    I32,
    U8,
    Bool,
}

impl Kind {
    fn size(self) -> usize {
        match self {
            Self::Float(dtype) => dtype.size(),
            Self::I64 => 8,
            Self::I32 => 4,
            Self::U8 | Self::Bool => 1,
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

/// Integer tensors are read through these wrappers, since [`Item`] is blanket over floats.
macro_rules! integer_view {
    ($name:ident, $name_mut:ident, $type:ty, $kind:expr) => {
        /// The elements.
        ///
        /// # Safety
        /// As [`Tensor::slice`].
        #[allow(dead_code)]
        pub(crate) unsafe fn $name<'a>(&self, py: Python<'_>) -> PyResult<&'a [$type]> {
            self.check(py, $kind)?;
            // SAFETY: `check` saw the dtype, contiguity and the pointer; the caller upholds the rest.
            Ok(unsafe { raw_slice(self.data.cast(), self.len()) })
        }

        /// The elements, to be written.
        ///
        /// # Safety
        /// As [`Tensor::slice_mut`].
        #[allow(dead_code)]
        pub(crate) unsafe fn $name_mut<'a>(&self, py: Python<'_>) -> PyResult<&'a mut [$type]> {
            self.check(py, $kind)?;
            // SAFETY: as above.
            Ok(unsafe { raw_slice_mut(self.data.cast(), self.len()) })
        }
    };
}

/// A borrowed description of a tensor: valid while its Python object lives.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    name: &'static str,
    data: *mut u8,
    shape: SmallVec<[usize; 6]>,
    strides: SmallVec<[isize; 6]>,
    kind: Kind,
    /// DLPack device type: 1 is the CPU, 2 is CUDA.
    pub(crate) device_type: i32,
    pub(crate) device_id: i32,
}

/// See [`Tensor::hold_words`].
struct HeldWords {
    words: &'static [u32],
    _object: Py<PyAny>,
}

impl AsRef<[u32]> for HeldWords {
    fn as_ref(&self) -> &[u32] {
        self.words
    }
}

// SAFETY: a description only; the views made from it are made under the contracts below.
unsafe impl Send for Tensor {}
// SAFETY: as above.
unsafe impl Sync for Tensor {}

impl Tensor {
    /// Describes `object`. `name` is the argument's name in error messages.
    pub(crate) fn new(object: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        let tensor = match dlpack::describe(object, name)? {
            Some(tensor) => tensor,
            None => attributes::describe(object, name)?,
        };
        if tensor.data.is_null() && tensor.len() > 0 {
            return Err(tensor.refuse(
                object.py(),
                "a tensor without memory (meta or fake)",
                "a real tensor",
            ));
        }
        Ok(tensor)
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

    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The float type, or an error.
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

    /// The elements of an int32 tensor as unsigned words that keep `object` alive. Nobody may write to
    /// them: they are meant for mapped files.
    pub(crate) fn hold_words(
        &self,
        object: &Bound<'_, PyAny>,
    ) -> PyResult<Arc<dyn AsRef<[u32]> + Send + Sync>> {
        self.check(object.py(), Kind::I32)?;
        // SAFETY: `check` saw the dtype, contiguity and the pointer; `HeldWords` keeps the tensor, which
        // owns the memory, for as long as the slice; callers give tensors that nobody writes to.
        let words = unsafe { raw_slice(self.data.cast(), self.len()) };
        Ok(Arc::new(HeldWords { words, _object: object.clone().unbind() }))
    }

    /// The elements of a contiguous CPU tensor.
    ///
    /// # Safety
    /// The Python object must outlive the slice, and nobody may write to its memory meanwhile.
    pub(crate) unsafe fn slice<'a, T: Item>(&self, py: Python<'_>) -> PyResult<&'a [T]> {
        self.check(py, T::KIND)?;
        // SAFETY: `check` saw the dtype, contiguity and the pointer; the caller upholds the rest.
        Ok(unsafe { raw_slice(self.data.cast(), self.len()) })
    }

    /// The elements of a contiguous CPU tensor, to be written.
    ///
    /// # Safety
    /// The Python object must outlive the slice, and nobody may touch its memory meanwhile.
    pub(crate) unsafe fn slice_mut<'a, T: Item>(&self, py: Python<'_>) -> PyResult<&'a mut [T]> {
        self.check(py, T::KIND)?;
        // SAFETY: as above.
        Ok(unsafe { raw_slice_mut(self.data.cast(), self.len()) })
    }

    /// The bytes of a contiguous CPU tensor of any dtype, to be written.
    ///
    /// # Safety
    /// As [`Tensor::slice_mut`].
    pub(crate) unsafe fn bytes_mut<'a>(&self, py: Python<'_>) -> PyResult<&'a mut [u8]> {
        self.check(py, self.kind)?;
        // SAFETY: as above; every byte pattern is a byte.
        Ok(unsafe { raw_slice_mut(self.data, self.len() * self.kind.size()) })
    }

    integer_view!(i64s, i64s_mut, i64, Kind::I64);
    integer_view!(i32s, i32s_mut, i32, Kind::I32);
    integer_view!(u8s, u8s_mut, u8, Kind::U8);
    integer_view!(bools, bools_mut, bool, Kind::Bool);

    /// The memory that a strided CPU tensor spans, from its first element to its last: for
    /// operations that take strides, such as queries seen through a transpose. Strides must not be
    /// negative (torch has none).
    ///
    /// # Safety
    /// As [`Tensor::slice`].
    pub(crate) unsafe fn span<'a, T: Item>(&self, py: Python<'_>) -> PyResult<&'a [T]> {
        self.check_kind(py, T::KIND)?;
        if self.len() == 0 {
            return Ok(&[]);
        }
        let last: isize = self.shape.iter().zip(&self.strides).map(|(&n, &s)| (n as isize - 1) * s).sum();
        // SAFETY: all elements between the first and the last lie in the tensor's storage; the
        // caller upholds the rest.
        Ok(unsafe { raw_slice(self.data.cast(), last as usize + 1) })
    }

    /// As [`Tensor::span`], to be written.
    ///
    /// # Safety
    /// As [`Tensor::slice_mut`].
    pub(crate) unsafe fn span_mut<'a, T: Item>(&self, py: Python<'_>) -> PyResult<&'a mut [T]> {
        self.check_kind(py, T::KIND)?;
        if self.len() == 0 {
            return Ok(&mut []);
        }
        let last: isize = self.shape.iter().zip(&self.strides).map(|(&n, &s)| (n as isize - 1) * s).sum();
        // SAFETY: as above.
        Ok(unsafe { raw_slice_mut(self.data.cast(), last as usize + 1) })
    }

    fn check_kind(&self, py: Python<'_>, kind: Kind) -> PyResult<()> {
        if self.kind != kind {
            return Err(self.refuse(py, &self.kind.to_string(), &kind.to_string()));
        }
        if self.device_type != 1 {
            let device = format!("on device type {} (index {})", self.device_type, self.device_id);
            return Err(self.refuse(py, &device, "a CPU tensor"));
        }
        Ok(())
    }

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
        to_py(
            py,
            hornbeam_core::Error::Shape {
                what: self.name,
                got: got.to_owned(),
                expected: expected.to_owned(),
            },
        )
    }
}

/// # Safety
/// `data` must be valid for `len` elements, or `len` must be 0.
unsafe fn raw_slice<'a, T>(data: *const T, len: usize) -> &'a [T] {
    // SAFETY: the caller's contract; an empty tensor may have a null pointer.
    if len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(data, len) } }
}

/// # Safety
/// As [`raw_slice`], and unaliased.
unsafe fn raw_slice_mut<'a, T>(data: *mut T, len: usize) -> &'a mut [T] {
    // SAFETY: the caller's contract; an empty tensor may have a null pointer.
    if len == 0 { &mut [] } else { unsafe { std::slice::from_raw_parts_mut(data, len) } }
}

fn contiguous_strides(shape: &[usize]) -> SmallVec<[isize; 6]> {
    let mut strides: SmallVec<[isize; 6]> = shape.iter().map(|_| 1).collect();
    for i in (0..shape.len().saturating_sub(1)).rev() {
        strides[i] = strides[i + 1] * shape[i + 1] as isize;
    }
    strides
}
