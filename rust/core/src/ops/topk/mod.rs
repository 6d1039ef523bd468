//! The k greatest numbers of rows, exactly, as every sort by value and then by index would choose them.
//!
//! One order holds everywhere: NaN is the greatest number (as in torch) and equal to NaN, -0.0 equals 0.0, and of equal
//! numbers the one with the lowest index comes first. Results do not depend on the instruction set, on threads, or on
//! the other rows.
//!
//! A row is not sorted. One or two passes collect the *candidates* ([`candidates`]): all that reach a threshold which
//! at least k numbers reach. The k-th greatest of the few is found by a histogram ([`select`]), and one more pass over
//! them writes what is at least that.

mod block;
mod candidates;
mod key;
mod mass;
mod product;
mod select;

use std::cell::RefCell;
use std::sync::Mutex;

pub use block::top_blocks;
pub use mass::{MassCut, Share, mass_counts, mass_cut};
pub use product::{TuckerCore, product_top_k, tucker_top_k};

use crate::error::{Error, Result};
use crate::format::Element;
use crate::parallel::{Parallel, lock_whole};
use crate::simd::{Isa, Kernel, Lanes, WIDTH};

/// Numbers below which one thread does all: about 100 µs of work.
const SERIAL_ELEMENTS: usize = 1 << 19;
/// Tasks that each thread gets, so that rows of different lengths even out.
const TASKS_EACH: usize = 4;

/// Rows of numbers that lie one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a, E> {
    data: &'a [E],
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

    fn is_ragged(&self) -> bool {
        matches!(self.bounds, Bounds::Ragged(_))
    }
}

/// Positions are 32-bit integers.
fn expect_short(length: usize) -> Result<()> {
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
    fn of(&self, row: usize) -> i64 {
        match self {
            Self::All(k) => *k as i64,
            Self::Each(counts) => counts[row],
        }
    }
}

/// What [`top_k`] writes: `[rows][width]` values and indices. What a row leaves over is -inf and -1.
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

/// The `k` greatest numbers of every row and their indices; rows run in parallel.
///
/// A ragged row that has fewer numbers than it should give gives all of them.
///
/// # Errors
/// [`Error::Value`] if a count is negative, above the width, or above the length of rows that are not ragged;
/// [`Error::Shape`] for arrays of other lengths. Nothing is written then.
pub fn top_k<E: Element>(
    isa: Isa,
    pool: &dyn Parallel,
    rows: &Rows<'_, E>,
    counts: Counts<'_>,
    order: Order<'_>,
    top: Top<'_, E>,
) -> Result<()> {
    let count = rows.count();
    let expect = |what, got: usize, expected: usize| {
        if got == expected { Ok(()) } else { Err(Error::shape(what, got, expected)) }
    };
    if let Counts::Each(counts) = counts {
        expect("k", counts.len(), count)?;
    }
    if let Some(hints) = order.hints {
        expect("hint", hints.len(), count)?;
    }
    for row in 0..count {
        let k = counts.of(row);
        let most = if rows.is_ragged() { usize::MAX } else { rows.row(row).len() };
        if usize::try_from(k).is_ok_and(|k| k > most) || k < 0 {
            return Err(Error::value("k", k, format!("0 to {most}, the length of a row")));
        }
        if k as usize > top.width {
            return Err(Error::value("k", k, format!("at most {}, the places of a row", top.width)));
        }
    }
    for_each_row(pool, count, rows.data.len(), top, |row, values, indices, scratch| {
        let (numbers, hint) = (rows.row(row), order.hints.map(|hints| hints[row]));
        let k = (counts.of(row) as usize).min(numbers.len());
        scratch.select(isa, numbers, k, hint);
        scratch.write(numbers, k, order.sorted, values, indices, |x| x);
    })
}

/// Runs `task` on the places of every row, in parallel where it is worth it.
fn for_each_row<E: Element>(
    pool: &dyn Parallel,
    count: usize,
    elements: usize,
    top: Top<'_, E>,
    task: impl Fn(usize, &mut [E], &mut [i64], &mut Scratch) + Sync,
) -> Result<()> {
    let Top { values, indices, width } = top;
    for (what, got) in [("values", values.len()), ("indices", indices.len())] {
        if got != count * width {
            return Err(Error::shape(what, got, format!("{count} rows of {width}")));
        }
    }
    let run = |first: usize, values: &mut [E], indices: &mut [i64]| {
        Scratch::with(|scratch| {
            for row in 0..values.len().checked_div(width).unwrap_or(0) {
                let places = row * width..(row + 1) * width;
                task(first + row, &mut values[places.clone()], &mut indices[places], scratch);
            }
        });
    };
    let threads = pool.num_threads();
    if elements < SERIAL_ELEMENTS || threads < 2 || count < 2 || width == 0 {
        run(0, values, indices);
        return Ok(());
    }
    let each = count.div_ceil(threads * TASKS_EACH);
    let parts = values.chunks_mut(each * width).zip(indices.chunks_mut(each * width));
    let parts: Vec<_> = parts.map(Mutex::new).collect();
    pool.run(parts.len(), &|part| {
        let (values, indices) = &mut *lock_whole(&parts[part]);
        run(part * each, values, indices);
    });
    Ok(())
}

/// Memory of selections; it grows to what the largest row needed.
#[derive(Debug, Default)]
pub struct Scratch {
    guess: candidates::Guess,
    bins: select::Bins,
    /// Positions of the candidates in the row.
    at: Vec<u32>,
    /// The candidates, or the whole row.
    values: Vec<f32>,
    /// Positions in the row of what was chosen, ascending, and room behind them.
    chosen: Vec<u32>,
    /// The chosen by key and position.
    sorted: Vec<u64>,
    /// What the other operations select from.
    row: Vec<f32>,
    product: product::Tables,
    weights: Vec<u64>,
}

impl Scratch {
    /// Runs `work` with the memory of this thread, or with new memory where `work` came here by itself.
    pub fn with<T>(work: impl FnOnce(&mut Self) -> T) -> T {
        thread_local! {
            static SCRATCH: RefCell<Scratch> = RefCell::default();
        }
        SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
            Ok(mut scratch) => work(&mut scratch),
            Err(_) => work(&mut Self::default()),
        })
    }

    /// The positions of the `k` greatest numbers of a row, ascending; `k` is at most their number.
    pub fn select<E: Element>(&mut self, isa: Isa, row: &[E], k: usize, hint: Option<f32>) -> &[u32] {
        let k = k.min(row.len());
        if self.chosen.len() < k + 2 * WIDTH {
            self.chosen.resize(k + 2 * WIDTH, 0);
        }
        if k == row.len() {
            self.chosen[..k].iter_mut().enumerate().for_each(|(i, at)| *at = i as u32);
        } else if k > 0 {
            isa.run(Select { row, k, hint, scratch: self });
        }
        &self.chosen[..k]
    }

    /// Writes the last selection, and -inf and -1 behind it.
    fn write<N: Element, E: Element>(
        &mut self,
        row: &[N],
        k: usize,
        sorted: bool,
        values: &mut [E],
        indices: &mut [i64],
        convert: impl Fn(N) -> E,
    ) {
        if sorted {
            self.sort(k, |at| row[at as usize].to_f32());
        }
        for ((value, index), &at) in values.iter_mut().zip(indices.iter_mut()).zip(&self.chosen[..k]) {
            (*value, *index) = (convert(row[at as usize]), i64::from(at));
        }
        values[k..].fill(E::from_f32(f32::NEG_INFINITY));
        indices[k..].fill(-1);
    }

    /// Brings the first `k` chosen into the order of their numbers, the greatest first, equal ones by position.
    fn sort(&mut self, k: usize, number: impl Fn(u32) -> f32) {
        self.sorted.clear();
        let chosen = &mut self.chosen[..k];
        self.sorted.extend(chosen.iter().map(|&at| u64::from(!key::key(number(at))) << 32 | u64::from(at)));
        self.sorted.sort_unstable();
        chosen.iter_mut().zip(&self.sorted).for_each(|(at, packed)| *at = *packed as u32);
    }
}

struct Select<'a, E> {
    row: &'a [E],
    k: usize,
    hint: Option<f32>,
    scratch: &'a mut Scratch,
}

impl<E: Element> Kernel for Select<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Self { row, k, hint, scratch } = self;
        let Scratch { guess, bins, at, values, chosen, .. } = scratch;
        let found = candidates::collect(l, row, k, hint, guess, bins, at);
        values.resize(found.unwrap_or(row.len()), 0.0);
        match found {
            Some(count) => {
                for (value, &at) in values.iter_mut().zip(&at[..count]) {
                    *value = row[at as usize].to_f32();
                }
            }
            None => widen(l, row, values),
        }
        let cut = select::kth(l, values, k, bins);
        select::choose(l, values, cut, k, chosen);
        if found.is_some() {
            chosen[..k].iter_mut().for_each(|chosen| *chosen = at[*chosen as usize]);
        }
    }
}

/// The numbers of a row as f32.
#[inline(always)]
fn widen<E: Element, L: Lanes>(l: L, row: &[E], to: &mut [f32]) {
    let ((from, from_tail), (to, to_tail)) = (row.as_chunks::<WIDTH>(), to.as_chunks_mut::<WIDTH>());
    for (from, to) in from.iter().zip(to) {
        l.store(l.load(from), to);
    }
    for (from, to) in from_tail.iter().zip(to_tail) {
        *to = from.to_f32();
    }
}

#[cfg(test)]
#[path = "topk_tests.rs"]
mod tests;
