// Written from rust/cuda/src/params/plan.rs by `make cuda-headers`: edit that file.

#pragma once

#include "params/pages.h"

namespace hornbeam {

/// A slab that says: this row is padding, write it nowhere.
constexpr const uint32_t NOWHERE = 4294967295;

/// The head of the buffer. Offsets are in words from its start, so that one upload updates a captured graph in place.
struct PlanHeader {
    /// Rows of the step, padding included.
    int32_t num_rows;
    /// Items.
    int32_t num_items;
    /// Rows that several items share.
    int32_t num_merged_rows;
    /// Most rows of an item.
    int32_t rows_per_item;
    /// Where addresses of the chunks begin, 64 bits each.
    int32_t chunks;
    /// Where entries begin.
    int32_t entries;
    /// For each entry the index in its read of its first key.
    int32_t entry_keys;
    /// Positions of slots that are not consecutive.
    int32_t positions;
    /// Pairs: the entries of each plane of reads by head.
    int32_t head_ranges;
    /// Reads.
    int32_t reads;
    /// Logical position of each row.
    int32_t row_positions;
    /// One past the last row of the subtree of each row.
    int32_t row_end;
    /// Where each row is written.
    int32_t row_slots;
    /// Items.
    int32_t items;
    /// Segments.
    int32_t segments;
    /// Rows that several items share.
    int32_t merged_rows;
    /// Where the parts of each merged row begin, `[num_merged_rows + 1]`.
    int32_t parts_begin;
    /// Partial rows, in the order in which they are merged.
    int32_t parts;
    /// [`CodedPage`](super::CodedPage) by number less one; all 0 for those that no entry names.
    int32_t formats;
    /// Zero.
    int32_t reserved[13];
};

/// What one block of threads reads: its rows against runs of keys.
struct Item {
    /// First row.
    int32_t row_begin;
    /// Rows.
    int32_t row_count;
    /// First segment.
    int32_t segment_begin;
    /// One past the last.
    int32_t segment_end;
    /// First of its partial rows, or -1: it writes the output itself.
    int32_t partial_begin;
    /// Zero.
    int32_t reserved[3];
};

/// A run of slots of one read: slot `s` lies on the read's entry `s / page_tokens`.
struct Segment {
    /// Index of the read.
    int32_t read;
    /// First slot.
    int32_t slot_begin;
    /// One past the last.
    int32_t slot_end;
    /// First column of the read in the work list of key mass; else zero.
    int32_t column;
};

/// One run of slots on one page. Sixteen bytes, four 32-bit words, so that a kernel loads it at once.
struct Entry {
    /// A slab id in a uniform read, a page id in a read by head.
    uint32_t page;
    /// First slot shown, in the low twelve bits; above them the number of the page's format, 0 where
    /// its slots are plain (see [`super::page`]).
    uint16_t first;
    /// Number of slots shown, at least 1.
    uint16_t count;
    /// Logical position of the first slot; slot `first + i` has `position + i`, unless...
    int32_t position;
    /// ...this is not negative: then slot `first + i` has `positions[positions_at + i]`.
    int32_t positions_at;
};
/// Bits of `first` that hold the slot.
constexpr const uint32_t Entry_SLOT_BITS = 12;

/// Where a row's key and value are written.
struct RowSlot {
    /// Slab id; the same slot of every plane's page.
    uint32_t slab;
    /// Slot on the page.
    uint32_t slot;
};

/// One read: a run of entries and the rows that see it. Eight 32-bit words.
struct Read {
    /// First entry; for a read by head, the index of its first range in [`Plan::head_ranges`].
    uint32_t entry_begin;
    /// One past the last entry; for a read by head, one past its last range.
    uint32_t entry_end;
    /// First row that sees the keys.
    uint32_t row_begin;
    /// One past the last row that sees the keys.
    uint32_t row_end;
    /// Number of keys; for a read by head, the most of any plane.
    uint32_t num_keys;
    /// [`Read::OWN`] and [`Read::BY_HEAD`].
    uint32_t flags;
    /// Offset in a table of row masks, or -1: every row of the interval sees every key.
    int32_t mask;
    /// Added to the position that a query is rotated with before it meets these keys; 0 in a tree.
    int32_t rotary_offset;
};
/// The keys are the step's own rows.
constexpr const uint32_t Read_OWN = 1;
/// Each plane has its own entries: `head_ranges[entry_begin + plane]`.
constexpr const uint32_t Read_BY_HEAD = 2;

}  // namespace hornbeam

static_assert(sizeof(hornbeam::Item) == 32, "as in Rust");
static_assert(sizeof(hornbeam::PlanHeader) == 128, "as in Rust");
static_assert(sizeof(hornbeam::Segment) == 16, "as in Rust");
static_assert(sizeof(hornbeam::Entry) == 16, "as in Rust");
static_assert(sizeof(hornbeam::Read) == 32, "as in Rust");
static_assert(sizeof(hornbeam::RowSlot) == 8, "as in Rust");
