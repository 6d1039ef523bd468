//! The running softmax of a piece, and the merge of the pieces of a row.

use std::sync::Mutex;

use super::problem::{FloatsMut, Output, Problem};
use super::vectors::Vectors;
use super::work::Work;
use crate::format::Element;
use crate::parallel::{Parallel, dynamic, lock_whole};
use crate::simd::math::exp_nonpositive;
use crate::simd::{Isa, Kernel, Lanes, MOST_HEAD_DIM, WIDTH};

/// Maximum, denominator and weighted values of some query rows over the keys seen so far.
#[derive(Debug, Default)]
pub(super) struct Partial {
    /// Greatest score, -inf before the first visible key; `[queries]`, padded to whole vectors.
    pub(super) max: Vec<f32>,
    /// Sum of `exp(score - max)`; as `max`.
    pub(super) sum: Vec<f32>,
    /// Sum of `exp(score - max) * value`; `[queries, dim / WIDTH]` vectors.
    pub(super) values: Vectors,
}

impl Partial {
    /// Nothing seen yet, for `queries` rows of `width` vectors.
    pub(super) fn reset(&mut self, queries: usize, width: usize) {
        let padded = queries.next_multiple_of(WIDTH);
        self.max.clear();
        self.max.resize(padded, f32::NEG_INFINITY);
        self.sum.clear();
        self.sum.resize(padded, 0.0);
        self.values.reset(queries * width);
    }

    /// Numbers that its memory holds.
    pub(super) fn capacity(&self) -> usize {
        self.values.capacity() + self.max.capacity() + self.sum.capacity()
    }
}

/// Turns the scores of one query row into weights relative to the new maximum, and rescales what
/// was there. Scores that are -inf get weight 0; a NaN makes the sum NaN for good.
#[inline(always)]
pub(super) fn absorb<L: Lanes>(
    l: L,
    scores: &mut [[f32; WIDTH]],
    max: &mut f32,
    sum: &mut f32,
    values: &mut [[f32; WIDTH]],
) {
    let mut greatest = l.splat(f32::NEG_INFINITY);
    for s in scores.iter() {
        greatest = l.max(l.load(s), greatest);
    }
    let new = l.reduce_max(greatest).max(*max);
    if new > *max {
        if *max > f32::NEG_INFINITY {
            let factor = exp_nonpositive(l, l.sub(l.splat(*max), l.splat(new)));
            for v in values {
                l.store(l.mul(l.load(v), factor), v);
            }
            let mut lanes = [0.0; WIDTH];
            l.store(factor, &mut lanes);
            *sum *= lanes[0];
        }
        *max = new;
    }
    // Where nothing is visible yet any finite shift gives weight 0, and NaN stays NaN.
    let shift = l.splat(if new == f32::NEG_INFINITY { 0.0 } else { new });
    let mut total = l.splat(0.0);
    for s in scores.iter_mut() {
        let weight = exp_nonpositive(l, l.sub(l.load(s), shift));
        total = l.add(total, weight);
        l.store(weight, s);
    }
    *sum += l.reduce_add(total);
}

/// Multiplies the values of those of sixteen queries that have `changed` by their factors.
#[inline(always)]
pub(super) fn rescale<L: Lanes>(
    l: L,
    changed: u32,
    factor: L::Vector,
    width: usize,
    values: &mut [[f32; WIDTH]],
) {
    if changed == 0 {
        return;
    }
    let mut factors = [0.0; WIDTH];
    l.store(factor, &mut factors);
    let values = values.chunks_exact_mut(width).take(WIDTH).enumerate();
    for (i, values) in values.filter(|(i, _)| changed >> i & 1 != 0) {
        let factor = l.splat(factors[i]);
        for v in values {
            l.store(l.mul(l.load(v), factor), v);
        }
    }
}

/// Merges the partial results of every row and head, in the order of the pieces, into `out`.
pub(super) fn merge(
    isa: Isa,
    pool: &dyn Parallel,
    problem: &Problem<'_>,
    work: &Work,
    partials: &[Mutex<Partial>],
    out: Output<'_>,
) {
    let Output { data, row_stride, head_stride, lse } = out;
    let lse = lse.unwrap_or_default();
    match data {
        FloatsMut::F32(data) => {
            merge_rows(isa, pool, problem, work, partials, data, row_stride, head_stride, lse)
        }
        FloatsMut::Bf16(data) => {
            merge_rows(isa, pool, problem, work, partials, data, row_stride, head_stride, lse)
        }
        FloatsMut::F16(data) => {
            merge_rows(isa, pool, problem, work, partials, data, row_stride, head_stride, lse)
        }
    }
}

fn merge_rows<T: Element>(
    isa: Isa,
    pool: &dyn Parallel,
    problem: &Problem<'_>,
    work: &Work,
    partials: &[Mutex<Partial>],
    out: &mut [T],
    row_stride: usize,
    head_stride: usize,
    lse: &mut [f32],
) {
    let blocks = problem.plan.num_rows().div_ceil(work.block_rows);
    let heads = problem.params.num_heads;
    // Every block of rows owns its part of the output; the lock is held to take the next part only.
    let rows = out.chunks_mut((row_stride * work.block_rows).max(1));
    let lse_rows = lse.chunks_mut(heads * work.block_rows).map(Some).chain(std::iter::repeat_with(|| None));
    let parts = Mutex::new(rows.zip(lse_rows).enumerate().take(blocks));
    dynamic(pool, blocks, &|_| {
        let part = lock_whole(&parts).next();
        if let Some((block, (out, lse))) = part {
            isa.run(MergeBlock { problem, work, partials, block, out, row_stride, head_stride, lse });
        }
    });
}

struct MergeBlock<'a, T> {
    problem: &'a Problem<'a>,
    work: &'a Work,
    partials: &'a [Mutex<Partial>],
    block: usize,
    out: &'a mut [T],
    row_stride: usize,
    head_stride: usize,
    lse: Option<&'a mut [f32]>,
}

impl<T: Element> Kernel for MergeBlock<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(mut self, l: L) {
        let (group, dim) = (self.problem.group(), self.problem.layout.head_dim);
        let (kv_heads, heads) = (self.problem.params.num_kv_heads, self.problem.params.num_heads);
        let width = dim.div_ceil(WIDTH);
        let first = self.block * self.work.block_rows;
        let end = (first + self.work.block_rows).min(self.problem.plan.num_rows());
        let mut values = [[0.0f32; WIDTH]; MOST_HEAD_DIM / WIDTH];
        let values = &mut values[..width];
        for kv_head in 0..kv_heads {
            let tasks = self.work.block_tasks(self.block, kv_head);
            for row in first..end {
                for g in 0..group {
                    let head = kv_head * group + g;
                    let sink = self.problem.params.sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[head]);
                    let (mut max, mut sum) = (f32::NEG_INFINITY, 0.0f32);
                    values.fill([0.0; WIDTH]);
                    for task in tasks.clone() {
                        let (piece, _) = self.work.task(task);
                        if !(piece.row_begin as usize..piece.row_end as usize).contains(&row) {
                            continue;
                        }
                        let partial = lock_whole(&self.partials[task]);
                        let query = (row - piece.row_begin as usize) * group + g;
                        let theirs = &partial.values[query * width..][..width];
                        let new = max.max(partial.max[query]);
                        // Nothing visible; a NaN score would show in the sum.
                        if partial.max[query] == f32::NEG_INFINITY && partial.sum[query] == 0.0 {
                            continue;
                        }
                        let (ours_by, theirs_by) = (weight(l, max, new), weight(l, partial.max[query], new));
                        sum = sum * ours_by + partial.sum[query] * theirs_by;
                        let (ours_by, theirs_by) = (l.splat(ours_by), l.splat(theirs_by));
                        for (v, t) in values.iter_mut().zip(theirs) {
                            let v2 = l.fma(l.load(t), theirs_by, l.mul(l.load(v), ours_by));
                            l.store(v2, v);
                        }
                        max = new;
                    }
                    let mut inverse = if sum == 0.0 { 0.0 } else { 1.0 / sum };
                    if sink > f32::NEG_INFINITY {
                        let new = max.max(sink);
                        let ours_by = weight(l, max, new);
                        sum = sum * ours_by + weight(l, sink, new);
                        inverse = ours_by / sum;
                        max = new;
                    }
                    let to =
                        &mut self.out[(row - first) * self.row_stride + head * self.head_stride..][..dim];
                    for (to, v) in to.iter_mut().zip(values.as_flattened()) {
                        *to = T::from_f32(v * inverse);
                    }
                    if let Some(lse) = self.lse.as_deref_mut() {
                        let log = crate::simd::math::log_scalar(sum);
                        lse[(row - first) * heads + head] =
                            if sum == 0.0 { f32::NEG_INFINITY } else { max + log };
                    }
                }
            }
        }
    }
}

/// `exp(from - to)` where `to` is the greater; 0 for `from` = -inf.
#[inline(always)]
fn weight<L: Lanes>(l: L, from: f32, to: f32) -> f32 {
    if from == to {
        return 1.0;
    }
    let mut lanes = [0.0; WIDTH];
    l.store(exp_nonpositive(l, l.splat(from - to)), &mut lanes);
    lanes[0]
}
