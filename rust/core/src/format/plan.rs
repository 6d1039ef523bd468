//! What the rows of a step read: flat arrays that the attention operation and its CUDA twin share.
//!
//! Rows are in depth-first order of the tree, so a key is visible to one contiguous interval of
//! rows. A [`Read`] names a run of table entries and the interval of rows that see it. There are
//! two kinds: the keys of a *prefix* read are all visible to the same rows; the keys of an *own*
//! read are written by this very step, key `i` by row `row_begin + i`, and each is visible from
//! its own row to the end of that row's subtree, [`Plan::row_end`].
//!
//! Whoever has block tables of another kind writes a plan by hand. One row at position 3 sees three keys on
//! page 0, and its own, which lies in the next slot:
//!
//! ```
//! use hornbeam_core::format::plan::{Entry, Plan, Read, RowSlot};
//!
//! let entry = |first, count, position| Entry { page: 0, first, count, position, positions_at: -1 };
//! let read = |entry, num_keys, flags| Read {
//!     entry_begin: entry,
//!     entry_end: entry + 1,
//!     row_begin: 0,
//!     row_end: 1,
//!     num_keys,
//!     flags,
//!     mask: -1,
//!     rotary_offset: 0,
//! };
//! let plan = Plan {
//!     entries: vec![entry(0, 3, 0), entry(3, 1, 3)],
//!     reads: vec![read(0, 3, 0), read(1, 1, Read::OWN)],
//!     row_positions: vec![3],
//!     row_end: vec![1],
//!     row_slots: vec![RowSlot { slab: 0, slot: 3 }],
//!     ..Plan::default()
//! };
//! assert_eq!(plan.check(), Ok(()));
//! assert_eq!(Plan::from_words(&plan.to_words()), Ok(plan)); // as one array of 32-bit words
//! ```

use super::page::FORMATS;
use super::slot::MOST_TOKENS;
pub use super::slot::{Entry, RowSlot};
use crate::error::{Error, Result};

/// One read: a run of entries and the rows that see it. Eight 32-bit words.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// First entry; for a read by head, the index of its first range in [`Plan::head_ranges`].
    pub entry_begin: u32,
    /// One past the last entry; for a read by head, one past its last range.
    pub entry_end: u32,
    /// First row that sees the keys.
    pub row_begin: u32,
    /// One past the last row that sees the keys.
    pub row_end: u32,
    /// Number of keys; for a read by head, the most of any plane.
    pub num_keys: u32,
    /// [`Read::OWN`] and [`Read::BY_HEAD`].
    pub flags: u32,
    /// Offset in a table of row masks, or -1: every row of the interval sees every key.
    pub mask: i32,
    /// Added to the position that a query is rotated with before it meets these keys; 0 in a tree.
    pub rotary_offset: i32,
}

impl Read {
    /// The keys are the step's own rows.
    pub const OWN: u32 = 1;
    /// Each plane has its own entries: `head_ranges[entry_begin + plane]`.
    pub const BY_HEAD: u32 = 2;

    /// Whether the keys are the step's own rows.
    pub fn is_own(&self) -> bool {
        self.flags & Self::OWN != 0
    }

    /// Whether each plane has entries of its own.
    pub fn is_by_head(&self) -> bool {
        self.flags & Self::BY_HEAD != 0
    }
}

/// The reads of one step, as flat arrays.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Entries of all reads.
    pub entries: Vec<Entry>,
    /// Positions of slots that are not consecutive.
    pub positions: Vec<i32>,
    /// Half-open ranges of `entries`, one a plane, for reads by head.
    pub head_ranges: Vec<[u32; 2]>,
    /// The reads: the nodes in depth-first order, then the own reads, one a request. The intervals
    /// of two reads of one row may overlap in rows, never in keys.
    pub reads: Vec<Read>,
    /// Logical position of each row.
    pub row_positions: Vec<i32>,
    /// One past the last row of the subtree of each row.
    pub row_end: Vec<u32>,
    /// Where each row is written.
    pub row_slots: Vec<RowSlot>,
}

impl Plan {
    /// Rows of the step.
    pub fn num_rows(&self) -> usize {
        self.row_positions.len()
    }

    /// Whether operations can follow a plan that somebody wrote by hand: every index lies in its array, and
    /// every count is what it counts. What depends on the pool, pages and slots, is theirs to check.
    ///
    /// # Errors
    /// [`Error::Shape`] for arrays of rows that differ in length, [`Error::Value`] for the first fault found.
    pub fn check(&self) -> Result<()> {
        self.check_rows()?;
        self.entries.iter().try_for_each(|entry| self.check_entry(entry))?;
        if let Some(position) = self.positions.iter().find(|position| **position < 0) {
            return Err(Error::value("positions", position, "at least 0"));
        }
        for range in &self.head_ranges {
            if range[0] > range[1] || range[1] as usize > self.entries.len() {
                let want = format!("within {} entries", self.entries.len());
                return Err(Error::value("head range", format!("{range:?}"), want));
            }
        }
        // Slots before each entry, so that a read costs the same however many entries it names.
        let mut before = Vec::with_capacity(self.entries.len() + 1);
        before.push(0u64);
        for entry in &self.entries {
            before.push(before[before.len() - 1] + u64::from(entry.count));
        }
        let keys = |range: [u32; 2]| before[range[1] as usize] - before[range[0] as usize];
        let mut total = 0u64;
        for read in &self.reads {
            self.check_read(read)?;
            let range = [read.entry_begin, read.entry_end];
            let want = if read.is_own() {
                u64::from(read.row_end - read.row_begin)
            } else if read.is_by_head() {
                let ranges = &self.head_ranges[range[0] as usize..range[1] as usize];
                ranges.iter().map(|range| keys(*range)).max().unwrap_or(0)
            } else {
                keys(range)
            };
            if u64::from(read.num_keys) != want {
                return Err(Error::value("num_keys of a read", read.num_keys, want));
            }
            if read.is_own() && range[0] < range[1] {
                self.check_own(read, keys(range))?;
            }
            total += want;
        }
        if total > i32::MAX as u64 {
            return Err(Error::value("keys of all reads", total, format!("at most {}", i32::MAX)));
        }
        Ok(())
    }

    fn check_rows(&self) -> Result<()> {
        let rows = self.num_rows();
        if self.row_end.len() != rows || self.row_slots.len() != rows {
            let got = format!("{:?}", (rows, self.row_end.len(), self.row_slots.len()));
            let want = "three equal lengths";
            return Err(Error::shape("rows of row_positions, row_end, row_slots", got, want));
        }
        if let Some(position) = self.row_positions.iter().find(|position| **position < 0) {
            return Err(Error::value("row_positions", position, "at least 0"));
        }
        let beyond = |&(row, &end): &(usize, &u32)| end as usize <= row || end as usize > rows;
        match self.row_end.iter().enumerate().find(beyond) {
            Some((row, end)) => {
                let want = format!("{} to {rows}", row + 1);
                Err(Error::value("row_end", format!("{end} at row {row}"), want))
            }
            None => Ok(()),
        }
    }

    fn check_entry(&self, entry: &Entry) -> Result<()> {
        let count = i64::from(entry.count);
        let placed = match entry.positions_at {
            ..0 => entry.position >= 0 && i64::from(entry.position) + count <= i64::from(i32::MAX),
            at => i64::from(at) + count <= self.positions.len() as i64,
        };
        let slots = entry.slot() as usize + usize::from(entry.count) <= MOST_TOKENS;
        if entry.count == 0 || !placed || !slots || usize::from(entry.format()) > FORMATS.len() {
            let want = format!(
                "1 to {MOST_TOKENS} slots of a page in a format up to {}, at positions from 0 or within {}",
                FORMATS.len(),
                self.positions.len()
            );
            return Err(Error::value("entry", format!("{entry:?}"), want));
        }
        Ok(())
    }

    fn check_read(&self, read: &Read) -> Result<()> {
        let rows = self.num_rows();
        let limit = if read.is_by_head() { self.head_ranges.len() } else { self.entries.len() };
        let good = read.entry_begin <= read.entry_end
            && read.entry_end as usize <= limit
            && read.row_begin <= read.row_end
            && read.row_end as usize <= rows
            && [0, Read::OWN, Read::BY_HEAD].contains(&read.flags);
        if good {
            return Ok(());
        }
        let want =
            format!("flags 0, {} or {}, within {limit} entries and {rows} rows", Read::OWN, Read::BY_HEAD);
        Err(Error::value("read", format!("{read:?}"), want))
    }

    /// The entries of an own read, where it has any, are its rows' slots: kernels find its keys by the former,
    /// the CPU by the latter.
    fn check_own(&self, read: &Read, num_slots: u64) -> Result<()> {
        let rows = &self.row_slots[read.row_begin as usize..read.row_end as usize];
        let entries = &self.entries[read.entry_begin as usize..read.entry_end as usize];
        let slots = entries.iter().flat_map(|entry| {
            (0..u32::from(entry.count)).map(move |i| (entry.page, u32::from(entry.first) + i))
        });
        if num_slots == rows.len() as u64 && slots.eq(rows.iter().map(|slot| (slot.slab, slot.slot))) {
            return Ok(());
        }
        Err(Error::value("entries of an own read", format!("{read:?}"), "the slots of its rows, in order"))
    }
}
