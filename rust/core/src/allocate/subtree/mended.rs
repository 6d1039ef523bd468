//! Subtrees that were seen on the way, improved leaf by leaf.

use super::tree::{NONE, Tree};

/// A subtree that is improved step by step.
#[derive(Debug, Default)]
pub(super) struct Mended {
    /// Chosen leaves at or below each node.
    pub(super) below: Vec<u32>,
    covered: Vec<u32>,
}

impl Mended {
    /// Adds and removes leaves of what is `taken` as long as it gets better; its worth. [`Mended::below`] has it.
    pub(super) fn improve(
        &mut self,
        tree: &Tree<'_>,
        is_leaf: &[bool],
        needs_leaf: bool,
        taken: &[bool],
    ) -> Option<i64> {
        let n = taken.len();
        self.below.clear();
        self.below.resize(n, 0);
        self.covered.clear();
        self.covered.resize(tree.bonuses.len(), 0);
        let mut leaves = 0;
        for node in (0..n).rev() {
            if is_leaf[node] && taken[node] {
                self.below[node] = 1;
                leaves += 1;
                if let Some(covered) = self.covered.get_mut(tree.clusters[node] as usize) {
                    *covered += 1;
                }
            }
            if node > 0 {
                self.below[tree.parents[node] as usize] += self.below[node];
            }
        }
        let mut has_changed = true;
        while has_changed {
            has_changed = false;
            for leaf in 1..n {
                if !is_leaf[leaf] {
                    continue;
                }
                let is_in = self.below[leaf] > 0;
                // What the leaf brings, or would bring, with all that is there for it alone.
                let alone = u32::from(is_in);
                let mut worth = 0;
                if tree.clusters[leaf] != NONE && self.covered[tree.clusters[leaf] as usize] == alone {
                    worth += tree.bonuses[tree.clusters[leaf] as usize];
                }
                let mut at = leaf;
                while at > 0 && self.below[at] == alone {
                    worth += tree.gains[at];
                    at = tree.parents[at] as usize;
                }
                if (is_in && worth < 0 && leaves > u32::from(needs_leaf)) || (!is_in && worth > 0) {
                    self.toggle(tree, leaf, is_in);
                    leaves = if is_in { leaves - 1 } else { leaves + 1 };
                    has_changed = true;
                }
            }
        }
        let gains = (0..n).filter(|&node| node == 0 || self.below[node] > 0).map(|node| tree.gains[node]);
        let bonuses = self.covered.iter().zip(tree.bonuses).filter(|(covered, _)| **covered > 0);
        let worth = gains.sum::<i64>() + bonuses.map(|(_, bonus)| bonus).sum::<i64>();
        (leaves > 0 || !needs_leaf).then_some(worth)
    }

    fn toggle(&mut self, tree: &Tree<'_>, leaf: usize, is_in: bool) {
        let change = |count: &mut u32| *count = if is_in { *count - 1 } else { *count + 1 };
        if let Some(covered) = self.covered.get_mut(tree.clusters[leaf] as usize) {
            change(covered);
        }
        let mut at = leaf;
        loop {
            change(&mut self.below[at]);
            if at == 0 {
                return;
            }
            at = tree.parents[at] as usize;
        }
    }
}
