//! Pressure: what can be had for a request of slabs, and the release of what nobody needs, least
//! recently used first.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::node::ROOT;
use super::{Request, Tree};
use crate::error::{Error, Result};

/// What room is made for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Room<'a> {
    /// So many whole slabs.
    Slabs(usize),
    /// So many single pages, of broken slabs or of whole ones.
    Pages(usize),
    /// The rows of a step, behind the branches' ends as far as there is room.
    Rows(&'a [Request<'a>]),
}

impl Room<'_> {
    /// So many single pages or, unless `by_head`, slabs.
    pub(super) fn of(count: usize, by_head: bool) -> Self {
        if by_head { Self::Pages(count) } else { Self::Slabs(count) }
    }
}

/// What [`Tree::clear`] would free.
#[derive(Debug)]
struct Reclaimable {
    slabs: usize,
    /// The free pages that there were then, of slabs that stay broken.
    free_pages: usize,
    /// References to slabs that would go.
    references: HashMap<u32, u32>,
}

impl Tree {
    /// Whole slabs that it takes now.
    fn slabs_for(&self, room: Room<'_>) -> usize {
        match room {
            Room::Slabs(count) => count,
            Room::Pages(count) => self.slabs.slabs_for_pages(count),
            Room::Rows(requests) => self.slabs_needed(requests, &HashMap::new()),
        }
    }

    /// Makes room. Returns the number of chunks that the caller has to add first, 0 when there is
    /// room. Errors before anything is released.
    ///
    /// Under a budget the pool grows to it before cached nodes are released, since a budget is
    /// there to be used; without one, the cache may hold as much as everything else.
    pub(super) fn make_room(&mut self, room: Room<'_>) -> Result<usize> {
        let (needed, free) = (self.slabs_for(room), self.slabs.num_free());
        if needed <= free {
            return Ok(0);
        }
        let per_chunk = self.layout().slabs_per_chunk;
        let growth = self.slabs.max_chunks() - self.slabs.num_chunks();
        let chunks = (needed - free).div_ceil(per_chunk);
        let cached = self.reclaimable();
        let needed_then = match room {
            Room::Slabs(count) => count,
            // What goes may share a branch's last slab, whose rest is free then.
            Room::Rows(requests) => self.slabs_needed(requests, &cached.references),
            // A slab that becomes whole takes its free pages along, which were counted on.
            Room::Pages(count) => count.saturating_sub(cached.free_pages).div_ceil(self.layout().num_planes),
        };
        let unbounded = self.slabs.max_chunks() == usize::MAX;
        if unbounded && needed_then <= free + cached.slabs && cached.slabs * 2 > self.slabs.len() {
            self.evict(Some(room));
            return Ok(0);
        }
        if chunks <= growth {
            return Ok(chunks);
        }
        let available = free + growth * per_chunk + cached.slabs;
        if available < needed_then {
            return Err(Error::OutOfPages {
                needed: needed_then,
                free: available,
                budget: self.slabs.budget(),
            });
        }
        if growth > 0 {
            return Ok(growth);
        }
        self.evict(Some(room));
        Ok(0)
    }

    /// Releases idle leaves, oldest first, until there is room, or all of them.
    fn evict(&mut self, room: Option<Room<'_>>) {
        let idle = self.nodes.iter().filter(|(i, n)| *i != ROOT && n.is_idle_leaf());
        let mut oldest: BinaryHeap<_> = idle.map(|(i, n)| Reverse((n.used, i))).collect();
        while room.is_none_or(|room| self.slabs.num_free() < self.slabs_for(room)) {
            let Some(Reverse((_, index))) = oldest.pop() else { return };
            let parent = self.delete_leaf(index);
            if parent != ROOT && self.nodes[parent].is_idle_leaf() {
                oldest.push(Reverse((self.nodes[parent].used, parent)));
            }
        }
    }

    /// Releases every node that no branch and no pin needs.
    pub fn clear(&mut self) {
        self.evict(None);
    }

    /// Slabs that [`Tree::clear`] would free.
    pub(super) fn reclaimable_slabs(&self) -> usize {
        self.reclaimable().slabs
    }

    /// The rows that a step can have without letting go of what is cached.
    pub fn rows_to_spare(&self) -> usize {
        let growth = self.slabs.max_chunks() - self.slabs.num_chunks();
        let slabs =
            growth.saturating_mul(self.layout().slabs_per_chunk).saturating_add(self.slabs.num_free());
        slabs.saturating_mul(self.layout().page_tokens)
    }

    fn reclaimable(&self) -> Reclaimable {
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
        let planes = self.layout().num_planes;
        let mut found =
            Reclaimable { slabs: whole, free_pages: self.slabs.num_free_pages(), references: slabs };
        for (&slab, &pages) in &freed {
            let held = self.slabs.pages_held(slab);
            if held == pages {
                found.slabs += 1;
                found.free_pages -= planes - held;
            } else {
                found.free_pages += pages;
            }
        }
        found
    }
}
