//! Tensors and arrays by their Python attributes, where no exchange table describes them: `data_ptr()` and its
//! companions of an older torch, `__array_interface__` of numpy.

use hornbeam_core::format::Dtype;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyType};
use smallvec::SmallVec;

use super::{Kind, Tensor, contiguous_strides};

pub(super) fn describe(object: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Tensor> {
    let py = object.py();
    static ARRAY: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let class = ARRAY.import(py, "numpy", "ndarray")?;
    if object.is_instance(class)? {
        if !object.get_type().is(class) && object.hasattr("mask")? {
            let text = format!("{name} is a masked array, expected one whose elements all count");
            return Err(PyTypeError::new_err(text));
        }
        return array(object, name);
    }
    if !object.hasattr("data_ptr")? {
        let class = object.get_type().qualname()?;
        return Err(PyTypeError::new_err(format!("{name} is a {class}, expected a tensor or an array")));
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
        "int8" => Kind::I8,
        "int16" => Kind::I16,
        "uint16" => Kind::U16,
        "uint32" => Kind::U32,
        "uint64" => Kind::U64,
        other => return Err(no_operation_takes(name, other)),
    };
    let device = object.getattr("device")?;
    let device_type = match device.getattr("type")?.cast::<PyString>()?.to_str()? {
        "cpu" => 1,
        "cuda" => 2,
        _ => 0,
    };
    Ok(Tensor {
        name,
        owner: object.clone().unbind(),
        is_array: false,
        read_only: false,
        swapped: false,
        data: object.call_method0("data_ptr")?.extract::<usize>()? as *mut u8,
        shape: object.getattr("shape")?.extract::<Vec<usize>>()?.into(),
        strides: object.call_method0("stride")?.extract::<Vec<isize>>()?.into(),
        kind,
        device_type,
        device_id: device.getattr("index")?.extract::<Option<i32>>()?.unwrap_or(0),
    })
}

/// A numpy array, by its array interface.
fn array(object: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Tensor> {
    let interface = object.getattr("__array_interface__")?.cast_into::<PyDict>()?;
    let item = |key: &str| interface.get_item(key)?.ok_or_else(|| PyTypeError::new_err(key.to_owned()));
    let (data, read_only): (usize, bool) = item("data")?.extract()?;
    let shape: SmallVec<[usize; 6]> = item("shape")?.extract::<Vec<usize>>()?.into();
    let code: String = item("typestr")?.extract()?;
    let kind = match code.get(1..) {
        Some("f4") => Kind::Float(Dtype::F32),
        Some("f2") => Kind::Float(Dtype::F16),
        Some("i8") => Kind::I64,
        Some("i4") => Kind::I32,
        Some("i2") => Kind::I16,
        Some("i1") => Kind::I8,
        Some("u8") => Kind::U64,
        Some("u4") => Kind::U32,
        Some("u2") => Kind::U16,
        Some("u1") => Kind::U8,
        Some("b1") => Kind::Bool,
        _ => return Err(no_operation_takes(name, &object.getattr("dtype")?.str()?.to_string())),
    };
    let other = if cfg!(target_endian = "little") { '>' } else { '<' };
    let size = kind.size() as isize;
    let strides = match item("strides")?.extract::<Option<Vec<isize>>>()? {
        Some(bytes) => {
            // A field of packed records: its elements do not lie on whole steps.
            if bytes.iter().zip(&shape).any(|(stride, size_of)| *size_of > 1 && stride % size != 0) {
                let text = format!(
                    "{name} has strides of {bytes:?} bytes, expected multiples of its {size}-byte elements"
                );
                return Err(PyTypeError::new_err(text));
            }
            bytes.into_iter().map(|stride| stride / size).collect()
        }
        None => contiguous_strides(&shape),
    };
    Ok(Tensor {
        name,
        owner: object.clone().unbind(),
        is_array: true,
        read_only,
        swapped: code.starts_with(other),
        data: data as *mut u8,
        shape,
        strides,
        kind,
        device_type: 1,
        device_id: -1,
    })
}

fn no_operation_takes(name: &str, dtype: &str) -> PyErr {
    PyTypeError::new_err(format!("{name} has dtype {dtype}, which no operation takes"))
}
