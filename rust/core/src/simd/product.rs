//! Register-blocked inner loops of small matrix products.
//!
//! Each checks the lengths of its arguments once and then runs without checks.

use super::{Lanes, WIDTH};
use crate::format::Element;

/// `to[r * to_stride] (+)= sum over i < n of a[r * row_stride + i * STEP] * panel[i]` for `rows` rows: a number of each row is broadcast against a vector. Rows go through registers in groups of
/// nearly equal size, at most [`Lanes::ACCUMULATORS`] at once.
///
/// # Panics
/// If `a`, `panel` or `to` is too short.
#[inline(always)]
pub fn broadcast<const STEP: usize, const ADD: bool, L: Lanes>(
    l: L,
    rows: usize,
    a: &[f32],
    row_stride: usize,
    n: usize,
    panel: &[[f32; WIDTH]],
    to: &mut [[f32; WIDTH]],
    to_stride: usize,
) {
    let groups = rows.div_ceil(L::ACCUMULATORS);
    let mut row = 0;
    for group in 0..groups {
        let size = (rows - row) / (groups - group);
        let (a, to) = (&a[row * row_stride..], &mut to[row * to_stride..]);
        match size {
            1 => group_of::<1, STEP, ADD, L>(l, a, row_stride, n, panel, to, to_stride),
            2 => group_of::<2, STEP, ADD, L>(l, a, row_stride, n, panel, to, to_stride),
            3 => group_of::<3, STEP, ADD, L>(l, a, row_stride, n, panel, to, to_stride),
            4 => group_of::<4, STEP, ADD, L>(l, a, row_stride, n, panel, to, to_stride),
            5 => group_of::<5, STEP, ADD, L>(l, a, row_stride, n, panel, to, to_stride),
            6 => group_of::<6, STEP, ADD, L>(l, a, row_stride, n, panel, to, to_stride),
            7 => group_of::<7, STEP, ADD, L>(l, a, row_stride, n, panel, to, to_stride),
            _ => group_of::<8, STEP, ADD, L>(l, a, row_stride, n, panel, to, to_stride),
        }
        row += size;
    }
}

#[inline(always)]
fn group_of<const Q: usize, const STEP: usize, const ADD: bool, L: Lanes>(
    l: L,
    a: &[f32],
    row_stride: usize,
    n: usize,
    panel: &[[f32; WIDTH]],
    to: &mut [[f32; WIDTH]],
    to_stride: usize,
) {
    assert!(n > 0 && a.len() > (Q - 1) * row_stride + (n - 1) * STEP);
    assert!(panel.len() >= n);
    assert!(to.len() > (Q - 1) * to_stride);
    let mut sums = [l.splat(0.0); Q];
    let mut rows = [a.as_ptr(); Q];
    for q in 0..Q {
        rows[q] = a[q * row_stride..].as_ptr();
        if ADD {
            sums[q] = l.load(&to[q * to_stride]);
        }
    }
    // Four turns at a time: where another thread shares the core, a loop's own instructions take
    // room from the loads.
    let whole = n - n % 4;
    for first in (0..whole).step_by(4) {
        for i in first..first + 4 {
            // SAFETY: `i < n`: the first two assertions above.
            unsafe { add_turn::<Q, STEP, L>(l, &rows, panel, i, &mut sums) };
        }
    }
    for i in whole..n {
        // SAFETY: as above.
        unsafe { add_turn::<Q, STEP, L>(l, &rows, panel, i, &mut sums) };
    }
    for q in 0..Q {
        l.store(sums[q], &mut to[q * to_stride]);
    }
}

/// Adds number `i * STEP` of each row times vector `i` of the panel.
///
/// # Safety
/// `i` is less than the panel's length, and each row has more than `i * STEP` numbers.
#[inline(always)]
unsafe fn add_turn<const Q: usize, const STEP: usize, L: Lanes>(
    l: L,
    rows: &[*const f32; Q],
    panel: &[[f32; WIDTH]],
    i: usize,
    sums: &mut [L::Vector; Q],
) {
    // SAFETY: the caller vouches for the panel.
    let vector = l.load(unsafe { panel.get_unchecked(i) });
    for q in 0..Q {
        // SAFETY: the caller vouches for the rows.
        let x = unsafe { *rows[q].add(i * STEP) };
        sums[q] = l.fma(l.splat(x), vector, sums[q]);
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
mod tests {
    use super::super::{Isa, Kernel};
    use super::*;
    use half::bf16;

    struct Products(usize);

    impl Kernel for Products {
        type Output = ();
        #[inline(always)]
        fn run<L: Lanes>(self, l: L) {
            let number = |i: usize| (i * 37 % 19) as f32 - 9.0;
            let (rows, n) = (self.0, 5 + self.0);
            let a: Vec<f32> = (0..rows * n).map(number).collect();
            let panel: Vec<[f32; WIDTH]> =
                (0..n).map(|i| std::array::from_fn(|j| number(i * 16 + j + 3))).collect();
            let mut to = vec![[1.0; WIDTH]; rows * 2];
            let dot = |r: usize, j: usize| (0..n).map(|i| a[r * n + i] * panel[i][j]).sum::<f32>();
            for add in [true, false] {
                match add {
                    true => broadcast::<1, true, L>(l, rows, &a, n, n, &panel, &mut to, 2),
                    false => broadcast::<1, false, L>(l, rows, &a, n, n, &panel, &mut to, 2),
                }
                for (r, j) in (0..rows).flat_map(|r| (0..WIDTH).map(move |j| (r, j))) {
                    assert_eq!(to[2 * r][j], dot(r, j) + if add { 1.0 } else { 0.0 });
                    assert_eq!(to[2 * r + 1][j], 1.0);
                }
            }
            // The same numbers with rows innermost.
            let turned: Vec<f32> =
                (0..16 * n).map(|i| if i % 16 < rows { a[i % 16 * n + i / 16] } else { 0.0 }).collect();
            broadcast::<16, false, L>(l, rows.min(16), &turned, 1, n, &panel, &mut to, 2);
            assert_eq!(to[0][7], dot(0, 7));
            assert_eq!(to[2 * (rows.min(16) - 1)][3], dot(rows.min(16) - 1, 3));
            let b: Vec<bf16> = (0..4 * 40).map(|i| bf16::from_f32(number(i))).collect();
            let q: Vec<[f32; WIDTH]> = (0..4 * 3)
                .map(|i| std::array::from_fn(|j| if i % 3 * 16 + j < 40 { number(i + j) } else { 0.0 }))
                .collect();
            let exact = |q0: usize, k: usize| -> f32 {
                (0..40).map(|d| q[q0 * 3 + d / 16][d % 16] * b[k * 40 + d].to_f32()).sum()
            };
            let queries: [&[[f32; WIDTH]]; 4] = std::array::from_fn(|i| &q[i * 3..i * 3 + 3]);
            let keys: [&[bf16]; 4] = std::array::from_fn(|i| &b[i * 40..(i + 1) * 40]);
            assert_eq!(dots(l, queries, [keys[1]]), std::array::from_fn(|i| exact(i, 1)));
            assert_eq!(dots(l, [queries[2]], keys), std::array::from_fn(|k| exact(2, k)));
            let weights = [&a[..], &a[1..]];
            if n >= 5 {
                let sums = weigh(l, weights, &keys, 32, [l.splat(1.0), l.splat(2.0)]);
                for q in 0..2 {
                    let mut lanes = [0.0; WIDTH];
                    l.store(sums[q], &mut lanes);
                    for j in 0..WIDTH {
                        let value = |i: usize| if j < 8 { keys[i][32 + j].to_f32() } else { 0.0 };
                        let want: f32 = (0..4).map(|i| a[q + i] * value(i)).sum();
                        assert_eq!(lanes[j], want + [1.0, 2.0][q]);
                    }
                }
            }
        }
    }

    /// Small integers: every order of summation is exact.
    #[test]
    fn products_of_small_integers_are_exact() {
        for isa in Isa::available() {
            for rows in 1..20 {
                isa.run(Products(rows));
            }
        }
    }
}
