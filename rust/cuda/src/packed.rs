//! The plan of a step as one buffer of 32-bit words, with the work list of tree attention in it.
//!
//! One upload carries everything that changes from step to step: a captured graph is replayed over
//! the same device buffer. Offsets in the [header](PlanHeader) are in words from its start.
//!
//! Work is cut by the plan alone. Rows are grouped into *blocks* of neighbours, all of whose
//! queries of a kv head fit one tile; a block reads the keys of its own request and of every short
//! read above it. A read that many blocks would repeat becomes work of its own, once for all rows
//! below it, and is merged in: [`Costs`] decides which is cheaper. What is longer than its share is
//! cut by key ranges. A row's parts are merged in the order of the list.

use hornbeam_core::format::PageLayout;
use hornbeam_core::format::plan::{Plan, Read, RowSlot};

use crate::codes;
use crate::error::{Error, Result};
use crate::params::{self, NOWHERE, PlanHeader, words};

/// Queries (rows times heads a kv head) of one tile.
pub const TILE_QUERIES: usize = params::TILE_QUERIES as usize;
/// Slots of one tile of keys.
pub const TILE_SLOTS: usize = 64;
/// Words of the header.
pub const HEADER_WORDS: usize = size_of::<PlanHeader>() / 4;

/// What the choice between reading a shared prefix once and reading it per block weighs, in units
/// of one tile of keys. The defaults are reckoned from bytes moved; no device has confirmed them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Costs {
    /// Starting one more piece of work.
    pub item: f64,
    /// Writing and merging one more partial row.
    pub partial_row: f64,
}

impl Default for Costs {
    fn default() -> Self {
        // A partial row is written and read back as f32 (two ways, twice the width): for one of 64
        // queries that is 1/16 of a tile of 16-bit keys and values.
        Self { item: 0.5, partial_row: 1.0 / 16.0 }
    }
}

/// How to cut the work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cut {
    /// Query heads a kv head.
    pub group: usize,
    /// Key-value heads of a layer: every item is launched once a head.
    pub num_kv_heads: usize,
    /// Blocks of threads that fill the device a few times over.
    pub blocks: usize,
    /// No item has fewer tiles than this because of cutting.
    pub least_tiles: usize,
    /// Sharing against repeating.
    pub costs: Costs,
    /// Pads the plan to so many rows, if it has fewer: padded rows see nothing and are written nowhere.
    pub num_rows: usize,
}

impl Cut {
    /// The default for a device with this many multiprocessors.
    pub fn new(num_heads: usize, num_kv_heads: usize, multiprocessors: usize) -> Result<Self> {
        if num_kv_heads == 0 || !num_heads.is_multiple_of(num_kv_heads) || num_heads == 0 {
            return Err(unsupported(
                "num_heads",
                format!("{num_heads} with {num_kv_heads} kv heads"),
                "a multiple of the kv heads",
            ));
        }
        let group = num_heads / num_kv_heads;
        if group > TILE_QUERIES {
            return Err(unsupported("heads a kv head", group, "at most 64"));
        }
        Ok(Self {
            group,
            num_kv_heads,
            blocks: 8 * multiprocessors,
            least_tiles: 4,
            costs: Costs::default(),
            num_rows: 0,
        })
    }
}

/// A packed plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Packed {
    /// The buffer.
    pub words: Vec<i32>,
    /// Pieces of work, each launched once a kv head.
    pub num_items: usize,
    /// Rows that several pieces share.
    pub num_merged_rows: usize,
    /// Partial rows in the workspace.
    pub num_partial_rows: usize,
    /// Rows of the step, padding included.
    pub num_rows: usize,
    /// Slots that each read spans, at most over the planes.
    pub read_slots: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    read: usize,
    begin: usize,
    end: usize,
}

impl Segment {
    fn tiles(&self) -> usize {
        (self.end - self.begin).div_ceil(TILE_SLOTS)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    rows: std::ops::Range<usize>,
    segments: Vec<Segment>,
}

fn unsupported(what: &'static str, got: impl std::fmt::Display, expected: &str) -> Error {
    Error::Unsupported { what, got: got.to_string(), expected: expected.to_owned() }
}

/// Packs a plan for a device. `chunks` are the device addresses of the pool's chunks.
///
/// # Errors
/// A read has a mask or a rotary offset, or is both own and by head; an entry lies outside of the pool.
pub fn pack(plan: &Plan, chunks: &[u64], layout: &PageLayout, cut: &Cut) -> Result<Packed> {
    check(plan, chunks, layout)?;
    let formats = codes::format_table(plan, layout)?;
    let plan = &*codes::cut(plan, layout);
    let keys = entry_keys(plan);
    let items = split(group(plan, layout, cut, &keys), cut);
    let rows = plan.num_rows().max(cut.num_rows);
    let padding = rows - plan.num_rows();

    let mut uses = vec![0usize; rows];
    items.iter().for_each(|item| item.rows.clone().for_each(|row| uses[row] += 1));
    let merged = |item: &Item| item.rows.clone().any(|row| uses[row] > 1);

    let mut parts: Vec<Vec<i32>> = vec![Vec::new(); rows];
    let (mut work, mut segments, mut num_partial) = (Vec::new(), Vec::new(), 0);
    for item in &items {
        let begin = segments.len();
        segments.extend(item.segments.iter().map(|s| params::Segment {
            read: s.read as i32,
            slot_begin: s.begin as i32,
            slot_end: s.end as i32,
            column: 0,
        }));
        let mut partial = -1;
        if merged(item) {
            partial = num_partial;
            item.rows.clone().for_each(|row| {
                parts[row].push(num_partial);
                num_partial += 1;
            });
        }
        work.push(params::Item {
            row_begin: item.rows.start as i32,
            row_count: item.rows.len() as i32,
            segment_begin: begin as i32,
            segment_end: segments.len() as i32,
            partial_begin: partial,
            reserved: [0; 3],
        });
    }
    // A row that reads nothing is merged of no parts: zeros.
    let merged_rows: Vec<i32> =
        (0..rows).filter(|&row| uses[row] == 0 || !parts[row].is_empty()).map(|row| row as i32).collect();
    let mut parts_begin = vec![0];
    for &row in &merged_rows {
        parts_begin.push(parts_begin[parts_begin.len() - 1] + parts[row as usize].len() as i32);
    }
    let flat_parts = merged_rows.iter().flat_map(|&row| parts[row as usize].iter().copied());

    let mut buffer = Buffer { words: vec![0; HEADER_WORDS] };
    let header = PlanHeader {
        num_rows: rows as i32,
        num_items: items.len() as i32,
        num_merged_rows: merged_rows.len() as i32,
        rows_per_item: (TILE_QUERIES / cut.group) as i32,
        chunks: buffer.push(chunks.iter().flat_map(|&c| [c as u32 as i32, (c >> 32) as u32 as i32])),
        entries: buffer.push(words(&plan.entries).iter().copied()),
        entry_keys: buffer.push(keys.iter().copied()),
        positions: buffer.push(plan.positions.iter().copied()),
        head_ranges: buffer.push(plan.head_ranges.iter().flat_map(|r| [r[0] as i32, r[1] as i32])),
        reads: buffer.push(words(&plan.reads).iter().copied()),
        row_positions: buffer.push(plan.row_positions.iter().copied().chain(std::iter::repeat_n(0, padding))),
        row_end: buffer
            .push(plan.row_end.iter().map(|&w| w as i32).chain(plan.num_rows() as i32 + 1..=rows as i32)),
        row_slots: {
            let padded = vec![RowSlot { slab: NOWHERE, slot: 0 }; padding];
            buffer.push(words(&plan.row_slots).iter().chain(words(&padded)).copied())
        },
        items: buffer.push(words(&work).iter().copied()),
        segments: buffer.push(words(&segments).iter().copied()),
        merged_rows: buffer.push(merged_rows.iter().copied()),
        parts_begin: buffer.push(parts_begin.into_iter()),
        parts: buffer.push(flat_parts),
        formats: buffer.push(words(&formats).iter().copied()),
        reserved: [0; 13],
    };
    buffer.words[..HEADER_WORDS].copy_from_slice(words(&[header]));
    Ok(Packed {
        words: buffer.words,
        num_items: items.len(),
        num_merged_rows: merged_rows.len(),
        num_partial_rows: num_partial as usize,
        num_rows: rows,
        read_slots: plan.reads.iter().map(|read| slots(plan, read, layout)).collect(),
    })
}

struct Buffer {
    words: Vec<i32>,
}

impl Buffer {
    /// Appends a part on a 16-byte boundary; gives its offset.
    fn push(&mut self, part: impl Iterator<Item = i32>) -> i32 {
        let offset = self.words.len();
        self.words.extend(part);
        self.words.resize(self.words.len().next_multiple_of(4), 0);
        offset as i32
    }
}

fn check(plan: &Plan, chunks: &[u64], layout: &PageLayout) -> Result<()> {
    let slabs = chunks.len() * layout.slabs_per_chunk;
    let pages = slabs * layout.num_planes;
    let formats = codes::formats(plan, layout)?;
    for read in &plan.reads {
        if read.mask != -1 || read.rotary_offset != 0 {
            let got = format!("mask {}, rotary offset {}", read.mask, read.rotary_offset);
            return Err(unsupported("read", got, "no mask (-1) and no rotary offset (0)"));
        }
        if read.is_own() && read.is_by_head() {
            return Err(unsupported("read", "own and by head", "one of both"));
        }
        if read.is_own() && read.entry_begin == read.entry_end && read.row_begin < read.row_end {
            return Err(unsupported("own read", "no entries", "entries, which a kernel finds keys by"));
        }
        let ranges = entry_ranges(plan, read);
        if read.is_by_head() && ranges.len() != layout.num_planes {
            return Err(unsupported("head ranges of a read", ranges.len(), "one a plane"));
        }
        for range in ranges {
            let limit = if read.is_by_head() { pages } else { slabs };
            for entry in &plan.entries[range[0] as usize..range[1] as usize] {
                let end = entry.slot() as usize + usize::from(entry.count);
                if entry.page as usize >= limit || end > formats.tokens(entry) {
                    let got = format!("{} slots {}..{end}", entry.page, entry.slot());
                    return Err(unsupported("page of an entry", got, "a page and slots of the pool"));
                }
            }
        }
    }
    for slot in &plan.row_slots {
        let outside = slot.slab as usize >= slabs || slot.slot as usize >= layout.page_tokens;
        if outside && slot.slab != NOWHERE {
            let got = format!("slab {} slot {}", slot.slab, slot.slot);
            return Err(unsupported("row slot", got, "a slot of the pool"));
        }
    }
    Ok(())
}

/// The runs of entries that a read names: one, or one a plane.
fn entry_ranges(plan: &Plan, read: &Read) -> Vec<[u32; 2]> {
    if read.is_by_head() {
        plan.head_ranges[read.entry_begin as usize..read.entry_end as usize].to_vec()
    } else {
        vec![[read.entry_begin, read.entry_end]]
    }
}

/// For each entry, the index of its first key in the read that names it.
fn entry_keys(plan: &Plan) -> Vec<i32> {
    let mut keys = vec![0; plan.entries.len()];
    for read in &plan.reads {
        for range in entry_ranges(plan, read) {
            let mut key = 0;
            for entry in range[0] as usize..range[1] as usize {
                keys[entry] = key;
                key += i32::from(plan.entries[entry].count);
            }
        }
    }
    keys
}

/// Slots that a read spans on its pages, at most over the planes.
fn slots(plan: &Plan, read: &Read, layout: &PageLayout) -> usize {
    let entries = entry_ranges(plan, read).iter().map(|r| r[1] - r[0]).max().unwrap_or(0);
    entries as usize * layout.page_tokens
}

/// Blocks of rows with what each reads.
fn group(plan: &Plan, layout: &PageLayout, cut: &Cut, keys: &[i32]) -> Vec<Item> {
    let rows_per_item = TILE_QUERIES / cut.group;
    let rows = plan.num_rows();
    let mut edges = vec![0, rows];
    for read in plan.reads.iter().filter(|r| r.is_own()) {
        edges.extend([read.row_begin as usize, read.row_end as usize]);
    }
    edges.sort_unstable();
    edges.dedup();
    let mut blocks: Vec<Item> = Vec::new();
    for edge in edges.windows(2) {
        for begin in (edge[0]..edge[1]).step_by(rows_per_item) {
            let rows = begin..edge[1].min(begin + rows_per_item);
            blocks.push(Item { rows, segments: Vec::new() });
        }
    }

    let mut shared = Vec::new();
    for (index, read) in plan.reads.iter().enumerate() {
        let (from, to) = (read.row_begin as usize, read.row_end as usize);
        let whole = Segment { read: index, begin: 0, end: slots(plan, read, layout) };
        if from == to || whole.end == 0 {
            continue;
        }
        let first = blocks.partition_point(|b| b.rows.end <= from);
        let last = blocks.partition_point(|b| b.rows.start < to);
        if read.is_own() {
            for block in &mut blocks[first..last] {
                let seen = block.rows.end.min(to) - from;
                let end = own_end(plan, read, layout, keys, seen).min(whole.end);
                block.segments.push(Segment { end, ..whole });
            }
            continue;
        }
        let tiles = whole.tiles() as f64;
        let together = (to - from).div_ceil(rows_per_item) as f64;
        let once = together * (tiles + cut.costs.item) + (to - from) as f64 * cut.costs.partial_row;
        if once < (last - first) as f64 * tiles {
            for begin in (from..to).step_by(rows_per_item) {
                shared.push(Item { rows: begin..to.min(begin + rows_per_item), segments: vec![whole] });
            }
        } else {
            blocks[first..last].iter_mut().for_each(|block| block.segments.push(whole));
        }
    }
    shared.extend(blocks);
    shared.retain(|item| !item.segments.is_empty());
    shared
}

/// One past the slot of the `seen`-th key of an own read: later keys are later rows', which no
/// earlier row sees.
fn own_end(plan: &Plan, read: &Read, layout: &PageLayout, keys: &[i32], seen: usize) -> usize {
    let (begin, end) = (read.entry_begin as usize, read.entry_end as usize);
    let last = begin + keys[begin..end].partition_point(|&k| (k as usize) < seen);
    if last == begin {
        return 0;
    }
    let entry = &plan.entries[last - 1];
    let within = (seen - keys[last - 1] as usize).min(usize::from(entry.count));
    (last - 1 - begin) * layout.page_tokens + usize::from(entry.first) + within
}

/// Cuts what is longer than its share of the device by key ranges, on tile boundaries.
fn split(items: Vec<Item>, cut: &Cut) -> Vec<Item> {
    let tiles = |item: &Item| item.segments.iter().map(Segment::tiles).sum::<usize>();
    let total: usize = items.iter().map(tiles).sum();
    let share = (total * cut.num_kv_heads).div_ceil(cut.blocks.max(1)).max(cut.least_tiles).max(1);
    let mut pieces = Vec::with_capacity(items.len());
    for item in items {
        let count = tiles(&item).div_ceil(share).max(1);
        let length = tiles(&item).div_ceil(count).max(1);
        let mut piece = Item { rows: item.rows.clone(), segments: Vec::new() };
        let mut room = length;
        for mut segment in item.segments {
            while segment.begin < segment.end {
                if room == 0 {
                    let full =
                        std::mem::replace(&mut piece, Item { rows: item.rows.clone(), segments: Vec::new() });
                    pieces.push(full);
                    room = length;
                }
                let end = segment.end.min(segment.begin + room * TILE_SLOTS);
                let taken = Segment { end, ..segment };
                room -= taken.tiles();
                segment.begin = end;
                piece.segments.push(taken);
            }
        }
        pieces.push(piece);
    }
    pieces
}
