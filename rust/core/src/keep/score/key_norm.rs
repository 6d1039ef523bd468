//! Knorm (Devoto et al. 2024, arXiv 2406.11430).

use super::{Score, norm};
use crate::error::Result;
use crate::keep::{Layer, Mass};

/// Minus the norm of the key: short keys tend to draw attention. Needs no query.
#[derive(Debug, Clone, Copy)]
pub struct KeyNorm;

impl Score for KeyNorm {
    fn score(&self, layer: &Layer<'_>, _mass: &[Mass], out: &mut [f32]) -> Result<()> {
        for (plane, out) in layer.planes.iter().zip(out.chunks_exact_mut(layer.num_tokens)) {
            for (out, key) in out.iter_mut().zip(plane.keys.chunks_exact(layer.head_dim)) {
                *out = -norm(key) as f32;
            }
        }
        Ok(())
    }
}
