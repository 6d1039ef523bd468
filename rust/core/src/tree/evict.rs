//! Pressure: what can be had for a request of slabs, and the release of what nobody needs, least
//! recently used first.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::Tree;
use super::node::ROOT;
use crate::error::{Error, Result};

impl Tree {
    /// Makes room for `needed` slabs. Returns the number of chunks that the caller has to add
    /// first, 0 when there is room. Errors before anything is released.
    ///
    /// Under a budget the pool grows to it before cached nodes are released, since a budget is
    /// there to be used; without one, the cache may hold as much as everything else.
    pub(super) fn make_room(&mut self, needed: usize) -> Result<usize> {
        let free = self.slabs.num_free();
        if needed <= free {
            return Ok(0);
        }
        let per_chunk = self.layout().slabs_per_chunk;
        let growth = self.slabs.max_chunks() - self.slabs.num_chunks();
        let chunks = (needed - free).div_ceil(per_chunk);
        let cached = self.reclaimable();
        let unbounded = self.slabs.max_chunks() == usize::MAX;
        if unbounded && needed <= free + cached && cached * 2 > self.slabs.len() {
            self.evict(needed);
            return Ok(0);
        }
        if chunks <= growth {
            return Ok(chunks);
        }
        let available = free + growth * per_chunk + cached;
        if available < needed {
            return Err(Error::OutOfPages { needed, free: available, budget: self.slabs.budget() });
        }
        if growth > 0 {
            return Ok(growth);
        }
        self.evict(needed);
        Ok(0)
    }

    /// Releases idle leaves, oldest first, until `wanted` slabs are free.
    fn evict(&mut self, wanted: usize) {
        let idle = self.nodes.iter().filter(|(i, n)| *i != ROOT && n.is_idle_leaf());
        let mut oldest: BinaryHeap<_> = idle.map(|(i, n)| Reverse((n.used, i))).collect();
        while self.slabs.num_free() < wanted {
            let Some(Reverse((_, index))) = oldest.pop() else { return };
            let parent = self.delete_leaf(index);
            if parent != ROOT && self.nodes[parent].is_idle_leaf() {
                oldest.push(Reverse((self.nodes[parent].used, parent)));
            }
        }
    }

    /// Releases every node that no branch and no pin needs.
    pub fn clear(&mut self) {
        self.evict(usize::MAX);
    }

    /// Slabs that [`Tree::clear`] would free.
    pub(super) fn reclaimable(&self) -> usize {
        let mut needed = vec![false; self.nodes.capacity()];
        for (index, node) in self.nodes.iter() {
            if node.handles > 0 || node.pins > 0 {
                let mut at = index;
                while !std::mem::replace(&mut needed[at as usize], true) && at != ROOT {
                    at = self.nodes[at].parent;
                }
            }
        }
        let (mut slabs, mut pages): (HashMap<u32, u32>, HashMap<u32, u32>) = Default::default();
        for (_, node) in self.nodes.iter().filter(|(i, _)| !needed[*i as usize]) {
            let counts = if node.table.is_by_head() { &mut pages } else { &mut slabs };
            node.table.entries.iter().for_each(|e| *counts.entry(e.page).or_default() += 1);
        }
        let whole = slabs.iter().filter(|&(&s, &n)| self.slabs.references(s) == n).count();
        // A broken slab comes free when every page of it does.
        let mut freed: HashMap<u32, usize> = HashMap::new();
        for (&page, &n) in &pages {
            if self.slabs.page_references(page) == n {
                *freed.entry(self.slabs.slab_of_page(page).0).or_default() += 1;
            }
        }
        let broken = freed.iter().filter(|&(&slab, &n)| self.slabs.pages_held(slab) == n).count();
        whole + broken
    }
}
