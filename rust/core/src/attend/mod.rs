//! Which pages a row reads: **estimate** (what a page may be worth to a query) × **group** (who chooses
//! together) × **select** (how many of the best are taken).
//!
//! A row's choice depends on its own queries and on the pages that it sees, never on the rows beside it. All
//! decisions break ties by lowest index; sums that decide are integers.

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
