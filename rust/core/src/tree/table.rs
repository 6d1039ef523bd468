//! The slots that a node shows.

use crate::format::slot::Entry;

/// The slots that a node shows: one run of entries for all planes, or one run a plane.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    /// Runs of slots, in order of position. `page` is a slab id, or a page id in a table by head.
    pub entries: Vec<Entry>,
    /// Positions of slots that are not consecutive.
    pub positions: Vec<i32>,
    /// Empty in a uniform table; else one range of `entries` a plane.
    pub head_ranges: Vec<[u32; 2]>,
}

impl Table {
    /// Whether each plane has entries of its own.
    pub fn is_by_head(&self) -> bool {
        !self.head_ranges.is_empty()
    }

    /// The entries of one plane.
    pub fn plane(&self, plane: usize) -> &[Entry] {
        match self.head_ranges.get(plane) {
            Some(range) => &self.entries[range[0] as usize..range[1] as usize],
            None => &self.entries,
        }
    }

    /// Keys of a plane.
    pub fn num_keys(&self, plane: usize) -> usize {
        self.plane(plane).iter().map(|e| e.count as usize).sum()
    }

    /// Page, slot and position of each key of a plane, in order.
    pub fn keys(&self, plane: usize) -> impl Iterator<Item = (u32, u32, i32)> + '_ {
        self.plane(plane).iter().flat_map(|e| {
            (0..u32::from(e.count)).map(|i| {
                let position = match usize::try_from(e.positions_at) {
                    Ok(at) => self.positions[at + i as usize],
                    Err(_) => e.position + i as i32,
                };
                (e.page, e.slot() + i, position)
            })
        })
    }

    /// The most keys of any plane.
    pub fn max_keys(&self) -> u32 {
        let planes = self.head_ranges.len().max(1);
        (0..planes).map(|plane| self.num_keys(plane) as u32).max().unwrap_or(0)
    }
}
