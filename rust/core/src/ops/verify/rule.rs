//! What a verification rule declares, once, in its own file; and a rule with its parameters.

use std::fmt;

use super::walk::{Accepted, Walk};
use crate::error::Result;

/// How a rule is called, what it needs, and its walk.
pub(super) struct Method {
    /// The name that Python says.
    pub name: &'static str,
    /// It compares the draft's law with the target's. Without a law of the draft, whose tokens were chosen
    /// then, a draw from the target that says the same accepts them: it is the coupled rule.
    pub compares: bool,
    /// It verifies chains, and no tree that branches.
    pub only_chains: bool,
    /// Accepts rows of one sequence from its root down, and returns the token after them. An argmax has one
    /// outcome, so a greedy sequence is walked by the coupled rule instead.
    pub walk: fn(&mut Walk<'_>, &mut Accepted<'_>, &Parameters) -> Result<u32>,
}

/// The numbers that rules take; each reads its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameters {
    /// Of `typical`: the probability above which a token is always accepted.
    pub epsilon: f64,
    /// Of `typical`: factor of `exp(-entropy)`, the other bound.
    pub alpha: f64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { epsilon: 0.3, alpha: 0.09 }
    }
}

/// How a draft is verified: one of the rules of this folder, by its name.
#[derive(Clone, Copy)]
pub struct Rule {
    pub(super) method: &'static Method,
    pub(super) parameters: Parameters,
}

impl Rule {
    /// The name that Python says.
    pub fn name(&self) -> &'static str {
        self.method.name
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule").field("name", &self.name()).field("parameters", &self.parameters).finish()
    }
}
