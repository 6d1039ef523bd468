//! Attention of a step's rows over the pages that its plan names.
//!
//! The work is cut into *pieces* from the plan alone, never from the number of threads: a block of
//! rows, a run of reads or parts of reads, one kv head ([`work`]). A piece keeps a running softmax
//! over its keys, as in FlashAttention (Dao et al., 2022), and leaves a partial result; partial
//! results of a row are merged in the order of the pieces, as in Flash-Decoding (Dao et al., 2023).
//! So the result is the same bits on any number of threads, and on any instruction set.
//!
//! Inside a piece all query heads of a kv head go over its keys together. Few query rows read the
//! pages directly ([`stream`]); more rows share tiles that were widened and turned once ([`tile`]).

mod coded;
mod coded_stream;
mod hidden;
mod mass;
mod partial;
mod stream;
mod task;
mod tile;
mod vectors;
mod work;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::cell::RefCell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::format::page::Formats;
use crate::format::plan::Plan;
use crate::format::{Element, PageLayout};
use crate::parallel::{Parallel, Serial, lock_whole};
use crate::simd::{Isa, MOST_HEAD_DIM};
pub use mass::{Columns, MassOutput, attention_mass, mass_columns};
use partial::Partial;
use work::Work;

/// Multiply-adds below which the calling thread does everything: about 50 µs of one core.
const SERIAL_WORK: u64 = 1 << 21;

/// Numbers of one of the three element types.
#[derive(Debug, Clone, Copy)]
pub enum Floats<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// bfloat16.
    Bf16(&'a [bf16]),
    /// IEEE halves.
    F16(&'a [f16]),
}

/// Numbers of one of the three element types, to be written.
#[derive(Debug)]
pub enum FloatsMut<'a> {
    /// 32-bit floats.
    F32(&'a mut [f32]),
    /// bfloat16.
    Bf16(&'a mut [bf16]),
    /// IEEE halves.
    F16(&'a mut [f16]),
}

/// The page pool: one slice a chunk, empty where the plan touches nothing.
#[derive(Debug, Clone, Copy)]
pub enum Pages<'a> {
    /// 32-bit floats.
    F32(&'a [&'a [f32]]),
    /// bfloat16.
    Bf16(&'a [&'a [bf16]]),
    /// IEEE halves.
    F16(&'a [&'a [f16]]),
}

/// Queries `[num_rows, num_heads, head_dim]` with a unit last stride.
#[derive(Debug, Clone, Copy)]
pub struct Queries<'a> {
    /// From the first element on.
    pub data: Floats<'a>,
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one head to the next.
    pub head_stride: usize,
}

/// Where results go: `[num_rows, num_heads, head_dim]` with a unit last stride, and rows that do
/// not overlap: the row stride is at least what one row spans.
#[derive(Debug)]
pub struct Output<'a> {
    /// From the first element on.
    pub data: FloatsMut<'a>,
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one head to the next.
    pub head_stride: usize,
    /// Where given, takes the logarithm of each softmax denominator, `[num_rows, num_heads]`;
    /// -inf for a row that sees nothing. Sinks are part of the denominator.
    pub lse: Option<&'a mut [f32]>,
}

/// What the scores are made of.
#[derive(Debug, Clone, Copy)]
pub struct Params<'a> {
    /// Query heads; a multiple of `num_kv_heads`.
    pub num_heads: usize,
    /// Key-value heads.
    pub num_kv_heads: usize,
    /// Physical layer.
    pub layer: usize,
    /// Factor of the scores, usually `head_dim ** -0.5`.
    pub scale: f32,
    /// A key is visible iff `row position - key position < window`.
    pub window: Option<u32>,
    /// Scores become `cap * tanh(score / cap)` (Gemma 2).
    pub soft_cap: Option<f32>,
    /// One learned logit a head that takes part in the denominator alone (gpt-oss), `[num_heads]`.
    pub sinks: Option<&'a [f32]>,
}

impl Floats<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::Bf16(data) => data.len(),
            Self::F16(data) => data.len(),
        }
    }
}

impl FloatsMut<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::Bf16(data) => data.len(),
            Self::F16(data) => data.len(),
        }
    }
}

/// What one call keeps for the next on its thread, so that a steady state allocates nothing.
#[derive(Default)]
struct Workspace {
    work: Work,
    partials: Vec<Mutex<Partial>>,
}

/// Partial results above this many numbers are given back after the call: 256 MiB.
const KEPT_PARTIALS: usize = 1 << 26;

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::default();
}

/// What all pieces of a call share.
#[derive(Clone, Copy)]
struct Problem<'a> {
    plan: &'a Plan,
    layout: &'a PageLayout,
    params: &'a Params<'a>,
    queries: Queries<'a>,
    formats: &'a Formats,
}

impl Problem<'_> {
    /// Query heads of one kv head.
    fn group(&self) -> usize {
        self.params.num_heads / self.params.num_kv_heads
    }
}

/// `softmax(scale * q k^T) v` for every row and head of a step, over the keys that its plan shows.
///
/// Accumulates in f32 whatever the element types. A row that sees no key gives zeros. `pages`
/// holds every page of the plan's entries and row slots; the step's own keys are read from their
/// slots, so write them first.
///
/// # Errors
/// Shapes that do not fit the plan or the layout, a head dimension of more than 512,
/// entries outside of the pool, and row masks or rotary offsets, which this
/// version does not take. Nothing is written then.
pub fn tree_attention(
    isa: Isa,
    pool: &dyn Parallel,
    queries: Queries<'_>,
    pages: Pages<'_>,
    layout: &PageLayout,
    plan: &Plan,
    params: &Params<'_>,
    out: Output<'_>,
) -> Result<()> {
    check_problem(layout, plan, params)?;
    check(&queries, layout, plan, params, &out)?;
    let formats = Formats::of(&plan.entries, layout)?;
    let problem = Problem { plan, layout, params, queries, formats: &formats };
    // Taken out, so that a pool that runs another call on this thread meanwhile finds a fresh one.
    let mut space = WORKSPACE.take();
    let outcome = match pages {
        Pages::F32(chunks) => attend(isa, pool, &problem, chunks, &mut space, out),
        Pages::Bf16(chunks) => attend(isa, pool, &problem, chunks, &mut space, out),
        Pages::F16(chunks) => attend(isa, pool, &problem, chunks, &mut space, out),
    };
    if space.partials.iter().map(|partial| lock_whole(partial).capacity()).sum::<usize>() > KEPT_PARTIALS {
        space.partials.clear();
    }
    WORKSPACE.set(space);
    outcome
}

fn attend<E: Element>(
    isa: Isa,
    pool: &dyn Parallel,
    problem: &Problem<'_>,
    chunks: &[&[E]],
    space: &mut Workspace,
    out: Output<'_>,
) -> Result<()> {
    let Workspace { work, partials } = space;
    work.plan(problem, chunks)?;
    let num_tasks = work.num_tasks();
    if partials.len() < num_tasks {
        partials.resize_with(num_tasks, Mutex::default);
    }
    let (work, partials) = (&*work, &partials[..num_tasks]);
    let pool = if work.cost < SERIAL_WORK { &Serial } else { pool };
    dynamic(pool, num_tasks, &|task| {
        let mut partial = lock_whole(&partials[task]);
        task::run(isa, problem, chunks, work, task, &mut partial);
    });
    // The merge touches every partial once; it is short unless there are many rows.
    let merged = (problem.params.num_heads * problem.plan.num_rows() * problem.layout.head_dim) as u64;
    let pool = if merged < SERIAL_WORK / 16 { &Serial } else { pool };
    partial::merge(isa, pool, problem, work, partials, out);
    Ok(())
}

/// Runs tasks in any order on all threads, each thread taking the next one when it is free.
fn dynamic(pool: &dyn Parallel, num_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
    let next = AtomicUsize::new(0);
    pool.run(pool.num_threads().min(num_tasks), &|_| {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= num_tasks {
                return;
            }
            task(index);
        }
    });
}

fn check(
    queries: &Queries<'_>,
    layout: &PageLayout,
    plan: &Plan,
    params: &Params<'_>,
    out: &Output<'_>,
) -> Result<()> {
    let (heads, dim, rows) = (params.num_heads, layout.head_dim, plan.num_rows());
    let span = |row_stride: usize, head_stride: usize| match rows {
        0 => 0,
        _ => (rows - 1) * row_stride + (heads - 1) * head_stride + dim,
    };
    if queries.data.len() < span(queries.row_stride, queries.head_stride) {
        let want = format!("at least {}", span(queries.row_stride, queries.head_stride));
        return Err(Error::shape("q.len", queries.data.len(), want));
    }
    if out.data.len() < span(out.row_stride, out.head_stride) {
        let want = format!("at least {}", span(out.row_stride, out.head_stride));
        return Err(Error::shape("out.len", out.data.len(), want));
    }
    let row = (heads - 1) * out.head_stride + dim;
    if (out.head_stride < dim && heads > 1) || (out.row_stride < row && rows > 1) {
        let got = (out.row_stride, out.head_stride);
        return Err(Error::shape("out strides of row and head", got, format!("at least ({row}, {dim})")));
    }
    if let Some(lse) = &out.lse
        && lse.len() != rows * heads
    {
        return Err(Error::shape("lse.len", lse.len(), rows * heads));
    }
    Ok(())
}

/// What does not depend on the queries and the results.
fn check_problem(layout: &PageLayout, plan: &Plan, params: &Params<'_>) -> Result<()> {
    let (heads, kv_heads, dim) = (params.num_heads, params.num_kv_heads, layout.head_dim);
    if !(1..=MOST_HEAD_DIM).contains(&dim) {
        return Err(Error::value("head_dim", dim, format!("1 to {MOST_HEAD_DIM}")));
    }
    if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(Error::value("num_heads", heads, format!("a multiple of num_kv_heads, {kv_heads}")));
    }
    if layout.planes_of(params.layer, kv_heads).is_none() {
        let layers = layout.num_planes / kv_heads;
        return Err(Error::value("layer", params.layer, format!("less than {layers}")));
    }
    if let Some(sinks) = params.sinks
        && sinks.len() != heads
    {
        return Err(Error::shape("sinks.len", sinks.len(), heads));
    }
    if params.soft_cap.is_some_and(|cap| !(cap > 0.0 && cap.is_finite())) {
        return Err(Error::value("soft_cap", format!("{:?}", params.soft_cap), "a positive number"));
    }
    if params.window == Some(0) {
        return Err(Error::value("window", 0, "at least 1"));
    }
    for read in &plan.reads {
        if read.mask != -1 {
            return Err(Error::value("mask of a read", read.mask, "-1: row masks are not supported yet"));
        }
        if read.rotary_offset != 0 {
            return Err(Error::value("rotary_offset of a read", read.rotary_offset, "0"));
        }
    }
    Ok(())
}
