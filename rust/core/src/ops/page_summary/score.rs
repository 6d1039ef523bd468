//! Scores of pages by their summaries: one product of queries with what lies one after the other in memory.

use std::ops::Range;
use std::sync::Mutex;

use super::fill::Fill;
use super::scores::Scores;
use super::summary::{Call, Summary};
use crate::format::Element;
use crate::ops::attention::{Floats, SERIAL_WORK, Vectors};
use crate::parallel::{Parallel, Serial, dynamic, lock_whole};
use crate::simd::ahead::MemoryRange;
use crate::simd::product::dots;
use crate::simd::{Isa, Kernel, Lanes, MOST_HEAD_DIM, WIDTH};

/// Entries that one task scores.
const TOGETHER: usize = 512;
/// Entries between the one that is scored and the one that is asked for.
const AHEAD: usize = 8;
/// Queries from which on a summary is widened once for all.
const WIDEN_QUERIES: usize = 8;
/// Vectors of the longest summary, and one for its end.
const MOST_WIDTH: usize = 2 * MOST_HEAD_DIM / WIDTH + 1;

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

/// Scales the queries of all rows and brings them into the form that meets a summary, `[rows, heads, width]`
/// vectors, zeros behind the last element.
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
        to.reset(call.problem.plan.num_rows() * heads * width);
        for (row, &slack) in call.rows.iter().zip(call.slacks) {
            for head in 0..heads {
                let at = *row as usize * q.row_stride + head * q.head_stride;
                let to = to[(*row as usize * heads + head) * width..][..width].as_flattened_mut();
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
        let (group, heads, layout) = (problem.group(), problem.params.num_heads, problem.layout);
        let plane = problem.params.layer * problem.params.num_kv_heads + part.head;
        let by_head = problem.plan.reads[part.read].is_by_head();
        let entries = &problem.plan.entries[part.entries.clone()];
        let page_of = |at: usize| -> &[E] {
            let (chunk, page) = match by_head {
                true => layout.page_place(entries[at].page),
                false => layout.slab_place(entries[at].page, plane),
            };
            &parts[chunk][page * n..(page + 1) * n]
        };
        // Summaries that were asked for already, by the last bits of their entry.
        let mut soon: [&[E]; AHEAD] = [&[]; AHEAD];
        for (at, soon) in soon.iter_mut().enumerate().take(entries.len()) {
            *soon = page_of(at);
        }
        let mut wide = [[0.0f32; WIDTH]; MOST_WIDTH];
        let mut aside = fill.aside(part.head, part.read, part.entries.clone());
        let num_queries = part.rows.len() * group;
        let own = part.head * group..(part.head + 1) * group;
        for (at, to) in part.to.chunks_exact_mut(num_queries).enumerate() {
            let mut summary = soon[at % AHEAD];
            if at + AHEAD < entries.len() {
                soon[at % AHEAD] = page_of(at + AHEAD);
                MemoryRange::of(soon[at % AHEAD]).prefetch(l);
            }
            if let Some(index) = aside.next_if((part.entries.start + at) as u32) {
                summary = &new[index * n..(index + 1) * n];
            }
            if num_queries >= WIDEN_QUERIES {
                // The same products in the same order, widened once.
                let (blocks, rest) = summary.as_chunks::<WIDTH>();
                wide.iter_mut().zip(blocks).for_each(|(to, block)| l.store(l.load(block), to));
                l.store(l.load_partial(rest, 0.0), &mut wide[blocks.len()]);
                meet(l, &wide.as_flattened()[..n], part.rows.clone(), queries, own.clone(), heads, to);
                continue;
            }
            meet(l, summary, part.rows.clone(), queries, own.clone(), heads, to);
        }
    }
}

/// The scores of one summary: `to[row][member]`.
#[inline(always)]
fn meet<S: Element, L: Lanes>(
    l: L,
    summary: &[S],
    rows: Range<usize>,
    queries: &[[f32; WIDTH]],
    heads: Range<usize>,
    num_heads: usize,
    to: &mut [f32],
) {
    let width = summary.len().div_ceil(WIDTH);
    for (row, to) in rows.zip(to.chunks_exact_mut(heads.len())) {
        let of_row = &queries[(row * num_heads + heads.start) * width..][..heads.len() * width];
        for (queries, to) in of_row.chunks(4 * width).zip(to.chunks_mut(4)) {
            let q = |i: usize| &queries[i * width..(i + 1) * width];
            let sums = match to.len() {
                1 => dots(l, [q(0)], [summary]),
                2 => dots(l, [q(0), q(1)], [summary]),
                3 => dots(l, [q(0), q(1), q(2)], [summary]),
                _ => dots(l, [q(0), q(1), q(2), q(3)], [summary]),
            };
            to.copy_from_slice(&sums[..to.len()]);
        }
    }
}
