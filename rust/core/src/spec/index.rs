//! What a draft source asks of a suffix index, wherever its arrays lie.

use super::automaton::Automaton;

/// A suffix automaton that is read: the one that grows ([`Automaton`]), or one in a file
/// ([`super::corpus::Corpus`]). States are numbers, 0 the empty string; the methods are those of
/// [`Automaton`]. None panics, whatever the state.
pub trait Index {
    /// Tokens of the text.
    fn num_tokens(&self) -> usize;
    /// The token at an index of the text.
    fn token(&self, index: usize) -> Option<u32>;
    /// Length of the longest substring of `state`.
    fn length(&self, state: u32) -> u32;
    /// The state of the longest suffix that ends at more positions; shorter than `state` always.
    fn link(&self, state: u32) -> Option<u32>;
    /// How often the context was seen with a successor.
    fn count(&self, state: u32) -> u32;
    /// Index of the last token of the latest occurrence that has a successor.
    fn latest_end(&self, state: u32) -> usize;
    /// The successor that won the majority vote, with its state.
    fn likely_successor(&self, state: u32) -> Option<(u32, u32)>;
    /// The state after `token`.
    fn step(&self, state: u32, token: u32) -> Option<u32>;
    /// Calls `found(token, state)` for the likely successor and up to `limit` others, newest first.
    fn for_each_successor(&self, state: u32, limit: usize, found: &mut dyn FnMut(u32, u32));
}

impl Index for Automaton {
    fn num_tokens(&self) -> usize {
        self.text().len()
    }

    fn token(&self, index: usize) -> Option<u32> {
        self.text().get(index).copied()
    }

    fn length(&self, state: u32) -> u32 {
        Self::length(self, state)
    }

    fn link(&self, state: u32) -> Option<u32> {
        Self::link(self, state)
    }

    fn count(&self, state: u32) -> u32 {
        Self::count(self, state)
    }

    fn latest_end(&self, state: u32) -> usize {
        Self::latest_end(self, state)
    }

    fn likely_successor(&self, state: u32) -> Option<(u32, u32)> {
        Self::likely_successor(self, state)
    }

    fn step(&self, state: u32, token: u32) -> Option<u32> {
        Self::step(self, state, token)
    }

    fn for_each_successor(&self, state: u32, limit: usize, found: &mut dyn FnMut(u32, u32)) {
        self.for_each_successor(state, limit, found);
    }
}
