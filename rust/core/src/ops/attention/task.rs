//! One piece of work: its queries, and its keys block by block.

use std::cell::RefCell;

use super::block::{Coded, KeyBlock, Scratch, TILE_KEYS};
use super::coded::CodedBlock;
use super::partial::Partial;
use super::problem::{Floats, Problem, Queries};
use super::work::{Keys, Segment, Work};
use super::{coded_stream, coded_tile, invariant, stream, tile};
use crate::format::Element;
use crate::format::selection::Unit;
use crate::simd::{Isa, Kernel, Lanes, WIDTH, bytes_of};

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Runs a task and leaves its result in `partial`.
pub(super) fn run<E: Element>(
    isa: Isa,
    problem: &Problem<'_>,
    chunks: &[&[E]],
    work: &Work,
    task: usize,
    partial: &mut Partial,
) {
    // Taken out for the time of the task; tasks do not nest, but a fresh one would be right too.
    let mut scratch = SCRATCH.take();
    isa.run(Task { isa, problem, chunks, work, task, partial, scratch: &mut scratch });
    SCRATCH.set(scratch);
}

struct Task<'a, E> {
    isa: Isa,
    problem: &'a Problem<'a>,
    chunks: &'a [&'a [E]],
    work: &'a Work,
    task: usize,
    partial: &'a mut Partial,
    scratch: &'a mut Scratch,
}

impl<E: Element> Kernel for Task<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let (piece, head) = self.work.task(self.task);
        let problem = self.problem;
        let (group, dim) = (problem.group(), problem.layout.head_dim);
        let width = dim.div_ceil(WIDTH);
        let rows = piece.row_begin as usize..piece.row_end as usize;
        let num_queries = rows.len() * group;
        self.partial.reset(num_queries, width);
        load_queries(problem, head, rows.clone(), self.scratch);
        let blocks = num_queries.div_ceil(WIDTH);
        let direct = problem.params.direct_queries();
        let panels = if num_queries > direct { blocks * WIDTH } else { num_queries };
        self.scratch.scores.resize(panels * TILE_KEYS / WIDTH);
        if num_queries > direct {
            tile::turn_queries(l, dim, self.scratch);
        }
        let (begin, end) = piece.segments;
        let segments = &self.work.segments[begin as usize..end as usize];
        let mut source = Source {
            problem,
            chunks: self.chunks,
            plane: problem.params.layer * problem.params.num_kv_heads + head,
            segments,
            at: 0,
            skip: 0,
            row_begin: piece.row_begin,
        };
        // The next block is known one ahead, so that it can be prefetched.
        let (mut block, mut next) = (&mut KeyBlock::default(), &mut KeyBlock::default());
        let mut more = source.fill(block);
        while more {
            more = source.fill(next);
            if !more {
                next.shown.count = 0;
            }
            let few = block.shown.queries.len() <= direct;
            if let Some(coded) = block.coded {
                let block = CodedBlock {
                    problem,
                    first_row: rows.start,
                    shown: &block.shown,
                    coded,
                    ahead: next.coded.map(|coded| (coded, next.shown.count)),
                    scratch: &mut *self.scratch,
                    partial: &mut *self.partial,
                };
                self.isa.run(AttendCoded { block, few });
            } else {
                if let Some(ahead) = next.coded {
                    ahead.prefetch(l, 0..next.shown.count);
                }
                match few {
                    true => stream::attend(l, problem, rows.start, block, next, self.scratch, self.partial),
                    false => tile::attend(l, problem, rows.start, block, next, self.scratch, self.partial),
                }
            }
            std::mem::swap(&mut block, &mut next);
        }
        if problem.params.batch_invariant {
            invariant::finish(self.partial);
        }
    }
}

/// A block of a page in codes: read directly where the queries are `few`. A kernel of its own, so that it is
/// compiled once for all element types.
struct AttendCoded<'a> {
    block: CodedBlock<'a>,
    few: bool,
}

impl Kernel for AttendCoded<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        match (self.few, self.block.coded.page.format.bits) {
            (true, 2) => coded_stream::attend::<2, L>(l, self.block),
            (true, 4) => coded_stream::attend::<4, L>(l, self.block),
            (true, _) => coded_stream::attend::<8, L>(l, self.block),
            (false, _) => coded_tile::attend(l, self.block),
        }
    }
}

/// Widens and scales the queries of a piece: all query heads of its kv head, row by row.
#[inline(always)]
fn load_queries(problem: &Problem<'_>, head: usize, rows: std::ops::Range<usize>, scratch: &mut Scratch) {
    let (group, dim) = (problem.group(), problem.layout.head_dim);
    let width = dim.div_ceil(WIDTH);
    scratch.queries.reset(rows.len() * group * width);
    let q = &problem.queries;
    for (i, to) in scratch.queries.chunks_exact_mut(width).enumerate() {
        let at = (rows.start + i / group) * q.row_stride + (head * group + i % group) * q.head_stride;
        load_query(q, at, problem.params.scale, &mut to.as_flattened_mut()[..dim]);
    }
}

/// Widens and scales the query whose first number lies at `at`.
#[inline(always)]
pub(super) fn load_query(q: &Queries<'_>, at: usize, scale: f32, to: &mut [f32]) {
    let end = at + to.len();
    match q.data {
        Floats::F32(data) => scale_into(&data[at..end], scale, to),
        Floats::Bf16(data) => scale_into(&data[at..end], scale, to),
        Floats::F16(data) => scale_into(&data[at..end], scale, to),
    }
}

#[inline(always)]
fn scale_into<Q: Element>(from: &[Q], scale: f32, to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.to_f32() * scale;
    }
}

/// Walks the keys of the segments of a piece.
struct Source<'a, E> {
    problem: &'a Problem<'a>,
    chunks: &'a [&'a [E]],
    plane: usize,
    segments: &'a [Segment],
    /// Entry or own row at which the current segment goes on, counted from its begin.
    at: u32,
    /// Slots of that entry that were shown already.
    skip: u32,
    row_begin: u32,
}

impl<'a, E: Element> Source<'a, E> {
    /// The next keys of one segment that any row sees; false at the end.
    #[inline(always)]
    fn fill(&mut self, block: &mut KeyBlock<'a, E>) -> bool {
        loop {
            let Some(&segment) = self.segments.first() else { return false };
            block.shown.count = 0;
            block.shown.masked.count = 0;
            let done = match segment.keys {
                Keys::Prefix { begin, end, by_head } => {
                    let entries = |at: u32| begin + at;
                    self.fill_prefix(block, end - begin, by_head, entries)
                }
                Keys::Selected { begin, end, by_head, first_row } => {
                    self.fill_selected(block, begin, end, by_head, first_row)
                }
                Keys::Own { begin, end } => self.fill_own(block, begin, end),
            };
            if done {
                self.segments = &self.segments[1..];
                (self.at, self.skip) = (0, 0);
            }
            let (mut row_begin, mut row_end) = (segment.row_begin, segment.row_end);
            if let Some(first) = block.shown.own {
                let keys = first as usize..first as usize + block.shown.count;
                let last = self.problem.plan.row_end[keys].iter().copied().max().unwrap_or(0);
                (row_begin, row_end) = (row_begin.max(first), row_end.min(last));
            }
            if let Some(window) = self.problem.params.window {
                // Rows at the ends of the interval that lie too far after the latest key.
                let latest = block.shown.positions[..block.shown.count].iter().copied().max().unwrap_or(0);
                let rows = &self.problem.plan.row_positions;
                let far = |row: u32| i64::from(rows[row as usize]) - i64::from(latest) >= i64::from(window);
                while row_begin < row_end && far(row_begin) {
                    row_begin += 1;
                }
                while row_begin < row_end && far(row_end - 1) {
                    row_end -= 1;
                }
            }
            if row_begin < row_end {
                let group = self.problem.group();
                block.shown.queries = (row_begin - self.row_begin) as usize * group
                    ..(row_end - self.row_begin) as usize * group;
                return true;
            }
        }
    }

    /// The keys of some units, and who sees them where not everybody does.
    #[inline(always)]
    fn fill_selected(
        &mut self,
        block: &mut KeyBlock<'a, E>,
        begin: u32,
        end: u32,
        by_head: bool,
        first_row: u32,
    ) -> bool {
        let units = self.problem.selection.map_or(&[] as &[Unit], |selection| selection.units(begin, end));
        let (mut at, mut skip) = (self.at as usize, self.skip);
        let done = self.fill_prefix(block, end - begin, by_head, |at| units[at as usize].entry);
        let masked = &mut block.shown.masked;
        let (mut filled, mut seen_by_all) = (0, true);
        while filled < block.shown.count {
            let unit = units[at];
            let entry = self.problem.plan.entries[unit.entry as usize];
            filled = (filled + (u32::from(entry.count) - skip) as usize).min(block.shown.count);
            masked.ends[masked.count] = filled as u8;
            masked.masks[masked.count] = unit.mask;
            masked.count += 1;
            seen_by_all &= unit.mask == Unit::SEEN_BY_ALL;
            (at, skip) = (at + 1, 0);
        }
        masked.first_row = first_row as usize;
        if seen_by_all {
            masked.count = 0;
        }
        done
    }

    /// The keys of `count` entries, of which `entry_of` names each.
    #[inline(always)]
    fn fill_prefix(
        &mut self,
        block: &mut KeyBlock<'a, E>,
        count: u32,
        by_head: bool,
        entry_of: impl Fn(u32) -> u32,
    ) -> bool {
        (block.shown.own, block.coded) = (None, None);
        let (plan, layout) = (self.problem.plan, self.problem.layout);
        let windowed = self.problem.params.window.is_some();
        let half = layout.page_tokens * layout.head_dim;
        while block.shown.count < TILE_KEYS && self.at < count {
            let entry = plan.entries[entry_of(self.at) as usize];
            let (chunk, page) =
                if by_head { layout.page(entry.page) } else { layout.slab_page(entry.page, self.plane) };
            let coded = self.problem.formats.coded(entry.format());
            if coded.is_some() && block.shown.count > 0 || block.coded.is_some() {
                // A page in codes is a block of its own, or several.
                break;
            }
            let left = (u32::from(entry.count) - self.skip) as usize;
            let take = match coded {
                None => left.min(TILE_KEYS - block.shown.count),
                // Blocks of one size: each has work of its own beside its keys.
                Some(_) => left.div_ceil(left.div_ceil(TILE_KEYS)),
            };
            let slot = entry.slot() as usize + self.skip as usize;
            let page = &self.chunks[chunk][page..page + 2 * half];
            let to = block.shown.count..block.shown.count + take;
            if let Some(coded) = coded {
                block.coded = Some(Coded { page: coded, bytes: bytes_of(page), first: slot });
            } else {
                let (keys, values) = page.split_at(half);
                let run = slot * layout.head_dim..(slot + take) * layout.head_dim;
                let keys = keys[run.clone()].chunks_exact(layout.head_dim);
                let values = values[run].chunks_exact(layout.head_dim);
                for ((to_key, to_value), (key, value)) in
                    block.keys[to.clone()].iter_mut().zip(&mut block.values[to.clone()]).zip(keys.zip(values))
                {
                    (*to_key, *to_value) = (key, value);
                }
            }
            if windowed {
                for (i, position) in block.shown.positions[to].iter_mut().enumerate() {
                    let i = i + self.skip as usize;
                    *position = match usize::try_from(entry.positions_at) {
                        Ok(at) => plan.positions[at + i],
                        Err(_) => entry.position.wrapping_add(i as i32),
                    };
                }
            }
            block.shown.count += take;
            self.skip += take as u32;
            if self.skip == u32::from(entry.count) {
                (self.at, self.skip) = (self.at + 1, 0);
            }
        }
        self.at >= count
    }

    #[inline(always)]
    fn fill_own(&mut self, block: &mut KeyBlock<'a, E>, begin: u32, end: u32) -> bool {
        let (plan, layout) = (self.problem.plan, self.problem.layout);
        let first = begin + self.at;
        (block.shown.own, block.coded) = (Some(first), None);
        block.shown.count = ((end - first) as usize).min(TILE_KEYS);
        let half = layout.page_tokens * layout.head_dim;
        for i in 0..block.shown.count {
            let row = first as usize + i;
            let slot = plan.row_slots[row];
            let (chunk, page) = layout.slab_page(slot.slab, self.plane);
            let at = page + slot.slot as usize * layout.head_dim;
            block.keys[i] = &self.chunks[chunk][at..at + layout.head_dim];
            block.values[i] = &self.chunks[chunk][at + half..at + half + layout.head_dim];
            block.shown.positions[i] = plan.row_positions[row];
        }
        self.at += block.shown.count as u32;
        begin + self.at >= end
    }
}
