//! Integers of a one-dimensional array of any integer type, byte order, stride and alignment.

use pyo3::prelude::*;

use super::{Kind, Tensor};

impl Tensor {
    /// The elements as `i64`; `None` where one lies beyond. Refuses floats, and truth values: a mask is no
    /// list of indices.
    pub(crate) fn integers(&self, py: Python<'_>) -> PyResult<Option<Vec<i64>>> {
        self.expect_shape(py, &[None])?;
        if self.device_type != 1 {
            return Err(self.refuse_device(py));
        }
        if matches!(self.kind, Kind::Float(_) | Kind::Bool) {
            return Err(self.refuse(py, &self.kind.to_string(), "integers"));
        }
        if self.is_plain() && self.is_contiguous() {
            // SAFETY: the elements are read at once, with the GIL held.
            unsafe {
                match self.kind {
                    Kind::I64 => return self.i64s(py).map(|all| Some(all.to_vec())),
                    Kind::I32 => {
                        return self.i32s(py).map(|all| Some(all.iter().map(|&x| x.into()).collect()));
                    }
                    _ => {}
                }
            }
        }
        let step = self.strides[0] * self.kind.size() as isize;
        let at = |index: usize| self.data.wrapping_offset(index as isize * step);
        macro_rules! read {
            ($type:ty) => {
                (0..self.len())
                    .map(|index| {
                        // SAFETY: element `index` of the tensor, which `self` keeps; read bytewise.
                        let x = unsafe { at(index).cast::<$type>().read_unaligned() };
                        i64::try_from(if self.swapped { x.swap_bytes() } else { x }).ok()
                    })
                    .collect()
            };
        }
        Ok(match self.kind {
            Kind::I64 => read!(i64),
            Kind::I32 => read!(i32),
            Kind::I16 => read!(i16),
            Kind::I8 => read!(i8),
            Kind::U64 => read!(u64),
            Kind::U32 => read!(u32),
            Kind::U16 => read!(u16),
            Kind::U8 => read!(u8),
            Kind::Float(_) | Kind::Bool => None,
        })
    }
}
