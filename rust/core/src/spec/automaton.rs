//! A suffix automaton that grows by one token at a time (Blumer et al. 1985), for alphabets of
//! any size, with what a draft source asks of every context: how often it occurred, where it
//! occurred last, and which token usually follows.
//!
//! A state is the set of substrings that end at the same positions; its link is the longest
//! shorter suffix that ends at more positions. So the longest suffix of the text that also ends
//! earlier is the link of the last state: the match costs nothing beyond the construction.
//!
//! Storage: most states have one edge, kept in the state; the others share one array under one
//! hash table (`edges.rs`). An edge is added once and copied only into a clone, where it stays, so all the
//! work is bounded by the number of edges, at most three a token whatever the alphabet.
//!
//! Statistics are kept while the suffix links are walked anyway. A context is marked when the
//! token after it arrives, so every number speaks of occurrences *with* a successor and none of
//! the one that ends the text. Marks go [`MARKED_CONTEXTS`] links deep, longest context first:
//! exact for ordinary text, and stale (never wrong about a position) for the short contexts of
//! texts like `aaaa`, whose chain of links is as long as the text.

use super::edges::{Edge, Edges, NONE, push_tight};
use crate::{Error, Result};

/// Links that a push marks at most.
pub const MARKED_CONTEXTS: usize = 64;
/// Tokens that an automaton holds at most; state and edge numbers fit 32 bits below it.
pub const MAX_TOKENS: usize = 1 << 30;
/// The state of the empty string.
pub const ROOT: u32 = 0;

/// Words of a state in [`Automaton::into_words`].
pub(super) const STATE_WORDS: usize = 8;

#[derive(Debug, Clone, Copy)]
struct State {
    length: u32,
    link: u32,
    /// The edge kept inline: the one that won the majority vote among successors.
    token: u32,
    target: u32,
    /// First of the other edges, a list through [`Edge::next`].
    overflow: u32,
    /// End (index of the last token) of the latest marked occurrence.
    latest: u32,
    /// Marked occurrences.
    count: u32,
    /// Lead of the inline token over the others (Boyer and Moore's majority vote).
    votes: u32,
}

/// The automaton of a text, and the text.
#[derive(Debug, Clone)]
pub struct Automaton {
    text: Vec<u32>,
    states: Vec<State>,
    edges: Edges,
    last: u32,
}

impl Default for Automaton {
    fn default() -> Self {
        Self::new()
    }
}

impl Automaton {
    /// The automaton of the empty text.
    #[must_use]
    pub fn new() -> Self {
        let root = State { length: 0, link: NONE, ..BLANK };
        Self { text: Vec::new(), states: vec![root], edges: Edges::new(), last: ROOT }
    }

    /// The text so far.
    #[must_use]
    pub fn text(&self) -> &[u32] {
        &self.text
    }

    /// Bytes held, spare capacity included.
    #[must_use]
    pub fn num_bytes(&self) -> usize {
        self.text.capacity() * size_of::<u32>()
            + self.states.capacity() * size_of::<State>()
            + self.edges.num_bytes()
    }

    /// The state of the longest suffix of the text that also ends earlier; [`ROOT`] if none does.
    #[must_use]
    pub fn matched(&self) -> u32 {
        match self.last {
            ROOT => ROOT,
            last => self.states[last as usize].link,
        }
    }

    /// Length of the longest substring of `state`, in tokens.
    #[must_use]
    pub fn length(&self, state: u32) -> u32 {
        self.states[state as usize].length
    }

    /// The state of the longest suffix that ends at more positions; `None` at the root.
    #[must_use]
    pub fn link(&self, state: u32) -> Option<u32> {
        let link = self.states[state as usize].link;
        (link != NONE).then_some(link)
    }

    /// How often the context was seen with a successor. 0 only at the root and at the state of
    /// the whole text.
    #[must_use]
    pub fn count(&self, state: u32) -> u32 {
        self.states[state as usize].count
    }

    /// Index of the last token of the latest occurrence that has a successor (of the only
    /// occurrence, at the end of the text, for the state of the whole text).
    #[must_use]
    pub fn latest_end(&self, state: u32) -> usize {
        self.states[state as usize].latest as usize
    }

    /// The successor that won the majority vote, with its state: the most frequent one whenever
    /// one token follows more than half of the occurrences, and a frequent recent one otherwise.
    #[must_use]
    pub fn likely_successor(&self, state: u32) -> Option<(u32, u32)> {
        let state = &self.states[state as usize];
        (state.target != NONE).then_some((state.token, state.target))
    }

    /// The state after `token`, if the text holds the longest substring of `state` with `token`
    /// after it.
    #[must_use]
    pub fn step(&self, state: u32, token: u32) -> Option<u32> {
        let from = &self.states[state as usize];
        if from.token == token && from.target != NONE {
            return Some(from.target);
        }
        if from.overflow == NONE {
            return None;
        }
        self.edges.find(state, token).map(|slot| self.edges.at(slot).target)
    }

    /// Calls `found(token, state)` for the inline edge and up to `limit` others, newest first.
    pub fn for_each_successor(&self, state: u32, limit: usize, found: &mut dyn FnMut(u32, u32)) {
        let state = &self.states[state as usize];
        if state.target != NONE {
            found(state.token, state.target);
        }
        let mut overflow = state.overflow;
        for _ in 0..limit {
            let Some(edge) = self.edges.get(overflow) else { break };
            found(edge.token, edge.target);
            overflow = edge.next;
        }
    }

    /// Appends text, states, edges and slots to `words`, and returns their numbers. The text goes
    /// first, so that what is written of the automaton can be dropped.
    pub(super) fn into_words(self, words: &mut Vec<u32>) -> [u32; 4] {
        let Self { text, states, edges, .. } = self;
        let [num_edges, num_slots] = [edges.len(), edges.num_slots()];
        let counts = [text.len(), states.len(), num_edges, num_slots].map(|count| count as u32);
        words.reserve_exact(text.len() + STATE_WORDS * states.len() + edges.num_words());
        words.extend(text);
        for State { length, link, token, target, overflow, latest, count, votes } in states {
            words.extend([length, link, token, target, overflow, latest, count, votes]);
        }
        edges.into_words(words);
        counts
    }

    /// Whether `more` tokens fit.
    ///
    /// # Errors
    /// [`Error::Value`] beyond [`MAX_TOKENS`].
    pub fn check_room(&self, more: usize) -> Result<()> {
        let total = self.text.len().saturating_add(more);
        if total > MAX_TOKENS {
            return Err(Error::value("text length", total, format!("at most {MAX_TOKENS}")));
        }
        Ok(())
    }

    /// Appends `token`. Amortised O(1).
    ///
    /// # Errors
    /// [`Error::Value`] beyond [`MAX_TOKENS`]; the automaton is unchanged.
    pub fn push(&mut self, token: u32) -> Result<()> {
        self.check_room(1)?;
        let end = self.text.len();
        push_tight(&mut self.text, token);
        let end = end as u32;
        let whole = self.add_state(State { length: end + 1, latest: end, ..BLANK });

        let mut context = self.last;
        let mut marked = 0;
        let known = loop {
            if context == NONE {
                break None;
            }
            if let Some(target) = self.step(context, token) {
                break Some(target);
            }
            self.add_edge(context, token, whole);
            self.mark(context, end);
            marked += 1;
            context = self.states[context as usize].link;
        };
        let link = match known {
            None => ROOT,
            Some(target) if self.length(target) == self.length(context) + 1 => target,
            Some(target) => self.split(context, token, target),
        };
        self.states[whole as usize].link = link;
        while context != NONE && context != ROOT && marked < MARKED_CONTEXTS {
            self.mark(context, end);
            self.vote(context, token);
            marked += 1;
            context = self.states[context as usize].link;
        }
        self.last = whole;
        Ok(())
    }

    /// Gives the part of `target` that `context` and `token` spell a state of its own.
    fn split(&mut self, context: u32, token: u32, target: u32) -> u32 {
        let original = self.states[target as usize];
        let clone = self.add_state(State { length: self.length(context) + 1, overflow: NONE, ..original });
        let mut copied = original.overflow;
        while copied != NONE {
            let Edge { token, target, next, .. } = self.edges[copied];
            self.add_overflow(clone, token, target);
            copied = next;
        }
        self.states[target as usize].link = clone;
        let mut redirected = context;
        while redirected != NONE && self.step(redirected, token) == Some(target) {
            self.redirect(redirected, token, clone);
            redirected = self.states[redirected as usize].link;
        }
        clone
    }

    fn mark(&mut self, context: u32, end: u32) {
        if context != ROOT {
            let state = &mut self.states[context as usize];
            state.count += 1;
            state.latest = end - 1;
        }
    }

    /// Counts an existing successor in the majority vote; a token that takes the lead moves inline.
    fn vote(&mut self, context: u32, token: u32) {
        let state = &mut self.states[context as usize];
        if state.token == token {
            state.votes += 1;
        } else if state.votes > 0 {
            state.votes -= 1;
        } else if let Some(slot) = self.edges.find(context, token) {
            state.votes = 1;
            self.edges.swap(slot, &mut state.token, &mut state.target);
        }
    }

    fn add_state(&mut self, state: State) -> u32 {
        push_tight(&mut self.states, state);
        (self.states.len() - 1) as u32
    }

    /// Adds an edge that `context` lacks, and counts it in the vote.
    fn add_edge(&mut self, context: u32, token: u32, target: u32) {
        let state = &mut self.states[context as usize];
        if state.target == NONE {
            (state.token, state.target, state.votes) = (token, target, 1);
        } else if state.votes > 0 || context == ROOT {
            state.votes = state.votes.saturating_sub(1);
            self.add_overflow(context, token, target);
        } else {
            let (old_token, old_target) = (state.token, state.target);
            (state.token, state.target, state.votes) = (token, target, 1);
            self.add_overflow(context, old_token, old_target);
        }
    }

    fn add_overflow(&mut self, source: u32, token: u32, target: u32) {
        let overflow = &mut self.states[source as usize].overflow;
        *overflow = self.edges.push(Edge { source, token, target, next: *overflow });
    }

    fn redirect(&mut self, source: u32, token: u32, target: u32) {
        let state = &mut self.states[source as usize];
        if state.token == token {
            state.target = target;
        } else if let Some(slot) = self.edges.find(source, token) {
            self.edges.at_mut(slot).target = target;
        }
    }
}

const BLANK: State =
    State { length: 0, link: NONE, token: 0, target: NONE, overflow: NONE, latest: 0, count: 0, votes: 0 };

#[cfg(test)]
#[path = "automaton_tests.rs"]
mod tests;
