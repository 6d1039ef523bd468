//! Summaries of pages, and how much a query may want of a page by its summary.
//!
//! A summary says something of the keys that an entry of a plan shows on one page: their channel-wise bounds
//! (Tang et al. 2024, "Quest", arXiv 2406.10774) or their mean. It is kept in the element type of the page,
//! beside the slots that it is of. One that is of other slots than an entry shows is not used for the entry:
//! what a row selects depends on the keys that it sees, not on what else lies on a page.
//!
//! The memory belongs to the caller, who writes zeros over both as soon as a slot of the page is written.

mod fill;
mod score;
mod scores;
mod summarise;
mod summary;

use std::cell::RefCell;

use fill::Fill;
pub use scores::{ReadScores, Scores};
use summary::Call;
pub use summary::{SPAN_BYTES, Summaries, Summary};

use crate::error::{Error, Result};
use crate::format::page::Formats;
use crate::format::plan::Plan;
use crate::format::{Element, PageLayout};
use crate::ops::attention::{AttentionParams, Pages, Problem, Queries, Vectors, check_pages, check_problem};
use crate::parallel::Parallel;
use crate::simd::{Isa, elements_of_mut};

/// Working memory that one call leaves for the next on its thread.
#[derive(Default)]
struct Space {
    fill: Fill,
    queries: Vectors,
}

/// Elements of new summaries above which their memory is given back after the call: 16 MiB of the smallest.
const KEPT_ELEMENTS: usize = 1 << 22;

thread_local! {
    static SPACE: RefCell<Space> = RefCell::default();
}

/// Scores the entries of every prefix read for the query heads of some rows, ascending: what the summary says
/// of `scale * q . k` over the keys that an entry shows. By bounds none of them is greater, up to the
/// rounding of float32: `sum over d of max(q_d * greatest_d, q_d * least_d)`. By the mean it is theirs. A row whose
/// slack is below 1 takes that share of the way from the middle of its bounds to the bound.
///
/// Summaries that are missing are made first and kept. A page with a key that is not finite scores NaN.
///
/// # Errors
/// As [`tree_attention`](crate::ops::attention::tree_attention); [`Error::Shape`] for summaries of another
/// pool; rows that are not ascending rows of the plan.
pub fn score_pages(
    isa: Isa,
    pool: &dyn Parallel,
    queries: Queries<'_>,
    pages: Pages<'_>,
    layout: &PageLayout,
    plan: &Plan,
    params: &AttentionParams<'_>,
    rows: &[u32],
    slacks: &[f32],
    summaries: Summaries<'_, '_>,
    out: &mut Scores,
) -> Result<()> {
    check_problem(layout, plan, params)?;
    if rows.windows(2).any(|pair| pair[0] >= pair[1])
        || rows.last().is_some_and(|r| *r as usize >= plan.num_rows())
    {
        return Err(Error::value(
            "rows",
            format!("{rows:?}"),
            format!("ascending rows below {}", plan.num_rows()),
        ));
    }
    if slacks.len() != rows.len() {
        return Err(Error::shape("slacks.len", slacks.len(), rows.len()));
    }
    let span = match plan.num_rows() {
        0 => 0,
        n => (n - 1) * queries.row_stride + (params.num_heads - 1) * queries.head_stride + layout.head_dim,
    };
    if queries.data.len() < span {
        return Err(Error::shape("q.len", queries.data.len(), format!("at least {span}")));
    }
    let formats = Formats::of(&plan.entries, layout)?;
    let problem = Problem { plan, layout, params, queries, formats: &formats, selection: None };
    let call = Call { isa, pool, problem: &problem, rows, slacks, summary: summaries.summary };
    match pages {
        Pages::F32(chunks) => run(call, chunks, summaries, out),
        Pages::Bf16(chunks) => run(call, chunks, summaries, out),
        Pages::F16(chunks) => run(call, chunks, summaries, out),
    }
}

fn run<E: Element>(
    call: Call<'_>,
    chunks: &[&[E]],
    summaries: Summaries<'_, '_>,
    out: &mut Scores,
) -> Result<()> {
    check_pages(call.problem, chunks)?;
    let Summaries { values, spans, .. } = summaries;
    call.check(chunks, values, spans)?;
    let parts: Option<Vec<&mut [E]>> = values.iter_mut().map(|part| elements_of_mut(part)).collect();
    let misaligned = || Error::value("summaries", "misaligned", "elements of the page's type");
    let mut parts = parts.ok_or_else(misaligned)?;
    // Taken out, so that a pool that runs another call on this thread meanwhile finds a fresh one.
    let mut space = SPACE.take();
    out.lay_out(call.problem, call.rows);
    let Space { fill, queries } = &mut space;
    fill.list(&call, out, spans);
    let n = call.elements();
    let mut new: Vec<E> = fill.take(n);
    fill.summarise(&call, chunks, &mut new);
    for (stale, new) in fill.stale().iter().zip(new.chunks_exact(n)).filter(|(stale, _)| stale.is_kept) {
        parts[stale.place.0][stale.place.1 * n..][..n].copy_from_slice(new);
    }
    score::score(&call, &parts, fill, &new, queries, out);
    // What this call could not use the place of may be of use to the next.
    for (stale, new) in fill.stale().iter().zip(new.chunks_exact(n)).filter(|(stale, _)| stale.is_wider) {
        parts[stale.place.0][stale.place.1 * n..][..n].copy_from_slice(new);
        stale.write_span(spans);
    }
    fill.give_back(new);
    if fill.capacity() > KEPT_ELEMENTS {
        *fill = Fill::default();
    }
    SPACE.set(space);
    Ok(())
}
