//! Nothing is merged.

use super::{Before, Merge, Reduce};
use crate::keep::method::Method;
use crate::simd::Isa;

pub(super) const METHOD: Method<dyn Reduce> = Method { name: "drop", build: |_| Ok(Box::new(Drop)) };

/// Evicted keys leave nothing.
#[derive(Debug, Clone, Copy)]
pub struct Drop;

impl Reduce for Drop {
    fn merge(&self, _isa: Isa, before: &Before<'_>) -> Merge {
        Merge::none(before.kept.len(), before.scores.len() - before.kept.len())
    }
}
