//! The nodes of a search.

use super::feature::Feature;
use super::{Expansion, Outcome};
use crate::error::{Error, Result};

/// The node that stands for the prompt.
pub const ROOT: u32 = 0;

/// What is known of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Handed out, and not told.
    Asked,
    /// It can be gone on from.
    Open,
    /// There is nothing to go on from.
    Finished,
}

/// A step of a path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Node {
    /// The node before it; the root is its own.
    pub parent: u32,
    /// Steps from the root.
    pub depth: u32,
    /// The child of the root that its path goes through, counted from 0.
    pub branch: u32,
    /// What the path is worth; 1 at the root.
    pub value: f64,
    /// What it costs to hold its step; 1 at the root.
    pub cost: u64,
    /// What is known of it.
    pub state: State,
    /// The trial that it came of.
    pub trial: u64,
}

/// All nodes of a search, and the trials that they came of.
#[derive(Debug, Clone)]
pub struct Nodes {
    all: Vec<Node>,
    features: Vec<Feature>,
    trials: Vec<Expansion>,
    num_told: usize,
}

impl Default for Nodes {
    fn default() -> Self {
        let root = Node {
            parent: ROOT,
            depth: 0,
            branch: 0,
            value: 1.0,
            cost: 1,
            state: State::Open,
            trial: u64::MAX,
        };
        Self { all: vec![root], features: vec![Feature::Unknown], trials: Vec::new(), num_told: 0 }
    }
}

impl Nodes {
    /// The nodes, by number.
    pub fn all(&self) -> &[Node] {
        &self.all
    }

    /// What the step of each node says, by number.
    pub fn features(&self) -> &[Feature] {
        &self.features
    }

    /// How many trials are left to be told.
    pub fn num_outstanding(&self) -> usize {
        self.trials.len() - self.num_told
    }

    /// Hands out children of a leaf.
    pub(super) fn expand(&mut self, leaf: u32, children: u32) -> Expansion {
        let (trial, first_child) = (self.trials.len() as u64, self.all.len() as u32);
        let parent = self.all[leaf as usize];
        let siblings = match leaf == ROOT {
            true => self.all.iter().filter(|node| node.depth == 1).count() as u32,
            false => 0,
        };
        for index in 0..children {
            let branch = if leaf == ROOT { siblings + index } else { parent.branch };
            let depth = parent.depth + 1;
            self.all.push(Node {
                parent: leaf,
                depth,
                branch,
                value: 0.0,
                cost: 1,
                state: State::Asked,
                trial,
            });
            self.features.push(Feature::Unknown);
        }
        let expansion = Expansion { trial, leaf, first_child, children };
        self.trials.push(expansion);
        expansion
    }

    /// Takes up what became of a trial; says whether it was new.
    ///
    /// # Errors
    /// As [`Policy::tell`](super::Policy::tell).
    pub(super) fn take(&mut self, trial: u64, outcomes: &[Outcome], low: f64, high: f64) -> Result<bool> {
        let known = usize::try_from(trial).ok().and_then(|trial| self.trials.get(trial)).copied();
        let Some(expansion) = known else {
            return Err(Error::value(
                "trial",
                trial,
                format!("one of the {} that were asked", self.trials.len()),
            ));
        };
        if outcomes.len() != expansion.children as usize {
            return Err(Error::value(
                "outcomes",
                outcomes.len(),
                format!("one a child, {}", expansion.children),
            ));
        }
        if let Some(outcome) = outcomes.iter().find(|outcome| !(low..=high).contains(&outcome.value)) {
            let range = match (low == f64::MIN, high == f64::MAX) {
                (true, true) => "a finite number".to_owned(),
                _ => format!("a number from {low} to {high}"),
            };
            return Err(Error::value("a value", outcome.value, range));
        }
        let first = expansion.first_child as usize;
        let children = &mut self.all[first..first + outcomes.len()];
        let is_new = children.first().is_none_or(|child| child.state == State::Asked);
        let features = &mut self.features[first..first + outcomes.len()];
        for ((child, feature), outcome) in children.iter_mut().zip(features).zip(outcomes) {
            let state = if outcome.is_finished { State::Finished } else { State::Open };
            if is_new {
                (child.value, child.state, child.cost) = (outcome.value, state, outcome.cost);
                feature.clone_from(&outcome.feature);
            } else if (child.value, child.state) != (outcome.value, state) {
                let expected = format!("{} as it was told before", child.value);
                return Err(Error::value("a value", outcome.value, expected));
            } else if child.cost != outcome.cost || *feature != outcome.feature {
                return Err(Error::value(
                    "a cost",
                    outcome.cost,
                    "what was told before, and its feature too",
                ));
            }
        }
        self.num_told += usize::from(is_new);
        Ok(is_new)
    }
}
