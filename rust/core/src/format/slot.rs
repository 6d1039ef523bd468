//! Slots of pages: how a run of them is written down, and what moves from one to another.
//!
//! A slot of a page in codes carries the number of the page's format in the bits above
//! [`Entry::SLOT_BITS`], wherever one word has both.

/// Most tokens of any page: an entry has twelve bits for a slot.
pub const MOST_TOKENS: usize = 4095;

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

/// Where a row's key and value are written.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowSlot {
    /// Slab id; the same slot of every plane's page.
    pub slab: u32,
    /// Slot on the page.
    pub slot: u32,
}

/// One slot that takes the contents of another, on all planes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Read from here.
    pub from: RowSlot,
    /// Written here.
    pub to: RowSlot,
}

/// One page slot that takes the contents of another page's, on one plane.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageMove {
    /// Page id and slot to read.
    pub from: [u32; 2],
    /// Page id and slot to write.
    pub to: [u32; 2],
}
