//! Outputs that share memory with other arguments.

use std::ops::Range;

use hornbeam_core::Error;
use pyo3::prelude::*;
use smallvec::SmallVec;

use super::Tensor;
use crate::error::to_py;

/// The addresses from the first byte of a tensor to its last; empty where it has no elements.
#[inline]
fn bytes_of(tensor: &Tensor) -> Range<usize> {
    let start = tensor.data as usize;
    if tensor.len() == 0 {
        return start..start;
    }
    let (mut low, mut high) = (0isize, 0isize);
    for (&size, &stride) in tensor.shape.iter().zip(&tensor.strides) {
        let reach = (size as isize - 1) * stride;
        if reach < 0 { low += reach } else { high += reach }
    }
    let size = tensor.kind.size();
    start.wrapping_add_signed(low * size as isize)..start + high as usize * size + size
}

fn share(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Errors if an output lies in the memory of another output or of an input, counted from each one's first
/// byte to its last: results would depend on what was written first.
pub(crate) fn expect_apart<'a>(
    py: Python<'_>,
    outputs: &[&Tensor],
    inputs: impl IntoIterator<Item = &'a Tensor>,
) -> PyResult<()> {
    let ranges: SmallVec<[Range<usize>; 8]> = outputs.iter().map(|tensor| bytes_of(tensor)).collect();
    let both = |output: &Tensor, other: &Tensor| {
        let (got, want) = (format!("memory that {} shares", other.name), "memory of its own");
        Err(to_py(py, Error::value(output.name, got, want)))
    };
    for (i, range) in ranges.iter().enumerate() {
        if let Some(other) = ranges[..i].iter().position(|other| share(range, other)) {
            return both(outputs[i], outputs[other]);
        }
    }
    for input in inputs {
        let range = bytes_of(input);
        if let Some(output) = ranges.iter().position(|output| share(output, &range)) {
            return both(outputs[output], input);
        }
    }
    Ok(())
}

/// Errors if two of the chunks that are written to share memory.
pub(crate) fn expect_disjoint<'a>(py: Python<'_>, tensors: impl Iterator<Item = &'a Tensor>) -> PyResult<()> {
    let mut ranges: SmallVec<[(Range<usize>, &Tensor); 8]> = tensors.map(|t| (bytes_of(t), t)).collect();
    ranges.sort_unstable_by_key(|(range, _)| range.start);
    match ranges.windows(2).find(|pair| share(&pair[0].0, &pair[1].0)) {
        Some(pair) => {
            let got = "memory that another chunk shares";
            Err(to_py(py, Error::value(pair[1].1.name, got, "chunks of their own memory")))
        }
        None => Ok(()),
    }
}
