//! Scores of pages by their summaries: one product of queries with what lies one after the other in memory.

use std::ops::Range;
use std::sync::Mutex;

use super::fill::Fill;
use super::scores::{Scores, TOGETHER};
use super::summary::{Call, Summary};
use crate::format::Element;
use crate::format::plan::Entry;
use crate::ops::attention::{Floats, SERIAL_WORK, Vectors};
use crate::parallel::{Parallel, Serial, dynamic, lock_whole};
use crate::simd::ahead::MemoryRange;
use crate::simd::product::four_by_two;
use crate::simd::{Isa, Kernel, Lanes, MOST_HEAD_DIM, WIDTH};

/// Entries that go over all queries before the next do: their summaries stay in the first-level cache meanwhile.
const TILE: usize = 16;
/// Queries from which on summaries are widened once for all.
const WIDEN_QUERIES: usize = 8;
/// Vectors that are widened together: 16 KiB, and at least four of the longest summaries.
const WIDE: usize = 256;
const _: () = assert!(WIDE * WIDTH >= 4 * 2 * MOST_HEAD_DIM);

/// Some entries of one block.
struct Part<'a> {
    head: usize,
    read: usize,
    rows: Range<usize>,
    entries: Range<usize>,
    to: &'a mut [f32],
}

/// Scores all blocks. `parts` are the summaries of each chunk, `new` those of stale entries.
pub(super) fn score<E: Element>(
    call: &Call<'_>,
    parts: &[&mut [E]],
    fill: &Fill,
    new: &[E],
    queries: &mut Vectors,
    out: &mut Scores,
) {
    let group = call.problem.group();
    let Scores { blocks, num_reads, numbers } = out;
    let mut rest = &mut numbers[..];
    let mut tasks = Vec::new();
    for (i, block) in blocks.iter().enumerate().filter_map(|(i, block)| Some((i, block.as_ref()?))) {
        let num_queries = block.rows.len() * group;
        let (own, behind) = std::mem::take(&mut rest).split_at_mut(block.numbers.len());
        rest = behind;
        for (first, to) in (block.first_entry..).step_by(TOGETHER).zip(own.chunks_mut(TOGETHER * num_queries))
        {
            let entries = first..first + to.len() / num_queries;
            tasks.push(Part {
                head: i / *num_reads,
                read: i % *num_reads,
                rows: block.rows.clone(),
                entries,
                to,
            });
        }
    }
    let width = call.elements().div_ceil(WIDTH);
    call.isa.run(LoadQueries { call, width, to: queries });
    let work: usize = tasks.iter().map(|part| part.to.len() * call.elements()).sum();
    let pool: &dyn Parallel = if (work as u64) < SERIAL_WORK { &Serial } else { call.pool };
    let (num_tasks, tasks) = (tasks.len(), Mutex::new(tasks.into_iter()));
    let (queries, isa): (&Vectors, Isa) = (queries, call.isa);
    dynamic(pool, num_tasks, &|_| {
        let part = lock_whole(&tasks).next();
        if let Some(part) = part {
            isa.run(ScorePart { call, parts, fill, new, queries, part });
        }
    });
}

/// Scales the queries of all rows and brings them into the form that meets a summary, `[kv heads, rows, group,
/// width]` vectors, zeros behind the last element.
struct LoadQueries<'a> {
    call: &'a Call<'a>,
    width: usize,
    to: &'a mut Vectors,
}

impl Kernel for LoadQueries<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self, _l: L) {
        let Self { call, width, to } = self;
        let (q, params) = (&call.problem.queries, call.problem.params);
        let (heads, dim) = (params.num_heads, call.problem.layout.head_dim);
        let (rows, group) = (call.problem.plan.num_rows(), call.problem.group());
        to.reset(rows * heads * width);
        for (row, &slack) in call.rows.iter().zip(call.slacks) {
            for head in 0..heads {
                let at = *row as usize * q.row_stride + head * q.head_stride;
                let query = (head / group * rows + *row as usize) * group + head % group;
                let to = to[query * width..][..width].as_flattened_mut();
                match q.data {
                    Floats::F32(data) => load(call.summary, slack, &data[at..at + dim], params.scale, to),
                    Floats::Bf16(data) => load(call.summary, slack, &data[at..at + dim], params.scale, to),
                    Floats::F16(data) => load(call.summary, slack, &data[at..at + dim], params.scale, to),
                }
            }
        }
    }
}

#[inline(always)]
fn load<Q: Element>(summary: Summary, slack: f32, from: &[Q], scale: f32, to: &mut [f32]) {
    let dim = from.len();
    let (near, far) = ((1.0 + slack) / 2.0, (1.0 - slack) / 2.0);
    for (i, x) in from.iter().enumerate() {
        let x = x.to_f32() * scale;
        match summary {
            // The middle of the bounds, and `slack` of half their distance.
            Summary::Bounds if slack < 1.0 => {
                to[i] = x * if x < 0.0 { far } else { near };
                to[dim + i] = x * if x > 0.0 { far } else { near };
            }
            // Of the two products the greater: what is positive meets the greatest, what is not the least. A
            // NaN is neither and meets both.
            Summary::Bounds => {
                to[i] = if x < 0.0 { 0.0 } else { x };
                to[dim + i] = if x > 0.0 { 0.0 } else { x };
            }
            Summary::Mean => to[i] = x,
        }
    }
}

struct ScorePart<'a, 'b, E> {
    call: &'a Call<'a>,
    parts: &'a [&'b mut [E]],
    fill: &'a Fill,
    new: &'a [E],
    queries: &'a Vectors,
    part: Part<'a>,
}

impl<E: Element> Kernel for ScorePart<'_, '_, E> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Self { call, parts, fill, new, queries, part } = self;
        let (problem, n) = (call.problem, call.elements());
        let (group, layout) = (problem.group(), problem.layout);
        let plane = problem.params.layer * problem.params.num_kv_heads + part.head;
        let by_head = problem.plan.reads[part.read].is_by_head();
        let entries = &problem.plan.entries[part.entries.clone()];
        let page_of = |entry: &Entry| -> &[E] {
            let (chunk, page) = match by_head {
                true => layout.page_place(entry.page),
                false => layout.slab_place(entry.page, plane),
            };
            &parts[chunk][page * n..(page + 1) * n]
        };
        let width = n.div_ceil(WIDTH);
        let num_queries = part.rows.len() * group;
        let first_query = (part.head * problem.plan.num_rows() + part.rows.start) * group;
        let queries = &queries[first_query * width..][..num_queries * width];
        let widens = num_queries >= WIDEN_QUERIES || !n.is_multiple_of(WIDTH);
        let tile = if widens { TILE.min(WIDE / width) } else { TILE };
        let mut wide = [[0.0f32; WIDTH]; WIDE];
        let mut aside = fill.aside(part.head, part.read, part.entries.clone());
        // Where the summaries of a tile lie, and those of the next, which are asked for meanwhile.
        let mut next: [&[E]; TILE] = [&[]; TILE];
        next.iter_mut().zip(&entries[..tile.min(entries.len())]).for_each(|(to, entry)| *to = page_of(entry));
        for at in (0..entries.len()).step_by(tile) {
            let mut summaries = next;
            let here = tile.min(entries.len() - at);
            let behind = &entries[at + here..entries.len().min(at + here + tile)];
            next.iter_mut().zip(behind).for_each(|(to, entry)| *to = page_of(entry));
            for (i, summary) in summaries[..here].iter_mut().enumerate() {
                if let Some(index) = aside.next_if((part.entries.start + at + i) as u32) {
                    *summary = &new[index * n..(index + 1) * n];
                }
            }
            let to = Places { numbers: &mut *part.to, stride: entries.len(), at };
            let soon = &next[..behind.len()];
            if !widens {
                let whole = summaries.map(|summary| summary.as_chunks::<WIDTH>().0);
                meet(l, queries, &whole[..here], soon, to);
                continue;
            }
            // The same products in the same order, widened once.
            for (summary, to) in summaries[..here].iter().zip(wide.chunks_exact_mut(width)) {
                let (blocks, rest) = summary.as_chunks::<WIDTH>();
                for (to, block) in to.iter_mut().zip(blocks) {
                    l.store(l.load(block), to);
                }
                if !rest.is_empty() {
                    l.store(l.load_partial(rest, 0.0), &mut to[blocks.len()]);
                }
            }
            let mut whole: [&[[f32; WIDTH]]; TILE] = [&[]; TILE];
            whole.iter_mut().zip(wide.chunks_exact(width)).for_each(|(to, wide)| *to = wide);
            meet(l, queries, &whole[..here], soon, to);
        }
    }
}

/// Where the scores of a tile go: that of its entry `i` and of query `q` to `numbers[q * stride + at + i]`.
struct Places<'a> {
    numbers: &'a mut [f32],
    stride: usize,
    at: usize,
}

/// The scores of a tile: four queries meet two summaries at a time, the last ones again where there is no other.
/// The `soon` are asked for.
#[inline(always)]
fn meet<S: Element, E: Element, L: Lanes>(
    l: L,
    queries: &[[f32; WIDTH]],
    summaries: &[&[[S; WIDTH]]],
    soon: &[&[E]],
    to: Places<'_>,
) {
    let width = summaries[0].len();
    let count = queries.len() / width;
    let mut soon = soon.iter();
    for first in (0..count).step_by(4) {
        let mut four: [&[[f32; WIDTH]]; 4] = [&[]; 4];
        for (i, query) in four.iter_mut().enumerate() {
            *query = &queries[(first + i).min(count - 1) * width..][..width];
        }
        for (i, pair) in summaries.chunks(2).enumerate() {
            for page in soon.by_ref().take(2) {
                MemoryRange::of(page).prefetch(l);
            }
            let sums = four_by_two(l, four, [pair[0], pair[pair.len() - 1]]);
            for q in 0..(count - first).min(4) {
                let at = (first + q) * to.stride + to.at + 2 * i;
                for (k, score) in to.numbers[at..at + pair.len()].iter_mut().enumerate() {
                    *score = sums[k][q];
                }
            }
        }
    }
}
