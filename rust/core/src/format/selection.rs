//! Which entries of a plan's prefix reads the queries of a step read: what sparse attention is given beside
//! the plan.
//!
//! A *unit* is one entry of a prefix read on the plane of one kv head. Of each kv head and read a selection
//! names the units that some query sees, each with a mask of who does. What it does not name is not read.
//! The step's own keys are not selected: they are seen as the plan says.

use super::plan::{Plan, Read};
use crate::error::{Error, Result};

/// One entry that some query of a kv head sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// Index in [`Plan::entries`].
    pub entry: u32,
    /// Where its mask begins in the selection's words; [`Unit::SEEN_BY_ALL`] without one.
    pub mask: u32,
}

impl Unit {
    /// Every query of the read's rows sees the entry.
    pub const SEEN_BY_ALL: u32 = u32::MAX;
}

/// What a kv head reads of one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selected<'a> {
    /// Everything, as the plan says.
    All,
    /// These units, ascending by entry.
    Units(&'a [Unit]),
}

/// The units of all kv heads of one layer of a step.
///
/// Bit `(row - read.row_begin) * group + member` of a unit's mask says whether member `member` of the kv head's
/// query heads sees it in `row`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    num_rows: usize,
    num_reads: usize,
    num_entries: usize,
    num_kv_heads: usize,
    group: usize,
    /// Units of each read, heads outermost; `None` where all of it is read.
    spans: Vec<Option<[u32; 2]>>,
    units: Vec<Unit>,
    words: Vec<u64>,
    num_units: usize,
    union_keys: u64,
    plan_keys: u64,
}

impl Selection {
    /// A selection for a plan, of which reads are told in order, heads outermost, by [`Selection::push_all`]
    /// or [`Selection::push_units`].
    pub fn new(plan: &Plan, num_kv_heads: usize, group: usize) -> Self {
        Self {
            num_rows: plan.num_rows(),
            num_reads: plan.reads.len(),
            num_entries: plan.entries.len(),
            num_kv_heads,
            group,
            ..Self::default()
        }
    }

    /// The next read is read as the plan says: `entries` of it, which show `keys` keys. Both are 0 for an own
    /// read.
    pub fn push_all(&mut self, entries: usize, keys: u64) {
        self.spans.push(None);
        self.num_units += entries;
        self.union_keys += keys;
        self.plan_keys += keys;
    }

    /// Of the next read, which has `plan_keys` keys, the units since the last push are read: `keys` keys.
    pub fn push_units(&mut self, keys: u64, plan_keys: u64) {
        let begin = self.spans.iter().rev().find_map(|span| span.map(|span| span[1])).unwrap_or(0);
        let end = self.units.len() as u32;
        self.spans.push(Some([begin, end]));
        self.num_units += (end - begin) as usize;
        self.union_keys += keys;
        self.plan_keys += plan_keys;
    }

    /// One more unit of the next read. `mask` has a bit a query of the read's rows; `None` where all see it.
    pub fn push_unit(&mut self, entry: u32, mask: Option<&[u64]>) {
        let at = match mask {
            Some(mask) => {
                let at = self.words.len() as u32;
                self.words.extend_from_slice(mask);
                at
            }
            None => Unit::SEEN_BY_ALL,
        };
        self.units.push(Unit { entry, mask: at });
    }

    /// What a kv head reads of a read.
    #[inline(always)]
    pub fn of(&self, kv_head: usize, read: usize) -> Selected<'_> {
        match self.spans[kv_head * self.num_reads + read] {
            None => Selected::All,
            Some([begin, end]) => Selected::Units(&self.units[begin as usize..end as usize]),
        }
    }

    /// The units `begin..end` of all.
    #[inline(always)]
    pub fn units(&self, begin: u32, end: u32) -> &[Unit] {
        &self.units[begin as usize..end as usize]
    }

    /// The units of a read of a kv head as a range of all; `None` where all of it is read.
    pub fn span(&self, kv_head: usize, read: usize) -> Option<[u32; 2]> {
        self.spans[kv_head * self.num_reads + read]
    }

    /// Whether a query, counted from the first of the read's rows, sees a unit of this mask.
    #[inline(always)]
    pub fn sees(&self, mask: u32, query: usize) -> bool {
        mask == Unit::SEEN_BY_ALL || self.words[mask as usize + query / 64] >> (query % 64) & 1 == 1
    }

    /// Bit `i` says whether query `first + i` of the read's rows sees a unit of this mask; of queries before the
    /// first or behind the last, anything.
    #[inline(always)]
    pub fn sixteen(&self, mask: u32, first: isize) -> u16 {
        if mask == Unit::SEEN_BY_ALL {
            return u16::MAX;
        }
        let part = |word: isize| match usize::try_from(word) {
            Ok(word) => self.words.get(mask as usize + word).copied().unwrap_or(0),
            Err(_) => 0,
        };
        let (word, shift) = (first.div_euclid(64), first.rem_euclid(64));
        let next = if shift > 48 { part(word + 1) << (64 - shift) } else { 0 };
        (part(word) >> shift | next) as u16
    }

    /// Kv heads that it was made for.
    pub fn num_kv_heads(&self) -> usize {
        self.num_kv_heads
    }

    /// Query heads of a kv head.
    pub fn group(&self) -> usize {
        self.group
    }

    /// Units that are read, summed over kv heads.
    pub fn num_units(&self) -> usize {
        self.num_units
    }

    /// Keys of prefix reads that are read, summed over kv heads.
    pub fn union_keys(&self) -> u64 {
        self.union_keys
    }

    /// Keys of prefix reads that there are, summed over kv heads.
    pub fn plan_keys(&self) -> u64 {
        self.plan_keys
    }

    /// Whether it is one of this plan, for so many heads.
    ///
    /// # Errors
    /// [`Error::Value`] otherwise.
    pub fn check(&self, plan: &Plan, num_kv_heads: usize, group: usize) -> Result<()> {
        let told = |[rows, reads, entries, heads, group]: [usize; 5]| {
            format!(
                "of {rows} rows, {reads} reads, {entries} entries, {heads} kv heads, {group} query heads each"
            )
        };
        let own = [self.num_rows, self.num_reads, self.num_entries, self.num_kv_heads, self.group];
        let want = [plan.num_rows(), plan.reads.len(), plan.entries.len(), num_kv_heads, group];
        if own != want || self.spans.len() != self.num_reads * self.num_kv_heads {
            return Err(Error::value("selection", told(own), told(want)));
        }
        Ok(())
    }

    /// Who sees what: `[num_rows, num_entries]` of one query head, `member` of its kv head's, true where the row
    /// reads the entry. Entries of own reads are false.
    pub fn seen(&self, plan: &Plan, plane: usize, kv_head: usize, member: usize) -> Vec<bool> {
        let mut seen = vec![false; self.num_rows * self.num_entries];
        for (index, read) in plan.reads.iter().enumerate().filter(|(_, read)| !read.is_own()) {
            let mut show = |row: usize, entry: u32| seen[row * self.num_entries + entry as usize] = true;
            for row in read.row_begin as usize..read.row_end as usize {
                let query = (row - read.row_begin as usize) * self.group + member;
                match self.of(kv_head, index) {
                    Selected::All => {
                        let [begin, end] = plane_entries(plan, read, plane);
                        (begin..end).for_each(|entry| show(row, entry));
                    }
                    Selected::Units(units) => {
                        let seen = units.iter().filter(|unit| self.sees(unit.mask, query));
                        seen.for_each(|unit| show(row, unit.entry));
                    }
                }
            }
        }
        seen
    }
}

/// The entries of a prefix read on a plane; none where its ranges do not reach so far.
pub fn plane_entries(plan: &Plan, read: &Read, plane: usize) -> [u32; 2] {
    if !read.is_by_head() {
        return [read.entry_begin, read.entry_end];
    }
    plan.head_ranges.get(read.entry_begin as usize + plane).copied().unwrap_or([0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_masks_are_told_by_head_and_read() {
        let read = Read {
            entry_begin: 0,
            entry_end: 3,
            row_begin: 0,
            row_end: 2,
            num_keys: 6,
            flags: 0,
            mask: -1,
            rotary_offset: 0,
        };
        let plan = Plan {
            entries: vec![Default::default(); 3],
            reads: vec![read, read],
            row_positions: vec![9, 9],
            ..Plan::default()
        };
        let mut selection = Selection::new(&plan, 1, 2);
        selection.push_all(3, 6);
        selection.push_unit(0, None);
        selection.push_unit(2, Some(&[0b0100]));
        selection.push_units(4, 6);
        assert!(selection.check(&plan, 1, 2).is_ok());
        assert!(selection.check(&plan, 2, 2).is_err());
        assert_eq!((selection.num_units(), selection.union_keys(), selection.plan_keys()), (5, 10, 12));
        assert_eq!(selection.of(0, 0), Selected::All);
        let Selected::Units(units) = selection.of(0, 1) else { panic!("all") };
        let seen: Vec<bool> = (0..4).map(|query| selection.sees(units[1].mask, query)).collect();
        assert_eq!(seen, [false, false, true, false]);
        assert_eq!(selection.sixteen(units[0].mask, -3), u16::MAX);
        for (first, want) in [(0, 0b100), (2, 1), (-13, 1 << 15), (-1, 0b1000)] {
            assert_eq!(selection.sixteen(units[1].mask, first), want);
        }
        let other = Selection { spans: vec![selection.spans[1]; 2], ..selection };
        assert_eq!(other.seen(&plan, 0, 0, 0), [true, false, false, true, false, true]);
        assert_eq!(other.seen(&plan, 0, 0, 1), [true, false, false, true, false, false]);
    }
}
