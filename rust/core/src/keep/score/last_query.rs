//! TOVA (Oren et al. 2024, arXiv 2401.06104).

use super::Score;
use super::accumulated_mass::mean_of_heads;
use crate::error::Result;
use crate::keep::method::Method;
use crate::keep::{Layer, Mass, Protect, QueryRows};

pub(super) const METHOD: Method<dyn Score> =
    Method { name: "last_query", build: |_| Ok(Box::new(LastQuery)) };

/// Probability that the last row gives to a key, mean over all heads of the layer: they share one
/// ranking. The last token itself is kept.
#[derive(Debug, Clone, Copy)]
pub struct LastQuery;

impl Score for LastQuery {
    fn rows(&self) -> Vec<QueryRows> {
        vec![QueryRows::Last(1)]
    }

    fn by_layer(&self) -> bool {
        true
    }

    fn protect(&self) -> Protect {
        Protect { recent: 1, ..Protect::default() }
    }

    fn score(&self, layer: &Layer<'_>, mass: &[Mass], out: &mut [f32]) -> Result<()> {
        mean_of_heads(layer, &mass[0], out)
    }
}
