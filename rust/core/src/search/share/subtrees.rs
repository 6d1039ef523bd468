//! Diverse verifier tree search (Beeching et al. 2024, "Scaling test-time compute with open models"): subtrees that do
//! not compete, each greedy.

use super::{Round, Share};

/// The children of the root form groups of `children`; in each group the best leaf of the last round gets as many
/// children again. A group whose best leaf has ended is done.
#[derive(Debug, Clone, Copy)]
pub struct Subtrees {
    /// Of a leaf.
    pub children: u64,
}

impl Subtrees {
    fn group(&self, round: &Round<'_>, leaf: u32) -> u64 {
        u64::from(round.nodes[leaf as usize].branch) / self.children.max(1)
    }
}

impl Share for Subtrees {
    fn counts(&mut self, round: &Round<'_>, out: &mut [u64]) {
        let mut done: Vec<u64> = Vec::new();
        let mut room = round.most;
        let mut all: Vec<(u32, Option<usize>)> =
            round.leaves.iter().enumerate().map(|(place, &leaf)| (leaf, Some(place))).collect();
        all.extend(round.ended.iter().map(|&leaf| (leaf, None)));
        all.sort_by(|a, b| round.value(b.0).total_cmp(&round.value(a.0)).then(a.0.cmp(&b.0)));
        for (leaf, place) in all {
            let group = self.group(round, leaf);
            if done.contains(&group) {
                continue;
            }
            done.push(group);
            if let Some(place) = place {
                // The last group may be smaller.
                let begin = group * self.children.max(1);
                out[place] = self.children.min(round.width - begin).min(room);
                room -= out[place];
            }
        }
    }
}
