//! The selection of one row, and the memory that selections share.

use std::cell::RefCell;

use super::candidates::{Guess, collect};
use super::key::key;
use super::select::{Bins, choose, kth};
use crate::format::Element;
use crate::simd::{Isa, Kernel, Lanes, WIDTH};

/// Memory of selections; it grows to what the largest row needed.
#[derive(Debug, Default)]
pub struct Scratch {
    guess: Guess,
    pub(super) bins: Bins,
    /// Positions of the candidates in the row.
    at: Vec<u32>,
    /// The candidates, or the whole row.
    values: Vec<f32>,
    /// Positions in the row of what was chosen, ascending, and room behind them.
    pub(super) chosen: Vec<u32>,
    /// The chosen by key and position.
    sorted: Vec<u64>,
    /// What the other operations select from.
    pub(super) row: Vec<f32>,
    pub(super) product: Tables,
    pub(super) weights: Vec<u64>,
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
    pub(super) fn write<N: Element, E: Element>(
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
    pub(super) fn sort(&mut self, k: usize, number: impl Fn(u32) -> f32) {
        self.sorted.clear();
        let chosen = &mut self.chosen[..k];
        self.sorted.extend(chosen.iter().map(|&at| u64::from(!key(number(at))) << 32 | u64::from(at)));
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
        let found = collect(l, row, k, hint, guess, bins, at);
        values.resize(found.unwrap_or(row.len()), 0.0);
        match found {
            Some(count) => {
                for (value, &at) in values.iter_mut().zip(&at[..count]) {
                    *value = row[at as usize].to_f32();
                }
            }
            None => widen(l, row, values),
        }
        let cut = kth(l, values, k, bins);
        choose(l, values, cut, k, chosen);
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

/// Memory of a row of pairs of two tables.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// The greatest of each table, the greatest first.
    pub(super) best: [Vec<u32>; 2],
    pub(super) sums: Vec<f32>,
    /// What of the second table a tie may have.
    pub(super) columns: Vec<u32>,
    /// Pairs `a * second table's length + b`, and their sums.
    pub(super) found: Vec<(i64, f32)>,
}
