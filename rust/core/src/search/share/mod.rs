//! How a round's children are shared out over its leaves. One method a file.

mod beam;
mod ets;
mod independent;
mod particles;
mod rebase;
mod subtrees;

use std::fmt::Debug;

pub use beam::Beam;
pub use ets::{Ets, EtsSettings};
pub use independent::Independent;
pub use particles::Particles;
pub use rebase::Rebase;
pub use subtrees::Subtrees;

use super::Node;
use super::feature::Feature;

/// A round that is to be shared out.
#[derive(Debug, Clone, Copy)]
pub struct Round<'a> {
    /// All nodes, by number.
    pub nodes: &'a [Node],
    /// What their steps say.
    pub features: &'a [Feature],
    /// Leaves that can be gone on from, ascending.
    pub leaves: &'a [u32],
    /// Leaves that ended in the round before, ascending.
    pub ended: &'a [u32],
    /// The width of the search.
    pub width: u64,
    /// No more children than this can be paid for.
    pub most: u64,
    /// The rounds before this one.
    pub number: u32,
}

impl Round<'_> {
    /// What a leaf is worth.
    pub fn value(&self, leaf: u32) -> f64 {
        self.nodes[leaf as usize].value
    }

    /// The places of the leaves in [`Round::leaves`], the best leaf first, equal ones by number.
    fn ranked(&self) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.leaves.len()).collect();
        places.sort_by(|&a, &b| self.value(self.leaves[b]).total_cmp(&self.value(self.leaves[a])));
        places
    }
}

/// Shares out.
pub trait Share: Debug + Send {
    /// Writes how many children each of the leaves gets, one number a leaf; at most [`Round::most`] in all.
    fn counts(&mut self, round: &Round<'_>, out: &mut [u64]);

    /// The least and the greatest value that it takes.
    fn range(&self) -> (f64, f64) {
        (f64::MIN, f64::MAX)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Outcome, Policy, Rounds, State};
    use super::*;
    use proptest::prelude::*;

    const PUBLISHED: EtsSettings = EtsSettings { temperature: 0.2, cost: 1.0, coverage: 1.5, distance: 0.05 };

    fn shares() -> Vec<Box<dyn Share>> {
        vec![
            Box::new(Independent),
            Box::new(Beam::new(3)),
            Box::new(Subtrees { children: 4 }),
            Box::new(Rebase::new(0.2)),
            Box::new(Particles::new(1.0, 7)),
            Box::new(Ets::new(PUBLISHED)),
        ]
    }

    proptest! {
        /// Whatever is told, in whatever order: no round is wider than the search, nothing ended is gone on from, and
        /// the outcome does not depend on the order.
        #[test]
        fn rounds_keep_their_width(
            width in 1u64..20, values in prop::collection::vec(0.0f64..=1.0, 400), ends in prop::collection::vec(0u8..5, 400),
            depth in 1u32..6, which in 0usize..6,
        ) {
            let run = |reversed: bool| {
                let mut search = Rounds::new(shares().remove(which), width, depth);
                let mut counts = Vec::new();
                loop {
                    let mut asked = search.ask(u64::MAX);
                    if asked.is_empty() {
                        break;
                    }
                    let total: u64 = asked.iter().map(|e| u64::from(e.children)).sum();
                    assert!(total <= width, "{total} of {width}");
                    for expansion in &asked {
                        assert_eq!(search.nodes().all()[expansion.leaf as usize].state, State::Open);
                    }
                    counts.push(asked.iter().map(|e| (e.leaf, e.children)).collect::<Vec<_>>());
                    if reversed {
                        asked.reverse();
                    }
                    for expansion in asked {
                        let outcome = |i: u32| Outcome {
                            feature: Feature::ngrams(&[ends[(i as usize + 1) % 400].into()], 1),
                            ..Outcome::new(values[i as usize % 400], ends[i as usize % 400] == 0)
                        };
                        let told: Vec<Outcome> =
                            (0..expansion.children).map(|i| outcome(expansion.first_child + i)).collect();
                        assert!(!search.is_over());
                        search.tell(expansion.trial, &told).unwrap();
                        search.tell(expansion.trial, &told).unwrap();
                    }
                }
                assert!(search.is_over());
                assert!(search.live().iter().all(|live| !live));
                counts
            };
            let counts = run(false);
            prop_assert_eq!(&counts, &run(true));
            prop_assert_eq!(counts[0].clone(), vec![(0, width as u32)]);
            prop_assert!(counts.len() <= depth as usize);
        }

        #[test]
        fn no_more_children_than_can_be_paid_for(
            width in 1u64..20, values in prop::collection::vec(0.0f64..=1.0, 20), most in 0u64..25, which in 0usize..6,
        ) {
            let mut search = Rounds::new(shares().remove(which), width, 9);
            for expansion in search.ask(u64::MAX) {
                let told = values[..expansion.children as usize].iter();
                let told: Vec<_> = told.map(|value| Outcome::new(*value, false)).collect();
                search.tell(expansion.trial, &told).unwrap();
            }
            let total: u64 = search.ask(most).iter().map(|e| u64::from(e.children)).sum();
            prop_assert!(total <= most);
        }
    }

    #[test]
    fn what_is_told_wrongly_changes_nothing() {
        let mut search = Rounds::new(Box::new(Rebase::new(0.2)), 2, 4);
        let [expansion] = search.ask(u64::MAX)[..] else { panic!("one expansion of the root") };
        let good = [Outcome::new(0.5, false), Outcome::new(0.25, false)];
        let nan = [Outcome::new(f64::NAN, false), Outcome::new(0.5, false)];
        assert!(search.tell(9, &good).unwrap_err().to_string().contains("trial is 9"));
        assert!(search.tell(expansion.trial, &good[..1]).unwrap_err().to_string().contains("outcomes is 1"));
        assert!(search.tell(expansion.trial, &nan).unwrap_err().to_string().contains("a finite number"));
        assert!(search.ask(u64::MAX).is_empty());
        search.tell(expansion.trial, &good).unwrap();
        assert!(search.tell(expansion.trial, &[good[1].clone(), good[0].clone()]).is_err());
        assert!(!search.ask(u64::MAX).is_empty());
    }

    /// The counts of one round over leaves of these values.
    fn counts(share: &mut dyn Share, values: &[f64], ended: usize, width: u64) -> Vec<u64> {
        let node = |value: &f64| Node {
            parent: 0,
            depth: 1,
            branch: 0,
            value: *value,
            cost: 1,
            state: State::Open,
            trial: 0,
        };
        let mut nodes: Vec<Node> = values.iter().map(node).collect();
        for (index, node) in nodes.iter_mut().enumerate() {
            node.branch = index as u32;
        }
        let features = vec![Feature::Unknown; nodes.len()];
        let leaves: Vec<u32> = (0..(values.len() - ended) as u32).collect();
        let ended: Vec<u32> = (leaves.len() as u32..values.len() as u32).collect();
        let round = Round {
            nodes: &nodes,
            features: &features,
            leaves: &leaves,
            ended: &ended,
            width,
            most: u64::MAX,
            number: 1,
        };
        let mut out = vec![0; leaves.len()];
        share.counts(&round, &mut out);
        out
    }

    #[test]
    fn worked_examples() {
        assert_eq!(counts(&mut Independent, &[0.1, 0.9, 0.5], 1, 3), [1, 1]);
        assert_eq!(counts(&mut Beam::new(4), &[0.1, 0.9, 0.5, 0.7], 0, 8), [0, 4, 0, 4]);
        assert_eq!(counts(&mut Beam::new(4), &[0.1, 0.9, 0.5, 0.7], 1, 8), [0, 4, 3]);
        // exp(w / 0.2): 1, e^2.5, e^5 of 16.
        assert_eq!(counts(&mut Rebase::new(0.2), &[0.0, 0.5, 1.0], 0, 16), [0, 1, 15]);
        assert_eq!(counts(&mut Rebase::new(0.2), &[0.5, 0.5, 1.0], 1, 16), [8, 7]);
        assert_eq!(counts(&mut Subtrees { children: 1 }, &[0.1, 0.9], 0, 2), [1, 1]);
    }
}
