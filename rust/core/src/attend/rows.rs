//! The rows that have a rule, the pages that each sees, and what each chooses of them.

use std::cell::RefCell;
use std::slice::ChunksExact;
use std::sync::Mutex;

use super::choose::{Candidates, Scratch, choose};
use super::frame::{Bits, Frame};
use super::rule::{Group, Rule, RuledRows};
use crate::error::{Error, Result};
use crate::format::page_runs::page_runs;
use crate::format::plan::{Plan, Read};
use crate::format::selection::plane_entries;
use crate::ops::attention::AttentionParams;
use crate::ops::page_summary::Scores;
use crate::parallel::{Parallel, Serial, dynamic, lock_whole};
use crate::simd::Isa;

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
/// order of the plan.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    pub(super) plan: &'a Plan,
    pub(super) params: &'a AttentionParams<'a>,
    pub(super) ruled: Vec<Ruled>,
    /// By head where heads have entries of their own, by ruled row, by read: the number of the read's first
    /// candidate. [`UNSEEN`] where the row does not see it.
    bases: Vec<u32>,
    is_by_head: bool,
    /// Heads outermost.
    places: Vec<Place>,
    chosen: Vec<u64>,
}

const UNSEEN: u32 = u32::MAX;

/// Candidates of frames above which their memory is given back after the call: 40 MiB.
const KEPT_CANDIDATES: usize = 1 << 21;

/// Working memory of one choice.
#[derive(Debug, Default)]
struct Space {
    forced: Vec<u64>,
    entry_scores: Vec<f32>,
    scores: Vec<f32>,
    picked: Vec<u64>,
    scratch: Scratch,
}

thread_local! {
    static SPACE: RefCell<Space> = RefCell::default();
    static FRAMES: RefCell<Vec<Frame>> = RefCell::default();
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
            places: Vec::new(),
            chosen: Vec::new(),
        };
        rows.place();
        Ok(rows)
    }

    /// Query heads of a kv head.
    pub(super) fn group(&self) -> usize {
        self.params.num_heads / self.params.num_kv_heads
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
    pub(super) fn choose(&mut self, isa: Isa, pool: &dyn Parallel, rows: &[u32], scores: Option<&Scores>) {
        if rows.is_empty() {
            return;
        }
        // Taken out, so that a pool that runs another call on this thread meanwhile finds fresh ones.
        let mut frames = FRAMES.take();
        let frame_of = self.frames(pool, rows, &mut frames);
        let mut chosen = std::mem::take(&mut self.chosen);
        let mut rest = &mut chosen[..];
        let mut tasks = Vec::new();
        let mut candidates = 0;
        for (i, place) in self.places.iter().enumerate() {
            let (own, behind) = std::mem::take(&mut rest).split_at_mut(place.sets * place.words);
            rest = behind;
            let (head, index) = (i / self.ruled.len(), i % self.ruled.len());
            let frame = frame_of[if self.is_by_head { i } else { index }];
            if let Some(frame) = frames.get(frame as usize).filter(|_| !own.is_empty()) {
                candidates += own.len() * 64;
                tasks.push((head, index, frame, own.chunks_exact_mut(place.words)));
            }
        }
        let pool = if candidates < SERIAL_CANDIDATES { &Serial } else { pool };
        let (num_tasks, tasks) = (tasks.len(), Mutex::new(tasks.into_iter()));
        dynamic(pool, num_tasks, &|_| {
            let task = lock_whole(&tasks).next();
            if let Some((head, index, frame, sets)) = task {
                let mut space = SPACE.take();
                let Ruled { rule, position, .. } = &self.ruled[index];
                frame.force(rule, *position, &mut space.forced);
                for (member, chosen) in sets.enumerate() {
                    self.choose_one(isa, [head, index, member], frame, scores, &mut space, chosen);
                }
                SPACE.set(space);
            }
        });
        self.chosen = chosen;
        if frames.iter().map(Frame::capacity).sum::<usize>() <= KEPT_CANDIDATES {
            FRAMES.set(frames);
        }
    }

    /// Makes the frames of some rows, ascending. Returns which one each ruled row has, by head where heads have
    /// entries of their own; [`UNSEEN`] for rows that are not among them.
    fn frames(&self, pool: &dyn Parallel, rows: &[u32], frames: &mut Vec<Frame>) -> Vec<u32> {
        let (heads, reads) =
            (if self.is_by_head { self.params.num_kv_heads } else { 1 }, self.plan.reads.len());
        let mut frame_of = vec![UNSEEN; heads * self.ruled.len()];
        // Of each frame its head and the number of a row. Rows that see the same reads share one.
        let mut of: Vec<[usize; 2]> = Vec::new();
        for (i, frame) in frame_of.iter_mut().enumerate() {
            let (head, index) = (i / self.ruled.len(), i % self.ruled.len());
            if rows.binary_search(&self.ruled[index].row).is_err() {
                continue;
            }
            let bases = |index: usize| &self.bases[(head * self.ruled.len() + index) * reads..][..reads];
            if of.last().is_none_or(|last| last[0] != head || bases(last[1]) != bases(index)) {
                of.push([head, index]);
            }
            *frame = of.len() as u32 - 1;
        }
        frames.resize_with(of.len().max(frames.len()), Frame::default);
        let made = Mutex::new(frames.iter_mut().zip(&of));
        let pool = if of.len() * self.plan.entries.len() < SERIAL_CANDIDATES { &Serial } else { pool };
        dynamic(pool, of.len(), &|_| {
            let next = lock_whole(&made).next();
            if let Some((frame, &[head, index])) = next {
                frame.clear();
                for (number, read) in self.plan.reads.iter().enumerate() {
                    let entries = entries_of(self.plan, self.params, read, head);
                    if let Some((entries, _)) = entries.zip(self.base(head, index, number)) {
                        frame.push(self.plan, read.is_by_head(), entries);
                    }
                }
                frame.finish();
            }
        });
        for head in 0..heads {
            let of_head = || of.iter().zip(0..).filter(|([own, _], _)| *own == head).map(|(_, at)| at);
            if of_head().any(|at: usize| frames[at].has_joints()) {
                let goes_on = self.goes_on(head);
                let goes_on = |entry: u32| goes_on[entry as usize / 64] >> (entry % 64) & 1 == 1;
                of_head().for_each(|at| frames[at].join(goes_on));
            }
        }
        frame_of
    }

    /// Bit `entry`: whether it goes on from what comes before it on its page.
    fn goes_on(&self, head: usize) -> Vec<u64> {
        let mut bits = vec![0u64; self.plan.entries.len().div_ceil(64)];
        let plane = self.params.layer * self.params.num_kv_heads + head;
        page_runs(self.plan, plane, |_, at, _, own| {
            bits[at as usize / 64] |= u64::from(own) << (at % 64);
        });
        bits
    }

    /// One choice: that of a ruled row on a kv head, as one of its members sees it.
    fn choose_one(
        &self,
        isa: Isa,
        [head, index, member]: [usize; 3],
        frame: &Frame,
        scores: Option<&Scores>,
        space: &mut Space,
        chosen: &mut [u64],
    ) {
        let Space { forced, entry_scores, scores: merged, picked, scratch } = space;
        let Ruled { row, rule, .. } = self.ruled[index];
        entry_scores.clear();
        if let Some(scores) = scores {
            for read in (0..self.plan.reads.len()).filter(|read| self.base(head, index, *read).is_some()) {
                self.score(scores, rule.group, head, read, row as usize, member, entry_scores);
            }
        }
        let mut scores = &*entry_scores;
        if frame.has_joints() && !scores.is_empty() {
            frame.merge(entry_scores, merged);
            scores = merged;
        }
        let candidates = Candidates { scores, tokens: frame.tokens(), forced, latest: frame.latest() };
        if !frame.has_joints() {
            return choose(isa, &rule, &candidates, scratch, chosen);
        }
        picked.clear();
        picked.resize(forced.len(), 0);
        choose(isa, &rule, &candidates, scratch, picked);
        frame.spread(picked, chosen);
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
        let begin = to.len();
        match together {
            Group::Max => of(head).for_each(|members| combine(members, to, greater)),
            Group::Union => of(head).for_each(|mut members| {
                to.extend_from_slice(members.nth(member).unwrap_or_default());
            }),
            Group::Layer => {
                of(0).for_each(|members| combine(members, to, |sum, x| sum + x));
                for head in 1..self.params.num_kv_heads {
                    let mut rest = &mut to[begin..];
                    for members in of(head) {
                        let mut sums = Vec::new();
                        combine(members, &mut sums, |sum, x| sum + x);
                        let (own, behind) = rest.split_at_mut(sums.len());
                        own.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
                        rest = behind;
                    }
                }
            }
        }
    }
}

/// Appends what the scores of all members make together.
fn combine(mut members: ChunksExact<'_, f32>, to: &mut Vec<f32>, two: impl Fn(f32, f32) -> f32) {
    let begin = to.len();
    to.extend_from_slice(members.next().unwrap_or_default());
    for scores in members {
        to[begin..].iter_mut().zip(scores).for_each(|(to, x)| *to = two(*to, *x));
    }
}

/// The greater score; NaN if any is.
fn greater(a: f32, b: f32) -> f32 {
    if a.is_nan() || a > b { a } else { b }
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
