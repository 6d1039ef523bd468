//! Loads the embedded CUDA kernels with the driver API and launches them on the caller's stream.
