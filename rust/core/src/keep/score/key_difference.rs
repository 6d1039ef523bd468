//! KeyDiff (Park et al. 2025, arXiv 2504.15364).

use super::{Score, norm};
use crate::error::Result;
use crate::keep::method::Method;
use crate::keep::{Layer, Mass};

pub(super) const METHOD: Method<dyn Score> =
    Method { name: "key_difference", build: |_| Ok(Box::new(KeyDifference)) };

/// Minus the cosine between a key and the mean of the normalised keys of its plane: keys unlike
/// the others are kept. Needs no query. A key of norm 0 counts as direction 0.
#[derive(Debug, Clone, Copy)]
pub struct KeyDifference;

impl Score for KeyDifference {
    fn score(&self, layer: &Layer<'_>, _mass: &[Mass], out: &mut [f32]) -> Result<()> {
        let d = layer.head_dim;
        for (plane, out) in layer.planes.iter().zip(out.chunks_exact_mut(layer.num_tokens)) {
            let mut anchor = vec![0.0f64; d];
            for key in plane.keys.chunks_exact(d) {
                let norm = norm(key).max(f64::MIN_POSITIVE);
                anchor.iter_mut().zip(key).for_each(|(a, &k)| *a += f64::from(k) / norm);
            }
            let length = anchor.iter().map(|a| a * a).sum::<f64>().sqrt();
            for (out, key) in out.iter_mut().zip(plane.keys.chunks_exact(d)) {
                let dot: f64 = anchor.iter().zip(key).map(|(a, &k)| a * f64::from(k)).sum();
                *out = (-dot / (norm(key) * length).max(f64::MIN_POSITIVE)) as f32;
            }
        }
        Ok(())
    }
}
