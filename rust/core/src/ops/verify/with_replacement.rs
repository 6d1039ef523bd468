//! Exact. [`recursive`] over siblings that were drawn independently (SpecInfer, Miao et al. 2024).

use super::recursive::{self, Siblings};
use super::rule::Method;

pub(super) const METHOD: Method = Method {
    name: "with_replacement",
    compares: true,
    only_chains: false,
    walk: |walk, accepted, _| recursive::walk(walk, accepted, Siblings::Independent),
};
