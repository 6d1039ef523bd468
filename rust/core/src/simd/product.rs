//! Register-blocked inner loops of small matrix products.
//!
//! Each checks the lengths of its arguments once and then runs without checks.

use std::slice::from_raw_parts as from_raw;

use super::ahead::{Ahead, MemoryRange};
use super::{Lanes, WIDTH};
use crate::format::Element;

/// Where the rows of a product begin: they lie sixteen to a block.
#[derive(Debug, Clone, Copy)]
pub struct RowLayout {
    /// The first one, counted from the first of its block.
    pub first: usize,
    /// From a row to the next of its block.
    pub stride: usize,
    /// From a block to the next, at least as far as from its first row to its last.
    pub block_stride: usize,
}

impl RowLayout {
    /// Rows that are `stride` apart.
    pub fn apart(stride: usize) -> Self {
        Self { first: 0, stride, block_stride: WIDTH * stride }
    }

    #[inline(always)]
    fn at(self, row: usize) -> usize {
        let row = self.first + row;
        row / WIDTH * self.block_stride + row % WIDTH * self.stride
    }
}

/// A product of rows of numbers with one or two panels of vectors: `to[r * to_row + p * to_panel]
/// (+)= sum over i < n of a[rows.at(r) + i * STEP] * panels[p][i]`.
#[derive(Debug)]
pub struct Product<'a> {
    /// The numbers of all rows.
    pub a: &'a [f32],
    /// Where rows begin in `a`.
    pub rows: RowLayout,
    /// Numbers of a row.
    pub n: usize,
    /// The panels.
    pub panels: &'a [&'a [[f32; WIDTH]]],
    /// The results.
    pub to: &'a mut [[f32; WIDTH]],
    /// From the result of a row to that of the next.
    pub to_row: usize,
    /// From the result of a panel to that of the next.
    pub to_panel: usize,
}

/// Rows that go through registers together where two panels do.
const PAIR_ROWS: usize = 3;

/// Into how many groups a product of `panels` panels divides its rows.
pub fn groups<L: Lanes>(panels: usize, rows: usize) -> usize {
    rows.div_ceil(if panels == 2 && L::PAIRS { PAIR_ROWS } else { L::ACCUMULATORS })
}

impl Product<'_> {
    /// Computes it for `rows` rows, in groups of as many as the registers hold, each of which takes
    /// its part of `ahead`. A number is broadcast, once for both panels where that needs fewer loads.
    ///
    /// # Panics
    /// If `a`, a panel or `to` is too short, or there are no numbers, or neither one nor two panels.
    #[inline(always)]
    pub fn broadcast<const STEP: usize, const ADD: bool, E: Element, L: Lanes>(
        mut self,
        l: L,
        rows: usize,
        ahead: &mut Ahead<'_, E>,
    ) {
        if rows == 0 {
            return;
        }
        self.check(rows, STEP);
        if self.panels.len() == 2 && L::PAIRS {
            for row in (0..rows).step_by(PAIR_ROWS) {
                let run = ahead.take(l);
                // SAFETY: checked; `self` borrows the group's slices.
                unsafe {
                    match rows - row {
                        1 => self.group::<1, 2, STEP>(row, 0).add::<ADD, L>(l, run),
                        2 => self.group::<2, 2, STEP>(row, 0).add::<ADD, L>(l, run),
                        _ => l.three_by_two::<STEP, ADD>(self.group(row, 0), run),
                    }
                }
            }
            return;
        }
        let groups = groups::<L>(self.panels.len(), rows);
        for panel in 0..self.panels.len() {
            let mut row = 0;
            for group in 0..groups {
                let size = (rows - row) / (groups - group);
                let run = if panel == 0 { ahead.take(l) } else { MemoryRange::NONE };
                // SAFETY: as above.
                unsafe {
                    match size {
                        1 => self.group::<1, 1, STEP>(row, panel).add::<ADD, L>(l, run),
                        2 => self.group::<2, 1, STEP>(row, panel).add::<ADD, L>(l, run),
                        3 => self.group::<3, 1, STEP>(row, panel).add::<ADD, L>(l, run),
                        4 => self.group::<4, 1, STEP>(row, panel).add::<ADD, L>(l, run),
                        5 => self.group::<5, 1, STEP>(row, panel).add::<ADD, L>(l, run),
                        6 => self.group::<6, 1, STEP>(row, panel).add::<ADD, L>(l, run),
                        7 => self.group::<7, 1, STEP>(row, panel).add::<ADD, L>(l, run),
                        _ => self.group::<8, 1, STEP>(row, panel).add::<ADD, L>(l, run),
                    }
                }
                row += size;
            }
        }
    }

    fn check(&self, rows: usize, step: usize) {
        assert!(self.rows.block_stride >= (WIDTH - 1) * self.rows.stride);
        assert!(self.n > 0 && self.a[self.rows.at(rows - 1)..].len() > (self.n - 1) * step);
        assert!(matches!(self.panels.len(), 1 | 2) && self.panels.iter().all(|panel| panel.len() >= self.n));
        assert!(self.to.len() > (rows - 1) * self.to_row + (self.panels.len() - 1) * self.to_panel);
    }

    /// `Q` rows from `row` on with `P` panels from `panel` on.
    ///
    /// # Safety
    /// [`check`](Self::check) passed for them.
    #[inline(always)]
    unsafe fn group<const Q: usize, const P: usize, const STEP: usize>(
        &mut self,
        row: usize,
        panel: usize,
    ) -> Group<Q, P, STEP> {
        let to = self.to.as_mut_ptr();
        let mut group = Group {
            n: self.n,
            rows: [self.a.as_ptr(); Q],
            panels: [self.panels[0].as_ptr(); P],
            to: [[to; P]; Q],
        };
        for p in 0..P {
            group.panels[p] = self.panels[panel + p].as_ptr();
        }
        for q in 0..Q {
            // SAFETY: later rows and panels lie further on, and the last ones were found to lie in bounds.
            unsafe {
                group.rows[q] = group.rows[q].add(self.rows.at(row + q));
                for p in 0..P {
                    group.to[q][p] = to.add((row + q) * self.to_row + (panel + p) * self.to_panel);
                }
            }
        }
        group
    }
}

/// `Q` rows and `P` panels of a product. Whoever makes one has checked that each row has a number at
/// `STEP * i` and each panel a vector `i` for all `i < n`, and that the places lie in the results.
#[derive(Debug)]
pub struct Group<const Q: usize, const P: usize, const STEP: usize> {
    pub(super) n: usize,
    pub(super) rows: [*const f32; Q],
    pub(super) panels: [*const [f32; WIDTH]; P],
    pub(super) to: [[*mut [f32; WIDTH]; P]; Q],
}

impl<const Q: usize, const P: usize, const STEP: usize> Group<Q, P, STEP> {
    /// Adds to the group's places, or writes there if not `ADD`; asks for `ahead` before.
    ///
    /// # Safety
    /// The slices that the group was made from are still borrowed.
    #[inline(always)]
    pub(super) unsafe fn add<const ADD: bool, L: Lanes>(self, l: L, ahead: MemoryRange) {
        ahead.prefetch(l);
        // Four turns at a time: where another thread shares the core, a loop's own instructions take
        // room from the loads.
        let whole = self.n - self.n % 4;
        // SAFETY: the caller's; every turn is one of the `n`.
        unsafe {
            let mut sums = self.begin::<ADD, L>(l);
            for first in (0..whole).step_by(4) {
                for i in first..first + 4 {
                    self.turn(l, i, &mut sums);
                }
            }
            self.end(l, whole, sums);
        }
    }

    /// The sums before the first turn.
    ///
    /// # Safety
    /// As [`Group::add`].
    #[inline(always)]
    pub(super) unsafe fn begin<const ADD: bool, L: Lanes>(&self, l: L) -> [[L::Vector; P]; Q] {
        let mut sums = [[l.splat(0.0); P]; Q];
        if ADD {
            for q in 0..Q {
                for p in 0..P {
                    // SAFETY: a place in the product's results.
                    sums[q][p] = l.load(unsafe { &*self.to[q][p] });
                }
            }
        }
        sums
    }

    /// The turns from `turn` on, and the results.
    ///
    /// # Safety
    /// As [`Group::add`].
    #[inline(always)]
    pub(super) unsafe fn end<L: Lanes>(&self, l: L, turn: usize, mut sums: [[L::Vector; P]; Q]) {
        for i in turn..self.n {
            // SAFETY: `i < n`.
            unsafe { self.turn(l, i, &mut sums) };
        }
        for q in 0..Q {
            for p in 0..P {
                // SAFETY: a place in the product's results.
                l.store(sums[q][p], unsafe { &mut *self.to[q][p] });
            }
        }
    }

    /// Adds number `i * STEP` of each row times vector `i` of each panel.
    ///
    /// # Safety
    /// `i < n`.
    #[inline(always)]
    unsafe fn turn<L: Lanes>(&self, l: L, i: usize, sums: &mut [[L::Vector; P]; Q]) {
        let mut vectors = [l.splat(0.0); P];
        for p in 0..P {
            // SAFETY: the caller's, and what makes a group.
            vectors[p] = l.load(unsafe { &*self.panels[p].add(i) });
        }
        for q in 0..Q {
            // SAFETY: as above.
            let x = l.splat(unsafe { *self.rows[q].add(i * STEP) });
            for p in 0..P {
                sums[q][p] = l.fma(x, vectors[p], sums[q][p]);
            }
        }
    }
}

/// The dot products of `Q` rows of `a` with `K` rows of `b`, `Q * K <= 4`: result `k * Q + q`.
/// `a` has whole vectors, zeros behind the last element; `b` has any length up to theirs.
///
/// # Panics
/// If the rows of `a` are shorter than those of `b`, or those of `b` differ in length.
#[inline(always)]
pub fn dots<const Q: usize, const K: usize, E: Element, L: Lanes>(
    l: L,
    a: [&[[f32; WIDTH]]; Q],
    b: [&[E]; K],
) -> [f32; 4] {
    let len = b[0].len();
    let (whole, rest) = (len / WIDTH, len % WIDTH);
    assert!(a.iter().all(|a| a.len() >= len.div_ceil(WIDTH)) && b.iter().all(|b| b.len() == len));
    let mut sums = [[l.splat(0.0); Q]; K];
    for d in 0..whole {
        for k in 0..K {
            // SAFETY: `(d + 1) * WIDTH <= len`, the length of every row of `b`.
            let x = l.load(unsafe { &*b[k].as_ptr().add(d * WIDTH).cast::<[E; WIDTH]>() });
            for q in 0..Q {
                // SAFETY: `d < whole`, and the rows of `a` are at least that long.
                sums[k][q] = l.fma(l.load(unsafe { a[q].get_unchecked(d) }), x, sums[k][q]);
            }
        }
    }
    if rest > 0 {
        for k in 0..K {
            let x = l.load_partial(&b[k][whole * WIDTH..], 0.0);
            for q in 0..Q {
                sums[k][q] = l.fma(l.load(&a[q][whole]), x, sums[k][q]);
            }
        }
    }
    let mut four = [l.splat(0.0); 4];
    for (four, sum) in four.iter_mut().zip(sums.as_flattened()) {
        *four = *sum;
    }
    l.reduce_add4(four)
}

/// The dot products of four rows of `a` with two rows of `b`, each of whole vectors: `[k][q]`, the numbers that
/// [`dots`] gives.
///
/// # Panics
/// If rows differ in length.
#[inline(always)]
pub fn four_by_two<E: Element, L: Lanes>(
    l: L,
    a: [&[[f32; WIDTH]]; 4],
    b: [&[[E; WIDTH]]; 2],
) -> [[f32; 4]; 2] {
    let turns = a[0].len();
    assert!(a.iter().all(|a| a.len() == turns) && b.iter().all(|b| b.len() == turns));
    let rows = FourByTwo { turns, a: a.map(<[_]>::as_ptr), b: b.map(<[_]>::as_ptr) };
    // SAFETY: every row has `turns` vectors, and is borrowed.
    unsafe { l.four_by_two(rows) }
}

/// Rows of dot products: four of `a`, two of `b`. Whoever makes one has checked that each has `turns` vectors.
#[derive(Debug)]
pub struct FourByTwo<E> {
    pub(super) turns: usize,
    pub(super) a: [*const [f32; WIDTH]; 4],
    pub(super) b: [*const [E; WIDTH]; 2],
}

impl<E: Element> FourByTwo<E> {
    /// One row of `b` after the other.
    ///
    /// # Safety
    /// The slices that it was made from are still borrowed.
    #[inline(always)]
    pub(super) unsafe fn apart<L: Lanes>(self, l: L) -> [[f32; 4]; 2] {
        let (turns, [p, q, r, s]) = (self.turns, self.a);
        // SAFETY: the caller's; each row has `turns` vectors.
        unsafe {
            let a = [from_raw(p, turns), from_raw(q, turns), from_raw(r, turns), from_raw(s, turns)];
            let [first, second] = self.b;
            let first = dots(l, a, [from_raw(first, turns).as_flattened()]);
            [first, dots(l, a, [from_raw(second, turns).as_flattened()])]
        }
    }
}

/// Adds to `to[q]` the sum over `i` of `weights[q][i] * rows[i][at..at + WIDTH]`, where elements
/// past the end of a row count as zeros.
///
/// # Panics
/// If there are fewer weights than rows, or rows differ in length, or end before `at`.
#[inline(always)]
pub fn weigh<const Q: usize, E: Element, L: Lanes>(
    l: L,
    weights: [&[f32]; Q],
    rows: &[&[E]],
    at: usize,
    mut sums: [L::Vector; Q],
) -> [L::Vector; Q] {
    assert!(weights.iter().all(|w| w.len() >= rows.len()));
    for (i, row) in rows.iter().enumerate() {
        let value = match row[at..].first_chunk::<WIDTH>() {
            Some(value) => l.load(value),
            None => l.load_partial(&row[at..], 0.0),
        };
        for q in 0..Q {
            // SAFETY: `i < rows.len()`, and there are at least as many weights.
            sums[q] = l.fma(l.splat(unsafe { *weights[q].get_unchecked(i) }), value, sums[q]);
        }
    }
    sums
}

#[cfg(test)]
#[path = "product_tests.rs"]
mod tests;
