//! Drafting policies: where the guessed tokens come from, and how many of them are worth a row.
//!
//! A draft source returns a [`Proposal`]: tokens, and for each token the [`Signals`] that say how
//! much it deserves to be believed. A stop rule turns the signals of a batch into one length a
//! sequence, and learns from how many of the tokens were accepted. Neither knows the other.
//!
//! ```
//! use hornbeam_core::spec::Draft;
//! use hornbeam_core::spec::cost::{CostCurve, Others};
//! use hornbeam_core::spec::gain::{Gain, Settings};
//! use hornbeam_core::spec::suffix::SuffixDraft;
//!
//! // What followed `1 2` before is proposed after it now.
//! let mut source = SuffixDraft::new(None, 1)?;
//! source.extend(&[1, 2, 3, 4, 5, 9, 1, 2])?;
//! let proposal = source.propose(3);
//! assert_eq!(proposal.tokens, [3, 4, 5]);
//!
//! // On a machine where four rows cost what one costs, all of them are worth their rows ...
//! let mut flat = CostCurve::default();
//! (1..=4).for_each(|rows| flat.observe(rows, 0.010));
//! let mut gain = Gain::new(Settings::default())?;
//! let chosen = gain.choose(&flat, Others::default(), &[Draft::chain(&proposal.signals)]);
//! assert_eq!(chosen, [[0, 1, 2]]);
//!
//! // ... and where each row costs as much as the first, none.
//! let mut steep = CostCurve::default();
//! (1..=4).for_each(|rows| steep.observe(rows, 0.010 * rows as f64));
//! let chosen = gain.choose(&steep, Others::default(), &[Draft::chain(&proposal.signals)]);
//! assert!(chosen[0].is_empty());
//! # Ok::<(), hornbeam_core::Error>(())
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod acceptance;
pub mod automaton;
pub mod corpus;
pub mod cost;
mod edges;
pub mod gain;
pub mod index;
pub mod ngram;
pub mod suffix;
pub mod suffix_tree;

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

/// A tree of guessed tokens, parents first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TreeProposal {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// For each token the index of its parent, or -1 for a first token.
    pub parents: Vec<i32>,
    /// One item a token.
    pub signals: Signals,
}

/// A proposal as a stop rule sees it: what the source knows of each token, and a tree's shape.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// One item a token.
    pub signals: &'a Signals,
    /// For each token the index of its parent, before it, or -1 for the pending token; `None` is a
    /// chain. See [`Draft::new`].
    pub parents: Option<&'a [i32]>,
}

impl<'a> Draft<'a> {
    /// A chain.
    #[must_use]
    pub fn chain(signals: &'a Signals) -> Self {
        Self { signals, parents: None }
    }

    /// A tree, or a chain.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) unless there is one parent a token,
    /// [`Error::Value`](crate::Error::Value) unless parents come first.
    pub fn new(signals: &'a Signals, parents: Option<&'a [i32]>) -> crate::Result<Self> {
        if let Some(parents) = parents {
            if parents.len() != signals.len() {
                return Err(crate::Error::shape("parents", [parents.len()], format!("[{}]", signals.len())));
            }
            for (index, &parent) in parents.iter().enumerate() {
                if parent < -1 || parent >= index as i32 {
                    let expected = format!("-1 to {}: parents come first", index as i32 - 1);
                    return Err(crate::Error::value("a draft token's parent", parent, expected));
                }
            }
        }
        Ok(Self { signals, parents })
    }

    /// Number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.signals.len()
    }

    /// Whether nothing was proposed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The token before this one on its path; `None` for a child of the pending token.
    #[must_use]
    pub fn parent(&self, token: usize) -> Option<usize> {
        match self.parents {
            None => token.checked_sub(1),
            Some(parents) => usize::try_from(parents[token]).ok(),
        }
    }

    /// How many tokens each has before it on its path.
    #[must_use]
    pub fn depths(&self) -> Vec<usize> {
        let mut depths: Vec<usize> = Vec::with_capacity(self.len());
        for token in 0..self.len() {
            let depth = self.parent(token).map_or(0, |parent| depths[parent] + 1);
            depths.push(depth);
        }
        depths
    }

    /// The probability of each token's whole path, from those of tokens given their parents.
    #[must_use]
    pub fn survivals(&self, given_parent: impl Iterator<Item = f64>) -> Vec<f64> {
        let mut survivals: Vec<f64> = Vec::with_capacity(self.len());
        for (token, probability) in given_parent.enumerate() {
            let above = self.parent(token).map_or(1.0, |parent| survivals[parent]);
            survivals.push(above * probability);
        }
        survivals
    }
}

/// What the target gave after the kept tokens of a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nobody said.
    Unknown,
    /// A token that is no child of the last kept one in the proposal.
    Other,
    /// This child, which was not verified.
    Token(usize),
}
