//! What this build is and what it found on this machine.

use hornbeam_core::simd::Isa;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::OrRaise;

/// The instruction-set extensions that some kernel is compiled for, as far as this processor has them.
fn cpu_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let known = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512dq", is_x86_feature_detected!("avx512dq")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    #[cfg(target_arch = "aarch64")]
    let known = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
        ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
    ];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let known: [(&str, bool); 0] = [];
    known.into_iter().filter(|&(_, present)| present).map(|(name, _)| name).collect()
}

/// Version, profile, compiler and target of the extension, and the instruction set that its kernels
/// run on here.
#[pyfunction]
fn build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let facts = PyDict::new(py);
    facts.set_item("version", env!("CARGO_PKG_VERSION"))?;
    facts.set_item("profile", env!("HORNBEAM_PROFILE"))?;
    facts.set_item("rustc", env!("HORNBEAM_RUSTC"))?;
    facts.set_item("target", env!("HORNBEAM_TARGET"))?;
    facts.set_item("instruction_set", Isa::detected().name())?;
    facts.set_item("cpu_features", cpu_features())?;
    facts.set_item("cuda", hornbeam_cuda::build_info())?;
    Ok(facts)
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    // A wrong HORNBEAM_ISA is told by the import, where kernels could only panic.
    Isa::from_environment().or_raise(m.py())?;
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_function(wrap_pyfunction!(build_info, m)?)
}
