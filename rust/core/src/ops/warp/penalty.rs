//! Penalties for tokens that were seen, following a draft token by token.

use super::Warp;
use crate::error::{Error, Result};

/// The bit of a token of the prompt; the other bits count occurrences in the output.
const PROMPT: u32 = 1 << 31;

/// Which tokens a row has behind it: those of the prompt, and how often those of the output.
#[derive(Debug, Default)]
pub struct Counts {
    marks: Vec<u32>,
    touched: Vec<u32>,
}

impl Counts {
    /// Forgets everything, and makes room for a vocabulary.
    pub fn reset(&mut self, vocabulary: usize) {
        for token in self.touched.drain(..) {
            self.marks[token as usize] = 0;
        }
        if self.marks.len() < vocabulary {
            self.marks.resize(vocabulary, 0);
        }
    }

    /// Adds the history of a sequence.
    ///
    /// # Errors
    /// [`Error::Value`] for a token outside of the vocabulary.
    pub fn load(&mut self, prompt: &[i64], output: &[i64]) -> Result<()> {
        let size = self.marks.len();
        let is_unknown = |token: &&i64| usize::try_from(**token).map_or(true, |token| token >= size);
        if let Some(token) = prompt.iter().chain(output).find(is_unknown) {
            return Err(Error::value("a token of the history", token, format!("0 to {}", size.max(1) - 1)));
        }
        for &token in prompt {
            self.touch(token as u32);
            self.marks[token as usize] |= PROMPT;
        }
        output.iter().for_each(|&token| self.push(token));
        Ok(())
    }

    fn touch(&mut self, token: u32) {
        if self.marks[token as usize] == 0 {
            self.touched.push(token);
        }
    }

    /// Steps to a draft token. Tokens outside of the vocabulary have no logit to penalise.
    pub fn push(&mut self, token: i64) {
        if (token as usize) < self.marks.len() {
            self.touch(token as u32);
            self.marks[token as usize] += 1;
        }
    }

    /// Steps back from the token pushed last.
    pub fn pop(&mut self, token: i64) {
        if let Some(mark) = self.marks.get_mut(token as usize) {
            *mark -= 1;
            if *mark == 0 {
                self.touched.pop();
            }
        }
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.touched.is_empty()
    }

    /// Penalises the logits of tokens that were seen: repetition, frequency, presence, in this order.
    pub(super) fn apply(&self, warp: &Warp, logits: &mut [f32]) {
        for &token in &self.touched {
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            if let Some(penalty) = warp.repetition_penalty {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
            let count = self.marks[token as usize] & !PROMPT;
            if count > 0 {
                if let Some(penalty) = warp.frequency_penalty {
                    *logit -= penalty * count as f32;
                }
                if let Some(penalty) = warp.presence_penalty {
                    *logit -= penalty;
                }
            }
        }
    }
}
