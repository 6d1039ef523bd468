//! DLPack 1.3's exchange table, as torch publishes it in `Tensor.__dlpack_c_exchange_api__`.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::RwLock;

use hornbeam_core::format::Dtype;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCapsule, PyType};
use smallvec::SmallVec;

use super::views::raw_slice;
use super::{Kind, Tensor, contiguous_strides};

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

const _: () = assert!(size_of::<usize>() == size_of::<i64>(), "torch has no other machines");

/// Tables by class. Classes are kept alive, so that an address never names another class.
type Tables = RwLock<HashMap<usize, (Py<PyType>, usize)>>;
static TABLES: PyOnceLock<Tables> = PyOnceLock::new();

thread_local! {
    /// The class that was met last, and its table: almost all tensors are of one class.
    static LAST: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

fn table(class: &Bound<'_, PyType>) -> PyResult<Option<&'static Table>> {
    let key = class.as_ptr() as usize;
    let (last, address) = LAST.get();
    let address = if last == key { address } else { look_up(class, key)? };
    LAST.set((key, address));
    // SAFETY: `find` returned 0 or the address of a table that torch keeps for the life of the process.
    Ok(unsafe { (address as *const Table).as_ref() })
}

fn look_up(class: &Bound<'_, PyType>, key: usize) -> PyResult<usize> {
    let tables = TABLES.get_or_init(class.py(), Tables::default);
    let known = tables.read().ok().and_then(|t| t.get(&key).map(|entry| entry.1));
    if let Some(address) = known {
        return Ok(address);
    }
    let address = find(class)?;
    if let Ok(mut tables) = tables.write() {
        tables.insert(key, (class.clone().unbind(), address));
    }
    Ok(address)
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
#[inline]
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
        (0, 16, 1) => Kind::I16,
        (0, 8, 1) => Kind::I8,
        (1, 8, 1) => Kind::U8,
        (1, 16, 1) => Kind::U16,
        (1, 32, 1) => Kind::U32,
        (1, 64, 1) => Kind::U64,
        (6, 8, 1) => Kind::Bool,
        _ => {
            let dtype = object.getattr("dtype")?;
            return Err(PyTypeError::new_err(format!("{name} has dtype {dtype}, which no operation takes")));
        }
    };
    let ndim = raw.ndim as usize;
    // SAFETY: DLPack promises `ndim` sizes, and `ndim` strides or null; sizes are not negative, and the integers of
    // this machine are as wide as they are.
    let (shape, strides) = unsafe {
        let shape = SmallVec::from_slice(raw_slice(raw.shape.cast::<usize>(), ndim));
        let strides = match raw.strides.is_null() {
            true => contiguous_strides(&shape),
            false => SmallVec::from_slice(raw_slice(raw.strides.cast::<isize>(), ndim)),
        };
        (shape, strides)
    };
    Ok(Some(Tensor {
        name,
        owner: object.clone().unbind(),
        is_array: false,
        read_only: false,
        swapped: false,
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
