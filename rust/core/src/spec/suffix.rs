//! Drafts by copying: what followed the last time the text looked like this.
//!
//! The idea is that of prompt lookup and of SuffixDecoding (Oliaro et al. 2024), on a suffix
//! automaton instead of a rescan or a tree of bounded depth: the longest earlier match of any
//! length is known after every token, and nothing is forgotten. Two sources are asked: the
//! request's own text, and a corpus that many requests share read-only.
//!
//! A proposal follows one chain. After a long match it copies the latest occurrence; after a short
//! one it follows the usual successor, starting from whichever suffix of the match predicts best.
//! Where the text ends the copy goes on into the proposal itself, so a period repeats.

use std::sync::Arc;

use super::automaton::{Automaton, MAX_TOKENS, ROOT};
use super::{Proposal, Signals};
use crate::{Error, Result};

/// Matches of at least this many tokens copy the latest occurrence without consulting counts.
pub const LONG_MATCH: u32 = 8;
/// Stands between the documents of a corpus; never proposed, never matched.
const SEPARATOR: u32 = u32::MAX;

/// Documents that many requests draw on.
#[derive(Debug)]
pub struct Corpus {
    automaton: Automaton,
}

impl Corpus {
    /// Indexes `documents`, in about a microsecond a token.
    ///
    /// # Errors
    /// [`Error::Value`] for the reserved token id `u32::MAX`, or beyond
    /// [`MAX_TOKENS`](super::automaton::MAX_TOKENS).
    pub fn new<D: AsRef<[u32]>>(documents: impl IntoIterator<Item = D>) -> Result<Self> {
        let mut automaton = Automaton::new();
        for document in documents {
            for &token in document.as_ref() {
                automaton.push(checked(token)?)?;
            }
            automaton.push(SEPARATOR)?;
        }
        Ok(Self { automaton })
    }

    /// The index.
    #[must_use]
    pub fn automaton(&self) -> &Automaton {
        &self.automaton
    }
}

fn checked(token: u32) -> Result<u32> {
    if token == SEPARATOR {
        return Err(Error::value("token id", token, "less than 2^32 - 1"));
    }
    Ok(token)
}

/// A suffix of the current text that an automaton knows: its state, and how much of the state's
/// longest string it is.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Match {
    state: u32,
    length: u32,
}

impl Match {
    const EMPTY: Self = Self { state: ROOT, length: 0 };

    /// The longest match after one more token. Amortised O(1): every link followed shortens it.
    fn advance(self, automaton: &Automaton, token: u32) -> Self {
        let Self { mut state, mut length } = self;
        loop {
            if let Some(next) = automaton.step(state, token) {
                return Self { state: next, length: length + 1 };
            }
            let Some(link) = automaton.link(state) else { return Self::EMPTY };
            state = link;
            length = automaton.length(link);
        }
    }
}

/// The draft source of one sequence: its text, and where the text stands in the corpus.
#[derive(Debug, Clone)]
pub struct SuffixDraft {
    own: Automaton,
    corpus: Option<(Arc<Corpus>, Match)>,
    min_match: u32,
}

impl SuffixDraft {
    /// An empty text. Matches shorter than `min_match` tokens propose nothing.
    ///
    /// # Errors
    /// [`Error::Value`] when `min_match` is 0.
    pub fn new(corpus: Option<Arc<Corpus>>, min_match: u32) -> Result<Self> {
        if min_match == 0 {
            return Err(Error::value("min_match", min_match, "at least 1"));
        }
        Ok(Self { own: Automaton::new(), corpus: corpus.map(|corpus| (corpus, Match::EMPTY)), min_match })
    }

    /// The committed text and its index.
    #[must_use]
    pub fn automaton(&self) -> &Automaton {
        &self.own
    }

    /// Length of the longest suffix of the committed text that occurred earlier in it.
    #[must_use]
    pub fn match_length(&self) -> u32 {
        self.own.length(self.own.matched())
    }

    /// Appends committed tokens; the text never shrinks. Amortised O(1) a token.
    ///
    /// # Errors
    /// As [`Automaton::push`], and for the reserved id `u32::MAX`; nothing is changed then.
    pub fn extend(&mut self, tokens: &[u32]) -> Result<()> {
        tokens.iter().try_for_each(|&token| checked(token).map(drop))?;
        let total = self.own.text().len() + tokens.len();
        if total > MAX_TOKENS {
            return Err(Error::value("text length", total, format!("at most {MAX_TOKENS}")));
        }
        for &token in tokens {
            self.own.push(token)?;
            if let Some((corpus, matched)) = &mut self.corpus {
                *matched = matched.advance(&corpus.automaton, token);
            }
        }
        Ok(())
    }

    /// Guesses up to `max_length` tokens after the committed text.
    #[must_use]
    pub fn propose(&self, max_length: usize) -> Proposal {
        self.propose_after(&[], max_length)
    }

    /// Guesses up to `max_length` tokens after the committed text and `pending`, tokens that are
    /// not committed yet. Changes nothing.
    #[must_use]
    pub fn propose_after(&self, pending: &[u32], max_length: usize) -> Proposal {
        let own_state = self.own.matched();
        let mut own = Match { state: own_state, length: self.own.length(own_state) };
        for &token in pending {
            own = own.advance(&self.own, token);
        }
        let own = Chain::start(&self.own, own, self.min_match);
        let corpus = self.corpus.as_ref().and_then(|(corpus, matched)| {
            let matched =
                pending.iter().fold(*matched, |matched, &token| matched.advance(&corpus.automaton, token));
            Chain::start(&corpus.automaton, matched, self.min_match)
        });
        match (own, corpus) {
            (Some(own), Some(corpus)) if corpus.beats(&own) => corpus.run(None, max_length),
            (Some(own), _) => own.run(Some(pending), max_length),
            (None, Some(corpus)) => corpus.run(None, max_length),
            (None, None) => Proposal::default(),
        }
    }
}

/// A place to copy from.
struct Chain<'a> {
    automaton: &'a Automaton,
    at: Match,
    /// The confidence of its first token.
    confidence: f32,
}

impl<'a> Chain<'a> {
    /// The suffix of `longest` to follow, if one has at least `min_match` tokens.
    fn start(automaton: &'a Automaton, longest: Match, min_match: u32) -> Option<Self> {
        if longest.length < min_match {
            return None;
        }
        let confidence = likely_confidence(automaton, longest.state);
        let mut best = Self { automaton, at: longest, confidence };
        let mut state = longest.state;
        // SuffixDecoding scores every match length; here only suffixes of short matches compete,
        // and by their first token: a long context that was seen is rarely beaten by a short one.
        while best.at.length < LONG_MATCH
            && let Some(link) = automaton.link(state)
            && automaton.length(link) >= min_match
        {
            state = link;
            let confidence = likely_confidence(automaton, state);
            if confidence > best.confidence {
                best = Self { automaton, at: Match { state, length: automaton.length(state) }, confidence };
            }
        }
        Some(best)
    }

    /// Whether this source is to be preferred: a long match by its length, two short ones by how
    /// sure they are of the first token.
    fn beats(&self, other: &Self) -> bool {
        if self.at.length.max(other.at.length) >= LONG_MATCH {
            self.at.length > other.at.length
        } else {
            self.confidence > other.confidence
        }
    }

    /// Follows the chain. `pending` is what stands between the text and the proposal, and the
    /// proposal may be copied from both; `None` for a text that is not the sequence's own.
    fn run(self, pending: Option<&[u32]>, max_length: usize) -> Proposal {
        let Self { automaton, mut at, .. } = self;
        let text = automaton.text();
        let mut tokens = Vec::with_capacity(max_length.min(64));
        let mut signals = Signals::with_capacity(max_length.min(64));
        // Once the context occurred once only, its continuation is a slice: no states are needed.
        let mut slice: Option<usize> = None;
        while tokens.len() < max_length {
            let count = automaton.count(at.state);
            let source = slice.unwrap_or_else(|| automaton.latest_end(at.state) + 1);
            if slice.is_some() || count <= 1 {
                let Some(token) = read(text, pending, &tokens, source) else { break };
                tokens.push(token);
                signals.push(at.length, count, confidence_of(1, 1));
                slice = Some(source + 1);
                at.length += 1;
                continue;
            }
            let token = match automaton.likely_successor(at.state) {
                Some((token, _)) if at.length < LONG_MATCH => token,
                _ => text[source],
            };
            if token == SEPARATOR {
                break;
            }
            let Some(next) = automaton.step(at.state, token) else { break };
            tokens.push(token);
            signals.push(at.length, count, confidence_of(automaton.count(next), count));
            at = Match { state: next, length: at.length + 1 };
        }
        Proposal { tokens, signals }
    }
}

/// The token at `index` of text, pending tokens and proposal laid end to end.
fn read(text: &[u32], pending: Option<&[u32]>, tokens: &[u32], index: usize) -> Option<u32> {
    if let Some(&token) = text.get(index) {
        return (token != SEPARATOR).then_some(token);
    }
    let pending = pending?;
    let beyond = index - text.len();
    pending.get(beyond).or_else(|| tokens.get(beyond - pending.len())).copied()
}

fn likely_confidence(automaton: &Automaton, state: u32) -> f32 {
    let next = automaton.likely_successor(state).map_or(1, |(_, next)| automaton.count(next));
    confidence_of(next, automaton.count(state))
}

/// The share of occurrences that went on this way, with one imaginary occurrence that did not
/// (the escape estimate A of prediction by partial matching, Cleary and Witten 1984). The state of
/// the text's end is not marked yet, hence the lower bounds.
fn confidence_of(followed: u32, occurred: u32) -> f32 {
    let occurred = occurred.max(1);
    followed.clamp(1, occurred) as f32 / (occurred + 1) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn draft(text: &[u32]) -> SuffixDraft {
        let mut draft = SuffixDraft::new(None, 1).unwrap();
        draft.extend(text).unwrap();
        draft
    }

    #[test]
    fn copies_the_latest_occurrence_of_a_long_match() {
        let repeated: Vec<u32> = (10..20).collect();
        let mut text = repeated.clone();
        text.extend([1, 2, 3]);
        text.extend(&repeated);
        text.extend([4, 5, 6]);
        text.extend(&repeated);
        let proposal = draft(&text).propose(3);
        assert_eq!(proposal.tokens, [4, 5, 6]);
        assert_eq!(proposal.signals.match_lengths, [10, 11, 12]);
        assert_eq!(proposal.signals.counts, [2, 1, 1]);
    }

    #[test]
    fn follows_the_majority_after_a_short_match() {
        let proposal = draft(&[7, 1, 9, 7, 1, 8, 7, 1, 3, 7, 2, 4, 7]).propose(1);
        assert_eq!(proposal.tokens, [1]);
        assert_eq!(proposal.signals.confidences, [3.0 / 5.0]);
    }

    #[test]
    fn a_period_repeats_past_the_end_of_the_text() {
        assert_eq!(draft(&[1, 2, 3, 1, 2, 3]).propose(7).tokens, [1, 2, 3, 1, 2, 3, 1]);
        assert_eq!(draft(&[4]).propose_after(&[4], 3).tokens, [4, 4, 4]);
    }

    #[test]
    fn a_corpus_helps_where_the_text_has_no_match_and_stops_at_a_document() {
        let corpus = Arc::new(Corpus::new([[5, 6, 7, 8], [1, 2, 3, 4]]).unwrap());
        let mut draft = SuffixDraft::new(Some(corpus), 1).unwrap();
        draft.extend(&[9, 5, 6]).unwrap();
        assert_eq!(draft.propose(10).tokens, [7, 8]);
        assert_eq!(draft.propose_after(&[1], 10).tokens, [2, 3, 4]);
        assert!(draft.propose_after(&[4], 10).tokens.is_empty());
        assert!(draft.extend(&[1, SEPARATOR]).is_err());
        assert_eq!(draft.automaton().text(), [9, 5, 6]);
    }

    proptest! {
        #[test]
        fn pending_tokens_are_matched_against_the_committed_text(
            text in prop::collection::vec(0u32..4, 0..50),
            pending in prop::collection::vec(0u32..5, 0..4),
        ) {
            let after = draft(&text).propose_after(&pending, 1);
            let matched = match pending.last() {
                Some(last) => text.contains(last),
                None => draft(&text).match_length() > 0,
            };
            prop_assert_eq!(after.tokens.is_empty(), !matched);
            if let Some(&length) = after.signals.match_lengths.first() {
                let context = [&text[..], &pending[..]].concat();
                let context = &context[context.len() - length as usize..];
                prop_assert!(text.windows(context.len()).any(|window| window == context));
            }
        }

        #[test]
        fn a_proposal_is_bounded_and_its_signals_are_sound(
            text in prop::collection::vec(0u32..6, 0..80),
            max_length in 0usize..20,
            min_match in 1u32..4,
        ) {
            let mut draft = SuffixDraft::new(None, min_match).unwrap();
            draft.extend(&text).unwrap();
            let Proposal { tokens, signals } = draft.propose(max_length);
            prop_assert!(tokens.len() <= max_length);
            prop_assert_eq!(tokens.len(), signals.len());
            prop_assert_eq!(tokens.is_empty(), max_length == 0 || draft.match_length() < min_match);
            if let Some(&first) = signals.match_lengths.first() {
                prop_assert!(first >= min_match && first <= draft.match_length());
                let context = &text[text.len() - first as usize..];
                let seen = text.windows(context.len() + 1);
                prop_assert!(seen.into_iter().any(|w| w.starts_with(context) && w.ends_with(&tokens[..1])));
            }
            for confidence in signals.confidences {
                prop_assert!(confidence > 0.0 && confidence < 1.0);
            }
        }
    }
}
