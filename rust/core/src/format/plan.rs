//! What the rows of a step read: flat arrays that the attention operation and its CUDA twin share.
//!
//! Rows are in depth-first order of the tree, so a key is visible to one contiguous interval of
//! rows. A [`Read`] names a run of table entries and the interval of rows that see it. There are
//! two kinds: the keys of a *prefix* read are all visible to the same rows; the keys of an *own*
//! read are written by this very step, key `i` by row `row_begin + i`, and each is visible from
//! its own row to the end of that row's subtree, [`Plan::row_end`].

/// One run of slots on one page. Sixteen bytes, four 32-bit words, so that a kernel loads it at once.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry {
    /// A slab id in a uniform read, a page id in a read by head.
    pub page: u32,
    /// First slot shown, in the low twelve bits; above them the number of the page's format, 0 where
    /// its slots are plain (see [`super::page`]).
    pub first: u16,
    /// Number of slots shown, at least 1.
    pub count: u16,
    /// Logical position of the first slot; slot `first + i` has `position + i`, unless...
    pub position: i32,
    /// ...this is not negative: then slot `first + i` has `positions[positions_at + i]`.
    pub positions_at: i32,
}

impl Entry {
    /// Bits of `first` that hold the slot.
    pub const SLOT_BITS: u32 = 12;

    /// `first` of a slot and a format.
    pub fn first_of(slot: u32, format: u8) -> u16 {
        slot as u16 | u16::from(format) << Self::SLOT_BITS
    }

    /// First slot shown.
    #[inline(always)]
    pub fn slot(&self) -> u32 {
        u32::from(self.first) & ((1 << Self::SLOT_BITS) - 1)
    }

    /// Number of the page's format; 0 where its slots are plain.
    #[inline(always)]
    pub fn format(&self) -> u8 {
        (self.first >> Self::SLOT_BITS) as u8
    }
}

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

/// Where a row's key and value are written.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowSlot {
    /// Slab id; the same slot of every plane's page.
    pub slab: u32,
    /// Slot on the page.
    pub slot: u32,
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
}
