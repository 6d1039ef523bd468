//! VATP (Guo et al. 2024, arXiv 2406.12335): a key matters as much as the value it moves.

use super::{Score, build, norm};
use crate::error::Result;
use crate::keep::method::Method;
use crate::keep::{Layer, Mass, Params, Protect, QueryRows};

pub(super) const METHOD: Method<dyn Score> =
    Method { name: "value_weighted", build: |params| Ok(Box::new(ValueWeighted::from_params(params)?)) };

/// Another score times the norm of the value: the sum of magnitudes as in the paper, or Euclidean.
///
/// Meant for scores that are not negative.
#[derive(Debug)]
pub struct ValueWeighted {
    /// The score that is weighted.
    pub score: Box<dyn Score>,
    /// Euclidean norm instead of the sum of magnitudes.
    pub euclidean: bool,
}

impl ValueWeighted {
    pub(super) fn from_params(params: &mut Params) -> Result<Self> {
        let (name, inner) = params.factor("score")?;
        let euclidean = params.word("norm", &["l1", "l2"])? == 1;
        Ok(Self { score: build(&name, inner)?, euclidean })
    }
}

impl Score for ValueWeighted {
    fn rows(&self) -> Vec<QueryRows> {
        self.score.rows()
    }

    fn reads_values(&self) -> bool {
        true
    }

    fn by_layer(&self) -> bool {
        self.score.by_layer()
    }

    fn protect(&self) -> Protect {
        self.score.protect()
    }

    fn unit(&self) -> usize {
        self.score.unit()
    }

    fn score(&self, layer: &Layer<'_>, mass: &[Mass], out: &mut [f32]) -> Result<()> {
        self.score.score(layer, mass, out)?;
        let d = layer.head_dim;
        for (plane, out) in layer.planes.iter().zip(out.chunks_exact_mut(layer.num_tokens)) {
            for (out, value) in out.iter_mut().zip(plane.values.chunks_exact(d)) {
                let weight = if self.euclidean {
                    norm(value)
                } else {
                    value.iter().map(|&v| f64::from(v.abs())).sum()
                };
                *out = (f64::from(*out) * weight) as f32;
            }
        }
        Ok(())
    }
}
