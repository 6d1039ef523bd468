//! A packed plan: what its buffer of 32-bit words begins with, and the work list in it. Entries, reads and
//! row slots are those of [`hornbeam_core::format::plan`].

/// The head of the buffer. Offsets are in words from its start, so that one upload updates a captured graph in place.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PlanHeader {
    /// Rows of the step, padding included.
    pub num_rows: i32,
    /// Items.
    pub num_items: i32,
    /// Rows that several items share.
    pub num_merged_rows: i32,
    /// Most rows of an item.
    pub rows_per_item: i32,
    /// Where addresses of the chunks begin, 64 bits each.
    pub chunks: i32,
    /// Where entries begin.
    pub entries: i32,
    /// For each entry the index in its read of its first key.
    pub entry_keys: i32,
    /// Positions of slots that are not consecutive.
    pub positions: i32,
    /// Pairs: the entries of each plane of reads by head.
    pub head_ranges: i32,
    /// Reads.
    pub reads: i32,
    /// Logical position of each row.
    pub row_positions: i32,
    /// One past the last row of the subtree of each row.
    pub row_end: i32,
    /// Where each row is written.
    pub row_slots: i32,
    /// Items.
    pub items: i32,
    /// Segments.
    pub segments: i32,
    /// Rows that several items share.
    pub merged_rows: i32,
    /// Where the parts of each merged row begin, `[num_merged_rows + 1]`.
    pub parts_begin: i32,
    /// Partial rows, in the order in which they are merged.
    pub parts: i32,
    /// [`CodedPage`](super::CodedPage) by number less one; all 0 for those that no entry names.
    pub formats: i32,
    /// Zero.
    pub reserved: [i32; 13],
}

/// What one block of threads reads: its rows against runs of keys.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// First row.
    pub row_begin: i32,
    /// Rows.
    pub row_count: i32,
    /// First segment.
    pub segment_begin: i32,
    /// One past the last.
    pub segment_end: i32,
    /// First of its partial rows, or -1: it writes the output itself.
    pub partial_begin: i32,
    /// Zero.
    pub reserved: [i32; 3],
}

/// A run of slots of one read: slot `s` lies on the read's entry `s / page_tokens`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Index of the read.
    pub read: i32,
    /// First slot.
    pub slot_begin: i32,
    /// One past the last.
    pub slot_end: i32,
    /// First column of the read in the work list of key mass; else zero.
    pub column: i32,
}

/// A slab that says: this row is padding, write it nowhere.
pub const NOWHERE: u32 = 0xffff_ffff;
