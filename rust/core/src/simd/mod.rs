//! Run-time choice of instruction sets, and the vector primitives that operations share.
//!
//! A kernel is written once, as a [`Kernel`] over [`Lanes`], and [`Isa::run`] compiles it for
//! every instruction set of the target. A vector has sixteen lanes on all of them (one register of
//! AVX-512, two of AVX2, four of NEON), and a sum over lanes has one order. So a kernel gives the
//! same bits on every instruction set, and a test of one is a test of all.
//!
//! ```
//! use hornbeam_core::simd::{Isa, row};
//!
//! let numbers = [0.5f32, 2.0, -1.0, 2.0];
//! for isa in Isa::available() {
//!     assert_eq!(row::argmax(isa, &numbers), Some((1, 2.0)));
//! }
//! ```

pub mod ahead;
pub(crate) mod blocks;
pub(crate) mod codes;
pub(crate) mod dot;
pub mod lanes;
pub mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod product;
pub mod row;
#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(target_arch = "x86_64")]
mod x86_eight;
#[cfg(target_arch = "x86_64")]
mod x86_product;

use std::sync::OnceLock;

pub use lanes::{Lanes, MOST_HEAD_DIM, WIDTH};

use crate::error::{Error, Result};
use crate::format::Element;

/// An instruction set that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Whatever the compiler's target has; fused multiply-adds may be calls. Always there.
    Portable,
    /// AVX2 with FMA, F16C and POPCNT.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// NEON of 64-bit Arm.
    Neon,
}

impl Isa {
    /// All of them, best last.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Neon, Self::Avx2, Self::Avx512];

    /// The name that `HORNBEAM_ISA` and the bindings use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        }
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
                    && is_x86_feature_detected!("popcnt")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// The instruction sets of this machine, best last.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// The instruction set of a name.
    ///
    /// # Errors
    /// [`Error::Value`] if the name is unknown or the machine lacks the instructions.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::available()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| Error::value("instruction set", name, Self::expected()))
    }

    fn expected() -> String {
        let names: Vec<&str> = Self::available().map(Self::name).collect();
        format!("one of {}", names.join(", "))
    }

    /// The best instruction set of this machine, or the one that `setting` names.
    ///
    /// # Errors
    /// As [`Self::from_name`]; the message calls the value `HORNBEAM_ISA`.
    pub fn chosen(setting: Option<&str>) -> Result<Self> {
        match setting {
            Some(name) => Self::from_name(name)
                .map_err(|_| Error::value("HORNBEAM_ISA", format!("{name:?}"), Self::expected())),
            None => Ok(Self::available().last().unwrap_or(Self::Portable)),
        }
    }

    /// What [`Self::chosen`] gives for the environment variable `HORNBEAM_ISA` as it is now.
    ///
    /// # Errors
    /// As there. Callers ask once, before [`Self::detected`].
    pub fn from_environment() -> Result<Self> {
        let setting = std::env::var_os("HORNBEAM_ISA");
        Self::chosen(setting.as_deref().map(std::ffi::OsStr::to_string_lossy).as_deref())
    }

    /// What [`Self::from_environment`] gave at the first call.
    ///
    /// # Panics
    /// If it failed.
    pub fn detected() -> Self {
        static DETECTED: OnceLock<Isa> = OnceLock::new();
        *DETECTED.get_or_init(|| Self::from_environment().unwrap_or_else(|error| panic!("{error}")))
    }

    /// Runs a kernel compiled for this instruction set.
    ///
    /// # Panics
    /// If the machine lacks it.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        assert!(self.is_available(), "this machine has no {}", self.name());
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `is_available` saw the features.
            Self::Avx2 => unsafe { x86::run_avx2(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Avx512 => unsafe { x86::run_avx512(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Self::Neon => unsafe { neon::run(kernel) },
            _ => kernel.run(lanes::Portable),
        }
    }
}

/// The bytes of some elements, as they lie in memory.
#[inline(always)]
pub fn bytes_of<E: Element>(elements: &[E]) -> &[u8] {
    let size = E::DTYPE.size();
    assert_eq!(size, size_of::<E>(), "an element type is its tag's");
    // SAFETY: an element is a float of the size that its tag says: no padding, and any byte may be read.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), elements.len() * size) }
}

/// Some bytes as elements, to be written; `None` where they do not begin and end on one.
#[inline(always)]
pub fn elements_of_mut<E: Element>(bytes: &mut [u8]) -> Option<&mut [E]> {
    // SAFETY: an element is a float: every bit pattern is one, and every one is bytes.
    let (before, elements, behind) = unsafe { bytes.align_to_mut::<E>() };
    (before.is_empty() && behind.is_empty()).then_some(elements)
}

/// Code that is compiled once for each instruction set.
pub trait Kernel {
    /// What it computes.
    type Output;

    /// The code. Implementations must be `#[inline(always)]`, and so must the functions over
    /// [`Lanes`] that they call: only inlined code is compiled with the instruction set's features.
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for isa in Isa::available() {
            assert_eq!(Isa::from_name(isa.name()), Ok(isa));
        }
        let message = Isa::from_name("mmx").unwrap_err().to_string();
        assert!(message.starts_with("instruction set is mmx, expected one of portable"), "{message}");
    }

    #[test]
    fn a_wrong_setting_is_told_by_its_name() {
        assert_eq!(Isa::chosen(Some("portable")), Ok(Isa::Portable));
        assert_eq!(Isa::chosen(None).ok(), Isa::available().last());
        for wrong in ["mmx", "", "AVX2"] {
            let message = Isa::chosen(Some(wrong)).unwrap_err().to_string();
            let begin = format!("HORNBEAM_ISA is {wrong:?}, expected one of portable");
            assert!(message.starts_with(&begin), "{message}");
        }
    }
}
