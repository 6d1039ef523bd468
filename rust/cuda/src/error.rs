//! Why no kernel ran.

use thiserror::Error;

/// What any call of the crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// No usable driver, device or kernel, or a launch that failed. Cached where it cannot heal.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The extension was built without kernels.
    #[error("built without CUDA kernels: {reason}")]
    NoKernels {
        /// What the build recorded.
        reason: &'static str,
    },
    /// The driver's library cannot be opened.
    #[error("no CUDA driver: {path} cannot be opened ({reason})")]
    NoDriver {
        /// The library that was tried.
        path: String,
        /// What the loader said.
        reason: String,
    },
    /// The driver's library lacks an entry point.
    #[error("the CUDA driver lacks {symbol}, the kernels need a driver for CUDA 13.0 or newer")]
    NoSymbol {
        /// The missing entry point.
        symbol: &'static str,
    },
    /// The driver is older than the kernels.
    #[error(
        "the CUDA driver supports CUDA {major}.{minor}, the kernels need a driver for CUDA 13.0 or newer"
    )]
    OldDriver {
        /// Major version that the driver supports.
        major: i32,
        /// Minor version.
        minor: i32,
    },
    /// The driver works but sees no device.
    #[error("no CUDA device: the driver sees none")]
    NoDevice,
    /// There is no device with this index.
    #[error("CUDA device {index} does not exist, the driver sees {count}")]
    NoSuchDevice {
        /// The index asked for.
        index: i32,
        /// Devices there are.
        count: i32,
    },
    /// The device is older than anything that the kernels were built for.
    #[error("{device} has compute capability {major}.{minor}, the kernels were built for 8.0 and newer")]
    OldArchitecture {
        /// Its name.
        device: String,
        /// Compute capability.
        major: i32,
        /// Compute capability.
        minor: i32,
    },
    /// A call of the driver failed.
    #[error("{call} failed: {name} ({code}): {text}")]
    Driver {
        /// The entry point, and the kernel for a launch.
        call: String,
        /// The driver's number.
        code: i32,
        /// The driver's name of it.
        name: String,
        /// The driver's explanation.
        text: String,
    },
    /// The arguments do not fit the kernels.
    #[error("{what} is {got}, expected {expected}")]
    Unsupported {
        /// The argument.
        what: &'static str,
        /// The offending value.
        got: String,
        /// What the kernels take.
        expected: String,
    },
}
