//! A plan as one array of 32-bit words, so that it can be a tensor, and lie on any device.
//!
//! Eight words of header: the number of this layout, then how many entries, positions, head ranges, reads and
//! rows there are, then zeros. Behind it one array after the other, in the order of [`Plan`]'s fields: entries
//! `[4]` each, positions, head ranges `[2]`, reads `[8]`, then of each row its position, its end and its slot
//! `[2]`.

use super::plan::{Entry, Plan, Read, RowSlot};
use crate::error::{Error, Result};

/// Words of the header.
pub const HEADER_WORDS: usize = 8;
/// The number of this layout.
const LAYOUT: i32 = 1;

impl Entry {
    /// Page, slot with format and count, position, and where the positions are.
    pub fn words(&self) -> [i32; 4] {
        let slots = u32::from(self.first) | u32::from(self.count) << 16;
        [self.page as i32, slots as i32, self.position, self.positions_at]
    }

    /// What [`Entry::words`] gave.
    pub fn from_words([page, slots, position, positions_at]: [i32; 4]) -> Self {
        let (first, count) = (slots as u16, (slots as u32 >> 16) as u16);
        Self { page: page as u32, first, count, position, positions_at }
    }
}

impl Read {
    /// The fields in order.
    pub fn words(&self) -> [i32; 8] {
        let unsigned =
            [self.entry_begin, self.entry_end, self.row_begin, self.row_end, self.num_keys, self.flags];
        let [a, b, c, d, e, f] = unsigned.map(|word| word as i32);
        [a, b, c, d, e, f, self.mask, self.rotary_offset]
    }

    /// What [`Read::words`] gave.
    pub fn from_words([a, b, c, d, e, f, mask, rotary_offset]: [i32; 8]) -> Self {
        let [entry_begin, entry_end, row_begin, row_end, num_keys, flags] =
            [a, b, c, d, e, f].map(|word| word as u32);
        Self { entry_begin, entry_end, row_begin, row_end, num_keys, flags, mask, rotary_offset }
    }
}

impl RowSlot {
    /// Slab and slot.
    pub fn words(&self) -> [i32; 2] {
        [self.slab as i32, self.slot as i32]
    }

    /// What [`RowSlot::words`] gave.
    pub fn from_words([slab, slot]: [i32; 2]) -> Self {
        Self { slab: slab as u32, slot: slot as u32 }
    }
}

impl Plan {
    /// All of the plan.
    pub fn to_words(&self) -> Vec<i32> {
        let counts = [self.entries.len(), self.positions.len(), self.head_ranges.len(), self.reads.len()];
        let mut words = vec![LAYOUT];
        words.extend(counts.iter().chain([&self.num_rows()]).map(|count| *count as i32));
        words.resize(HEADER_WORDS, 0);
        words.extend(self.entries.iter().flat_map(Entry::words));
        words.extend(&self.positions);
        words.extend(self.head_ranges.iter().flatten().map(|at| *at as i32));
        words.extend(self.reads.iter().flat_map(Read::words));
        words.extend(&self.row_positions);
        words.extend(self.row_end.iter().map(|end| *end as i32));
        words.extend(self.row_slots.iter().flat_map(RowSlot::words));
        words
    }

    /// The plan of [`Plan::to_words`].
    ///
    /// # Errors
    /// [`Error::Shape`] for words that are no plan of this layout, and as [`Plan::check`].
    pub fn from_words(words: &[i32]) -> Result<Self> {
        let refused = || {
            let start = &words[..words.len().min(HEADER_WORDS)];
            let want = format!("{LAYOUT}, five counts, two zeros, and as many words as these say");
            Error::shape("words of a plan", format!("{} from {start:?} on", words.len()), want)
        };
        let Some((&[LAYOUT, entries, positions, ranges, reads, rows, 0, 0], mut rest)) =
            words.split_first_chunk::<HEADER_WORDS>()
        else {
            return Err(refused());
        };
        let mut take = |count: i32, width: usize| {
            let length = usize::try_from(count).ok().and_then(|count| count.checked_mul(width));
            let (own, others) =
                length.and_then(|length| rest.split_at_checked(length)).ok_or_else(refused)?;
            rest = others;
            Ok(own)
        };
        let plan = Self {
            entries: take(entries, 4)?.as_chunks().0.iter().copied().map(Entry::from_words).collect(),
            positions: take(positions, 1)?.to_vec(),
            head_ranges: take(ranges, 2)?
                .as_chunks()
                .0
                .iter()
                .map(|at: &[i32; 2]| at.map(|at| at as u32))
                .collect(),
            reads: take(reads, 8)?.as_chunks().0.iter().copied().map(Read::from_words).collect(),
            row_positions: take(rows, 1)?.to_vec(),
            row_end: take(rows, 1)?.iter().map(|end| *end as u32).collect(),
            row_slots: take(rows, 2)?.as_chunks().0.iter().copied().map(RowSlot::from_words).collect(),
        };
        if !rest.is_empty() {
            return Err(refused());
        }
        plan.check()?;
        Ok(plan)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let entry =
            |page, first, count, position, positions_at| Entry { page, first, count, position, positions_at };
        let read = |entry_begin, entry_end, num_keys, flags| Read {
            entry_begin,
            entry_end,
            row_begin: 0,
            row_end: 2,
            num_keys,
            flags,
            mask: -1,
            rotary_offset: 0,
        };
        Plan {
            entries: vec![
                entry(7, Entry::first_of(3, 2), 2, 4, 0),
                entry(9, 0, 3, 0, -1),
                entry(u32::MAX, 5, 2, 9, -1),
            ],
            positions: vec![4, 6],
            head_ranges: vec![[0, 1], [1, 2]],
            reads: vec![read(0, 2, 3, Read::BY_HEAD), read(2, 3, 2, Read::OWN)],
            row_positions: vec![9, 10],
            row_end: vec![2, 2],
            row_slots: vec![RowSlot { slab: u32::MAX, slot: 5 }, RowSlot { slab: u32::MAX, slot: 6 }],
        }
    }

    #[test]
    fn words_say_all_of_a_plan() {
        let words = plan().to_words();
        assert_eq!(words[..HEADER_WORDS], [1, 3, 2, 2, 2, 2, 0, 0]);
        assert_eq!(words[HEADER_WORDS..][..4], [7, 2 << 12 | 3 | 2 << 16, 4, 0]);
        assert_eq!(words.len(), 8 + 3 * 4 + 2 + 2 * 2 + 2 * 8 + 2 * 4);
        assert_eq!(Plan::from_words(&words).unwrap(), plan());
        let empty = Plan::default();
        assert_eq!(Plan::from_words(&empty.to_words()).unwrap(), empty);
    }

    #[test]
    fn other_words_are_refused() {
        let words = plan().to_words();
        for length in 0..words.len() {
            assert!(Plan::from_words(&words[..length]).is_err(), "{length} words");
        }
        assert!(Plan::from_words(&[&words[..], &[0]].concat()).is_err());
        for (at, word) in [(0, 2), (1, -1), (1, i32::MAX), (5, 3), (6, 1), (HEADER_WORDS + 1, 0)] {
            let mut wrong = words.clone();
            wrong[at] = word;
            assert!(Plan::from_words(&wrong).is_err(), "word {at} is {word}");
        }
    }
}
