//! Exact. [`recursive`] over siblings that were drawn without replacement (Jeon et al. 2024, "Recursive
//! speculative decoding"; Chen et al. 2024, "Sequoia").

use super::recursive::{self, Siblings};
use super::rule::Method;

pub(super) const METHOD: Method = Method {
    name: "without_replacement",
    compares: true,
    only_chains: false,
    walk: |walk, accepted, _| recursive::walk(walk, accepted, Siblings::Distinct),
};
