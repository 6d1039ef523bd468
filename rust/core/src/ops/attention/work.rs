//! From a plan to pieces of work: which rows meet which keys, in what order.

use super::block::TILE_KEYS;
use super::problem::Problem;
use crate::error::{Error, Result};
use crate::format::Element;
use crate::format::plan::{Entry, Read};
use crate::format::selection::Unit;

/// Query rows (rows times query heads of a kv head) of one block.
const BLOCK_QUERIES: usize = 128;
/// Pieces that a call aims at, so that many cores find work of even size.
const PIECES: u64 = 64;
/// Multiply-adds that a piece should have at least: about 30 µs of one core.
const PIECE_WORK: u64 = 1 << 20;
/// Keys that a piece should have at least if it meets a whole block of rows: fewer do not pay for
/// what a piece does once, nor for the tiles that it leaves unfilled.
const PIECE_KEYS: u64 = 512;
/// What one key costs beside its rows, counted in rows: it is fetched and widened.
const KEY_ROWS: u64 = 8;

/// Keys and the rows that meet them in one piece.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    /// Entries of a prefix; own rows of a step.
    pub(super) keys: Keys,
    /// First row.
    pub(super) row_begin: u32,
    /// One past the last row.
    pub(super) row_end: u32,
}

/// Which keys.
#[derive(Debug, Clone, Copy)]
pub(super) enum Keys {
    /// The entries `begin..end`, whose pages are slab ids, or page ids where `by_head`.
    Prefix { begin: u32, end: u32, by_head: bool },
    /// The units `begin..end` of the selection, of a read from row `first_row` on; pages as above.
    Selected { begin: u32, end: u32, by_head: bool, first_row: u32 },
    /// The keys that the rows `begin..end` of the step write.
    Own { begin: u32, end: u32 },
}

/// Some segments of one block of rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// Kv head, or `None`: all of them have such a piece.
    pub(super) head: Option<u32>,
    /// First and one past the last of its segments.
    pub(super) segments: (u32, u32),
    /// First row that any segment meets.
    pub(super) row_begin: u32,
    /// One past the last.
    pub(super) row_end: u32,
}

/// The pieces of a call. Task `t` of a piece for all heads is numbered `piece * heads + head`.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) pieces: Vec<Piece>,
    pub(super) segments: Vec<Segment>,
    /// Rows of one block; block `b` starts at row `b * block_rows`.
    pub(super) block_rows: usize,
    /// Where the pieces of each block start, and one past the last: `[blocks + 1]`, or
    /// `[heads * blocks + 1]`, heads outermost, where heads differ.
    pub(super) block_pieces: Vec<u32>,
    /// Whether heads have pieces of their own.
    pub(super) by_head: bool,
    /// Estimate of the multiply-adds of all tasks.
    pub(super) cost: u64,
    num_heads: usize,
}

impl Work {
    /// Number of tasks: (piece, head) pairs.
    pub(super) fn num_tasks(&self) -> usize {
        if self.by_head { self.pieces.len() } else { self.pieces.len() * self.num_heads }
    }

    /// The piece and the kv head of a task. Heads are outermost: neighbours read one plane.
    pub(super) fn task(&self, task: usize) -> (Piece, usize) {
        if self.by_head {
            let piece = self.pieces[task];
            return (piece, piece.head.unwrap_or(0) as usize);
        }
        (self.pieces[task % self.pieces.len()], task / self.pieces.len())
    }

    /// The tasks whose partial results make up a block of rows of a head, in order.
    pub(super) fn block_tasks(&self, block: usize, head: usize) -> std::ops::Range<usize> {
        let blocks = if self.by_head { (self.block_pieces.len() - 1) / self.num_heads } else { 0 };
        let at = if self.by_head { head * blocks + block } else { block };
        let first = if self.by_head { 0 } else { head * self.pieces.len() };
        first + self.block_pieces[at] as usize..first + self.block_pieces[at + 1] as usize
    }

    /// Cuts the reads of a plan, and checks that all their slots lie in `chunks`.
    pub(super) fn plan<E: Element>(&mut self, problem: &Problem<'_>, chunks: &[&[E]]) -> Result<()> {
        let (plan, params) = (problem.plan, problem.params);
        self.pieces.clear();
        self.segments.clear();
        self.block_pieces.clear();
        self.num_heads = params.num_kv_heads;
        self.by_head = problem.selection.is_some() || plan.reads.iter().any(Read::is_by_head);
        self.block_rows = (BLOCK_QUERIES / problem.group()).max(1);
        check(problem, chunks)?;
        check_selection(problem)?;
        let passes = if self.by_head { params.num_kv_heads } else { 1 };
        self.cost = 0;
        for pass in 0..passes {
            self.cost += self.total(problem, pass);
        }
        if !self.by_head {
            self.cost *= params.num_kv_heads as u64;
        }
        let queries = (plan.num_rows().min(self.block_rows) * problem.group()) as u64;
        let least = PIECE_KEYS * (queries + KEY_ROWS) * 2 * problem.layout.head_dim as u64;
        let target = match params.batch_invariant {
            true => u64::MAX,
            false => (self.cost / PIECES).max(PIECE_WORK).max(least),
        };
        self.block_pieces.push(0);
        for head in 0..passes {
            for first in (0..plan.num_rows()).step_by(self.block_rows) {
                let end = (first + self.block_rows).min(plan.num_rows());
                self.block(problem, head, first as u32, end as u32, target);
                self.block_pieces.push(self.pieces.len() as u32);
            }
        }
        Ok(())
    }

    /// Estimated multiply-adds of one head.
    fn total(&self, problem: &Problem<'_>, head: usize) -> u64 {
        let blocks = |rows: u64| rows.div_ceil(self.block_rows as u64);
        let group = problem.group() as u64;
        let work: u64 = problem
            .plan
            .reads
            .iter()
            .enumerate()
            .map(|(index, read)| {
                let rows = u64::from(read.row_end - read.row_begin);
                let keys = match entries(problem, read, head) {
                    None => rows / 2 + 1,
                    Some(_) if units(problem, head, index).is_some() => {
                        let [begin, end] = units(problem, head, index).unwrap_or_default();
                        problem.unit_keys(begin, end)
                    }
                    Some(_) if !read.is_by_head() => u64::from(read.num_keys),
                    Some((begin, end)) => {
                        problem.plan.entries[begin..end].iter().map(|e| u64::from(e.count)).sum()
                    }
                };
                keys * (rows * group + KEY_ROWS * blocks(rows))
            })
            .sum();
        work * 2 * problem.layout.head_dim as u64
    }

    /// The pieces of one block of rows.
    fn block(&mut self, problem: &Problem<'_>, head: usize, first: u32, end: u32, target: u64) {
        let plan = problem.plan;
        let group = problem.group() as u64;
        let mut cut = Cut { work: self, head, begun: None, cost: 0, target };
        for (index, read) in plan.reads.iter().enumerate() {
            let (row_begin, row_end) = (read.row_begin.max(first), read.row_end.min(end));
            if row_begin >= row_end {
                continue;
            }
            let key_cost =
                (u64::from(row_end - row_begin) * group + KEY_ROWS) * 2 * problem.layout.head_dim as u64;
            let Some((mut at, stop)) = entries(problem, read, head) else {
                // Cut where tiles end.
                let most = u64::from(row_end).next_multiple_of(TILE_KEYS as u64);
                let keys_per_cut =
                    (target / key_cost / TILE_KEYS as u64).max(1).saturating_mul(TILE_KEYS as u64).min(most)
                        as u32;
                for begin in (read.row_begin..row_end).step_by(keys_per_cut as usize) {
                    let end = (begin + keys_per_cut).min(row_end);
                    // Some row of the block must descend from some key.
                    let last = plan.row_end[begin as usize..end as usize].iter().max();
                    let (row_begin, row_end) =
                        (row_begin.max(begin), row_end.min(last.copied().unwrap_or(0)));
                    if row_begin < row_end {
                        let cost = u64::from(end - begin) * key_cost;
                        cut.push(Segment { keys: Keys::Own { begin, end }, row_begin, row_end }, cost);
                    }
                }
                continue;
            };
            let by_head = read.is_by_head();
            if let Some([mut at, stop]) = units(problem, head, index) {
                while at < stop {
                    let (begin, mut cost) = (at, 0);
                    let room = cut.room();
                    while at < stop && cost < room {
                        cost += problem.unit_keys(at, at + 1) * key_cost;
                        at += 1;
                    }
                    let keys = Keys::Selected { begin, end: at, by_head, first_row: read.row_begin };
                    cut.push(Segment { keys, row_begin, row_end }, cost);
                }
                continue;
            }
            while at < stop {
                let (begin, mut cost) = (at, 0);
                // The room left in the open piece, or a whole one.
                let room = cut.room();
                while at < stop && cost < room {
                    cost += u64::from(plan.entries[at].count) * key_cost;
                    at += 1;
                }
                let keys = Keys::Prefix { begin: begin as u32, end: at as u32, by_head };
                cut.push(Segment { keys, row_begin, row_end }, cost);
            }
        }
        cut.close();
    }
}

/// Collects segments and closes a piece when it is large enough.
struct Cut<'a> {
    work: &'a mut Work,
    head: usize,
    /// First segment of the open piece, and its rows.
    begun: Option<(u32, u32, u32)>,
    cost: u64,
    target: u64,
}

impl Cut<'_> {
    fn room(&self) -> u64 {
        self.target.saturating_sub(self.cost).max(1)
    }

    fn push(&mut self, segment: Segment, cost: u64) {
        let at = self.work.segments.len() as u32;
        self.work.segments.push(segment);
        let (first, begin, end) = self.begun.unwrap_or((at, segment.row_begin, segment.row_end));
        self.begun = Some((first, begin.min(segment.row_begin), end.max(segment.row_end)));
        self.cost += cost;
        if self.cost >= self.target {
            self.close();
        }
    }

    fn close(&mut self) {
        if let Some((first, row_begin, row_end)) = self.begun.take() {
            let head = self.work.by_head.then_some(self.head as u32);
            let segments = (first, self.work.segments.len() as u32);
            self.work.pieces.push(Piece { head, segments, row_begin, row_end });
        }
        self.cost = 0;
    }
}

/// The selected units of a read of a kv head; `None` where all of it is read.
fn units(problem: &Problem<'_>, head: usize, read: usize) -> Option<[u32; 2]> {
    problem.selection?.span(head, read)
}

/// Refuses a selection of another plan, or of other heads.
fn check_selection(problem: &Problem<'_>) -> Result<()> {
    let Some(selection) = problem.selection else { return Ok(()) };
    let (plan, kv_heads) = (problem.plan, problem.params.num_kv_heads);
    selection.check(plan, kv_heads, problem.group())?;
    for head in 0..kv_heads {
        for (index, read) in plan.reads.iter().enumerate() {
            let Some([begin, end]) = selection.span(head, index) else { continue };
            let run = selection.units(begin, end);
            let (least, most) = entries(problem, read, head).unwrap_or_default();
            let within = |unit: &Unit| (least..most).contains(&(unit.entry as usize));
            let ascending = run.windows(2).all(|pair| pair[0].entry < pair[1].entry);
            if !ascending || !run.first().is_none_or(within) || !run.last().is_none_or(within) {
                let got = format!("of other entries of read {index} on kv head {head}");
                return Err(Error::value("selection", got, format!("ascending entries of {least}..{most}")));
            }
        }
    }
    Ok(())
}

/// The entries of a read on the plane of a kv head; `None` for an own read.
pub(in crate::ops) fn entries(problem: &Problem<'_>, read: &Read, head: usize) -> Option<(usize, usize)> {
    if read.is_own() {
        return None;
    }
    let (begin, end) = (read.entry_begin as usize, read.entry_end as usize);
    if !read.is_by_head() {
        return Some((begin, end));
    }
    let plane = problem.params.layer * problem.params.num_kv_heads + head;
    let [begin, end] = problem.plan.head_ranges[begin + plane];
    Some((begin as usize, end as usize))
}

/// Refuses a plan that names what is not there.
pub(in crate::ops) fn check<E: Element>(problem: &Problem<'_>, chunks: &[&[E]]) -> Result<()> {
    let (plan, layout, params) = (problem.plan, problem.layout, problem.params);
    let rows = plan.num_rows();
    if plan.row_end.len() != rows || plan.row_slots.len() != rows {
        let got = (rows, plan.row_end.len(), plan.row_slots.len());
        return Err(Error::shape("plan rows (positions, ends, slots)", got, "three equal lengths"));
    }
    let held = |chunk: usize| chunks.get(chunk).is_some_and(|c| c.len() == layout.chunk_elements());
    let pages_per_chunk = layout.num_planes * layout.slabs_per_chunk;
    let mut known = usize::MAX;
    let mut check_entry = |entry: &Entry, by_head: bool| {
        let chunk = entry.page as usize / if by_head { pages_per_chunk } else { layout.slabs_per_chunk };
        let positioned = params.window.is_none()
            || entry.positions_at < 0
            || entry.positions_at as usize + entry.count as usize <= plan.positions.len();
        if chunk != known && held(chunk) {
            known = chunk;
        }
        if chunk != known
            || entry.slot() as usize + entry.count as usize > problem.formats.tokens(entry)
            || entry.count == 0
            || !positioned
        {
            let want = format!("{} slots a page of the given chunks", problem.formats.tokens(entry));
            return Err(Error::value("entry", format!("{entry:?}"), want));
        }
        Ok(())
    };
    for read in &plan.reads {
        if read.row_begin > read.row_end || read.row_end as usize > rows {
            return Err(Error::value("read", format!("{read:?}"), format!("within {rows} rows")));
        }
        if read.is_own() {
            for row in read.row_begin as usize..read.row_end as usize {
                let slot = plan.row_slots[row];
                if !held(slot.slab as usize / layout.slabs_per_chunk)
                    || slot.slot as usize >= layout.page_tokens
                {
                    let got = format!("slab {}, slot {} at row {row}", slot.slab, slot.slot);
                    return Err(Error::value("row_slots", got, "a slot of the given chunks"));
                }
            }
            continue;
        }
        let heads = if read.is_by_head() { params.num_kv_heads } else { 1 };
        let ranges = if read.is_by_head() { plan.head_ranges.len() } else { plan.entries.len() };
        let ranged = !read.is_by_head()
            || (read.entry_begin as usize).saturating_add(layout.num_planes) <= read.entry_end as usize;
        if read.entry_begin > read.entry_end || read.entry_end as usize > ranges || !ranged {
            let want = format!("{ranges} entries or ranges, one range a plane");
            return Err(Error::value("read", format!("{read:?}"), want));
        }
        for head in 0..heads {
            let Some((begin, end)) = entries(problem, read, head) else { continue };
            let Some(run) = plan.entries.get(begin..end) else {
                let want = format!("within {} entries", plan.entries.len());
                return Err(Error::value("head range", format!("{begin}..{end}"), want));
            };
            for entry in run {
                check_entry(entry, read.is_by_head())?;
            }
        }
    }
    Ok(())
}
