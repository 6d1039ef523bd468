//! Branches: open, fork, release, pin, and what they hold.

use super::node::ROOT;
use super::{Branch, BranchId, NodeId, Tree};
use crate::error::{Error, Result};

impl Tree {
    /// Opens an empty branch.
    pub fn branch(&mut self) -> BranchId {
        self.open_at(ROOT)
    }

    pub(super) fn open_at(&mut self, node: u32) -> BranchId {
        self.nodes[node].handles += 1;
        self.branches.insert(Branch { node, stepping: false })
    }

    /// A second branch with the same tokens. Takes the same time for any length. Allowed while a
    /// step is open: the fork stands at the committed end.
    pub fn fork(&mut self, branch: BranchId) -> Result<BranchId> {
        let node = self.branch_at(branch)?.node;
        Ok(self.open_at(node))
    }

    /// Closes a branch. With `keep`, its tokens stay cached for [`Tree::matching`] until there is
    /// pressure, unless it would never match them: of a prompt that is followed by inexact keys the prompt
    /// stays, of a reduced branch nothing. Without, what nobody else needs is freed at once.
    pub fn release(&mut self, branch: BranchId, keep: bool) -> Result<()> {
        let &Branch { node, stepping } = self.branch_at(branch)?;
        if stepping {
            return Err(Error::State {
                what: format!("branch {}", branch.index),
                state: "is in the open step",
            });
        }
        self.branches.remove(branch.index);
        let path = self.path(node);
        let num_exact = path.iter().take_while(|&&index| self.nodes[index].is_matchable()).count();
        let is_exact = num_exact == path.len();
        if keep && !is_exact && num_exact > 0 && self.nodes[path[num_exact]].digest == 0 {
            self.keep_cached(path[num_exact - 1]);
        }
        self.leave(node, keep && is_exact);
        Ok(())
    }

    /// A node stays until there is pressure, whoever stands below it.
    fn keep_cached(&mut self, node: u32) {
        let at = &mut self.nodes[node];
        (at.kept, at.used) = (true, self.clock);
        let parent = at.parent;
        if self.nodes[parent].children.len() == 1 {
            self.singles.push(self.nodes.id(parent));
        }
    }

    /// Whether the branch is open and has a request in the open step.
    pub fn is_stepping(&self, branch: BranchId) -> bool {
        self.branches.get(branch).is_some_and(|branch| branch.stepping)
    }

    /// What computed the keys has changed: nothing that is here now is matched again. What no branch and no
    /// pin needs is freed; the others show what they did. What the open step commits counts as of before.
    pub fn invalidate(&mut self) {
        self.clear();
        let held: Vec<u32> = self.nodes.iter().map(|(index, _)| index).filter(|&i| i != ROOT).collect();
        for index in held {
            let node = &mut self.nodes[index];
            (node.stale, node.kept) = (true, false);
        }
        self.mark_inexact();
    }

    /// A branch no longer stands at `node`.
    pub(super) fn leave(&mut self, node: u32, keep: bool) {
        self.clock += 1;
        let clock = self.clock;
        let at = &mut self.nodes[node];
        at.handles -= 1;
        at.used = clock;
        at.kept |= keep && node != ROOT;
        let (handles, children, parent) = (at.handles, at.children.len(), at.parent);
        if handles == 0 && children == 1 {
            self.singles.push(self.nodes.id(node));
        }
        if keep && node != ROOT && self.nodes[parent].children.len() == 1 {
            self.singles.push(self.nodes.id(parent));
        }
        self.delete_upward(node);
    }

    /// Whether the branch is open.
    pub fn is_open(&self, branch: BranchId) -> bool {
        self.branches.get(branch).is_some()
    }

    /// Tokens from the root to the branch's end: the position of its next token.
    pub fn length(&self, branch: BranchId) -> Result<usize> {
        Ok(self.nodes[self.branch_at(branch)?.node].end())
    }

    /// The tokens from the root.
    pub fn token_ids(&self, branch: BranchId) -> Result<Vec<u32>> {
        let node = self.branch_at(branch)?.node;
        let mut tokens = Vec::with_capacity(self.nodes[node].end());
        for index in self.path(node) {
            tokens.extend_from_slice(&self.nodes[index].tokens);
        }
        Ok(tokens)
    }

    /// Page (by head) or slab, slot and position of every key that a plane of the branch shows, in
    /// order; the flag says which. For inspection and for tests.
    pub fn keys(&self, branch: BranchId, plane: usize) -> Result<Vec<(bool, u32, u32, i32)>> {
        let mut keys = Vec::new();
        for index in self.path(self.branch_at(branch)?.node) {
            let table = &self.nodes[index].table;
            keys.extend(table.keys(plane).map(|(page, slot, at)| (table.is_by_head(), page, slot, at)));
        }
        Ok(keys)
    }

    /// Holds what the branch shows now until [`Tree::unpin`], even when the branch is released.
    pub fn pin(&mut self, branch: BranchId) -> Result<NodeId> {
        let node = self.branch_at(branch)?.node;
        if self.branches[branch.index].stepping {
            return Err(Error::State {
                what: format!("branch {}", branch.index),
                state: "is in the open step",
            });
        }
        self.nodes[node].pins += 1;
        Ok(self.nodes.id(node))
    }

    /// Undoes one [`Tree::pin`]. What nobody needs any more is freed, unless it was kept.
    pub fn unpin(&mut self, node: NodeId) -> Result<()> {
        if self.nodes.get(node).is_none_or(|n| n.pins == 0) {
            return Err(Error::State { what: format!("node {}", node.index), state: "is not pinned" });
        }
        self.nodes[node.index].pins -= 1;
        if self.nodes[node.index].children.len() == 1 {
            self.singles.push(node);
        }
        self.delete_upward(node.index);
        Ok(())
    }
}
