//! The key table of a branch.

use super::{BranchId, Tree};
use crate::error::{Error, Result};
use crate::format::key_table::{KeyTable, ResidentKey};
use crate::format::slot::Entry;

impl Tree {
    /// The keys that the planes of a branch show, by page id.
    pub fn key_table(&self, branch: BranchId) -> Result<KeyTable> {
        let leaf = self.branch_at(branch)?.node;
        let path = self.path(leaf);
        let planes = (0..self.layout().num_planes).map(|plane| self.resident_keys(&path, plane));
        Ok(KeyTable::new(planes, Some(self.origin(leaf))))
    }

    /// As [`Tree::key_table`] while a step is open, with the branch's rows in it, which must be a chain.
    pub fn key_table_in_step(&self, branch: BranchId) -> Result<KeyTable> {
        let path = self.path(self.branch_at(branch)?.node);
        let (layout, end) = (*self.layout(), self.length(branch)? as i32);
        let slots = self.open.as_ref().and_then(|open| open.slots_of(branch, layout.page_tokens as u32));
        let slots = slots.ok_or_else(|| Error::State {
            what: format!("branch {}", branch.index),
            state: "has no rows in an open step",
        })?;
        let with_rows = |plane| {
            let mut keys = self.resident_keys(&path, plane);
            keys.extend(slots.iter().zip(end..).map(|(slot, position)| ResidentKey {
                page: layout.page_id(slot.slab, plane),
                slot: slot.slot,
                position,
            }));
            keys
        };
        Ok(KeyTable::new((0..layout.num_planes).map(with_rows), None))
    }

    /// Names what a leaf shows: that changes with its length, and where a merge moves keys.
    pub(super) fn origin(&self, leaf: u32) -> [u64; 4] {
        [self.name, self.nodes.id(leaf).into(), self.nodes[leaf].end() as u64, self.merges]
    }

    /// Pages of each plane of which a branch shows a slot.
    pub fn pages_by_plane(&self, branch: BranchId) -> Result<Vec<usize>> {
        Ok(self.key_table(branch)?.pages_by_plane())
    }

    /// The keys that the nodes of a path show on a plane, in order of position.
    pub(super) fn resident_keys(&self, path: &[u32], plane: usize) -> Vec<ResidentKey> {
        let layout = self.layout();
        let mut keys = Vec::new();
        for &index in path {
            let table = &self.nodes[index].table;
            let by_head = table.is_by_head();
            let formats = table
                .plane(plane)
                .iter()
                .flat_map(|e| std::iter::repeat_n(u32::from(Entry::first_of(0, e.format())), e.count.into()));
            keys.extend(table.keys(plane).zip(formats).map(|((page, slot, position), format)| ResidentKey {
                page: if by_head { page } else { layout.page_id(page, plane) },
                slot: slot | format,
                position,
            }));
        }
        if !keys.is_sorted_by_key(|key| key.position) {
            keys.sort_by_key(|key| key.position);
        }
        keys
    }
}
