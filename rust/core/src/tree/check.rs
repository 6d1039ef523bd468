//! The invariants, written down as a check that tests call.

use std::collections::HashMap;

use super::Tree;
use super::node::ROOT;
use crate::format::page::Formats;

impl Tree {
    /// Walks everything and reports the first invariant that does not hold: free + held +
    /// provisional slabs are all; reference counts are what is reachable; no slot is shown by two
    /// nodes that are not versions of each other; positions ascend along every branch; links,
    /// branch counts and table lengths agree.
    pub fn debug_check(&self) -> Result<(), String> {
        self.slabs.check()?;
        let mut handles: HashMap<u32, u32> = HashMap::new();
        for (_, branch) in self.branches.iter() {
            *handles.entry(branch.node).or_default() += 1;
            if branch.stepping && self.open.is_none() {
                return Err("a branch is in a step that is not open".to_owned());
            }
        }
        let (mut slabs, mut pages): (HashMap<u32, u32>, HashMap<u32, u32>) = Default::default();
        for (index, node) in self.nodes.iter() {
            if node.handles != handles.get(&index).copied().unwrap_or(0) {
                return Err(format!("node {index} counts {} branches", node.handles));
            }
            if index != ROOT {
                let parent = self.nodes.get(self.nodes.id(node.parent));
                let linked = parent.is_some_and(|p| p.children.iter().filter(|&&c| c == index).count() == 1);
                if !linked || parent.is_some_and(|p| p.end() != node.start) || node.tokens.is_empty() {
                    return Err(format!("node {index} does not follow its parent {}", node.parent));
                }
            }
            for &child in &node.children {
                if self.nodes.get(self.nodes.id(child)).is_none_or(|c| c.parent != index) {
                    return Err(format!("child {child} of node {index} has another parent"));
                }
            }
            self.check_table(index)?;
            let counts = if node.table.is_by_head() { &mut pages } else { &mut slabs };
            node.table.entries.iter().for_each(|e| *counts.entry(e.page).or_default() += 1);
        }
        for slab in self.open.iter().flat_map(|open| open.held()) {
            *slabs.entry(slab).or_default() += 1;
        }
        self.check_references(&slabs, &pages)?;
        self.check_sharing()
    }

    fn check_table(&self, index: u32) -> Result<(), String> {
        let node = &self.nodes[index];
        let by_head = node.table.is_by_head();
        let planes = if by_head { self.layout().num_planes } else { 1 };
        for plane in 0..planes {
            let formats = Formats::of(node.table.plane(plane), self.layout()).map_err(|e| e.to_string())?;
            for entry in node.table.plane(plane) {
                if entry.slot() as usize + usize::from(entry.count) > formats.tokens(entry) {
                    return Err(format!("node {index} shows {entry:?} on plane {plane}"));
                }
            }
            let mut positions: Vec<i32> = node.table.keys(plane).map(|(.., position)| position).collect();
            // Pages in codes come before plain ones, and holes are filled by others.
            if node.digest != 0 {
                positions.sort_unstable();
            }
            let mut last = node.start as i32 - 1;
            for position in positions {
                if position <= last || position as usize >= node.end() {
                    return Err(format!("node {index} shows position {position} after {last}"));
                }
                last = position;
            }
        }
        if node.is_plain() && node.table.num_keys(0) != node.tokens.len() {
            return Err(format!("node {index} has {} tokens and other keys", node.tokens.len()));
        }
        Ok(())
    }

    fn check_references(&self, slabs: &HashMap<u32, u32>, pages: &HashMap<u32, u32>) -> Result<(), String> {
        let held = slabs.len() + self.slabs.num_broken();
        if held + self.slabs.num_free() != self.slabs.len() {
            return Err(format!(
                "{held} held + {} free slabs of {}",
                self.slabs.num_free(),
                self.slabs.len()
            ));
        }
        for (&slab, &n) in slabs {
            if self.slabs.references(slab) != n || self.slabs.pages_held(slab) != 0 {
                return Err(format!(
                    "slab {slab} has {} references, {n} reach it",
                    self.slabs.references(slab)
                ));
            }
        }
        for (&page, &n) in pages {
            if self.slabs.page_references(page) != n {
                return Err(format!(
                    "page {page} has {} references, {n} reach it",
                    self.slabs.page_references(page)
                ));
            }
        }
        let held_pages: usize = {
            let broken: std::collections::HashSet<u32> =
                pages.keys().map(|&p| self.slabs.slab_of_page(p).0).collect();
            broken.iter().map(|&s| self.slabs.pages_held(s)).sum()
        };
        if held_pages == pages.len() { Ok(()) } else { Err("a page is held that nobody reaches".to_owned()) }
    }

    /// One slot shows one token at one position, whoever shows it.
    fn check_sharing(&self) -> Result<(), String> {
        let mut shown: HashMap<(bool, u32, u32), (i32, u32)> = HashMap::new();
        for (index, node) in self.nodes.iter() {
            let planes = if node.table.is_by_head() { self.layout().num_planes } else { 1 };
            for (page, slot, position) in (0..planes).flat_map(|plane| node.table.keys(plane)) {
                let token = node.tokens[position as usize - node.start];
                let at = (node.table.is_by_head(), page, slot);
                if *shown.entry(at).or_insert((position, token)) != (position, token) {
                    return Err(format!("slot {slot} of page {page} is shown twice, once by node {index}"));
                }
            }
        }
        if let Some(open) = &self.open {
            for slot in open.row_slots(self.layout().page_tokens as u32) {
                if shown.contains_key(&(false, slot.slab, slot.slot)) {
                    return Err(format!("slot {slot:?} of the open step is committed"));
                }
            }
        }
        Ok(())
    }
}
