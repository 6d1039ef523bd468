//! Loads the embedded CUDA kernels with the driver API and launches them on the caller's stream.
//!
//! The crate links nothing of CUDA: `libcuda` is opened when a device is first asked for, and its
//! few entry points are declared here by hand ([`driver`]). That was preferred to a binding crate
//! because every failure must become an error with a reason (bindings panic on a missing library or
//! symbol), and because the library is then a path: the tests open mock drivers and the host
//! emulation through the same code ([`Lane::open`]).
//!
//! A launch allocates nothing, waits for nothing, and may be captured in a graph; memory, streams
//! and their order are the caller's.

pub mod attention;
pub mod codes;
pub mod decide;
mod driver;
mod error;
mod image;
mod kernels;
mod lane;
pub mod mass;
pub mod merge;
pub mod packed;
pub mod params;
pub mod rows;
pub mod score;
pub mod select;

pub use driver::LIBRARY_VARIABLE;
pub use error::{Error, Result};
pub use image::{ARCHITECTURES, IMAGES, Image, build_info, resources};
pub use lane::{Device, Lane};
