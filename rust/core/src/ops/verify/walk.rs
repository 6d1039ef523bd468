//! What the rules share: a sequence's tree, its rows as laws, its draws.

use std::cell::RefCell;

use super::{Reads, Verification, of};
use crate::error::Result;
use crate::ops::logits::Logits;
use crate::ops::warp::{Counts, Excess, Law, Warp, Warper};
use crate::rng::{Domain, Stream};
use crate::simd::Isa;

/// 2^50: the unit in which an [`Excess`] is summed.
const UNITS: f64 = 1_125_899_906_842_624.0;

/// Buffers of one thread. They grow to the largest vocabulary seen: at most six rows of f32.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    pub(super) p: Law,
    pub(super) q: Law,
    pub(super) best_p: Law,
    pub(super) best_q: Law,
    pub(crate) warper: Warper,
    pub(crate) counts: Counts,
    pub(super) aligned: Vec<f32>,
    pub(super) sums: Vec<u64>,
}

impl Workspace {
    /// What draws of a draft need: a law to fill, and what fills it.
    pub(crate) fn for_draws(&mut self) -> (&mut Law, &mut Warper, &mut Counts) {
        (&mut self.q, &mut self.warper, &mut self.counts)
    }

    /// Lends the calling thread's workspace.
    pub(crate) fn with<T>(work: impl FnOnce(&mut Self) -> T) -> T {
        thread_local! {
            static WORKSPACE: RefCell<Workspace> = RefCell::default();
        }
        WORKSPACE.with_borrow_mut(work)
    }
}

/// The accepted rows so far.
pub(super) struct Accepted<'a> {
    pub(super) rows: &'a mut [i32],
    pub(super) count: usize,
}

impl Accepted<'_> {
    pub(super) fn push(&mut self, row: usize) {
        self.rows[self.count] = row as i32;
        self.count += 1;
    }
}

/// One sequence's tree and its random draws. A row is 0 at the root, and `i + 1` after draft token `i`.
pub(super) struct Walk<'a> {
    pub(super) isa: Isa,
    pub(super) stream: Stream,
    /// Logical position of the token sampled at the root.
    pub(super) position: u32,
    pub(super) workspace: &'a mut Workspace,
    tokens: &'a [i64],
    parents: &'a [i32],
    sequence: usize,
    first_row: usize,
    target: Logits<'a>,
    draft: Option<Logits<'a>>,
    warp: &'a Warp,
    draft_warp: &'a Warp,
    follows: bool,
    reads: Option<&'a Reads>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        isa: Isa,
        given: &Verification<'a>,
        sequence: usize,
        workspace: &'a mut Workspace,
    ) -> Result<Self> {
        let range = given.offsets[sequence] as usize..given.offsets[sequence + 1] as usize;
        let (warp, draft_warp) = (of(given.warps, sequence), of(given.draft_warps, sequence));
        let follows = warp.has_penalties() || (given.draft.is_some() && draft_warp.has_penalties());
        workspace.warper.read = given.reads.map(|_| 0);
        workspace.counts.reset(if follows { given.target.vocabulary() } else { 0 });
        if let (true, Some(histories)) = (follows, given.histories) {
            let (prompt, output) = histories[sequence];
            workspace.counts.load(prompt, output)?;
        }
        Ok(Self {
            isa,
            stream: given.stream(sequence),
            position: given.position(sequence),
            workspace,
            tokens: &given.tokens[range.clone()],
            parents: &given.parents[range.clone()],
            sequence,
            first_row: range.start + sequence,
            target: given.target,
            draft: given.draft,
            warp,
            draft_warp,
            follows,
            reads: given.reads,
        })
    }

    /// Draft tokens of the sequence.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The token that leads to a row.
    pub(super) fn token(&self, row: usize) -> i64 {
        self.tokens[row - 1]
    }

    /// The first child row of `row` after row `after`.
    pub(super) fn child_after(&self, row: usize, after: usize) -> Option<usize> {
        let parent = row as i32 - 1;
        (after.max(row)..self.tokens.len()).find(|i| self.parents[*i] == parent).map(|i| i + 1)
    }

    /// The first child of `row` that holds `token`.
    pub(super) fn child_with(&self, row: usize, token: u32) -> Option<usize> {
        let mut child = self.child_after(row, row);
        while let Some(row_of_child) = child {
            if self.token(row_of_child) == i64::from(token) {
                return child;
            }
            child = self.child_after(row, row_of_child);
        }
        None
    }

    /// Follows a draft token down: rows after it count it.
    pub(super) fn descend(&mut self, row: usize) {
        if self.follows {
            self.workspace.counts.push(self.tokens[row - 1]);
        }
    }

    /// Steps back up from the row descended to last.
    pub(super) fn ascend(&mut self, row: usize) {
        if self.follows {
            self.workspace.counts.pop(self.tokens[row - 1]);
        }
    }

    /// Reads a row of the target into `p`.
    pub(super) fn read_target(&mut self, row: usize) -> Result<()> {
        let logits = self.target.row(self.first_row + row);
        let Workspace { warper, counts, p, .. } = &mut *self.workspace;
        warper.warp(self.isa, logits, self.warp, counts, p).map_err(|fault| fault.at(self.sequence, row))?;
        self.note(true);
        Ok(())
    }

    /// Counts a row that was read, if anybody wants to know.
    fn note(&mut self, is_target: bool) {
        if let Some(reads) = self.reads {
            let elements = self.workspace.warper.read.replace(0).unwrap_or(0);
            reads.add(is_target, elements);
        }
    }

    /// Reads a row of the draft into `q`.
    pub(super) fn read_draft(&mut self, row: usize) -> Result<()> {
        let Some(draft) = self.draft else { return Ok(()) };
        let logits = draft.row(self.first_row + row);
        let Workspace { warper, counts, q, .. } = &mut *self.workspace;
        warper
            .warp(self.isa, logits, self.draft_warp, counts, q)
            .map_err(|fault| fault.at(self.sequence, row))?;
        self.note(false);
        Ok(())
    }

    /// Sets the laws aside, in the place of those set aside before.
    pub(super) fn keep_laws(&mut self) {
        let Workspace { p, q, best_p, best_q, .. } = &mut *self.workspace;
        std::mem::swap(p, best_p);
        std::mem::swap(q, best_q);
    }

    /// Takes back the laws set aside last.
    pub(super) fn restore_laws(&mut self) {
        self.keep_laws();
    }

    /// A uniform draw of this round, keyed by the row.
    pub(super) fn uniform(&self, domain: Domain, row: usize) -> f64 {
        self.stream.uniform(self.position, domain, row as u32)
    }

    /// An integer draw of this round, keyed by the row.
    fn below(&self, total: u64, domain: Domain, row: usize) -> u64 {
        self.stream.below(total, self.position, domain, row as u32)
    }

    /// A draw from `p`.
    pub(super) fn draw_target(&self, domain: Domain, row: usize) -> u32 {
        let law = &self.workspace.p;
        law.pick(self.below(law.total(), domain, row))
    }

    /// The sum over tokens of `max(a p - b q, 0)`, as a probability, exact to 2^-50.
    pub(super) fn excess(&mut self, a: f64, b: f64) -> f64 {
        let Workspace { p, q, aligned, sums, .. } = &mut *self.workspace;
        excess_of(p, q, aligned, a, b).sum(self.isa, sums) as f64 / UNITS
    }

    /// The excess of one token.
    pub(super) fn excess_at(&self, token: i64, a: f64, b: f64) -> f64 {
        let Workspace { p, q, .. } = &*self.workspace;
        let (a, b) = (a / p.total() as f64, b / q.total() as f64);
        Excess::of(p.weight(token), q.weight(token), a, b)
    }

    /// A draw in proportion to `max(a p - b q, 0)`, or from `p` if that is nowhere above 0.
    pub(super) fn draw_excess(&mut self, a: f64, b: f64, row: usize) -> u32 {
        let draw = |total| self.stream.below(total, self.position, Domain::Residual, row as u32);
        let Workspace { p, q, aligned, sums, .. } = &mut *self.workspace;
        let excess = excess_of(p, q, aligned, a, b);
        match excess.sum(self.isa, sums) {
            0 => p.pick(draw(p.total())),
            total => p.id(excess.locate(sums, draw(total))),
        }
    }
}

fn excess_of<'a>(p: &'a Law, q: &'a Law, aligned: &'a mut Vec<f32>, a: f64, b: f64) -> Excess<'a> {
    Excess {
        p: p.weights(),
        q: q.aligned_to(p, aligned),
        a: a * UNITS / p.total() as f64,
        b: b * UNITS / q.total() as f64,
    }
}
