//! Attention of a step's rows over the pages that its plan names.
//!
//! The work is cut into *pieces* from the plan alone, never from the number of threads: a block of
//! rows, a run of reads or parts of reads, one kv head (`work`). A piece keeps a running softmax
//! over its keys, as in FlashAttention (Dao et al., 2022), and leaves a partial result; partial
//! results of a row are merged in the order of the pieces, as in Flash-Decoding (Dao et al., 2023).
//! So the result is the same bits on any number of threads, and on any instruction set.
//!
//! Inside a piece all query heads of a kv head go over its keys together. Few query rows read the
//! pages directly (`stream`, `coded_stream`); more rows share tiles that were widened and turned once
//! (`tile`, `coded_tile`). A `task` alone chooses among them; those over codes build on those over
//! plain pages.
//!
//! The bits of a row may depend on the rows beside it: what they share is cut into pieces, and read in tiles,
//! by all of them. Where that is not wanted (`batch_invariant`), a row's keys are one sum (`invariant`).
//!
//! From the lowest file to the highest: `vectors` and `problem`; `block`, the keys that meet at once
//! and who sees them; `work`; `partial`; `coded` and `hidden`; the ways of reading; `task`. `block_sparse`
//! stands beside them: a prompt's own queries, keys and values, without pages and without a plan.

mod block;
mod block_sparse;
mod coded;
mod coded_stream;
mod coded_tile;
mod hidden;
mod invariant;
mod mass;
mod partial;
mod problem;
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

use crate::error::{Error, Result};
use crate::format::page::Formats;
use crate::format::plan::Plan;
use crate::format::selection::Selection;
use crate::format::{Element, PageLayout};
use crate::parallel::{Parallel, Serial, dynamic, lock_whole};
use crate::simd::Isa;
pub use block_sparse::{BlockSparse, block_sparse_attention};
pub use mass::{KeyColumns, MassOutput, attention_mass, mass_columns};
use partial::Partial;
pub use problem::{AttentionParams, Floats, FloatsMut, Output, Pages, Queries, STREAM_QUERIES};
pub(super) use problem::{Problem, SERIAL_WORK, check_problem};
pub(super) use vectors::Vectors;
use work::Work;
pub(super) use work::{check as check_pages, entries as entries_of};

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

/// `softmax(scale * q k^T) v` for every row and head of a step, over the keys that its plan shows.
///
/// Accumulates in f32 whatever the element types. A row that sees no key gives zeros. `pages`
/// holds every page of the plan's entries and row slots; the step's own keys are read from their
/// slots, so write them first. With a `selection`, of prefix reads only what it names is read, and seen by
/// the queries that its masks name; one that names everything changes rounding alone, since work is then cut
/// by kv head.
///
/// The row of the [plan written by hand](crate::format::plan) with four equal keys: its result is the mean of
/// their values.
///
/// ```
/// # use hornbeam_core::format::plan::{Entry, Plan, Read, RowSlot};
/// use hornbeam_core::format::{Dtype, PageLayout};
/// use hornbeam_core::ops::attention::{
///     AttentionParams, Floats, FloatsMut, Output, Pages, Queries, tree_attention,
/// };
/// use hornbeam_core::parallel::Serial;
/// use hornbeam_core::simd::Isa;
/// # let entry = |first, count, position| Entry { page: 0, first, count, position, positions_at: -1 };
/// # let read = |entry, num_keys, flags| Read {
/// #     entry_begin: entry,
/// #     entry_end: entry + 1,
/// #     row_begin: 0,
/// #     row_end: 1,
/// #     num_keys,
/// #     flags,
/// #     mask: -1,
/// #     rotary_offset: 0,
/// # };
/// # let plan = Plan {
/// #     entries: vec![entry(0, 3, 0), entry(3, 1, 3)],
/// #     reads: vec![read(0, 3, 0), read(1, 1, Read::OWN)],
/// #     row_positions: vec![3],
/// #     row_end: vec![1],
/// #     row_slots: vec![RowSlot { slab: 0, slot: 3 }],
/// #     ..Plan::default()
/// # };
///
/// let layout =
///     PageLayout { num_planes: 1, slabs_per_chunk: 1, page_tokens: 4, head_dim: 2, dtype: Dtype::F32 };
/// // One page: the keys of its four slots, then their values.
/// let (keys, values) = ([0.0; 8], [1.0, 0.0, 2.0, 0.0, 3.0, 0.0, 6.0, 8.0]);
/// let chunk: Vec<f32> = [keys, values].concat();
///
/// let mut out = [0.0f32; 2];
/// tree_attention(
///     Isa::detected(),
///     &Serial,
///     Queries { data: Floats::F32(&[1.0, -1.0]), row_stride: 2, head_stride: 2 },
///     Pages::F32(&[&chunk]),
///     &layout,
///     &plan,
///     &AttentionParams::new(1, 1, 0, 2, None),
///     None,
///     Output { data: FloatsMut::F32(&mut out), row_stride: 2, head_stride: 2, lse: None },
/// )?;
/// assert!((out[0] - 3.0).abs() < 1e-6 && (out[1] - 2.0).abs() < 1e-6);
/// # Ok::<(), hornbeam_core::Error>(())
/// ```
///
/// # Errors
/// Shapes that do not fit the plan or the layout, a head dimension of more than 512,
/// entries outside of the pool, a selection of another plan or other heads, and row masks or rotary
/// offsets, which this version does not take. Nothing is written then.
pub fn tree_attention(
    isa: Isa,
    pool: &dyn Parallel,
    queries: Queries<'_>,
    pages: Pages<'_>,
    layout: &PageLayout,
    plan: &Plan,
    params: &AttentionParams<'_>,
    selection: Option<&Selection>,
    out: Output<'_>,
) -> Result<()> {
    check_problem(layout, plan, params)?;
    check(&queries, layout, plan, params, &out)?;
    let formats = Formats::of(&plan.entries, layout)?;
    let problem = Problem { plan, layout, params, queries, formats: &formats, selection };
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

fn check(
    queries: &Queries<'_>,
    layout: &PageLayout,
    plan: &Plan,
    params: &AttentionParams<'_>,
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
