//! The candidates of rows that see the same reads: what no head and no query changes.
//!
//! Entries that follow one another on one page are one candidate, as where a prompt ends and its answer begins.

use super::rule::Rule;
use crate::format::plan::{Entry, Plan};

/// The pages that some rows see, a candidate each.
#[derive(Debug, Default)]
pub(super) struct Frame {
    /// Tokens that each shows. That of the latest key has none: it is read in any case and has no part in
    /// estimates, since of what is drafted on that page a row sees a part as the step's own keys.
    tokens: Vec<u32>,
    /// The least and the greatest position of each.
    spans: Vec<[i64; 2]>,
    /// Those of each sixty-four.
    wide_spans: Vec<[i64; 2]>,
    /// That of the latest key.
    latest: Option<(i64, usize)>,
    /// The entries that are of the candidate of the entry before, ascending.
    joints: Vec<Joint>,
    num_entries: usize,
    page: Option<(bool, u32)>,
}

/// An entry on the page of the one before.
#[derive(Debug, Clone, Copy)]
struct Joint {
    /// Its number among those of the frame, and in the plan.
    entry: usize,
    plan_entry: u32,
    /// Whether it goes on from the one before, so that its worth is that of both.
    goes_on: bool,
}

impl Frame {
    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.spans.clear();
        self.wide_spans.clear();
        self.latest = None;
        self.joints.clear();
        self.num_entries = 0;
        self.page = None;
    }

    /// Adds the entries `begin..end` of the plan, in order.
    pub(super) fn push(&mut self, plan: &Plan, by_head: bool, [begin, end]: [u32; 2]) {
        for (plan_entry, entry) in (begin..end).zip(&plan.entries[begin as usize..end as usize]) {
            let [first, last] = positions(plan, entry);
            let page = Some((by_head, entry.page));
            let at = match self.tokens.len().checked_sub(1).filter(|_| self.page == page) {
                Some(at) => {
                    self.joints.push(Joint { entry: self.num_entries, plan_entry, goes_on: false });
                    at
                }
                None => {
                    self.tokens.push(0);
                    self.spans.push([i64::MAX, i64::MIN]);
                    self.tokens.len() - 1
                }
            };
            self.page = page;
            self.num_entries += 1;
            self.tokens[at] += u32::from(entry.count);
            self.spans[at] = union(self.spans[at], [first, last]);
            if self.latest.is_none_or(|(most, _)| last >= most) {
                self.latest = Some((last, at));
            }
        }
    }

    /// All entries are there.
    pub(super) fn finish(&mut self) {
        if let Some(at) = self.latest() {
            self.tokens[at] = 0;
        }
        let wide = self.spans.chunks(64).map(|spans| spans.iter().copied().fold([i64::MAX, i64::MIN], union));
        self.wide_spans.extend(wide);
    }

    /// Whether some candidate has several entries.
    pub(super) fn has_joints(&self) -> bool {
        !self.joints.is_empty()
    }

    /// Writes down which entries of the plan go on from the one before.
    pub(super) fn join(&mut self, goes_on: impl Fn(u32) -> bool) {
        self.joints.iter_mut().for_each(|joint| joint.goes_on = goes_on(joint.plan_entry));
    }

    /// Tokens of each candidate.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The candidate of the latest key.
    pub(super) fn latest(&self) -> Option<usize> {
        self.latest.map(|(_, at)| at)
    }

    /// Candidates that its memory holds.
    pub(super) fn capacity(&self) -> usize {
        self.tokens.capacity()
    }

    /// Which candidates a row at `position` reads in any case, one bit each.
    pub(super) fn force(&self, rule: &Rule, position: i64, to: &mut Vec<u64>) {
        let (sinks, window) = (i64::from(rule.sinks), i64::from(rule.window));
        let is_forced = |[first, last]: [i64; 2]| first < sinks || position - last < window;
        to.clear();
        to.extend(self.wide_spans.iter().zip(self.spans.chunks(64)).map(|(wide, spans)| {
            let bit = |(i, span): (usize, &[i64; 2])| u64::from(is_forced(*span)) << i;
            if is_forced(*wide) { spans.iter().enumerate().map(bit).sum() } else { 0 }
        }));
        if let Some(at) = self.latest() {
            to[at / 64] |= 1 << (at % 64);
        }
    }

    /// The scores of candidates from those of their entries: that of the last entry, with those that it goes on
    /// from; the greatest of several such runs, no number if any is none. Of bounds it is a bound.
    pub(super) fn merge(&self, entry_scores: &[f32], to: &mut Vec<f32>) {
        to.clear();
        let mut at = 0;
        // What the runs before that of the last entry are worth.
        let mut before = f32::NEG_INFINITY;
        for joint in &self.joints {
            if at < joint.entry {
                to.extend_from_slice(&entry_scores[at..joint.entry]);
                before = f32::NEG_INFINITY;
            }
            let score = entry_scores[joint.entry];
            if let Some(held) = to.last_mut() {
                if !joint.goes_on {
                    before = *held;
                }
                *held = if before.is_nan() || score.is_nan() { f32::NAN } else { before.max(score) };
            }
            at = joint.entry + 1;
        }
        to.extend_from_slice(&entry_scores[at..]);
    }

    /// Marks the entries of the candidates that are picked.
    pub(super) fn spread(&self, picked: &[u64], to: &mut [u64]) {
        to.fill(0);
        let picked = Bits { words: picked, first: 0 };
        let mut begin = 0;
        let ends = self.joints.iter().map(|joint| joint.entry).chain([self.num_entries]);
        // The entries between two joints are the candidates that lie so many before them.
        for (joints, end) in ends.enumerate() {
            let mut at = begin;
            while at < end {
                let count = (64 - at % 64).min(end - at);
                let bits = picked.from(at - joints).word(0) & u64::MAX >> (64 - count);
                to[at / 64] |= bits << (at % 64);
                at += count;
            }
            begin = end;
        }
    }
}

/// From the lesser of the first to the greater of the second.
fn union(a: [i64; 2], b: [i64; 2]) -> [i64; 2] {
    [a[0].min(b[0]), a[1].max(b[1])]
}

/// The least and the greatest position of an entry's slots.
fn positions(plan: &Plan, entry: &Entry) -> [i64; 2] {
    let (first, count) = (i64::from(entry.position), usize::from(entry.count));
    let listed = usize::try_from(entry.positions_at).ok().and_then(|at| plan.positions.get(at..at + count));
    match listed {
        Some(listed) => {
            let least = listed.iter().min().copied().unwrap_or(entry.position);
            let most = listed.iter().max().copied().unwrap_or(entry.position);
            [i64::from(least), i64::from(most)]
        }
        None => [first, first + count as i64 - 1],
    }
}

/// Some bits, from a bit on that may lie within a word.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bits<'a> {
    pub(super) words: &'a [u64],
    pub(super) first: usize,
}

impl Bits<'_> {
    /// Those behind the first `count`.
    fn from(self, count: usize) -> Self {
        Self { first: self.first + count, ..self }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(page: u32, position: i32, count: u16) -> Entry {
        Entry { page, first: 0, count, position, positions_at: -1 }
    }

    fn frame(entries: &[Entry]) -> Frame {
        let plan = Plan { entries: entries.to_vec(), ..Plan::default() };
        let mut frame = Frame::default();
        frame.push(&plan, false, [0, entries.len() as u32]);
        frame.finish();
        frame
    }

    #[test]
    fn entries_of_one_page_are_one_candidate() {
        let mut frame = frame(&[entry(7, 0, 4), entry(3, 4, 2), entry(3, 6, 2), entry(9, 8, 2)]);
        assert_eq!((frame.tokens(), frame.latest(), frame.has_joints()), (&[4, 4, 0][..], Some(2), true));
        let mut found = |goes_on: bool| {
            frame.join(|entry| entry == 2 && goes_on);
            let mut scores = Vec::new();
            frame.merge(&[1.0, 5.0, 0.0, 3.0], &mut scores);
            scores
        };
        assert_eq!(found(false), [1.0, 5.0, 3.0]);
        // What the last says is said of both.
        assert_eq!(found(true), [1.0, 0.0, 3.0]);
        for (picked, want) in [(0b001, 0b0001), (0b010, 0b0110), (0b101, 0b1001)] {
            let mut entries = [u64::MAX];
            frame.spread(&[picked], &mut entries);
            assert_eq!(entries[0], want);
        }
    }

    #[test]
    fn three_entries_of_a_page_are_two_runs() {
        let mut frame = frame(&[entry(3, 0, 1), entry(3, 1, 1), entry(3, 2, 1), entry(4, 3, 1)]);
        let mut scores = Vec::new();
        for (goes_on, want) in [([1, 2], 2.0), ([1, 1], 4.0), ([2, 2], 7.0), ([9, 9], 7.0)] {
            frame.join(|entry| goes_on.contains(&entry));
            frame.merge(&[7.0, 4.0, 2.0, 1.0], &mut scores);
            assert_eq!(scores, [want, 1.0]);
        }
        frame.merge(&[7.0, f32::NAN, 2.0, 1.0], &mut scores);
        assert!(scores[0].is_nan());
    }

    #[test]
    fn many_entries_are_spread_across_words() {
        // Every seventh page has two entries.
        let pages = (0..200u32).flat_map(|page| std::iter::repeat_n(page, 1 + usize::from(page % 7 == 3)));
        let entries: Vec<Entry> = pages.enumerate().map(|(i, page)| entry(page, i as i32, 1)).collect();
        let frame = frame(&entries);
        let is_picked = |page: usize| page.is_multiple_of(3) || page % 5 == 1;
        let mut picked = vec![0u64; 200usize.div_ceil(64)];
        (0..200).filter(|page| is_picked(*page)).for_each(|page| picked[page / 64] |= 1 << (page % 64));
        let mut to = vec![0; entries.len().div_ceil(64)];
        frame.spread(&picked, &mut to);
        for (i, entry) in entries.iter().enumerate() {
            assert_eq!(to[i / 64] >> (i % 64) & 1 == 1, is_picked(entry.page as usize), "{i}");
        }
    }

    #[test]
    fn first_and_last_positions_are_forced() {
        let entries: Vec<Entry> = (0..150).map(|i| entry(i as u32, 4 * i, 4)).collect();
        let frame = frame(&entries);
        let words = crate::ops::page_summary::Summary::Bounds;
        let rule = Rule {
            summary: words,
            slack: 1.0,
            group: super::super::rule::Group::Max,
            select: super::super::rule::Select::None,
            floor: 0,
            cap: None,
            sinks: 5,
            window: 9,
        };
        let mut forced = Vec::new();
        frame.force(&rule, 400, &mut forced);
        for at in 0..150i64 {
            let want = 4 * at < 5 || 400 - (4 * at + 3) < 9 || at == 149;
            assert_eq!(forced[at as usize / 64] >> (at % 64) & 1 == 1, want, "{at}");
        }
    }
}
