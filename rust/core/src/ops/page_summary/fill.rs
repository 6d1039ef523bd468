//! Which summaries are missing, and making them.

use std::any::Any;
use std::ops::Range;
use std::sync::Mutex;

use super::scores::Scores;
use super::summarise::summarise;
use super::summary::{Call, SPAN_BYTES};
use crate::format::Element;
use crate::format::page_runs::page_runs;
use crate::format::plan::{Entry, Read};
use crate::ops::attention::SERIAL_WORK;
use crate::parallel::{Parallel, Serial, dynamic, lock_whole};

/// Summaries that one task makes.
const TOGETHER: usize = 32;

/// An entry without a summary.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stale {
    /// Kv head, read and entry, by which these are in order.
    pub(super) key: (u32, u32, u32),
    /// The chunk of its page, and which of the chunk's pages it is.
    pub(super) place: (usize, usize),
    /// The summary is kept there for now, and is what this call reads.
    pub(super) is_kept: bool,
    /// It is of more slots than the one that is kept there, which another entry of this call may read.
    pub(super) is_wider: bool,
    span: [u8; SPAN_BYTES],
    /// What the path shows of the page up to the entry's end.
    run: Entry,
}

impl Stale {
    /// Writes down which slots the summary at its place is of.
    pub(super) fn write_span(&self, spans: &mut [&mut [u8]]) {
        spans[self.place.0].as_chunks_mut::<SPAN_BYTES>().0[self.place.1] = self.span;
    }
}

/// The missing summaries of one call, and their memory from call to call.
#[derive(Default)]
pub(super) struct Fill {
    stale: Vec<Stale>,
    /// A `Vec` of the element type of the last call.
    room: Option<Box<dyn Any + Send + Sync>>,
    capacity: usize,
}

impl Fill {
    pub(super) fn stale(&self) -> &[Stale] {
        &self.stale
    }

    /// Elements that its memory holds.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Lists the entries that are scored and have no summary of just the slots of their run. Where their page has
    /// none at all, its place is theirs from now on.
    pub(super) fn list(&mut self, call: &Call<'_>, scores: &Scores, spans: &mut [&mut [u8]]) {
        self.stale.clear();
        let (problem, params) = (call.problem, call.problem.params);
        let layout = problem.layout;
        let plane = params.layer * params.num_kv_heads;
        let by_head = problem.plan.reads.iter().any(Read::is_by_head);
        for head in 0..if by_head { params.num_kv_heads } else { 1 } {
            page_runs(problem.plan, plane + head, |index, at, run, _| {
                let key = |head: usize| (head as u32, index as u32, at);
                if !scores.has(head, index) {
                    return;
                }
                if problem.plan.reads[index].is_by_head() {
                    self.look(key(head), layout.page_place(run.page), run, spans);
                } else if head == 0 {
                    // All heads have these entries: where a slab lies is found once.
                    let (chunk, first) = layout.slab_place(run.page, plane);
                    for head in 0..params.num_kv_heads {
                        self.look(key(head), (chunk, first + head * layout.slabs_per_chunk), run, spans);
                    }
                }
            });
        }
        self.stale.sort_unstable_by_key(|stale| stale.key);
    }

    /// Lists an entry whose page has no summary of just the slots of its run.
    #[inline(always)]
    fn look(&mut self, key: (u32, u32, u32), place: (usize, usize), run: &Entry, spans: &mut [&mut [u8]]) {
        let span = span_of(run);
        let held = &mut spans[place.0].as_chunks_mut::<SPAN_BYTES>().0[place.1];
        if *held == span {
            return;
        }
        let is_kept = *held == [0; SPAN_BYTES];
        let is_wider = u16::from_le_bytes([held[2], held[3]]) < run.count && !is_kept;
        if is_kept {
            *held = span;
        }
        self.stale.push(Stale { key, place, is_kept, is_wider, span, run: *run });
    }

    /// The stale ones among some entries of a read.
    pub(super) fn aside(&self, head: usize, read: usize, entries: Range<usize>) -> Aside<'_> {
        let key = |entry: usize| (head as u32, read as u32, entry as u32);
        let before = |end: usize| self.stale.partition_point(|stale| stale.key < key(end));
        let (begin, end) = (before(entries.start), before(entries.end));
        Aside { stale: &self.stale[begin..end], index: begin }
    }

    /// Room for a summary of each, whose elements are any.
    pub(super) fn take<E: Element>(&mut self, elements: usize) -> Vec<E> {
        let room = self.room.take().and_then(|room| room.downcast::<Vec<E>>().ok());
        let mut room = room.map_or_else(Vec::new, |room| *room);
        room.resize(self.stale.len() * elements, E::default());
        room
    }

    /// Keeps the room for the next call.
    pub(super) fn give_back<E: Element>(&mut self, room: Vec<E>) {
        self.capacity = room.capacity();
        self.room = Some(Box::new(room));
    }

    /// Makes the summaries, one after the other in `new`.
    pub(super) fn summarise<E: Element>(&self, call: &Call<'_>, chunks: &[&[E]], new: &mut [E]) {
        if self.stale.is_empty() {
            return;
        }
        let (layout, elements) = (call.problem.layout, call.elements());
        let parts = self.stale.chunks(TOGETHER).zip(new.chunks_mut(TOGETHER * elements));
        let num_parts = parts.len();
        let parts = Mutex::new(parts);
        let keys: u64 = self.stale.iter().map(|stale| u64::from(stale.run.count)).sum();
        let is_short = keys * (layout.head_dim as u64) < SERIAL_WORK;
        let pool: &dyn Parallel = if is_short { &Serial } else { call.pool };
        dynamic(pool, num_parts, &|_| {
            let part = lock_whole(&parts).next();
            let Some((stale, to)) = part else { return };
            for (stale, to) in stale.iter().zip(to.chunks_exact_mut(elements)) {
                let at = stale.place.1 * layout.page_elements();
                let page = &chunks[stale.place.0][at..at + layout.page_elements()];
                summarise(call, page, &stale.run, to);
            }
        });
    }
}

/// The stale entries of one part that are not read from their place, entry by entry.
pub(super) struct Aside<'a> {
    stale: &'a [Stale],
    index: usize,
}

impl Aside<'_> {
    /// Which of the new summaries is that of an entry, if it is read from there. Entries ascend.
    #[inline(always)]
    pub(super) fn next_if(&mut self, entry: u32) -> Option<usize> {
        while let Some((stale, rest)) = self.stale.split_first()
            && stale.key.2 <= entry
        {
            let here = (stale.key.2 == entry && !stale.is_kept).then_some(self.index);
            (self.stale, self.index) = (rest, self.index + 1);
            if here.is_some() {
                return here;
            }
        }
        None
    }
}

/// The slots of a run, as they are written down.
fn span_of(run: &Entry) -> [u8; SPAN_BYTES] {
    let [a, b] = (run.slot() as u16).to_le_bytes();
    let [c, d] = run.count.to_le_bytes();
    [a, b, c, d]
}
