//! From the open branches of a tree to the flat [`Plan`] of a step.
//!
//! The tree walks its nodes in depth-first order and tells a [`Builder`] what it meets; the builder
//! knows tables and rows, not nodes.

mod held;

pub use held::{HeldKey, held_plan};

use crate::error::{Error, Result};
use crate::format::plan::{Entry, Plan, Read, RowSlot};

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
    fn max_keys(&self) -> u32 {
        let planes = self.head_ranges.len().max(1);
        (0..planes).map(|plane| self.num_keys(plane) as u32).max().unwrap_or(0)
    }
}

/// The rows of one request in depth-first order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Order {
    /// Row of each token, relative to the request's first row.
    pub row_of: Vec<u32>,
    /// Token of each row.
    pub token_of: Vec<u32>,
    /// One past the last row of each row's subtree, relative.
    pub end: Vec<u32>,
    /// Depth of each row, 0 for a child of the tip.
    pub depth: Vec<u32>,
}

impl Order {
    /// Orders a draft tree: `parents[i] < i`, -1 for a child of the tip; siblings keep their order.
    /// `None` is a chain of `num_tokens`.
    pub fn new(num_tokens: usize, parents: Option<&[i32]>) -> Result<Self> {
        let count = num_tokens as u32;
        let Some(parents) = parents else {
            let rows: Vec<u32> = (0..count).collect();
            return Ok(Self {
                row_of: rows.clone(),
                token_of: rows.clone(),
                end: vec![count; num_tokens],
                depth: rows,
            });
        };
        if parents.len() != num_tokens {
            return Err(Error::shape("parents", parents.len(), format!("{num_tokens}, one a token")));
        }
        let mut size = vec![1u32; num_tokens];
        for (i, &parent) in parents.iter().enumerate().rev() {
            if parent < -1 || parent >= i as i32 {
                return Err(Error::value(
                    "parents",
                    format!("{parent} at {i}"),
                    format!("-1 to {}", i as i32 - 1),
                ));
            }
            if parent >= 0 {
                size[parent as usize] += size[i];
            }
        }
        // `next[i]`: the row that the next child of `i` gets; children come in order, parents first.
        let (mut next, mut roots) = (vec![0u32; num_tokens], 0);
        let mut order = Self {
            row_of: vec![0; num_tokens],
            token_of: vec![0; num_tokens],
            end: vec![0; num_tokens],
            depth: vec![0; num_tokens],
        };
        for (i, &parent) in parents.iter().enumerate() {
            let slot = if parent < 0 { &mut roots } else { &mut next[parent as usize] };
            let row = *slot;
            *slot += size[i];
            next[i] = row + 1;
            order.row_of[i] = row;
            order.token_of[row as usize] = i as u32;
            order.end[row as usize] = row + size[i];
            order.depth[row as usize] = match usize::try_from(parent) {
                Ok(parent) => order.depth[order.row_of[parent] as usize] + 1,
                Err(_) => 0,
            };
        }
        Ok(order)
    }

    /// Whether every row is the child of the row before it.
    fn is_chain(&self) -> bool {
        self.depth.iter().enumerate().all(|(row, &depth)| depth == row as u32)
    }
}

/// Builds a [`Plan`] from a depth-first walk.
#[derive(Debug, Default)]
pub struct Builder {
    plan: Plan,
    own: Vec<Read>,
}

impl Builder {
    /// Rows so far.
    pub fn num_rows(&self) -> u32 {
        self.plan.row_positions.len() as u32
    }

    /// The walk enters a node: adds a read of its keys. Returns the read to close, if there is any key.
    pub fn enter(&mut self, table: &Table) -> Option<usize> {
        let num_keys = table.max_keys();
        if num_keys == 0 {
            return None;
        }
        let plan = &mut self.plan;
        let (entry_base, position_base) = (plan.entries.len() as u32, plan.positions.len() as i32);
        if table.positions.is_empty() {
            plan.entries.extend_from_slice(&table.entries);
        } else {
            plan.positions.extend_from_slice(&table.positions);
            plan.entries.extend(table.entries.iter().map(|e| Entry {
                positions_at: if e.positions_at < 0 { -1 } else { e.positions_at + position_base },
                ..*e
            }));
        }
        let (begin, end, flags) = if table.is_by_head() {
            let begin = plan.head_ranges.len() as u32;
            plan.head_ranges.extend(table.head_ranges.iter().map(|r| [r[0] + entry_base, r[1] + entry_base]));
            (begin, plan.head_ranges.len() as u32, Read::BY_HEAD)
        } else {
            (entry_base, plan.entries.len() as u32, 0)
        };
        let row = plan.row_positions.len() as u32;
        plan.reads.push(Read {
            entry_begin: begin,
            entry_end: end,
            row_begin: row,
            row_end: row,
            num_keys,
            flags,
            mask: -1,
            rotary_offset: 0,
        });
        Some(plan.reads.len() - 1)
    }

    /// The walk leaves a node: the rows since [`Builder::enter`] see it.
    pub fn leave(&mut self, read: Option<usize>) {
        if let Some(read) = read {
            self.plan.reads[read].row_end = self.plan.row_positions.len() as u32;
        }
    }

    /// Adds the rows of a request. `slots` are runs of (slab, first slot, count) that together hold
    /// them; `position` is that of a child of the tip.
    pub fn rows(&mut self, order: &Order, position: i32, slots: impl Iterator<Item = (u32, u32, u32)>) {
        let plan = &mut self.plan;
        let (row, entry) = (plan.row_positions.len() as u32, plan.entries.len() as u32);
        let count = order.depth.len() as u32;
        let chain = order.is_chain();
        let positions_at = plan.positions.len() as i32;
        plan.row_positions.extend(order.depth.iter().map(|&depth| position + depth as i32));
        plan.row_end.extend(order.end.iter().map(|&end| row + end));
        if !chain {
            plan.positions.extend_from_slice(&plan.row_positions[row as usize..]);
        }
        let mut done = 0;
        for (slab, first, run) in slots {
            let run = run.min(count - done);
            if run == 0 {
                break;
            }
            plan.row_slots.extend((first..first + run).map(|slot| RowSlot { slab, slot }));
            plan.entries.push(Entry {
                page: slab,
                first: first as u16,
                count: run as u16,
                position: plan.row_positions[(row + done) as usize],
                positions_at: if chain { -1 } else { positions_at + done as i32 },
            });
            done += run;
        }
        self.own.push(Read {
            entry_begin: entry,
            entry_end: plan.entries.len() as u32,
            row_begin: row,
            row_end: row + count,
            num_keys: count,
            flags: Read::OWN,
            mask: -1,
            rotary_offset: 0,
        });
    }

    /// The plan: reads of nodes, then own reads.
    pub fn finish(mut self) -> Plan {
        self.plan.reads.append(&mut self.own);
        self.plan
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn draft_trees_are_ordered_depth_first() {
        // 0─┬─1─┬─3     breadth-first numbering, as drafts often come
        //   └─2 └─4     5 is a second child of the tip
        let order = Order::new(6, Some(&[-1, 0, 0, 1, 1, -1])).unwrap();
        assert_eq!(order.row_of, [0, 1, 4, 2, 3, 5]);
        assert_eq!(order.token_of, [0, 1, 3, 4, 2, 5]);
        assert_eq!(order.end, [5, 4, 3, 4, 5, 6]);
        assert_eq!(order.depth, [0, 1, 2, 2, 1, 0]);
        assert_eq!(Order::new(3, Some(&[-1, 0, 1])).unwrap(), Order::new(3, None).unwrap());
    }

    #[test]
    fn parents_come_first() {
        assert!(Order::new(2, Some(&[-1, 1])).is_err());
        assert!(Order::new(2, Some(&[-2, 0])).is_err());
        assert!(Order::new(2, Some(&[-1])).is_err());
    }
}
