//! WindowKV's groups of layers (Zuo et al. 2025, arXiv 2503.17922).

use super::pyramid::{by_layer, linear};
use super::{Scores, Split};
use crate::error::Result;
use crate::keep::Params;
use crate::keep::method::Method;

pub(super) const METHOD: Method<dyn Split> =
    Method { name: "layer_groups", build: |params| Ok(Box::new(LayerGroups::from_params(params)?)) };

/// Consecutive layers in groups of `size` keep what the scores of the group's first layer say.
/// Budgets fall linearly over the groups: the last group's layers get `size/beta` of the mean, the
/// first group's the rest of twice the mean; where `size` is not below `beta`, all get the same.
///
/// The protected suffix counts against the budget here; in the released code it comes on top.
#[derive(Debug, Clone, Copy)]
pub struct LayerGroups {
    /// Layers of a group.
    pub size: usize,
    /// Steepness, as for [`super::Pyramid`].
    pub beta: usize,
}

impl LayerGroups {
    pub(super) fn from_params(params: &mut Params) -> Result<Self> {
        Ok(Self { size: params.count("size", 8, 1)?, beta: params.count("beta", 14, 1)? })
    }
}

impl Split for LayerGroups {
    fn budgets(&self, scores: &Scores<'_>, total: u64, out: &mut [u32]) -> Result<()> {
        let groups = scores.num_layers.div_ceil(self.size);
        let last = self.size.min(self.beta) as u64;
        let group_weights = linear(groups, 2 * self.beta as u64 - last, last);
        let weights: Vec<u64> =
            (0..scores.num_layers).map(|layer| group_weights[layer / self.size]).collect();
        by_layer(scores, total, &weights, &scores.floors(), out);
        Ok(())
    }

    fn leader(&self, layer: usize) -> usize {
        layer - layer % self.size
    }
}
