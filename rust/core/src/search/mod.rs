//! Search over texts: which leaves are expanded next, into how many children. Knows neither models nor texts.
//!
//! A [`Policy`] is asked for expansions and told what became of them, in any order. Nodes are numbered as they are
//! handed out, so that everything that follows depends on what was told and not on when.
//!
//! ```
//! use hornbeam_core::search::share::Rebase;
//! use hornbeam_core::search::{Outcome, Policy, Rounds};
//!
//! // Four children a round, shared out by value; no path is longer than two steps.
//! let mut policy = Rounds::new(Box::new(Rebase::new(0.2)), 4, 2);
//! let first = policy.ask(u64::MAX);
//! assert_eq!((first.len(), first[0].children), (1, 4));
//!
//! // A program writes the four steps, values them, and tells.
//! let told = [0.9, 0.1, 0.1, 0.9].map(|value| Outcome::new(value, false));
//! policy.tell(first[0].trial, &told)?;
//!
//! // The better two are gone on with.
//! let second: Vec<_> = policy.ask(u64::MAX).iter().map(|e| (e.leaf, e.children)).collect();
//! assert_eq!(second, [(1, 2), (4, 2)]);
//! # Ok::<(), hornbeam_core::Error>(())
//! ```

mod best_first;
pub mod feature;
mod node;
mod rounds;
pub mod share;

use std::fmt::Debug;

pub use best_first::{BestFirst, CostSoFar};
pub use node::{Node, Nodes, ROOT, State};
pub use rounds::Rounds;

use crate::error::Result;
use feature::Feature;

/// Some children of a leaf that are to be written and valued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expansion {
    /// Names the expansion in [`Policy::tell`].
    pub trial: u64,
    /// The node to go on from.
    pub leaf: u32,
    /// The number of the first child; the others follow.
    pub first_child: u32,
    /// How many children.
    pub children: u32,
}

/// What became of one child.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What the path to it is worth: higher is better.
    pub value: f64,
    /// Whether there is nothing to go on from: an answer, or the end of what may be written.
    pub is_finished: bool,
    /// What it costs to hold the step, in units of the caller's; 1 counts nodes.
    pub cost: u64,
    /// What the step says.
    pub feature: Feature,
}

impl Outcome {
    /// With a cost of 1 and no feature.
    pub fn new(value: f64, is_finished: bool) -> Self {
        Self { value, is_finished, cost: 1, feature: Feature::Unknown }
    }
}

/// Decides where to search.
pub trait Policy: Debug + Send {
    /// What to do next, with at most `most` children in all. Nothing while something is left to be told that decides
    /// what comes next; and nothing any more once the search is over.
    fn ask(&mut self, most: u64) -> Vec<Expansion>;

    /// What became of the children of an expansion, in their order. To tell the same again does nothing.
    ///
    /// # Errors
    /// [`Error::Value`](crate::Error::Value) for a trial that was not asked, another number of outcomes, a value that
    /// is not finite or outside of the policy's range, or other outcomes than were told before. Nothing has changed
    /// then.
    fn tell(&mut self, trial: u64, outcomes: &[Outcome]) -> Result<()>;

    /// Whether nothing is left to ask and to be told.
    fn is_over(&self) -> bool;

    /// All nodes so far.
    fn nodes(&self) -> &Nodes;

    /// Marks the nodes whose texts may still be gone on with: `[nodes]`.
    fn live(&self) -> Vec<bool>;
}
