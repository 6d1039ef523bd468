//! Drafting policies: where the guessed tokens come from, and how many of them are worth a row.
//!
//! A draft source returns a [`Proposal`]: tokens, and for each token the [`Signals`] that say how
//! much it deserves to be believed. A stop rule turns the signals of a batch into one length a
//! sequence, and learns from how many of the tokens were accepted. Neither knows the other.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod acceptance;
pub mod automaton;
pub mod cost;
pub mod gain;
pub mod ngram;
pub mod suffix;

/// What a draft source knows about each token that it proposes; all three have one item a token.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Signals {
    /// Tokens of context, earlier proposed ones included, that an earlier occurrence shares. 0 for
    /// sources that do not match text.
    pub match_lengths: Vec<u32>,
    /// How often that context was seen before.
    pub counts: Vec<u32>,
    /// The source's own estimate, in 0..=1, that the token follows its context.
    pub confidences: Vec<f32>,
}

impl Signals {
    /// No tokens yet, room for `capacity` of them.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            match_lengths: Vec::with_capacity(capacity),
            counts: Vec::with_capacity(capacity),
            confidences: Vec::with_capacity(capacity),
        }
    }

    /// Number of proposed tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.match_lengths.len()
    }

    /// Whether nothing was proposed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.match_lengths.is_empty()
    }

    /// Appends the signals of one token.
    pub fn push(&mut self, match_length: u32, count: u32, confidence: f32) {
        self.match_lengths.push(match_length);
        self.counts.push(count);
        self.confidences.push(confidence);
    }
}

/// A chain of guessed tokens, first one next.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Proposal {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// One item a token.
    pub signals: Signals,
}
