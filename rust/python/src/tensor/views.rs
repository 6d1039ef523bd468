//! Views of a tensor's memory, under the contracts that the head of [`super`] states.

use std::sync::Arc;

use hornbeam_core::format::Dtype;
use hornbeam_core::ops::attention::Floats;
use pyo3::intern;
use pyo3::prelude::*;

use super::{Item, Kind, Tensor};

/// Integer tensors are read through these wrappers, since [`Item`] is blanket over floats.
macro_rules! integer_view {
    ($name:ident, $name_mut:ident, $type:ty, $kind:expr) => {
        /// The elements.
        ///
        /// # Safety
        /// As [`Tensor::slice`].
        #[allow(dead_code)]
        pub(crate) unsafe fn $name(&self, py: Python<'_>) -> PyResult<&[$type]> {
            self.check(py, $kind)?;
            // SAFETY: `check` saw the dtype, contiguity and the pointer; the caller upholds the rest.
            Ok(unsafe { raw_slice(self.data.cast(), self.len()) })
        }

        /// The elements, to be written.
        ///
        /// # Safety
        /// As [`Tensor::slice_mut`].
        #[allow(dead_code, clippy::mut_from_ref)]
        pub(crate) unsafe fn $name_mut(&self, py: Python<'_>) -> PyResult<&mut [$type]> {
            self.check(py, $kind)?;
            self.check_writable(py)?;
            // SAFETY: as above.
            Ok(unsafe { raw_slice_mut(self.data.cast(), self.len()) })
        }
    };
}

/// See [`Tensor::hold_words`].
struct HeldWords {
    words: &'static [u32],
    _storage: Py<PyAny>,
}

impl AsRef<[u32]> for HeldWords {
    fn as_ref(&self) -> &[u32] {
        self.words
    }
}

impl Tensor {
    /// The elements of an int32 tensor as unsigned words. Memory that cannot be exchanged, that of a mapped
    /// file, is kept; other memory, which its owner may write to or give back at any time, is copied.
    pub(crate) fn hold_words(self, py: Python<'_>) -> PyResult<Arc<dyn AsRef<[u32]> + Send + Sync>> {
        self.check(py, Kind::I32)?;
        let storage = self.storage(py)?;
        let resizable = match &storage {
            Some(storage) => storage.call_method0(py, intern!(py, "resizable"))?.is_truthy(py)?,
            None => true,
        };
        // SAFETY: `check` saw the dtype, contiguity and the pointer; `HeldWords` keeps the storage, whose
        // memory nobody can exchange, for as long as the slice.
        let words: &'static [u32] = unsafe { raw_slice(self.data.cast(), self.len()) };
        match storage {
            Some(storage) if !resizable => Ok(Arc::new(HeldWords { words, _storage: storage })),
            _ => Ok(Arc::new(words.to_vec())),
        }
    }

    /// The elements of a contiguous CPU tensor.
    ///
    /// # Safety
    /// Nobody may write to the memory meanwhile, nor exchange it (see the head of this file).
    pub(crate) unsafe fn slice<T: Item>(&self, py: Python<'_>) -> PyResult<&[T]> {
        self.check(py, T::KIND)?;
        // SAFETY: `check` saw the dtype, contiguity and the pointer; the caller upholds the rest.
        Ok(unsafe { raw_slice(self.data.cast(), self.len()) })
    }

    /// The elements of a contiguous CPU tensor, to be written.
    ///
    /// # Safety
    /// Nobody may touch the memory meanwhile, which [`expect_apart`] sees of the call's other arguments, nor
    /// exchange it.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice_mut<T: Item>(&self, py: Python<'_>) -> PyResult<&mut [T]> {
        self.check(py, T::KIND)?;
        self.check_writable(py)?;
        // SAFETY: as above.
        Ok(unsafe { raw_slice_mut(self.data.cast(), self.len()) })
    }

    /// The bytes of a contiguous CPU tensor of any dtype, to be written.
    ///
    /// # Safety
    /// As [`Tensor::slice_mut`].
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn bytes_mut(&self, py: Python<'_>) -> PyResult<&mut [u8]> {
        self.check(py, self.kind)?;
        self.check_writable(py)?;
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
    pub(crate) unsafe fn span<T: Item>(&self, py: Python<'_>) -> PyResult<&[T]> {
        self.check_kind(py, T::KIND)?;
        let len = self.span_len(py)?;
        // SAFETY: all elements between the first and the last lie in the tensor's storage; the
        // caller upholds the rest.
        Ok(unsafe { raw_slice(self.data.cast(), len) })
    }

    /// As [`Tensor::span`], of whichever float type it has.
    ///
    /// # Safety
    /// As [`Tensor::slice`].
    pub(crate) unsafe fn float_span(&self, py: Python<'_>) -> PyResult<Floats<'_>> {
        // SAFETY: the caller's.
        Ok(unsafe {
            match self.float(py)? {
                Dtype::F32 => Floats::F32(self.span(py)?),
                Dtype::Bf16 => Floats::Bf16(self.span(py)?),
                Dtype::F16 => Floats::F16(self.span(py)?),
            }
        })
    }

    /// As [`Tensor::span`], to be written.
    ///
    /// # Safety
    /// As [`Tensor::slice_mut`].
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn span_mut<T: Item>(&self, py: Python<'_>) -> PyResult<&mut [T]> {
        self.check_kind(py, T::KIND)?;
        self.check_writable(py)?;
        let len = self.span_len(py)?;
        // SAFETY: as above.
        Ok(unsafe { raw_slice_mut(self.data.cast(), len) })
    }

    /// Elements from the first to the last in memory, both included.
    fn span_len(&self, py: Python<'_>) -> PyResult<usize> {
        if self.strides.iter().any(|stride| *stride < 0) {
            return Err(self.refuse(py, &format!("strided {:?}", self.strides), "strides of at least 0"));
        }
        if self.len() == 0 {
            return Ok(0);
        }
        let last: isize = self.shape.iter().zip(&self.strides).map(|(&n, &s)| (n as isize - 1) * s).sum();
        Ok(last as usize + 1)
    }
}

/// # Safety
/// `data` must be valid for `len` elements, or `len` must be 0.
pub(super) unsafe fn raw_slice<'a, T>(data: *const T, len: usize) -> &'a [T] {
    // SAFETY: the caller's contract; an empty tensor may have a null pointer.
    if len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(data, len) } }
}

/// # Safety
/// As [`raw_slice`], and unaliased.
unsafe fn raw_slice_mut<'a, T>(data: *mut T, len: usize) -> &'a mut [T] {
    // SAFETY: the caller's contract; an empty tensor may have a null pointer.
    if len == 0 { &mut [] } else { unsafe { std::slice::from_raw_parts_mut(data, len) } }
}
