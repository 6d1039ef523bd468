//! What kernels are given: the structs, numbers and sizes that both sides know, each declared here, once.
//!
//! A file of this folder becomes the header of the same name in `cuda/include/params` (cbindgen writes it,
//! `make cuda-headers`), so a field, its place and its type cannot differ between the two; `make lint` fails
//! where a header is not what these files say. A kernel takes one struct by value.

mod attention;
mod codes;
mod decide;
mod mass;
mod merge;
mod pages;
mod plan;
mod ratio;
mod rows;
mod score;
mod select;

pub use attention::*;
pub use codes::*;
pub use decide::*;
pub use mass::*;
pub use merge::*;
pub use pages::*;
pub use plan::*;
pub use ratio::*;
pub use rows::*;
pub use score::*;
pub use select::*;

/// The address of elements on the device that a kernel reads, or 0: `const T*` there, a number here.
pub type Address<T> = <T as OnDevice>::Address;
/// The address of elements on the device that a kernel writes, or 0: `T*` there, a number here.
pub type AddressMut<T> = <T as OnDevice>::Address;

/// Whatever may lie on a device.
pub trait OnDevice {
    /// Where it lies.
    type Address;
}

impl<T: ?Sized> OnDevice for T {
    type Address = u64;
}

/// A struct that may be looked at as the words of a buffer.
///
/// # Safety
/// It is `repr(C)`, without padding, of numbers alone, and of an alignment of at least four bytes.
pub unsafe trait Plain: Copy {}

// SAFETY: 32-bit numbers alone.
unsafe impl Plain for PlanHeader {}
// SAFETY: as above.
unsafe impl Plain for Item {}
// SAFETY: as above.
unsafe impl Plain for Segment {}
// SAFETY: as above.
unsafe impl Plain for CodedPage {}
// SAFETY: as above.
unsafe impl Plain for Penalties {}
// SAFETY: as above.
unsafe impl Plain for Bias {}
// SAFETY: four numbers of 32 bits, then two of 64.
unsafe impl Plain for Law {}
// SAFETY: 32-bit numbers, and two of 16 bits side by side.
unsafe impl Plain for hornbeam_core::format::plan::Entry {}
// SAFETY: 32-bit numbers alone.
unsafe impl Plain for hornbeam_core::format::plan::Read {}
// SAFETY: as above.
unsafe impl Plain for hornbeam_core::format::plan::RowSlot {}

/// The words of some structs, one after the other.
pub(crate) fn words<T: Plain>(structs: &[T]) -> &[i32] {
    // SAFETY: every bit pattern is an i32, and `Plain` promises the rest.
    unsafe { std::slice::from_raw_parts(structs.as_ptr().cast(), size_of_val(structs) / 4) }
}

/// The bytes of some structs, one after the other.
pub fn bytes<T: Plain>(structs: &[T]) -> &[u8] {
    // SAFETY: every bit pattern is a u8, and `Plain` promises that all are written.
    unsafe { std::slice::from_raw_parts(structs.as_ptr().cast(), size_of_val(structs)) }
}

include!(concat!(env!("OUT_DIR"), "/sizes.rs"));
