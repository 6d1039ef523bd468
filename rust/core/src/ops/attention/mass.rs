//! The probability mass that some rows of a step give to each key, over the pages of its plan.
//!
//! Sixteen queries of a kv head go over their keys together; only their strip of scores is ever
//! held. Sums are integers, and scores one chain each ([`Strip`]), so the result is the same bits on
//! any number of threads, on any instruction set, and whichever rows share a step.

use std::cell::RefCell;
use std::sync::Mutex;

use super::block::{self, Coded};
use super::problem::{AttentionParams, Floats, Pages, Problem, Queries, SERIAL_WORK, check_problem};
use super::{coded, work};
use crate::error::{Error, Result};
use crate::format::page::Formats;
use crate::format::plan::{Plan, Read};
use crate::format::{Element, PageLayout};
use crate::ops::key_mass::Strip;
use crate::parallel::{Parallel, Serial, dynamic, lock_whole};
use crate::simd::{Isa, Kernel, Lanes, WIDTH, bytes_of};

/// Keys that are widened and scored together.
const BLOCK_KEYS: usize = 64;

/// The keys that some rows of a plan see, read by read: where the columns of a mass come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyColumns {
    /// Index of the read in [`Plan::reads`].
    pub read: u32,
    /// Its first column.
    pub begin: u32,
    /// Its columns: the keys of a read by head are the first of them, as many as the head has.
    pub count: u32,
}

/// The columns of [`attention_mass`] for these rows: the keys of every read that one of them sees,
/// in the order of the plan. The rows of one request see its nodes from the root, then its own rows.
///
/// # Errors
/// [`Error::Value`] if rows are not ascending rows of the plan.
pub fn mass_columns(plan: &Plan, rows: &[u32]) -> Result<Vec<KeyColumns>> {
    let ascending = rows.windows(2).all(|pair| pair[0] < pair[1]);
    if !ascending || rows.last().is_some_and(|&row| row as usize >= plan.num_rows()) {
        let want = format!("ascending rows below {}", plan.num_rows());
        return Err(Error::value("rows", format!("{rows:?}"), want));
    }
    let mut begin = 0;
    let mut columns = Vec::new();
    for (index, read) in plan.reads.iter().enumerate() {
        if seen_by(rows, read.row_begin, read.row_end) > 0 {
            columns.push(KeyColumns { read: index as u32, begin, count: read.num_keys });
            let Some(end) = begin.checked_add(read.num_keys) else {
                return Err(Error::value("keys of all reads", "beyond 4294967295", "fewer"));
            };
            begin = end;
        }
    }
    Ok(columns)
}

/// How many of the rows, ascending, lie in an interval.
fn seen_by(rows: &[u32], begin: u32, end: u32) -> usize {
    let below = |limit: u32| rows.partition_point(|&row| row < limit);
    below(end).saturating_sub(below(begin))
}

/// Where [`attention_mass`] adds and writes.
#[derive(Debug)]
pub struct MassOutput<'a> {
    /// `[num_kv_heads, columns]`: mass summed over the rows and over the query heads of the kv head,
    /// in units of `1 / MASS_ONE`; added to.
    pub mass: &'a mut [i64],
    /// Where given, how many of the rows see the key, `[num_kv_heads, columns]`; added to.
    pub seen: Option<&'a mut [i32]>,
    /// Where given, takes each row's log-sum-exp, `[rows, num_heads]`, sinks included: -inf for a
    /// row that sees nothing, NaN for one with scores that are no numbers.
    pub lse: Option<&'a mut [f32]>,
}

/// Adds up `softmax(scale * q k^T)` of `rows` for every kv head and every key that they see.
/// `queries` are those of `rows` alone, in their order. Otherwise as
/// [`tree_attention`](super::tree_attention).
///
/// # Errors
/// As [`tree_attention`](super::tree_attention) and [`mass_columns`]; lengths that do not fit.
pub fn attention_mass(
    isa: Isa,
    pool: &dyn Parallel,
    queries: Queries<'_>,
    pages: Pages<'_>,
    layout: &PageLayout,
    plan: &Plan,
    params: &AttentionParams<'_>,
    rows: &[u32],
    out: MassOutput<'_>,
) -> Result<()> {
    check_problem(layout, plan, params)?;
    let columns = mass_columns(plan, rows)?;
    let num_columns = columns.last().map_or(0, |last| (last.begin + last.count) as usize);
    let (heads, kv_heads) = (params.num_heads, params.num_kv_heads);
    let span = match rows.len() {
        0 => 0,
        n => (n - 1) * queries.row_stride + (heads - 1) * queries.head_stride + layout.head_dim,
    };
    let lengths = [
        ("mass", out.mass.len(), kv_heads * num_columns),
        ("seen", out.seen.as_ref().map_or(kv_heads * num_columns, |s| s.len()), kv_heads * num_columns),
        ("lse", out.lse.as_ref().map_or(rows.len() * heads, |s| s.len()), rows.len() * heads),
        ("q", queries.data.len().min(span), span),
    ];
    for (what, got, want) in lengths {
        if got != want {
            return Err(Error::shape(what, got, format!("{want} elements")));
        }
    }
    let formats = Formats::of(&plan.entries, layout)?;
    let problem = Problem { plan, layout, params, queries, formats: &formats, selection: None };
    match pages {
        Pages::F32(chunks) => sum(isa, pool, &problem, chunks, rows, &columns, out),
        Pages::Bf16(chunks) => sum(isa, pool, &problem, chunks, rows, &columns, out),
        Pages::F16(chunks) => sum(isa, pool, &problem, chunks, rows, &columns, out),
    }
}

fn sum<E: Element>(
    isa: Isa,
    pool: &dyn Parallel,
    problem: &Problem<'_>,
    chunks: &[&[E]],
    rows: &[u32],
    columns: &[KeyColumns],
    out: MassOutput<'_>,
) -> Result<()> {
    work::check(problem, chunks)?;
    let num_columns = columns.last().map_or(0, |last| (last.begin + last.count) as usize);
    let (heads, kv_heads, group) = (problem.params.num_heads, problem.params.num_kv_heads, problem.group());
    if num_columns == 0 || rows.is_empty() {
        out.lse.into_iter().for_each(|lse| lse.fill(f32::NEG_INFINITY));
        return Ok(());
    }
    let strips = (rows.len() * group).div_ceil(WIDTH);
    let totals: Vec<_> = out.mass.chunks_exact_mut(num_columns).map(Mutex::new).collect();
    let lse = out.lse.map(Mutex::new);
    let cost = (rows.len() * heads * num_columns * problem.layout.head_dim) as u64;
    let pool = if cost < SERIAL_WORK { &Serial } else { pool };
    dynamic(pool, strips * kv_heads, &|task| {
        let (head, strip) = (task / strips, task % strips);
        let mut space = SPACE.take();
        let lanes = isa.run(StripOf { problem, chunks, rows, columns, head, strip, space: &mut space });
        let mut total = lock_whole(&totals[head]);
        total.iter_mut().zip(&space.mass).for_each(|(total, mass)| *total += *mass as i64);
        drop(total);
        SPACE.set(space);
        if let Some(lse) = &lse {
            let mut lse = lock_whole(lse);
            for (query, lane) in (strip * WIDTH..rows.len() * group).zip(lanes) {
                lse[query / group * heads + head * group + query % group] = lane;
            }
        }
    });
    if let Some(seen) = out.seen {
        for (head, seen) in seen.chunks_exact_mut(num_columns).enumerate() {
            count_rows(problem, rows, columns, head, seen);
        }
    }
    Ok(())
}

/// Working memory of a thread.
#[derive(Default)]
struct Space {
    strip: Strip,
    query: Vec<f32>,
    keys: Vec<[f32; WIDTH]>,
    mass: Vec<u64>,
}

thread_local! {
    static SPACE: RefCell<Space> = RefCell::default();
}

struct StripOf<'a, E> {
    problem: &'a Problem<'a>,
    chunks: &'a [&'a [E]],
    rows: &'a [u32],
    columns: &'a [KeyColumns],
    head: usize,
    strip: usize,
    space: &'a mut Space,
}

impl<E: Element> Kernel for StripOf<'_, E> {
    type Output = [f32; WIDTH];
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> [f32; WIDTH] {
        let Self { problem, chunks, rows, columns, head, strip, space } = self;
        let Space { strip: scores, query, keys, mass } = space;
        let (group, dim) = (problem.group(), problem.layout.head_dim);
        let width = dim.div_ceil(WIDTH);
        let queries = strip * WIDTH..(rows.len() * group).min((strip + 1) * WIDTH);
        load_queries(problem, head, queries.clone(), query);
        let num_columns = columns.last().map_or(0, |last| (last.begin + last.count) as usize);
        scores.begin(query.chunks_exact(dim), dim, num_columns);
        keys.resize(BLOCK_KEYS * width, [0.0; WIDTH]);
        // The row of each lane, ascending; lanes behind the last query have none.
        let lanes = queries.len();
        let row_of = |lane: usize| rows[(queries.start + lane) / group];
        let mine = &rows[queries.start / group..(queries.end - 1) / group + 1];
        let window = problem.params.window;
        let near = |lane: usize, position: i32| {
            let row = problem.plan.row_positions[row_of(lane) as usize];
            window.is_none_or(|window| i64::from(row) - i64::from(position) < i64::from(window))
        };
        for part in columns {
            let read = &problem.plan.reads[part.read as usize];
            if seen_by(mine, read.row_begin, read.row_end) == 0 {
                continue;
            }
            let mut walk = Walk::new(problem, read, head);
            let mut column = part.begin as usize;
            while let Some(run) = walk.next(problem) {
                let page = &chunks[run.chunk][run.page..run.page + problem.layout.page_elements()];
                if let Some(format) = problem.formats.coded(run.format) {
                    let page = Coded { page: format, bytes: bytes_of(page), first: run.slot };
                    coded::decode(l, page, false, run.count, keys);
                } else {
                    let page = &page[run.slot * dim..(run.slot + run.count) * dim];
                    for (key, to) in page.chunks_exact(dim).zip(keys.chunks_exact_mut(width)) {
                        for (to, key) in to.iter_mut().zip(key.chunks(WIDTH)) {
                            match key.first_chunk::<WIDTH>() {
                                Some(key) => l.store(l.load(key), to),
                                None => l.store(l.load_partial(key, 0.0), to),
                            }
                        }
                    }
                }
                let (flat, stride) = (keys.as_flattened(), width * WIDTH);
                let block = scores.score(l, flat, stride, column, run.count, problem.params.scale);
                block::cap(l, problem, block);
                for (i, score) in block.iter_mut().enumerate() {
                    let (begin, end) = run.rows_that_see(problem, read, i);
                    if window.is_none() && begin <= mine[0] && mine[mine.len() - 1] < end && lanes == WIDTH {
                        continue;
                    }
                    let position = if window.is_some() { run.position(problem, i) } else { 0 };
                    for (lane, score) in score.iter_mut().enumerate() {
                        let sees =
                            lane < lanes && (begin..end).contains(&row_of(lane)) && near(lane, position);
                        if !sees {
                            *score = f32::NEG_INFINITY;
                        }
                    }
                }
                column += run.count;
            }
        }
        mass.clear();
        mass.resize(num_columns, 0);
        let sinks = problem.params.sinks.map(|sinks| -> [f32; WIDTH] {
            std::array::from_fn(|lane| sinks[head * group + (queries.start + lane) % group])
        });
        scores.finish(l, sinks.as_ref(), mass)
    }
}

/// Widens some queries of a kv head, one after the other; query `i` is head `i % group` of row `i / group`.
fn load_queries(problem: &Problem<'_>, head: usize, range: std::ops::Range<usize>, to: &mut Vec<f32>) {
    fn widen<Q: Element>(from: &[Q], to: &mut Vec<f32>) {
        to.extend(from.iter().map(|x| x.to_f32()));
    }
    let (group, dim, q) = (problem.group(), problem.layout.head_dim, &problem.queries);
    to.clear();
    for query in range {
        let at = query / group * q.row_stride + (head * group + query % group) * q.head_stride;
        match q.data {
            Floats::F32(data) => widen(&data[at..at + dim], to),
            Floats::Bf16(data) => widen(&data[at..at + dim], to),
            Floats::F16(data) => widen(&data[at..at + dim], to),
        }
    }
}

/// Keys that follow each other, in memory and in the read.
struct KeyRun {
    /// Chunk, and the element at which the page begins there.
    chunk: usize,
    page: usize,
    /// Number of the page's format, slot of the first key, and how many.
    format: u8,
    slot: usize,
    count: usize,
    /// Own reads: the row that writes the first key.
    own: Option<u32>,
    /// Prefix reads: index of the entry, and how many of its slots come before.
    entry: (usize, usize),
}

impl KeyRun {
    /// The rows that see key `i`, but for the window.
    fn rows_that_see(&self, problem: &Problem<'_>, read: &Read, i: usize) -> (u32, u32) {
        match self.own {
            Some(first) => {
                let row = first + i as u32;
                (row, problem.plan.row_end[row as usize].min(read.row_end))
            }
            None => (read.row_begin, read.row_end),
        }
    }

    /// The logical position of key `i`; asked for where there is a window.
    fn position(&self, problem: &Problem<'_>, i: usize) -> i32 {
        let plan = problem.plan;
        if let Some(first) = self.own {
            return plan.row_positions[first as usize + i];
        }
        let (entry, skip) = (&plan.entries[self.entry.0], self.entry.1 + i);
        match usize::try_from(entry.positions_at) {
            Ok(at) => plan.positions[at + skip],
            Err(_) => entry.position.wrapping_add(skip as i32),
        }
    }
}

/// Walks the keys of a read on the plane of a kv head.
struct Walk {
    plane: usize,
    /// Entries, or own rows.
    at: usize,
    end: usize,
    skip: usize,
    own: bool,
    by_head: bool,
}

impl Walk {
    fn new(problem: &Problem<'_>, read: &Read, head: usize) -> Self {
        let rows = (read.row_begin as usize, read.row_end as usize);
        let (at, end) = work::entries(problem, read, head).unwrap_or(rows);
        let plane = problem.params.layer * problem.params.num_kv_heads + head;
        Self { plane, at, end, skip: 0, own: read.is_own(), by_head: read.is_by_head() }
    }

    fn next(&mut self, problem: &Problem<'_>) -> Option<KeyRun> {
        if self.at >= self.end {
            return None;
        }
        let (plan, layout) = (problem.plan, problem.layout);
        if self.own {
            let first = self.at;
            let at = plan.row_slots[first];
            let follows = |i: usize| {
                let slot = plan.row_slots[first + i];
                slot.slab == at.slab && slot.slot == at.slot + i as u32
            };
            let most = (self.end - first).min(BLOCK_KEYS);
            let count = (1..most).find(|&i| !follows(i)).unwrap_or(most);
            self.at += count;
            let (chunk, page) = layout.slab_page(at.slab, self.plane);
            let (slot, own) = (at.slot as usize, Some(first as u32));
            return Some(KeyRun { chunk, page, format: 0, slot, count, own, entry: (0, 0) });
        }
        let (here, entry) = ((self.at, self.skip), plan.entries[self.at]);
        let (chunk, page) =
            if self.by_head { layout.page(entry.page) } else { layout.slab_page(entry.page, self.plane) };
        let count = (usize::from(entry.count) - self.skip).min(BLOCK_KEYS);
        self.skip += count;
        if self.skip == usize::from(entry.count) {
            (self.at, self.skip) = (self.at + 1, 0);
        }
        let slot = entry.slot() as usize + here.1;
        Some(KeyRun { chunk, page, format: entry.format(), slot, count, own: None, entry: here })
    }
}

/// Adds to each column how many of the rows see its key.
fn count_rows(problem: &Problem<'_>, rows: &[u32], columns: &[KeyColumns], head: usize, seen: &mut [i32]) {
    let plan = problem.plan;
    for part in columns {
        let read = &plan.reads[part.read as usize];
        let mut walk = Walk::new(problem, read, head);
        let mut column = part.begin as usize;
        while let Some(run) = walk.next(problem) {
            for i in 0..run.count {
                let (begin, end) = run.rows_that_see(problem, read, i);
                seen[column] += match problem.params.window {
                    None => seen_by(rows, begin, end),
                    Some(window) => {
                        let position = i64::from(run.position(problem, i));
                        let near = |row: u32| {
                            i64::from(plan.row_positions[row as usize]) - position < i64::from(window)
                        };
                        rows.iter().filter(|&&row| (begin..end).contains(&row) && near(row)).count()
                    }
                } as i32;
                column += 1;
            }
        }
    }
}
