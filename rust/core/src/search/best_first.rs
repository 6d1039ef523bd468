//! A* over steps (A*-Decoding): the most promising leaf of all goes on next.

use super::{Expansion, Nodes, Outcome, Policy, ROOT, State};
use crate::error::Result;

/// What a path has cost so far, the `g` of A*. The paper's own is not at hand; these are ours to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CostSoFar {
    /// Nothing: best-first search.
    Nothing,
    /// The sum of `1 - value` along the path.
    Doubt,
    /// The sum of what the value fell along the path.
    Falls,
}

/// Expands the leaf of least `g + (1 - value)`, into so many children; ends when that leaf has ended itself. Equal
/// leaves: the first that was asked.
#[derive(Debug)]
pub struct BestFirst {
    nodes: Nodes,
    children: u64,
    max_depth: u32,
    cost: CostSoFar,
    /// Leaves to choose from.
    frontier: Vec<(f64, u32)>,
    num_finished: u64,
    answers: u64,
    is_over: bool,
}

impl BestFirst {
    /// Begins at the root; ends when `answers` of the leaves that it came to had ended.
    pub fn new(children: u64, max_depth: u32, cost: CostSoFar, answers: u64) -> Self {
        let frontier = vec![(0.0, ROOT)];
        Self {
            nodes: Nodes::default(),
            children,
            max_depth,
            cost,
            frontier,
            num_finished: 0,
            answers,
            is_over: false,
        }
    }

    fn estimate(&self, number: u32) -> f64 {
        let all = self.nodes.all();
        let mut at = number;
        let mut cost = 0.0;
        while at != ROOT {
            let node = all[at as usize];
            cost += match self.cost {
                CostSoFar::Nothing => 0.0,
                CostSoFar::Doubt => 1.0 - node.value,
                CostSoFar::Falls => (all[node.parent as usize].value - node.value).max(0.0),
            };
            at = node.parent;
        }
        cost + (1.0 - all[number as usize].value)
    }
}

impl Policy for BestFirst {
    fn ask(&mut self, most: u64) -> Vec<Expansion> {
        if self.is_over || self.nodes.num_outstanding() > 0 || most == 0 {
            return Vec::new();
        }
        loop {
            let first = |best: (usize, (f64, u32)), (place, leaf): (usize, (f64, u32))| {
                let order = leaf.0.total_cmp(&best.1.0).then(leaf.1.cmp(&best.1.1));
                if order.is_lt() { (place, leaf) } else { best }
            };
            let Some((place, (_, leaf))) = self.frontier.iter().copied().enumerate().reduce(first) else {
                self.is_over = true;
                return Vec::new();
            };
            self.frontier.swap_remove(place);
            let node = self.nodes.all()[leaf as usize];
            if node.state == State::Finished || node.depth >= self.max_depth {
                self.num_finished += u64::from(node.state == State::Finished);
                if self.num_finished >= self.answers {
                    self.is_over = true;
                    return Vec::new();
                }
                continue;
            }
            return vec![self.nodes.expand(leaf, self.children.min(most) as u32)];
        }
    }

    fn tell(&mut self, trial: u64, outcomes: &[Outcome]) -> Result<()> {
        if self.nodes.take(trial, outcomes, 0.0, 1.0)? {
            for number in 0..self.nodes.all().len() as u32 {
                if self.nodes.all()[number as usize].trial == trial {
                    self.frontier.push((self.estimate(number), number));
                }
            }
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
        if self.is_over {
            return live;
        }
        self.frontier.iter().for_each(|&(_, leaf)| live[leaf as usize] = true);
        for (number, node) in self.nodes.all().iter().enumerate() {
            if node.state == State::Asked {
                live[number] = true;
                live[node.parent as usize] = true;
            }
        }
        live
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cmp::Ordering;
    use std::collections::BinaryHeap;

    #[derive(PartialEq)]
    struct Entry(f64, u32);
    impl Eq for Entry {}
    impl PartialOrd for Entry {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }
    impl Ord for Entry {
        fn cmp(&self, other: &Self) -> Ordering {
            other.0.total_cmp(&self.0).then(other.1.cmp(&self.1))
        }
    }

    proptest! {
        /// Leaves are taken in the order in which a heap gives them.
        #[test]
        fn leaves_come_in_order(
            values in prop::collection::vec(0.0f64..=1.0, 200), ends in prop::collection::vec(0u8..6, 200),
            children in 1u64..5, cost in 0usize..3,
        ) {
            let cost = [CostSoFar::Nothing, CostSoFar::Doubt, CostSoFar::Falls][cost];
            let mut search = BestFirst::new(children, 6, cost, 1);
            let mut heap = BinaryHeap::new();
            let mut sums = vec![0.0];
            let mut known = vec![1.0];
            for round in 0..30 {
                let asked = search.ask(u64::MAX);
                if round > 0 {
                    let mut next = heap.pop();
                    while let Some(Entry(_, leaf)) = next
                        && ends[leaf as usize % 200] > 0 && search.nodes().all()[leaf as usize].depth >= 6 {
                        next = heap.pop();
                    }
                    match (next, asked.first()) {
                        (Some(Entry(_, leaf)), Some(expansion)) => prop_assert_eq!(leaf, expansion.leaf),
                        (Some(Entry(_, leaf)), None) => prop_assert_eq!(ends[leaf as usize % 200], 0),
                        (None, expansion) => prop_assert!(expansion.is_none()),
                    }
                }
                let Some(expansion) = asked.first() else { break };
                let mut told = Vec::new();
                for i in 0..expansion.children {
                    let number = (expansion.first_child + i) as usize;
                    let (value, before) = (values[number % 200], known[expansion.leaf as usize]);
                    let step = match cost {
                        CostSoFar::Nothing => 0.0,
                        CostSoFar::Doubt => 1.0 - value,
                        CostSoFar::Falls => f64::max(before - value, 0.0),
                    };
                    // Sums run from the leaf up, as the policy's do.
                    let mut total = step;
                    let mut at = expansion.leaf;
                    while at != ROOT {
                        total += sums[at as usize];
                        at = search.nodes().all()[at as usize].parent;
                    }
                    sums.push(step);
                    known.push(value);
                    heap.push(Entry(total + (1.0 - value), number as u32));
                    told.push(Outcome::new(value, ends[number % 200] == 0));
                }
                search.tell(expansion.trial, &told).unwrap();
            }
        }
    }
}
