//! Merging: a node that is left with a single child and no branch becomes one node with it, so
//! that a search that forks at every token does not leave a chain of one-token nodes, nor a page a
//! token.

use super::node::{ROOT, append_run};
use super::{NodeId, Tree};
use crate::format::slot::RowSlot;

impl Tree {
    /// Merges what the releases since the last call left to merge. Runs between steps only: it may
    /// move slots that a plan would read.
    pub(super) fn merge_singles(&mut self) {
        while let Some(id) = self.singles.pop() {
            self.merge_with_child(id);
        }
    }

    fn merge_with_child(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(id) else { return };
        let &[child_index] = node.children.as_slice() else { return };
        let child = &self.nodes[child_index];
        let wanted = node.handles == 0 && node.pins == 0 && (child.kept || !node.kept);
        if id.index == ROOT || !wanted || !node.is_plain() || !child.is_plain() || node.stale != child.stale {
            return;
        }
        let tail = self.tail(id.index);
        let Some(mut node) = self.nodes.remove(id.index) else { return };
        self.merges += 1;
        let child_entries = std::mem::take(&mut self.nodes[child_index].table.entries);
        let num_keys: usize = child_entries.iter().map(|e| usize::from(e.count)).sum();
        let page_tokens = self.layout().page_tokens;
        if let Some((slab, end)) = tail.filter(|&(_, end)| end as usize + num_keys <= page_tokens) {
            // The child's rows fit behind the parent's: move them and free its slabs.
            let mut to = end;
            for entry in &child_entries {
                for from in u32::from(entry.first)..u32::from(entry.first) + u32::from(entry.count) {
                    self.push_move(RowSlot { slab: entry.page, slot: from }, RowSlot { slab, slot: to });
                    to += 1;
                }
            }
            child_entries.iter().for_each(|e| self.slabs.release(e.page));
            if let Some(last) = node.table.entries.last_mut() {
                last.count += num_keys as u16;
            }
        } else {
            for entry in child_entries {
                if append_run(&mut node.table.entries, entry) {
                    self.slabs.release(entry.page);
                }
            }
        }
        let child = &mut self.nodes[child_index];
        node.tokens.append(&mut child.tokens);
        child.tokens = node.tokens;
        child.table = node.table;
        child.start = node.start;
        child.parent = node.parent;
        child.used = child.used.max(node.used);
        let siblings = &mut self.nodes[node.parent].children;
        if let Some(place) = siblings.iter_mut().find(|c| **c == id.index) {
            *place = child_index;
        }
        if siblings.len() == 1 {
            self.singles.push(self.nodes.id(node.parent));
        }
        if self.nodes[child_index].children.len() == 1 {
            self.singles.push(self.nodes.id(child_index));
        }
    }
}
