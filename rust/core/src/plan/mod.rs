//! From the open branches of a tree to the flat [`Plan`] of a step.
//!
//! The tree walks its open step in depth-first order and tells what it meets; what becomes of that here
//! knows tables and rows, not nodes.
//!
//! A prompt of six tokens is read once for the rows of both branches that go on from it:
//!
//! ```
//! # use hornbeam_core::format::{Dtype, PageLayout};
//! use hornbeam_core::plan::step_plan;
//! # use hornbeam_core::tree::{Begin, Request, Tree};
//! # let layout =
//! #     PageLayout { num_planes: 1, slabs_per_chunk: 8, page_tokens: 4, head_dim: 16, dtype: Dtype::F32 };
//! # let mut tree = Tree::new(layout, usize::MAX)?;
//! # let chat = tree.branch();
//! # while let Begin::Grow(chunks) =
//! #     tree.begin(&[Request { branch: chat, tokens: &[11, 12, 13, 14, 15, 16], parents: None }])?
//! # {
//! #     (0..chunks).try_for_each(|_| tree.add_chunk())?;
//! # }
//! # tree.commit(&[&[0, 1, 2, 3, 4, 5]])?;
//! # let other = tree.fork(chat)?;
//! tree.begin(&[
//!     // A draft tree: two guesses at what follows 21.
//!     Request { branch: chat, tokens: &[21, 22, 23], parents: Some(&[-1, 0, 0]) },
//!     Request { branch: other, tokens: &[31], parents: None },
//! ])?;
//! let plan = step_plan(&tree);
//!
//! assert_eq!(plan.row_positions, [6, 7, 7, 6]);
//! let reads: Vec<_> = plan.reads.iter().map(|r| (r.num_keys, r.row_begin..r.row_end)).collect();
//! assert_eq!(reads, [(6, 0..4), (3, 0..3), (1, 3..4)]); // the prompt, then the rows of each request
//! assert_eq!(plan.row_end, [3, 2, 3, 4]); // 22 is not seen by 23
//! # Ok::<(), hornbeam_core::Error>(())
//! ```

mod resident;

pub use resident::resident_plan;

use crate::format::plan::{Entry, Plan, Read, RowSlot};
use crate::tree::{Order, Table, Tree, Walk};

/// The plan of a tree's open step; without one, a plan of no rows.
pub fn step_plan(tree: &Tree) -> Plan {
    let mut builder = Builder::default();
    tree.walk_step(&mut builder);
    builder.plan.reads.append(&mut builder.own);
    builder.plan
}

/// Builds a [`Plan`] from a depth-first walk: reads of nodes, and own reads to come after them.
#[derive(Debug, Default)]
struct Builder {
    plan: Plan,
    own: Vec<Read>,
    /// The reads of the nodes that the walk is in; `None` for one that shows no key.
    within: Vec<Option<usize>>,
}

impl Walk for Builder {
    /// Adds a read of the node's keys.
    fn enter(&mut self, table: &Table) {
        let num_keys = table.max_keys();
        if num_keys == 0 {
            self.within.push(None);
            return;
        }
        self.within.push(Some(self.plan.reads.len()));
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
    }

    /// The rows since the node was entered see it.
    fn leave(&mut self) {
        if let Some(Some(read)) = self.within.pop() {
            self.plan.reads[read].row_end = self.plan.row_positions.len() as u32;
        }
    }

    /// Adds the rows of a request, and a read of them.
    fn rows(&mut self, order: &Order, position: i32, slots: impl Iterator<Item = (u32, u32, u32)>) {
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
}
