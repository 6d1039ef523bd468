//! Prompt lookup: copy what followed the *first* occurrence of the longest short n-gram at the end.
//!
//! This is the peers' rule, kept for comparison with them; [`super::suffix`] matches any length,
//! prefers later occurrences and does not rescan. transformers (`prompt_lookup_num_tokens`) looks
//! for 2 tokens, then 1; vLLM (`ngram`) for the longest of `min_ngram..=max_ngram`. Both take the
//! leftmost occurrence and stop at the end of the text, so one function serves both.

use super::{Proposal, Signals};
use crate::{Error, Result};

/// The settings of prompt lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NGram {
    min_ngram: usize,
    max_ngram: usize,
    stop_ids: Vec<u32>,
}

impl NGram {
    /// N-grams of `min_ngram` to `max_ngram` tokens; a proposal is cut before the first of
    /// `stop_ids` in it.
    ///
    /// # Errors
    /// [`Error::Value`] unless 1 <= `min_ngram` <= `max_ngram`.
    pub fn new(min_ngram: usize, max_ngram: usize, stop_ids: Vec<u32>) -> Result<Self> {
        if min_ngram == 0 {
            return Err(Error::value("min_ngram", min_ngram, "at least 1"));
        }
        if max_ngram < min_ngram {
            return Err(Error::value("max_ngram", max_ngram, format!("at least min_ngram, {min_ngram}")));
        }
        Ok(Self { min_ngram, max_ngram, stop_ids })
    }

    /// Up to `max_length` tokens after `text` and `pending`, read as one text. Scans it once.
    #[must_use]
    pub fn propose(&self, text: &[u32], pending: &[u32], max_length: usize) -> Proposal {
        let length = text.len() + pending.len();
        let at = |index: usize| text.get(index).copied().unwrap_or_else(|| pending[index - text.len()]);
        let (mut longest, mut start) = (0, length);
        for end in 1..length {
            if at(end - 1) != at(length - 1) {
                continue;
            }
            let limit = self.max_ngram.min(end);
            let matched =
                (1..limit).take_while(|&back| at(end - 1 - back) == at(length - 1 - back)).count() + 1;
            if matched > longest {
                (longest, start) = (matched, end);
                if longest == self.max_ngram {
                    break;
                }
            }
        }
        let mut tokens = Vec::new();
        let mut signals = Signals::default();
        if longest >= self.min_ngram {
            for index in start..length.min(start.saturating_add(max_length)) {
                if self.stop_ids.contains(&at(index)) {
                    break;
                }
                signals.push((longest + tokens.len()) as u32, 1, 0.5);
                tokens.push(at(index));
            }
        }
        Proposal { tokens, signals }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_leftmost_of_the_longest() {
        let lookup = NGram::new(1, 2, vec![]).unwrap();
        let text = [7, 1, 2, 8, 1, 2, 9, 2, 3, 1];
        assert_eq!(lookup.propose(&text, &[2], 3).tokens, [8, 1, 2]);
        assert_eq!(lookup.propose(&text, &[2], 3).signals.match_lengths, [2, 3, 4]);
        assert_eq!(lookup.propose(&text, &[], 2).tokens, [2, 8]);
        assert_eq!(lookup.propose(&text, &[6], 9).tokens, []);
    }

    #[test]
    fn ends_with_the_text_and_before_a_stop_id() {
        let lookup = NGram::new(1, 3, vec![9]).unwrap();
        assert_eq!(lookup.propose(&[5, 5], &[5], 10).tokens, [5]);
        assert_eq!(lookup.propose(&[1, 2, 9, 4, 1], &[], 10).tokens, [2]);
        assert!(NGram::new(2, 3, vec![]).unwrap().propose(&[1, 2, 1], &[], 10).tokens.is_empty());
        assert!(lookup.propose(&[], &[], 10).tokens.is_empty());
    }

    #[test]
    fn refuses_an_empty_range() {
        assert!(NGram::new(0, 2, vec![]).is_err());
        assert!(NGram::new(3, 2, vec![]).is_err());
    }
}
