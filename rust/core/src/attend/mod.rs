//! Which pages a row reads: **estimate** (what a page may be worth to a query) × **group** (who chooses
//! together) × **select** (how many of the best are taken).
//!
//! A row's choice depends on its own queries and on the pages that it sees, never on the rows beside it. All
//! decisions break ties by lowest index; sums that decide are integers.
//!
//! Of three pages a row reads the one whose keys it may want most, and the last one:
//!
//! ```
//! use hornbeam_core::attend::{Group, PageCount, Rule, RuledRows, Select, select};
//! use hornbeam_core::format::plan::{Entry, Plan, Read, RowSlot};
//! use hornbeam_core::format::{Dtype, PageLayout};
//! use hornbeam_core::ops::attention::{AttentionParams, Floats, Pages, Queries};
//! use hornbeam_core::ops::page_summary::{SPAN_BYTES, Summaries, Summary};
//! use hornbeam_core::parallel::Serial;
//! use hornbeam_core::simd::Isa;
//!
//! let layout =
//!     PageLayout { num_planes: 1, slabs_per_chunk: 4, page_tokens: 2, head_dim: 2, dtype: Dtype::F32 };
//! let mut chunk = vec![0.0f32; layout.chunk_elements()];
//! chunk[layout.slab_page(1, 0).1] = 5.0; // the first channel of the first key of page 1
//!
//! // Pages 0, 1 and 2 were there before; the row at position 6 lies on page 3.
//! let entry = |page| Entry { page, first: 0, count: 2, position: 2 * page as i32, positions_at: -1 };
//! let read = |begin, end, num_keys, flags| Read {
//!     entry_begin: begin,
//!     entry_end: end,
//!     row_begin: 0,
//!     row_end: 1,
//!     num_keys,
//!     flags,
//!     mask: -1,
//!     rotary_offset: 0,
//! };
//! let plan = Plan {
//!     entries: vec![entry(0), entry(1), entry(2), Entry { count: 1, ..entry(3) }],
//!     reads: vec![read(0, 3, 6, 0), read(3, 4, 1, Read::OWN)],
//!     row_positions: vec![6],
//!     row_end: vec![1],
//!     row_slots: vec![RowSlot { slab: 3, slot: 0 }],
//!     ..Plan::default()
//! };
//!
//! let rule = Rule {
//!     summary: Summary::Bounds,
//!     slack: 1.0,
//!     group: Group::Max,
//!     select: Select::TopK(PageCount::Count(2)),
//!     floor: 0,
//!     cap: None,
//!     sinks: 0,
//!     window: 0,
//! };
//! // Summaries are kept from step to step: those of this pool's four pages.
//! let mut bounds = vec![0; 4 * Summary::Bounds.elements(2) * size_of::<f32>()];
//! let mut spans = vec![0; 4 * SPAN_BYTES];
//! let (mut bounds, mut spans) = ([bounds.as_mut_slice()], [spans.as_mut_slice()]);
//! let selection = select(
//!     Isa::detected(),
//!     &Serial,
//!     Queries { data: Floats::F32(&[1.0, 0.0]), row_stride: 2, head_stride: 2 },
//!     Pages::F32(&[&chunk]),
//!     &layout,
//!     &plan,
//!     &AttentionParams::new(1, 1, 0, 2, None),
//!     &[RuledRows { row_begin: 0, row_end: 1, rule }],
//!     &mut [Summaries { summary: Summary::Bounds, values: &mut bounds, spans: &mut spans }],
//! )?;
//! // The fourth is of the step's own rows, which are read without being selected.
//! assert_eq!(selection.seen(&plan, 0, 0, 0), [false, true, true, false]);
//! # Ok::<(), hornbeam_core::Error>(())
//! ```

mod choose;
mod frame;
mod rows;
mod rule;
mod union;

pub use rule::{Group, Pages as PageCount, Rule, RuleWords, RuledRows, Select};

use std::cell::RefCell;

use rows::Rows;
use union::unite;

use crate::error::{Error, Result};
use crate::format::PageLayout;
use crate::format::plan::Plan;
use crate::format::selection::Selection;
use crate::ops::attention::{AttentionParams, Pages, Queries};
use crate::ops::page_summary::{Scores, Summaries, Summary, score_pages};
use crate::parallel::Parallel;
use crate::simd::Isa;

thread_local! {
    static SCORES: RefCell<Scores> = RefCell::default();
}

/// Scores above this many numbers are given back after the call: 64 MiB.
const KEPT_SCORES: usize = 1 << 24;

/// What of the prefix reads of a plan is read in one layer: by the rows of `rules` what their rule selects, by
/// others everything.
///
/// `summaries` has those of each estimate that a rule asks for; what is missing in them is made and kept.
/// Caps and windows of `params` have no part in estimates.
///
/// # Errors
/// As [`score_pages`]; rows of two rules, or outside of the plan; [`Group::Layer`] for keys that lie on other
/// pages for each head; an estimate without summaries.
pub fn select(
    isa: Isa,
    pool: &dyn Parallel,
    queries: Queries<'_>,
    pages: Pages<'_>,
    layout: &PageLayout,
    plan: &Plan,
    params: &AttentionParams<'_>,
    rules: &[RuledRows],
    summaries: &mut [Summaries<'_, '_>],
) -> Result<Selection> {
    let rules = ordered(rules, plan)?;
    if params.num_kv_heads == 0 || !params.num_heads.is_multiple_of(params.num_kv_heads) {
        let want = format!("a multiple of num_kv_heads, {}", params.num_kv_heads);
        return Err(Error::value("num_heads", params.num_heads, want));
    }
    let mut rows = Rows::new(plan, params, &rules)?;
    // Taken out, so that a pool that runs another call on this thread meanwhile finds a fresh one.
    let mut scores = SCORES.take();
    for summary in Summary::ALL {
        let asking: Vec<u32> = rules
            .iter()
            .filter(|ruled| ruled.rule.estimate() == Some(summary))
            .flat_map(|ruled| ruled.row_begin..ruled.row_end)
            .collect();
        if asking.is_empty() {
            continue;
        }
        let Some(held) = summaries.iter_mut().find(|held| held.summary == summary) else {
            return Err(Error::value("summaries", "of other estimates", summary.name()));
        };
        let held = Summaries { summary, values: &mut *held.values, spans: &mut *held.spans };
        let slacks = slacks_of(&rules, &asking);
        score_pages(isa, pool, queries, pages, layout, plan, params, &asking, &slacks, held, &mut scores)?;
        rows.choose(isa, pool, &asking, Some(&scores));
    }
    let unscored = rules.iter().filter(|ruled| ruled.rule.estimate().is_none());
    let unscored: Vec<u32> = unscored.flat_map(|ruled| ruled.row_begin..ruled.row_end).collect();
    rows.choose(isa, pool, &unscored, None);
    if scores.capacity() <= KEPT_SCORES {
        SCORES.set(scores);
    }
    Ok(unite(&rows))
}

/// The slack of each of some rows, ascending, that have a rule.
fn slacks_of(rules: &[RuledRows], asking: &[u32]) -> Vec<f32> {
    let rule_of = |row: u32| &rules[rules.partition_point(|ruled| ruled.row_end <= row)].rule;
    asking.iter().map(|&row| rule_of(row).slack).collect()
}

/// The rules in order of their rows.
fn ordered(rules: &[RuledRows], plan: &Plan) -> Result<Vec<RuledRows>> {
    let mut rules = rules.to_vec();
    rules.sort_by_key(|ruled| (ruled.row_begin, ruled.row_end));
    let rows = plan.num_rows() as u32;
    for ruled in &rules {
        if ruled.row_begin >= ruled.row_end || ruled.row_end > rows {
            let got = format!("{}..{}", ruled.row_begin, ruled.row_end);
            return Err(Error::value("rows of a rule", got, format!("an interval of the {rows} rows")));
        }
    }
    if let Some(pair) = rules.windows(2).find(|pair| pair[0].row_end > pair[1].row_begin) {
        let got = format!("two for row {}", pair[1].row_begin);
        return Err(Error::value("rules", got, "at most one a row"));
    }
    Ok(rules)
}
