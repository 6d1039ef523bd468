//! Prefix match: the longest exact prefix of a token sequence that the tree holds.

use super::node::{Node, ROOT};
use super::table::Table;
use super::{BranchId, Tree};
use crate::format::slot::Entry;

impl Tree {
    /// Opens a branch at the longest prefix of `tokens` that the tree holds exactly; its length
    /// says how long that is. Inexact versions (evicted, quantised) are never crossed, nor what was there
    /// when the model changed ([`Tree::invalidate`]).
    pub fn matching(&mut self, tokens: &[u32]) -> BranchId {
        // Several children may begin with the same token: independent branches are not unified.
        let (mut best, mut pending) = ((0, ROOT), vec![(ROOT, 0)]);
        while let Some((index, depth)) = pending.pop() {
            for &child in &self.nodes[index].children {
                let node = &self.nodes[child];
                if !node.is_matchable() || node.tokens.first() != tokens.get(depth) {
                    continue;
                }
                let shared = common_prefix(&node.tokens, &tokens[depth..]);
                if depth + shared > best.0 {
                    best = (depth + shared, child);
                }
                if shared == node.tokens.len() && depth + shared < tokens.len() {
                    pending.push((child, depth + shared));
                }
            }
        }
        let (length, mut node) = best;
        if length < self.nodes[node].end() {
            node = self.split(node, length - self.nodes[node].start);
        }
        self.clock += 1;
        for index in self.path(node) {
            self.nodes[index].used = self.clock;
        }
        self.open_at(node)
    }

    /// Cuts a plain node after `count` tokens: a new node takes them, above; `index` keeps the
    /// rest, its children, its branches and its pins. Returns the upper node.
    pub(super) fn split(&mut self, index: u32, count: usize) -> u32 {
        let lower = &mut self.nodes[index];
        debug_assert!(lower.is_plain() && count > 0 && count < lower.tokens.len());
        let upper_tokens = lower.tokens[..count].to_vec();
        lower.tokens.drain(..count);
        let (mut left, mut cut) = (count, 0);
        while left > 0 && usize::from(lower.table.entries[cut].count) <= left {
            left -= usize::from(lower.table.entries[cut].count);
            cut += 1;
        }
        let mut upper_entries: Vec<Entry> = lower.table.entries.drain(..cut).collect();
        let mut shared = None;
        if left > 0 {
            let entry = &mut lower.table.entries[0];
            upper_entries.push(Entry { count: left as u16, ..*entry });
            entry.first += left as u16;
            entry.count -= left as u16;
            entry.position += left as i32;
            shared = Some(entry.page);
        }
        let upper = Node {
            parent: lower.parent,
            children: vec![index],
            tokens: upper_tokens,
            start: lower.start,
            table: Table { entries: upper_entries, ..Table::default() },
            handles: 0,
            pins: 0,
            kept: lower.kept,
            digest: 0,
            stale: lower.stale,
            used: lower.used,
        };
        lower.start += count;
        let parent = lower.parent;
        if let Some(slab) = shared {
            self.slabs.retain(slab);
        }
        let upper = self.nodes.insert(upper).index;
        self.columns.set_node(upper, Some(index));
        self.nodes[index].parent = upper;
        if let Some(place) = self.nodes[parent].children.iter_mut().find(|c| **c == index) {
            *place = upper;
        }
        upper
    }
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    const BLOCK: usize = 64;
    let n = a.len().min(b.len());
    let mut at = 0;
    while at + BLOCK <= n && a[at..at + BLOCK] == b[at..at + BLOCK] {
        at += BLOCK;
    }
    at + a[at..n].iter().zip(&b[at..n]).take_while(|(x, y)| x == y).count()
}
