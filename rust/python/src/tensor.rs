//! The one place that turns a torch tensor (or a numpy array) into a view.
//!
//! Fast route: DLPack's C exchange API, a table of C functions that torch publishes as a capsule
//! on the tensor class (about 0.1 µs a tensor). Fallbacks: `data_ptr()` and its companions for an
//! older torch, `__array_interface__` for numpy.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use hornbeam_core::format::{Dtype, Element};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString};
use smallvec::SmallVec;

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
        let tensor = match exchange::describe(object, name)? {
            Some(tensor) => tensor,
            None => fallback(object, name)?,
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

fn fallback(object: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Tensor> {
    let py = object.py();
    if let Ok(interface) = object.getattr("__array_interface__") {
        let interface = interface.cast_into::<PyDict>()?;
        let item = |key: &str| interface.get_item(key)?.ok_or_else(|| PyTypeError::new_err(key.to_owned()));
        let (data, _read_only): (usize, bool) = item("data")?.extract()?;
        let shape: SmallVec<[usize; 6]> = item("shape")?.extract::<Vec<usize>>()?.into();
        let code: String = item("typestr")?.extract()?;
        let (kind, size) = match code.get(1..) {
            Some("f4") => (Kind::Float(Dtype::F32), 4),
            Some("f2") => (Kind::Float(Dtype::F16), 2),
            Some("i8") => (Kind::I64, 8),
            Some("i4") => (Kind::I32, 4),
            Some("u1") => (Kind::U8, 1),
            Some("b1") => (Kind::Bool, 1),
            _ => {
                return Err(PyTypeError::new_err(format!(
                    "{name} has dtype {code}, which no operation takes"
                )));
            }
        };
        let strides = match item("strides")?.extract::<Option<Vec<isize>>>()? {
            Some(bytes) => bytes.into_iter().map(|b| b / size).collect(),
            None => contiguous_strides(&shape),
        };
        return Ok(Tensor {
            name,
            data: data as *mut u8,
            shape,
            strides,
            kind,
            device_type: 1,
            device_id: -1,
        });
    }
    if !object.hasattr("data_ptr")? {
        let class = object.get_type().qualname()?;
        return Err(PyTypeError::new_err(format!("{name} is a {class}, expected a tensor")));
    }
    let dtype = object.getattr("dtype")?.str()?.to_string();
    let kind = match dtype.strip_prefix("torch.").unwrap_or(&dtype) {
        "float32" => Kind::Float(Dtype::F32),
        "bfloat16" => Kind::Float(Dtype::Bf16),
        "float16" => Kind::Float(Dtype::F16),
        "int64" => Kind::I64,
        "int32" => Kind::I32,
        "uint8" => Kind::U8,
        "bool" => Kind::Bool,
        other => {
            return Err(PyTypeError::new_err(format!("{name} has dtype {other}, which no operation takes")));
        }
    };
    let device = object.getattr("device")?;
    let device_type = match device.getattr("type")?.cast::<PyString>()?.to_str()? {
        "cpu" => 1,
        "cuda" => 2,
        _ => 0,
    };
    let device_id = device.getattr("index")?.extract::<Option<i32>>()?.unwrap_or(0);
    let _ = py;
    Ok(Tensor {
        name,
        data: object.call_method0("data_ptr")?.extract::<usize>()? as *mut u8,
        shape: object.getattr("shape")?.extract::<Vec<usize>>()?.into(),
        strides: object.call_method0("stride")?.extract::<Vec<isize>>()?.into(),
        kind,
        device_type,
        device_id,
    })
}

fn contiguous_strides(shape: &[usize]) -> SmallVec<[isize; 6]> {
    let mut strides: SmallVec<[isize; 6]> = shape.iter().map(|_| 1).collect();
    for i in (0..shape.len().saturating_sub(1)).rev() {
        strides[i] = strides[i + 1] * shape[i + 1] as isize;
    }
    strides
}

/// DLPack 1.3's exchange table, as torch publishes it in `Tensor.__dlpack_c_exchange_api__`.
mod exchange {
    use super::*;
    use pyo3::types::{PyCapsule, PyType};
    use std::collections::HashMap;
    use std::sync::RwLock;

    #[repr(C)]
    struct Header {
        major: u32,
        minor: u32,
        prev: *const Header,
    }

    #[repr(C)]
    struct Table {
        header: Header,
        allocate: *const c_void,
        managed_from_object: *const c_void,
        managed_to_object: *const c_void,
        describe: Option<unsafe extern "C" fn(*mut c_void, *mut DlTensor) -> c_int>,
        current_work_stream: Option<unsafe extern "C" fn(c_int, i32, *mut *mut c_void) -> c_int>,
    }

    #[repr(C)]
    struct DlTensor {
        data: *mut c_void,
        device_type: c_int,
        device_id: i32,
        ndim: i32,
        code: u8,
        bits: u8,
        lanes: u16,
        shape: *const i64,
        strides: *const i64,
        byte_offset: u64,
    }

    /// Tables by class. Classes are kept alive, so that an address never names another class.
    type Tables = RwLock<HashMap<usize, (Py<PyType>, usize)>>;
    static TABLES: PyOnceLock<Tables> = PyOnceLock::new();

    fn table(class: &Bound<'_, PyType>) -> PyResult<Option<&'static Table>> {
        let py = class.py();
        let tables = TABLES.get_or_init(py, Tables::default);
        let key = class.as_ptr() as usize;
        let known = tables.read().ok().and_then(|t| t.get(&key).map(|entry| entry.1));
        let address = match known {
            Some(address) => address,
            None => {
                let address = find(class)?;
                if let Ok(mut tables) = tables.write() {
                    tables.insert(key, (class.clone().unbind(), address));
                }
                address
            }
        };
        // SAFETY: `find` returned 0 or the address of a table that torch keeps for the life of the process.
        Ok(unsafe { (address as *const Table).as_ref() })
    }

    fn find(class: &Bound<'_, PyType>) -> PyResult<usize> {
        let Some(capsule) = class.getattr_opt("__dlpack_c_exchange_api__")? else { return Ok(0) };
        let Ok(capsule) = capsule.cast_into::<PyCapsule>() else { return Ok(0) };
        let mut header: *const Header =
            capsule.pointer_checked(Some(c"dlpack_exchange_api"))?.as_ptr().cast::<Header>().cast_const();
        // SAFETY: the capsule's name promises such a header; older versions hang on `prev`.
        while let Some(h) = unsafe { header.as_ref() } {
            if h.major == 1 {
                return Ok(header as usize);
            }
            header = h.prev;
        }
        Ok(0)
    }

    /// The tensor through the exchange table of its class; `None` where the class has none.
    pub(super) fn describe(object: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Option<Tensor>> {
        let Some(table) = table(&object.get_type())? else { return Ok(None) };
        let Some(describe) = table.describe else { return Ok(None) };
        let mut raw = std::mem::MaybeUninit::<DlTensor>::uninit();
        // SAFETY: `object` is a live instance of the class that the table was read from, and the
        // GIL is held; on success the whole struct is filled, its arrays borrowed from the object.
        let raw = unsafe {
            if describe(object.as_ptr().cast(), raw.as_mut_ptr()) != 0 {
                return Err(PyErr::fetch(object.py()));
            }
            raw.assume_init()
        };
        let kind = match (raw.code, raw.bits, raw.lanes) {
            (2, 32, 1) => Kind::Float(Dtype::F32),
            (2, 16, 1) => Kind::Float(Dtype::F16),
            (4, 16, 1) => Kind::Float(Dtype::Bf16),
            (0, 64, 1) => Kind::I64,
            (0, 32, 1) => Kind::I32,
            (1, 8, 1) => Kind::U8,
            (6, 8, 1) => Kind::Bool,
            (code, bits, _) => {
                return Err(PyTypeError::new_err(format!(
                    "{name} has a dtype (DLPack code {code}, {bits} bits) that no operation takes"
                )));
            }
        };
        let ndim = raw.ndim as usize;
        // SAFETY: DLPack promises `ndim` sizes, and `ndim` strides or null.
        let (shape, strides) = unsafe {
            let shape: SmallVec<[usize; 6]> =
                raw_slice(raw.shape, ndim).iter().map(|&n| n as usize).collect();
            let strides = if raw.strides.is_null() {
                contiguous_strides(&shape)
            } else {
                raw_slice(raw.strides, ndim).iter().map(|&s| s as isize).collect()
            };
            (shape, strides)
        };
        Ok(Some(Tensor {
            name,
            data: raw.data.cast::<u8>().wrapping_add(raw.byte_offset as usize),
            shape,
            strides,
            kind,
            device_type: raw.device_type,
            device_id: raw.device_id,
        }))
    }

    /// torch's current stream on a device, as an address; `None` where the table has no such entry.
    pub(crate) fn current_stream(
        class: &Bound<'_, PyType>,
        device_type: i32,
        device_id: i32,
    ) -> PyResult<Option<u64>> {
        let Some(table) = table(class)? else { return Ok(None) };
        let Some(current) = table.current_work_stream else { return Ok(None) };
        let mut stream = std::ptr::null_mut();
        // SAFETY: the table's contract; `stream` is written on success.
        if unsafe { current(device_type, device_id, &raw mut stream) } != 0 {
            return Err(PyErr::fetch(class.py()));
        }
        Ok(Some(stream as u64))
    }
}

pub(crate) use exchange::current_stream;
