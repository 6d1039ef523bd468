//! Memory that Python will read soon, in many small pieces.

use hornbeam_core::simd::ahead::prefetch_lines;
use pyo3::prelude::*;

/// Asks for the cache lines at these addresses, unsigned integers of eight bytes each in the order of this
/// machine. They are hints: nothing is read there, and nothing need lie there.
#[pyfunction]
fn prefetch(addresses: &[u8]) {
    let (words, _) = addresses.as_chunks();
    prefetch_lines(words.iter().map(|word| u64::from_ne_bytes(*word) as usize));
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(prefetch, m)?)
}
