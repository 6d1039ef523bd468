//! The rows that have a rule, the pages that each sees, and what each chooses of them.

use std::cell::RefCell;
use std::sync::Mutex;

use super::choose::{Candidates, Scratch, choose_entries};
use super::rule::{Group, Rule, RuledRows};
use crate::error::{Error, Result};
use crate::format::page_runs::page_runs;
use crate::format::plan::{Entry, Plan, Read};
use crate::format::selection::plane_entries;
use crate::ops::attention::AttentionParams;
use crate::ops::page_summary::Scores;
use crate::parallel::{Parallel, Serial, dynamic, lock_whole};

/// Candidates of all choices below which the calling thread makes them: about 50 µs.
const SERIAL_CANDIDATES: usize = 1 << 13;

/// One row with a rule.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ruled {
    /// Its number in the plan.
    pub(super) row: u32,
    /// How it chooses.
    pub(super) rule: Rule,
    position: i64,
}

/// Where the choice of a row on a kv head lies: one set after the other, each of whole words.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    at: usize,
    words: usize,
    sets: usize,
}

/// All rows that have a rule. The candidates of a row are the pages of the prefix reads that it sees, in the
/// order of the plan: entries that follow one another on a page, as where a prompt ends and its answer begins.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    pub(super) plan: &'a Plan,
    pub(super) params: &'a AttentionParams<'a>,
    pub(super) ruled: Vec<Ruled>,
    /// By head where heads have entries of their own, by ruled row, by read: the number of the read's first
    /// candidate. [`UNSEEN`] where the row does not see it.
    bases: Vec<u32>,
    is_by_head: bool,
    /// Bit `entry` of each head, or of the first where all have the same entries: whether it goes on from what
    /// comes before it on its page.
    goes_on: Vec<u64>,
    /// Heads outermost.
    places: Vec<Place>,
    chosen: Vec<u64>,
}

const UNSEEN: u32 = u32::MAX;

thread_local! {
    static SPACE: RefCell<(Candidates, Scratch)> = RefCell::default();
}

impl<'a> Rows<'a> {
    /// The rows of some rules, ascending. Nothing is chosen yet.
    ///
    /// # Errors
    /// [`Error::Value`] for rows that choose by layer where heads have entries of their own.
    pub(super) fn new(plan: &'a Plan, params: &'a AttentionParams<'a>, rules: &[RuledRows]) -> Result<Self> {
        let each = |ruled: &RuledRows| {
            let rule = ruled.rule;
            (ruled.row_begin..ruled.row_end).map(move |row| Ruled {
                row,
                rule,
                position: i64::from(plan.row_positions[row as usize]),
            })
        };
        let ruled: Vec<Ruled> = rules.iter().flat_map(each).collect();
        let is_by_head = plan.reads.iter().any(|read| read.is_by_head());
        if is_by_head && ruled.iter().any(|ruled| ruled.rule.group == Group::Layer) {
            let want = "max or union: heads have keys on pages of their own";
            return Err(Error::value("group", "layer", want));
        }
        let mut rows = Self {
            plan,
            params,
            ruled,
            bases: Vec::new(),
            is_by_head,
            goes_on: Vec::new(),
            places: Vec::new(),
            chosen: Vec::new(),
        };
        rows.join();
        rows.place();
        Ok(rows)
    }

    /// Query heads of a kv head.
    pub(super) fn group(&self) -> usize {
        self.params.num_heads / self.params.num_kv_heads
    }

    fn join(&mut self) {
        let words = self.plan.entries.len().div_ceil(64);
        let heads = if self.is_by_head { self.params.num_kv_heads } else { 1 };
        self.goes_on.resize(heads * words, 0);
        for (head, goes_on) in self.goes_on.chunks_exact_mut(words.max(1)).enumerate() {
            let plane = self.params.layer * self.params.num_kv_heads + head;
            page_runs(self.plan, plane, |_, at, _, own| {
                goes_on[at as usize / 64] |= u64::from(own) << (at % 64);
            });
        }
    }

    fn place(&mut self) {
        let mut at = 0;
        for head in 0..self.params.num_kv_heads {
            for ruled in &self.ruled {
                let mut count = 0;
                for read in &self.plan.reads {
                    let sees = (read.row_begin..read.row_end).contains(&ruled.row);
                    let entries = entries_of(self.plan, self.params, read, head).filter(|_| sees);
                    if head == 0 || self.is_by_head {
                        self.bases.push(entries.map_or(UNSEEN, |_| count as u32));
                    }
                    count += entries.map_or(0, |[begin, end]| (end - begin) as usize);
                }
                let sets = match ruled.rule.group {
                    Group::Max => 1,
                    Group::Union => self.group(),
                    // Kept with the first head.
                    Group::Layer if head == 0 => 1,
                    Group::Layer => 0,
                };
                let words = count.div_ceil(64);
                self.places.push(Place { at, words, sets });
                at += sets * words;
            }
        }
        self.chosen.resize(at, 0);
    }

    /// The number of the first candidate of a read; `None` where the row does not see it.
    fn base(&self, head: usize, index: usize, read: usize) -> Option<usize> {
        let head = if self.is_by_head { head } else { 0 };
        let base = self.bases[(head * self.ruled.len() + index) * self.plan.reads.len() + read];
        (base != UNSEEN).then_some(base as usize)
    }

    /// The sets of a ruled row on a kv head, each with the bits of a read's candidates from the first one on:
    /// one for all members, or one a member.
    pub(super) fn sets(&self, head: usize, index: usize, read: usize) -> impl Iterator<Item = Bits<'_>> {
        let is_layer = self.ruled[index].rule.group == Group::Layer;
        let place = self.places[if is_layer { 0 } else { head } * self.ruled.len() + index];
        let base = self.base(head, index, read);
        let words = &self.chosen[place.at..place.at + place.sets * place.words];
        base.into_iter().flat_map(move |first| {
            words.chunks_exact(place.words.max(1)).map(move |words| Bits { words, first })
        })
    }

    /// Makes the choices of some rows, ascending, that have a rule; by `scores` where their rule asks for any.
    pub(super) fn choose(&mut self, pool: &dyn Parallel, rows: &[u32], scores: Option<&Scores>) {
        if rows.is_empty() {
            return;
        }
        let mut chosen = std::mem::take(&mut self.chosen);
        let mut rest = &mut chosen[..];
        let mut tasks = Vec::new();
        let mut candidates = 0;
        for (i, place) in self.places.iter().enumerate() {
            let (own, behind) = std::mem::take(&mut rest).split_at_mut(place.sets * place.words);
            rest = behind;
            let (head, index) = (i / self.ruled.len(), i % self.ruled.len());
            if !own.is_empty() && rows.binary_search(&self.ruled[index].row).is_ok() {
                candidates += own.len() * 64;
                tasks.push((head, index, place.words, own));
            }
        }
        let pool = if candidates < SERIAL_CANDIDATES { &Serial } else { pool };
        let (num_tasks, tasks) = (tasks.len(), Mutex::new(tasks.into_iter()));
        dynamic(pool, num_tasks, &|_| {
            let task = lock_whole(&tasks).next();
            if let Some((head, index, words, chosen)) = task {
                let mut space = SPACE.take();
                for (member, chosen) in chosen.chunks_exact_mut(words).enumerate() {
                    self.candidates(head, index, member, scores, &mut space.0);
                    choose_entries(&self.ruled[index].rule, &space.0, &mut space.1, chosen);
                }
                SPACE.set(space);
            }
        });
        self.chosen = chosen;
    }

    /// The candidates of one choice.
    fn candidates(
        &self,
        head: usize,
        index: usize,
        member: usize,
        scores: Option<&Scores>,
        to: &mut Candidates,
    ) {
        to.clear();
        let Ruled { row, rule, position } = self.ruled[index];
        let (sinks, window) = (i64::from(rule.sinks), i64::from(rule.window));
        // The candidate of the row's latest key, and the page of the last entry.
        let mut latest: Option<(i64, usize)> = None;
        let mut page = None;
        let words = self.plan.entries.len().div_ceil(64);
        let joins = &self.goes_on[if self.is_by_head { head * words } else { 0 }..];
        for (number, read) in self.plan.reads.iter().enumerate() {
            let base = self.base(head, index, number);
            let Some(([begin, end], _)) = entries_of(self.plan, self.params, read, head).zip(base) else {
                continue;
            };
            for index in begin as usize..end as usize {
                let entry = &self.plan.entries[index];
                let (first, last) = positions(self.plan, entry);
                let own = Some((read.is_by_head(), entry.page));
                if std::mem::replace(&mut page, own) != own {
                    if to.tokens.len().is_multiple_of(64) {
                        to.forced.push(0);
                    }
                    to.tokens.push(0);
                }
                let at = to.tokens.len() - 1;
                to.tokens[at] += u32::from(entry.count);
                to.of.push(at as u32);
                to.goes_on.push(joins[index / 64] >> (index % 64) & 1 == 1);
                if first < sinks || position - last < window {
                    to.forced[at / 64] |= 1 << (at % 64);
                }
                if latest.is_none_or(|(most, _)| last >= most) {
                    latest = Some((last, at));
                }
            }
            if let Some(scores) = scores {
                self.score(scores, rule.group, head, number, row as usize, member, &mut to.entry_scores);
            }
        }
        to.finish(latest.map(|(_, at)| at));
    }

    /// Appends the scores of a read's entries, as those who choose together see them.
    fn score(
        &self,
        scores: &Scores,
        together: Group,
        head: usize,
        read: usize,
        row: usize,
        member: usize,
        to: &mut Vec<f32>,
    ) {
        let of = |head: usize| scores.of(head, read, self.group()).into_iter().flat_map(move |s| s.row(row));
        match together {
            Group::Max => to.extend(of(head).map(greatest)),
            Group::Union => to.extend(of(head).map(|members| members[member])),
            Group::Layer => {
                let begin = to.len();
                to.extend(of(0).map(|members| members.iter().sum::<f32>()));
                for head in 1..self.params.num_kv_heads {
                    let sums = of(head).map(|members| members.iter().sum::<f32>());
                    to[begin..].iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
                }
            }
        }
    }
}

/// The greatest score; NaN if any is.
fn greatest(scores: &[f32]) -> f32 {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if scores.iter().any(|score| score.is_nan()) { f32::NAN } else { most }
}

/// The least and the greatest position of an entry's slots.
fn positions(plan: &Plan, entry: &Entry) -> (i64, i64) {
    let (first, count) = (i64::from(entry.position), usize::from(entry.count));
    let listed = usize::try_from(entry.positions_at).ok().and_then(|at| plan.positions.get(at..at + count));
    match listed {
        Some(listed) => {
            let least = listed.iter().min().copied().unwrap_or(entry.position);
            let most = listed.iter().max().copied().unwrap_or(entry.position);
            (i64::from(least), i64::from(most))
        }
        None => (first, first + count as i64 - 1),
    }
}

/// The entries of a prefix read on the plane of a kv head; `None` for an own read.
pub(super) fn entries_of(
    plan: &Plan,
    params: &AttentionParams<'_>,
    read: &Read,
    head: usize,
) -> Option<[u32; 2]> {
    let plane = params.layer * params.num_kv_heads + head;
    (!read.is_own()).then(|| plane_entries(plan, read, plane))
}

/// Some bits, from a bit on that may lie within a word.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bits<'a> {
    words: &'a [u64],
    first: usize,
}

impl Bits<'_> {
    /// Sixty-four of them from `64 * word` on; zeros behind the end.
    pub(super) fn word(&self, word: usize) -> u64 {
        let at = self.first + 64 * word;
        let part = |index: usize| self.words.get(index).copied().unwrap_or(0);
        match at % 64 {
            0 => part(at / 64),
            shift => part(at / 64) >> shift | part(at / 64 + 1) << (64 - shift),
        }
    }
}
