//! Tests of [`super`].

use super::super::{Isa, Kernel};
use super::*;
use half::bf16;

struct Products {
    rows: usize,
    n: usize,
}

impl Kernel for Products {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let number = |i: usize| (i * 37 % 19) as f32 - 9.0;
        let Self { rows, n } = self;
        let a: Vec<f32> = (0..rows * n).map(number).collect();
        let panel: [Vec<[f32; WIDTH]>; 2] = std::array::from_fn(|p| {
            (0..n).map(|i| std::array::from_fn(|j| number(i * 16 + j + 3 + p))).collect()
        });
        let dot = |r: usize, p: usize, j: usize| (0..n).map(|i| a[r * n + i] * panel[p][i][j]).sum::<f32>();
        // The same numbers with rows innermost, sixteen at a time.
        let mut turned = vec![0.0; rows.next_multiple_of(16) * n];
        for (r, i) in (0..rows).flat_map(|r| (0..n).map(move |i| (r, i))) {
            turned[r / 16 * 16 * n + i * 16 + r % 16] = a[r * n + i];
        }
        // Rows to ask for: the first two lie one after the other, the others apart.
        let memory = vec![bf16::ZERO; 8 * 1024];
        let soon: Vec<&[bf16]> = [0, 64, 1024, 3000].map(|at| &memory[at..at + 64]).to_vec();
        for add in [true, false] {
            let mut to = vec![[1.0; WIDTH]; rows * 3];
            let mut ahead = Ahead::new(&soon, groups::<L>(2, rows));
            let product = Product {
                a: &a,
                rows: RowLayout::apart(n),
                n,
                panels: &[&panel[0], &panel[1]],
                to: &mut to,
                to_row: 3,
                to_panel: 1,
            };
            match add {
                true => product.broadcast::<1, true, bf16, L>(l, rows, &mut ahead),
                false => product.broadcast::<1, false, bf16, L>(l, rows, &mut ahead),
            }
            assert!(ahead.is_empty());
            for (r, j) in (0..rows).flat_map(|r| (0..WIDTH).map(move |j| (r, j))) {
                for p in 0..2 {
                    assert_eq!(to[3 * r + p][j], dot(r, p, j) + if add { 1.0 } else { 0.0 });
                }
                assert_eq!(to[3 * r + 2][j], 1.0);
            }
            let inner = RowLayout { first: 0, stride: 1, block_stride: 16 * n };
            let one = Product {
                a: &turned,
                rows: inner,
                n,
                panels: &[&panel[1]],
                to: &mut to,
                to_row: 3,
                to_panel: 0,
            };
            one.broadcast::<16, false, f32, L>(l, rows, &mut Ahead::nothing());
            let to_both = &mut vec![[0.0; WIDTH]; rows * 2];
            let panels = &[&panel[1][..], &panel[0]];
            let both = Product { a: &turned, rows: inner, n, panels, to: to_both, to_row: 1, to_panel: rows };
            both.broadcast::<16, true, f32, L>(l, rows, &mut Ahead::nothing());
            for r in 0..rows {
                assert_eq!([to[3 * r][7], to_both[r][7]], [dot(r, 1, 7); 2]);
                assert_eq!(to_both[rows + r][9], dot(r, 0, 9));
            }
        }
        if rows >= 3 {
            let mut to = vec![[1.0; WIDTH]; 6];
            let panels = &[&panel[0][..], &panel[1]];
            let mut product =
                Product { a: &a, rows: RowLayout::apart(n), n, panels, to: &mut to, to_row: 1, to_panel: 3 };
            // SAFETY: the slices live on.
            unsafe { l.three_by_two::<1, true>(product.group(0, 0), MemoryRange::NONE) };
            assert_eq!([to[2][5], to[5][5]], [1.0 + dot(2, 0, 5), 1.0 + dot(2, 1, 5)]);
        }
    }
}

struct Dots;

impl Kernel for Dots {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let number = |i: usize| (i * 37 % 19) as f32 - 9.0;
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
        let weights: [f32; 5] = std::array::from_fn(number);
        let sums = weigh(l, [&weights[..], &weights[1..]], &keys, 32, [l.splat(1.0), l.splat(2.0)]);
        for q in 0..2 {
            let mut lanes = [0.0; WIDTH];
            l.store(sums[q], &mut lanes);
            for j in 0..WIDTH {
                let value = |i: usize| if j < 8 { keys[i][32 + j].to_f32() } else { 0.0 };
                let want: f32 = (0..4).map(|i| weights[q + i] * value(i)).sum();
                assert_eq!(lanes[j], want + [1.0, 2.0][q]);
            }
        }
    }
}

struct FourByTwoRows;

impl Kernel for FourByTwoRows {
    type Output = [[f32; 4]; 2];
    /// Numbers that an order of summation rounds: four rows with two give the bits of one after the other.
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> Self::Output {
        let odd = |i: usize| ((i * 7919 % 1009) as f32 - 500.0) / 7.0;
        let keys: [[[bf16; WIDTH]; 5]; 2] = std::array::from_fn(|k| {
            std::array::from_fn(|d| std::array::from_fn(|j| bf16::from_f32(odd(k * 80 + d * 16 + j))))
        });
        let queries: [[[f32; WIDTH]; 5]; 4] = std::array::from_fn(|q| {
            std::array::from_fn(|d| std::array::from_fn(|j| odd(q * 97 + d * 31 + j)))
        });
        let a: [&[[f32; WIDTH]]; 4] = std::array::from_fn(|q| &queries[q][..]);
        let sums = four_by_two(l, a, [&keys[0], &keys[1]]);
        assert_eq!(sums, [dots(l, a, [keys[0].as_flattened()]), dots(l, a, [keys[1].as_flattened()])]);
        sums
    }
}

#[test]
fn four_rows_with_two_are_one_after_the_other_on_every_isa() {
    let want = Isa::Portable.run(FourByTwoRows);
    assert!(Isa::available().all(|isa| isa.run(FourByTwoRows) == want));
}

/// Small integers: every order of summation is exact.
#[test]
fn products_of_small_integers_are_exact() {
    for isa in Isa::available() {
        for (rows, n) in (1..20).map(|rows| (rows, 5 + rows)).chain((1..6).map(|n| (7, n))) {
            isa.run(Products { rows, n });
        }
        isa.run(Dots);
    }
}
