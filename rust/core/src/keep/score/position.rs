//! StreamingLLM (Xiao et al. 2024, arXiv 2309.17453).

use super::Score;
use crate::error::Result;
use crate::keep::method::Method;
use crate::keep::{Layer, Mass, Params, Protect};

pub(super) const METHOD: Method<dyn Score> =
    Method { name: "position", build: |params| Ok(Box::new(Position::from_params(params)?)) };

/// The index itself: the first `sinks` tokens and the newest are kept. Needs no query.
///
/// Logical positions are kept; the paper renumbers positions inside the cache, which is
/// re-rotation.
#[derive(Debug, Clone, Copy)]
pub struct Position {
    /// Tokens kept from the start.
    pub sinks: u32,
}

impl Position {
    pub(super) fn from_params(params: &mut Params) -> Result<Self> {
        Ok(Self { sinks: params.count("sinks", 4, 0)? as u32 })
    }
}

impl Score for Position {
    fn protect(&self) -> Protect {
        Protect { sinks: self.sinks, recent: 1, recent_percent: 0 }
    }

    fn score(&self, layer: &Layer<'_>, _mass: &[Mass], out: &mut [f32]) -> Result<()> {
        for head in out.chunks_exact_mut(layer.num_tokens) {
            head.iter_mut().enumerate().for_each(|(i, out)| *out = i as f32);
        }
        Ok(())
    }
}
