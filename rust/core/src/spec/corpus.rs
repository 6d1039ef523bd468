//! A suffix index of documents as one flat run of little-endian 32-bit words: built once, written to a
//! file, mapped into memory by any number of processes, and never changed.
//!
//! ```text
//! words 0..2    the bytes "HBSUFFIX"
//!       2       version of the format, 1
//!       3       words of the header, 16
//!       4..8    numbers of tokens, states, edges and hash slots
//!       8       number of documents
//!       9       1 + the largest token id
//!       10..12  checksum of the body, low word first
//!       12..14  0
//!       14..16  checksum of the words before
//! then          tokens (1 word each), states (8), edges (4), slots (1)
//! ```
//!
//! States, edges and slots are the automaton's own, so a lookup reads the mapped pages that it
//! visits and no others. Opening checks the header and the size; the body is read only on request
//! ([`Corpus::check_body`]), and whatever it holds, a lookup ends and stays inside: a damaged index
//! makes bad guesses, which verification rejects.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use super::automaton::{Automaton, STATE_WORDS};
use super::edges::{EDGE_WORDS, NONE, home};
use super::index::Index;
use crate::{Error, Result};

/// Stands between the documents of a corpus; never proposed, never matched.
pub const SEPARATOR: u32 = u32::MAX;
/// Version of the format.
pub const VERSION: u32 = 1;

const MAGIC: [u32; 2] = [u32::from_le_bytes(*b"HBSU"), u32::from_le_bytes(*b"FFIX")];
const HEADER: usize = 16;
const HEADER_CHECKSUM: usize = 14;

/// The words of an index, in memory or mapped.
pub type Words = Arc<dyn AsRef<[u32]> + Send + Sync>;

/// Documents that many requests draw on.
#[derive(Clone)]
pub struct Corpus {
    words: Words,
    num_tokens: usize,
    num_states: usize,
    num_edges: usize,
    num_slots: usize,
    states: usize,
    edges: usize,
    slots: usize,
}

impl fmt::Debug for Corpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Corpus").field("num_tokens", &self.num_tokens).finish_non_exhaustive()
    }
}

impl Corpus {
    /// Indexes `documents`, in about a microsecond a token.
    ///
    /// # Errors
    /// [`Error::Value`] for the reserved token id `u32::MAX`, or beyond
    /// [`MAX_TOKENS`](super::automaton::MAX_TOKENS).
    pub fn new<D: AsRef<[u32]>>(documents: impl IntoIterator<Item = D>) -> Result<Self> {
        let mut builder = CorpusBuilder::default();
        for document in documents {
            builder.push(document.as_ref())?;
        }
        builder.finish()
    }

    /// The index in `words`, which is what [`Corpus::write_to`] wrote.
    ///
    /// # Errors
    /// [`Error::Value`] for anything else: another kind of file, another version, a damaged header,
    /// a file of the wrong size.
    pub fn from_words(words: Words) -> Result<Self> {
        let all = (*words).as_ref();
        let refuse = |what, got: String, expected: String| Err(Error::Value { what, got, expected });
        if all.len() < HEADER {
            let expected = format!("at least {} bytes", 4 * HEADER);
            return refuse("a corpus file", format!("{} bytes long", 4 * all.len()), expected);
        }
        if all[..2] != MAGIC {
            let start = format!("a file that begins with {:08x} {:08x}", all[0], all[1]);
            let magic = format!("{:08x} {:08x}: no corpus, or other byte order", MAGIC[0], MAGIC[1]);
            return refuse("a corpus file", start, magic);
        }
        if all[2] != VERSION {
            return refuse("the version of a corpus file", all[2].to_string(), VERSION.to_string());
        }
        let (found, stated) = (checksum(&all[..HEADER_CHECKSUM]), long(&all[HEADER_CHECKSUM..HEADER]));
        if found != stated || all[3] as usize != HEADER {
            let expected = format!("{stated:016x}: the header is damaged");
            return refuse("the checksum of a corpus file's header", format!("{found:016x}"), expected);
        }
        let [num_tokens, num_states, num_edges, num_slots] = [4, 5, 6, 7].map(|at: usize| all[at] as usize);
        let states = HEADER + num_tokens;
        let edges = states + STATE_WORDS * num_states;
        let slots = edges + EDGE_WORDS * num_edges;
        let expected = slots + num_slots;
        if all.len() != expected {
            let got = format!("{} bytes long", 4 * all.len());
            return refuse("a corpus file", got, format!("{} bytes: it was cut or grew", 4 * expected));
        }
        if num_states == 0 || !num_slots.is_power_of_two() {
            let got = format!("{num_states} states and {num_slots} slots");
            return refuse("a corpus file's index", got, "states, and a power of two of slots".to_owned());
        }
        Ok(Self { words, num_tokens, num_states, num_edges, num_slots, states, edges, slots })
    }

    /// Reads the whole index and compares it with its checksum.
    ///
    /// # Errors
    /// [`Error::Value`] where it is damaged.
    pub fn check_body(&self) -> Result<()> {
        let (found, stated) = (checksum(&self.all()[HEADER..]), long(&self.all()[10..12]));
        if found != stated {
            let expected = format!("{stated:016x}: the file is damaged");
            return Err(Error::value("the checksum of a corpus file", format!("{found:016x}"), expected));
        }
        Ok(())
    }

    /// Writes the index as it is mapped.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(4 << 16);
        for chunk in self.all().chunks(1 << 16) {
            bytes.clear();
            bytes.extend(chunk.iter().flat_map(|word| word.to_le_bytes()));
            out.write_all(&bytes)?;
        }
        Ok(())
    }

    /// Documents indexed.
    #[must_use]
    pub fn num_documents(&self) -> usize {
        self.all()[8] as usize
    }

    /// A vocabulary that holds every token has at least so many.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.all()[9] as usize
    }

    /// Bytes of the index, in memory or in the file.
    #[must_use]
    pub fn num_bytes(&self) -> usize {
        4 * self.all().len()
    }

    fn all(&self) -> &[u32] {
        (*self.words).as_ref()
    }

    /// A state's words; those of an empty state where there is none.
    fn state(&self, state: u32) -> [u32; STATE_WORDS] {
        const EMPTY: [u32; STATE_WORDS] = [0, NONE, 0, NONE, NONE, 0, 0, 0];
        if state as usize >= self.num_states {
            return EMPTY;
        }
        let at = self.states + STATE_WORDS * state as usize;
        self.all()[at..].first_chunk().copied().unwrap_or(EMPTY)
    }

    /// An edge's words: source, token, target, next.
    fn edge(&self, edge: u32) -> Option<[u32; EDGE_WORDS]> {
        if edge as usize >= self.num_edges {
            return None;
        }
        let at = self.edges + EDGE_WORDS * edge as usize;
        self.all()[at..].first_chunk().copied()
    }
}

impl Index for Corpus {
    fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    fn token(&self, index: usize) -> Option<u32> {
        (index < self.num_tokens).then(|| self.all()[HEADER + index])
    }

    fn length(&self, state: u32) -> u32 {
        self.state(state)[0]
    }

    fn link(&self, state: u32) -> Option<u32> {
        let [length, link, ..] = self.state(state);
        (link != NONE && self.length(link) < length).then_some(link)
    }

    fn count(&self, state: u32) -> u32 {
        self.state(state)[6]
    }

    fn latest_end(&self, state: u32) -> usize {
        self.state(state)[5] as usize
    }

    fn likely_successor(&self, state: u32) -> Option<(u32, u32)> {
        let [_, _, token, target, ..] = self.state(state);
        (target != NONE).then_some((token, target))
    }

    fn step(&self, state: u32, token: u32) -> Option<u32> {
        let [_, _, inline, target, overflow, ..] = self.state(state);
        if inline == token && target != NONE {
            return Some(target);
        }
        if overflow == NONE {
            return None;
        }
        let mask = self.num_slots - 1;
        let begin = home(state, token, self.num_slots);
        for probe in 0..self.num_slots {
            let slot = self.all()[self.slots + ((begin + probe) & mask)];
            let [source, label, target, _] = self.edge(slot)?;
            if source == state && label == token {
                return Some(target);
            }
        }
        None
    }

    fn for_each_successor(&self, state: u32, limit: usize, found: &mut dyn FnMut(u32, u32)) {
        let [_, _, token, target, mut overflow, ..] = self.state(state);
        if target != NONE {
            found(token, target);
        }
        for _ in 0..limit {
            let Some([_, token, target, next]) = self.edge(overflow) else { break };
            found(token, target);
            overflow = next;
        }
    }
}

/// Indexes documents one by one, so that they need not be in memory together.
#[derive(Debug, Default)]
pub struct CorpusBuilder {
    automaton: Automaton,
    num_documents: usize,
    largest: Option<u32>,
}

impl CorpusBuilder {
    /// Adds a document.
    ///
    /// # Errors
    /// As [`Corpus::new`]; nothing is added then.
    pub fn push(&mut self, document: &[u32]) -> Result<()> {
        if document.contains(&SEPARATOR) {
            return Err(Error::value("token id", SEPARATOR, "less than 2^32 - 1"));
        }
        self.automaton.check_room(document.len() + 1)?;
        for &token in document.iter().chain([&SEPARATOR]) {
            self.automaton.push(token)?;
        }
        self.largest = self.largest.max(document.iter().copied().max());
        self.num_documents += 1;
        Ok(())
    }

    /// Tokens so far, one separator a document included.
    #[must_use]
    pub fn num_tokens(&self) -> usize {
        self.automaton.text().len()
    }

    /// The index.
    ///
    /// # Errors
    /// [`Error::Value`] beyond 2^32 - 1 documents.
    pub fn finish(self) -> Result<Corpus> {
        let Ok(documents) = u32::try_from(self.num_documents) else {
            return Err(Error::value("number of documents", self.num_documents, "less than 2^32"));
        };
        let mut words = vec![0; HEADER];
        let [tokens, states, edges, slots] = self.automaton.into_words(&mut words);
        let body = checksum(&words[HEADER..]);
        let header = [
            MAGIC[0],
            MAGIC[1],
            VERSION,
            HEADER as u32,
            tokens,
            states,
            edges,
            slots,
            documents,
            self.largest.map_or(0, |largest| largest + 1),
            body as u32,
            (body >> 32) as u32,
            0,
            0,
        ];
        words[..HEADER_CHECKSUM].copy_from_slice(&header);
        let sum = checksum(&header);
        words[HEADER_CHECKSUM] = sum as u32;
        words[HEADER_CHECKSUM + 1] = (sum >> 32) as u32;
        Corpus::from_words(Arc::new(words))
    }
}

fn long(words: &[u32]) -> u64 {
    u64::from(words[0]) | u64::from(words[1]) << 32
}

/// FNV-1a (Fowler, Noll and Vo) over words: it finds accidents, not intent.
fn checksum(words: &[u32]) -> u64 {
    words.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &word| {
        (sum ^ u64::from(word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
    })
}

#[cfg(test)]
#[path = "corpus_tests.rs"]
mod tests;
