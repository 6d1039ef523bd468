//! Knorm (Devoto et al. 2024, arXiv 2406.11430).

use super::{Score, norm};
use crate::error::Result;
use crate::keep::method::Method;
use crate::keep::{Layer, Mass};

pub(super) const METHOD: Method<dyn Score> = Method { name: "key_norm", build: |_| Ok(Box::new(KeyNorm)) };

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
