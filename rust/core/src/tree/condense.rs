//! Condensing: everything that a branch shows, replaced for it by a selection, as one node.
//!
//! Where nobody else reads what the branch shows, the old pages are given up first and the kept keys
//! move into the lowest of them: no memory is needed for the copy, and the end of the pool empties.

use std::collections::{HashMap, HashSet};

use super::node::{Node, ROOT};
use super::version::{Keep, check_kept, push_entry};
use super::{Begin, BranchId, Moves, Tree};
use crate::error::{Error, Result};
use crate::ops::rows::PageMove;
use crate::plan::Table;

/// A key that a plane of a branch shows: page id, slot, logical position.
pub type Held = (u32, u32, i32);

impl Tree {
    /// The keys that each plane of a branch shows, in order of position, by page id.
    pub fn held(&self, branch: BranchId) -> Result<Vec<Vec<Held>>> {
        let path = self.path(self.branch_at(branch)?.node);
        Ok((0..self.layout().num_planes).map(|plane| self.held_by(&path, plane)).collect())
    }

    /// As [`Tree::held`] while a step is open, with the branch's rows in it, which must be a chain.
    pub fn held_in_step(&self, branch: BranchId) -> Result<Vec<Vec<Held>>> {
        let mut held = self.held(branch)?;
        let (layout, end) = (*self.layout(), self.length(branch)? as i32);
        let slots = self.open.as_ref().and_then(|open| open.slots_of(branch, layout.page_tokens as u32));
        let slots = slots.ok_or_else(|| Error::State {
            what: format!("branch {}", branch.index),
            state: "has no rows in an open step",
        })?;
        for (plane, held) in held.iter_mut().enumerate() {
            let rows = slots.iter().zip(end..);
            held.extend(rows.map(|(slot, at)| (layout.page_id(slot.slab, plane), slot.slot, at)));
        }
        Ok(held)
    }

    /// Pages of each plane of which a branch shows a slot.
    pub fn pages_by_plane(&self, branch: BranchId) -> Result<Vec<usize>> {
        let held = self.held(branch)?;
        Ok(held.iter().map(|keys| keys.iter().map(|key| key.0).collect::<HashSet<_>>().len()).collect())
    }

    fn held_by(&self, path: &[u32], plane: usize) -> Vec<Held> {
        let layout = self.layout();
        let mut keys = Vec::new();
        for &index in path {
            let table = &self.nodes[index].table;
            let page = |page| if table.is_by_head() { page } else { layout.page_id(page, plane) };
            keys.extend(table.keys(plane).map(|(at, slot, position)| (page(at), slot, position)));
        }
        keys
    }

    /// Gives `branch` one node in place of its path, which shows only the keys in `keep`, as indices
    /// into what each plane shows now. One list for all planes needs them to show the same positions
    /// there. `digest` is not 0 and says what made it inexact. The copies
    /// are appended to [`Tree::take_moves`]. Not while a step is open. On an error nothing has
    /// changed; `Grow` asks for chunks first, which a branch that shares nothing never needs.
    pub fn condense(&mut self, branch: BranchId, keep: Keep<'_>, digest: u64) -> Result<Begin> {
        self.no_open_step()?;
        let leaf = self.branch_at(branch)?.node;
        let path = self.path(leaf);
        if digest == 0 {
            return Err(Error::value("digest", 0, "a number that is not 0"));
        }
        path.iter().try_for_each(|&index| self.refuse_codes(index))?;
        check_kept(keep, false, self.layout().num_planes, |plane| {
            path.iter().map(|&index| self.nodes[index].table.num_keys(plane)).sum()
        })?;
        if path.is_empty() {
            return Ok(Begin::Open);
        }
        let layout = *self.layout();
        let old: Vec<Vec<Held>> = (0..layout.num_planes).map(|plane| self.held_by(&path, plane)).collect();
        if let Keep::Uniform(keys) = keep {
            let shown =
                |old: &[Held]| keys.iter().map(|&key| old.get(key as usize).map(|k| k.2)).collect::<Vec<_>>();
            if old.iter().any(|plane| shown(plane) != shown(&old[0])) {
                return Err(Error::value("keep", "one list", "one list a plane: positions differ by plane"));
            }
        }
        let alone = self.is_alone(&path);
        if !alone {
            let needed = match keep {
                Keep::Uniform(keys) => keys.len().div_ceil(layout.page_tokens),
                Keep::ByHead(planes) => {
                    let pages = planes.iter().map(|keys| keys.len().div_ceil(layout.page_tokens)).sum();
                    self.slabs.slabs_for_pages(pages)
                }
            };
            match self.make_room(needed)? {
                0 => {}
                chunks => return Ok(Begin::Grow(chunks)),
            }
        }
        let tokens = path.iter().flat_map(|&index| self.nodes[index].tokens.iter().copied()).collect();
        self.clock += 1;
        // Columns move before a page of the old version may be taken again.
        let kept_on = |plane: usize| match keep {
            Keep::Uniform(keys) => keys,
            Keep::ByHead(planes) => planes[plane],
        };
        let saved: Vec<Vec<Vec<u8>>> = if self.columns.is_empty() {
            Vec::new()
        } else {
            let slot = |key: Held| self.columns.read_slot((key.0, key.1));
            old.iter()
                .enumerate()
                .map(|(p, old)| kept_on(p).iter().map(|&k| slot(old[k as usize])).collect())
                .collect()
        };
        let node_columns = self.columns.read_node(leaf);
        if alone {
            self.let_go(branch, leaf);
        }
        let table = self.lay_down(keep, &old);
        let node = Node {
            parent: ROOT,
            children: Vec::new(),
            tokens,
            start: 0,
            table,
            handles: 1,
            pins: 0,
            kept: false,
            digest,
            used: self.clock,
        };
        let node = self.insert_node(node, None);
        self.columns.write_node(node, &node_columns);
        self.branches[branch.index].node = node;
        if !alone {
            self.leave(leaf, false);
        }
        let mut moves = Vec::new();
        for (plane, old) in old.iter().enumerate() {
            let new = self.held_by(&[node], plane);
            for (i, (&key, to)) in kept_on(plane).iter().zip(new).enumerate() {
                let from = old[key as usize];
                if (from.0, from.1) != (to.0, to.1) {
                    moves.push(PageMove { from: [from.0, from.1], to: [to.0, to.1] });
                }
                if let Some(bytes) = saved.get(plane) {
                    self.columns.write_slot((to.0, to.1), &bytes[i]);
                }
            }
        }
        self.moves.push(Moves::AtOnce(moves));
        Ok(Begin::Open)
    }

    /// The branch leaves a path that only it reads, which frees it.
    fn let_go(&mut self, branch: BranchId, leaf: u32) {
        self.nodes[ROOT].handles += 1;
        self.branches[branch.index].node = ROOT;
        self.leave(leaf, false);
        self.nodes[ROOT].handles -= 1;
    }

    fn lay_down(&mut self, keep: Keep<'_>, old: &[Vec<Held>]) -> Table {
        let page_tokens = self.layout().page_tokens;
        let mut table = Table::default();
        match keep {
            Keep::Uniform(keys) => {
                for group in keys.chunks(page_tokens) {
                    let Some(slab) = self.take_slab() else { break };
                    push_entry(&mut table, slab, group, &old[0]);
                }
            }
            Keep::ByHead(planes) => {
                let count = planes.iter().map(|keys| keys.len().div_ceil(page_tokens)).sum();
                let mut pages = self.take_pages(count).unwrap_or_default().into_iter();
                for (keys, old) in planes.iter().zip(old) {
                    let begin = table.entries.len() as u32;
                    for group in keys.chunks(page_tokens) {
                        let Some(page) = pages.next() else { break };
                        push_entry(&mut table, page, group, old);
                    }
                    table.head_ranges.push([begin, table.entries.len() as u32]);
                }
            }
        }
        table
    }

    /// Whether nobody but the one branch at its end needs the path or a page of it.
    fn is_alone(&self, path: &[u32]) -> bool {
        let (mut slabs, mut pages): (HashMap<u32, u32>, HashMap<u32, u32>) = Default::default();
        for (depth, &index) in path.iter().enumerate() {
            let node = &self.nodes[index];
            let last = depth + 1 == path.len();
            let (handles, children) = if last { (1, 0) } else { (0, 1) };
            if node.handles != handles || node.children.len() != children || node.pins > 0 || node.kept {
                return false;
            }
            let counts = if node.table.is_by_head() { &mut pages } else { &mut slabs };
            node.table.entries.iter().for_each(|e| *counts.entry(e.page).or_default() += 1);
        }
        slabs.iter().all(|(&slab, &n)| self.slabs.references(slab) == n)
            && pages.iter().all(|(&page, &n)| self.slabs.page_references(page) == n)
    }
}
