//! H2O (Zhang et al. 2023, arXiv 2306.14048), and PrefixKV's importance.

use super::{Score, mean};
use crate::error::Result;
use crate::keep::method::Method;
use crate::keep::{Layer, Mass, Params, Protect, QueryRows};

pub(super) const METHOD: Method<dyn Score> =
    Method { name: "accumulated_mass", build: |params| Ok(Box::new(AccumulatedMass::from_params(params)?)) };

/// Probability mass of a key summed over all rows, mean over the query heads of the group.
///
/// H2O keeps half of a budget for the newest tokens (`recent_percent` 50). With `across_heads` the
/// mean runs over all heads of the layer, so that they share a ranking, as PrefixKV has it.
#[derive(Debug, Clone, Copy)]
pub struct AccumulatedMass {
    /// One ranking a layer.
    pub across_heads: bool,
    /// What is kept whatever its score.
    pub protect: Protect,
}

impl AccumulatedMass {
    pub(super) fn from_params(params: &mut Params) -> Result<Self> {
        Ok(Self {
            across_heads: params.count("across_heads", 0, 0)? > 0,
            protect: Protect {
                sinks: params.count("sinks", 0, 0)? as u32,
                recent: params.count("recent", 0, 0)? as u32,
                recent_percent: params.number("recent_percent", 50.0, 0.0, 100.0)? as u32,
            },
        })
    }
}

impl Score for AccumulatedMass {
    fn rows(&self) -> Vec<QueryRows> {
        vec![QueryRows::All]
    }

    fn by_layer(&self) -> bool {
        self.across_heads
    }

    fn protect(&self) -> Protect {
        self.protect
    }

    fn score(&self, layer: &Layer<'_>, mass: &[Mass], out: &mut [f32]) -> Result<()> {
        if self.across_heads {
            return mean_of_heads(layer, &mass[0], out);
        }
        for (out, sum) in out.iter_mut().zip(&mass[0].sums) {
            *out = mean(*sum, layer.group);
        }
        Ok(())
    }
}

/// Mass a query head, mean over all heads of the layer; every head gets the same scores.
pub(super) fn mean_of_heads(layer: &Layer<'_>, mass: &Mass, out: &mut [f32]) -> Result<()> {
    let (n, heads) = (layer.num_tokens, layer.planes.len());
    let (first, others) = out.split_at_mut(n);
    for (key, out) in first.iter_mut().enumerate() {
        *out = mean((0..heads).map(|head| mass.sums[head * n + key]).sum(), heads * layer.group);
    }
    others.chunks_exact_mut(n).for_each(|head| head.copy_from_slice(first));
    Ok(())
}
