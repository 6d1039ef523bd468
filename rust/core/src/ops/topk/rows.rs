//! Rows of numbers, how many each gives, and where what they give goes.

use crate::error::{Error, Result};

/// Numbers below which one thread does all: about 100 µs of work.
pub(super) const SERIAL_ELEMENTS: usize = 1 << 19;
/// Tasks that each thread gets, so that rows of different lengths even out.
pub(super) const TASKS_EACH: usize = 4;

/// Rows of numbers that lie one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a, E> {
    pub(super) data: &'a [E],
    bounds: Bounds<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Bounds<'a> {
    Even { count: usize, length: usize },
    Ragged(&'a [i64]),
}

impl<'a, E> Rows<'a, E> {
    /// `count` rows of `length` numbers.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are not as many numbers, or a row has 2^31 or more.
    pub fn even(data: &'a [E], count: usize, length: usize) -> Result<Self> {
        if count.checked_mul(length) != Some(data.len()) {
            return Err(Error::shape("scores", data.len(), format!("{count} rows of {length}")));
        }
        expect_short(length)?;
        Ok(Self { data, bounds: Bounds::Even { count, length } })
    }

    /// Row `i` is `data[offsets[i]..offsets[i + 1]]`.
    ///
    /// # Errors
    /// [`Error::Value`] unless offsets ascend from 0 to the number of `data`; [`Error::Shape`] as for
    /// [`Rows::even`].
    pub fn ragged(data: &'a [E], offsets: &'a [i64]) -> Result<Self> {
        let refuse = |got: String| {
            Err(Error::value("offsets", got, format!("numbers that ascend from 0 to {}", data.len())))
        };
        match (offsets.first(), offsets.last()) {
            (Some(0), Some(&last)) if last == data.len() as i64 => {}
            (Some(first), Some(last)) => return refuse(format!("{first} to {last}")),
            _ => return refuse("empty".to_owned()),
        }
        for pair in offsets.windows(2) {
            if pair[1] < pair[0] {
                return refuse(format!("{} before {}", pair[0], pair[1]));
            }
            expect_short((pair[1] - pair[0]) as usize)?;
        }
        Ok(Self { data, bounds: Bounds::Ragged(offsets) })
    }

    /// How many rows there are.
    pub fn count(&self) -> usize {
        match self.bounds {
            Bounds::Even { count, .. } => count,
            Bounds::Ragged(offsets) => offsets.len() - 1,
        }
    }

    /// The numbers of a row.
    pub fn row(&self, index: usize) -> &'a [E] {
        match self.bounds {
            Bounds::Even { length, .. } => &self.data[index * length..(index + 1) * length],
            Bounds::Ragged(offsets) => &self.data[offsets[index] as usize..offsets[index + 1] as usize],
        }
    }

    pub(super) fn is_ragged(&self) -> bool {
        matches!(self.bounds, Bounds::Ragged(_))
    }
}

/// Positions are 32-bit integers.
pub(super) fn expect_short(length: usize) -> Result<()> {
    if length >> 31 == 0 { Ok(()) } else { Err(Error::shape("a row of scores", length, "less than 2^31")) }
}

/// How many numbers each row gives.
#[derive(Debug, Clone, Copy)]
pub enum Counts<'a> {
    /// The same number for all.
    All(usize),
    /// One number a row.
    Each(&'a [i64]),
}

impl Counts<'_> {
    pub(super) fn of(&self, row: usize) -> i64 {
        match self {
            Self::All(k) => *k as i64,
            Self::Each(counts) => counts[row],
        }
    }
}

/// What [`top_k`](super::top_k) writes: `[rows][width]` values and indices. What a row leaves over is -inf and -1.
#[derive(Debug)]
pub struct Top<'a, E> {
    /// The numbers, as they are in the row.
    pub values: &'a mut [E],
    /// Where they are in the row.
    pub indices: &'a mut [i64],
    /// Places of a row.
    pub width: usize,
}

/// How a selection is made, but for its numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Order<'a> {
    /// Whether a row's numbers come from the greatest down, equal ones by index; else they come by index.
    pub sorted: bool,
    /// For each row what its k-th greatest number may be, such as that of a step ago. It makes a good guess faster,
    /// and changes nothing else.
    pub hints: Option<&'a [f32]>,
}
