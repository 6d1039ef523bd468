//! Policies that go on level by level: every open leaf of a round gets its share of children, the others are let go.

use super::share::{Round, Share};
use super::{Expansion, Nodes, Outcome, Policy, ROOT, State};
use crate::error::Result;

/// A search in rounds. What a round gives to which leaf is the [`Share`]'s to say.
#[derive(Debug)]
pub struct Rounds {
    nodes: Nodes,
    share: Box<dyn Share>,
    width: u64,
    max_depth: u32,
    /// Leaves that the round to come chooses from, ascending.
    frontier: Vec<u32>,
    /// Those that ended since the last round, ascending.
    ended: Vec<u32>,
    number: u32,
    is_over: bool,
}

impl Rounds {
    /// Begins at the root, with `width` children in the first round and at most so many in all later ones; no path
    /// gets longer than `max_depth` steps.
    pub fn new(share: Box<dyn Share>, width: u64, max_depth: u32) -> Self {
        let frontier = vec![ROOT];
        Self {
            nodes: Nodes::default(),
            share,
            width,
            max_depth,
            frontier,
            ended: Vec::new(),
            number: 0,
            is_over: false,
        }
    }
}

impl Policy for Rounds {
    fn ask(&mut self, most: u64) -> Vec<Expansion> {
        if self.is_over || self.nodes.num_outstanding() > 0 || most == 0 {
            return Vec::new();
        }
        let mut counts = vec![0; self.frontier.len()];
        if self.number == 0 {
            counts[0] = self.width.min(most);
        } else {
            let round = Round {
                nodes: self.nodes.all(),
                features: self.nodes.features(),
                leaves: &self.frontier,
                ended: &self.ended,
                width: self.width,
                most,
                number: self.number,
            };
            self.share.counts(&round, &mut counts);
        }
        self.number += 1;
        self.ended.clear();
        let chosen = self.frontier.iter().zip(counts).filter(|(_, count)| *count > 0);
        let asked: Vec<Expansion> =
            chosen.map(|(&leaf, count)| self.nodes.expand(leaf, count as u32)).collect();
        self.frontier.clear();
        self.is_over = asked.is_empty();
        asked
    }

    fn tell(&mut self, trial: u64, outcomes: &[Outcome]) -> Result<()> {
        let (low, high) = self.share.range();
        if self.nodes.take(trial, outcomes, low, high)? && self.nodes.num_outstanding() == 0 {
            // The round is whole: its nodes are those of depth `number`.
            for (number, node) in self.nodes.all().iter().enumerate() {
                if node.depth == self.number {
                    match node.state == State::Open && node.depth < self.max_depth {
                        true => self.frontier.push(number as u32),
                        false => self.ended.push(number as u32),
                    }
                }
            }
            self.is_over = self.frontier.is_empty();
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.is_over
    }

    fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    fn live(&self) -> Vec<bool> {
        let mut live = vec![false; self.nodes.all().len()];
        let depth = self.number;
        for (number, node) in self.nodes.all().iter().enumerate() {
            // A leaf is let go when its round was shared out, but for the children that are still to be told.
            live[number] = node.depth == depth && node.state != State::Finished && !self.is_over;
            if node.depth == depth && node.state == State::Asked {
                live[node.parent as usize] = true;
            }
        }
        live
    }
}
