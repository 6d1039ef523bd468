#![allow(clippy::unwrap_used)]

use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::parallel::{Rayon, Serial};

/// A full sort by value, the greatest first, then by index.
fn sorted<E: Element>(row: &[E]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(key::key(row[i].to_f32())));
    order
}

/// Rows of one length, `kind` of which says what they are made of.
fn row(length: usize, kind: u32, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..length)
        .map(|i| {
            let x = next();
            match kind {
                0 => x,
                1 => (x * 4.0).round(),
                2 => i as f32,
                3 => -(i as f32),
                4 if x > 0.8 => f32::NAN,
                4 if x > 0.6 => f32::INFINITY,
                4 if x < -0.5 => f32::NEG_INFINITY,
                5 => f32::from_bits(next().to_bits() >> 9),
                6 => x.powi(21) * 1e30,
                7 => 1000.0 + x,
                8 => [0.0, -0.0][i % 2],
                _ => x * 1e-39,
            }
        })
        .collect()
}

fn check<E: Element>(isa: Isa, row: &[E], k: usize, hint: Option<f32>) {
    let mut want = sorted(row);
    want.truncate(k);
    let rows = Rows::even(row, 1, row.len()).unwrap();
    for is_sorted in [true, false] {
        let (mut values, mut indices) = (vec![E::default(); k + 3], vec![7; k + 3]);
        let hints = hint.as_ref().map(std::slice::from_ref);
        let top = Top { values: &mut values, indices: &mut indices, width: k + 3 };
        top_k(isa, &Serial, &rows, Counts::All(k), Order { sorted: is_sorted, hints }, top).unwrap();
        if !is_sorted {
            want.sort_unstable();
        }
        assert!(want.iter().map(|i| *i as i64).eq(indices[..k].iter().copied()), "{isa:?} {k} {hint:?}");
        assert_eq!(indices[k..], [-1; 3]);
        for (value, &i) in values.iter().zip(&want) {
            let (got, want) = (value.to_f32(), row[i].to_f32());
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan());
        }
        assert!(values[k..].iter().all(|x| x.to_f32() == f32::NEG_INFINITY));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Long enough for groups, samples and hints; the hint may be anything.
    #[test]
    fn is_the_start_of_a_full_sort(
        length in prop_oneof![1usize..40, 1000usize..1100, 4000usize..9000],
        kind in 0u32..10,
        share in prop_oneof![Just(0.0), Just(1.0), 0.0f64..0.02, 0.0f64..1.0],
        hint in prop_oneof![Just(None), any::<u32>().prop_map(|b| Some(f32::from_bits(b))), (-2.0f32..2.0).prop_map(Some)],
        seed in any::<u64>(),
    ) {
        let row = row(length, kind, seed);
        let k = (share * length as f64) as usize;
        let narrow: Vec<bf16> = row.iter().map(|&x| bf16::from_f32(x)).collect();
        let half: Vec<f16> = row.iter().map(|&x| f16::from_f32(x)).collect();
        for isa in Isa::available() {
            check(isa, &row, k, hint);
            check(isa, &narrow, k, hint);
            check(isa, &half, k, hint);
        }
    }

    #[test]
    fn pairs_are_those_of_all_sums(
        (na, nb) in (1usize..30, 1usize..30), kinds in (0usize..5, 0usize..5), share in 0.0f64..=1.0, seed in any::<u64>(),
    ) {
        // Halves and tiny steps: sums that rounding makes equal, and -inf.
        let table = |n: usize, kind: usize, seed: u64| -> Vec<f32> {
            row(n, 0, seed).iter().map(|x| match kind {
                0 => *x,
                1 => (x * 3.0).round(),
                2 => 1.0 + (x * 3.0).round() * f32::EPSILON,
                3 => (x * 3.0).round() * 3e-8,
                _ => if *x < 0.0 { f32::NEG_INFINITY } else { (x * 3.0).round() },
            }).collect()
        };
        let (a, b) = (table(na, kinds.0, seed), table(nb, kinds.1, seed ^ 99));
        let k = (share * (na * nb) as f64) as usize;
        let sums: Vec<f32> = a.iter().flat_map(|x| b.iter().map(move |y| x + y)).collect();
        let (rows_a, rows_b) = (Rows::even(&a, 1, na).unwrap(), Rows::even(&b, 1, nb).unwrap());
        for is_sorted in [true, false] {
            let mut want = sorted(&sums);
            want.truncate(k);
            if !is_sorted {
                want.sort_unstable();
            }
            let (mut values, mut indices) = (vec![0.0; k], vec![0; k]);
            let top = Top { values: &mut values, indices: &mut indices, width: k };
            product_top_k(Isa::detected(), &Serial, &rows_a, &rows_b, k, is_sorted, top).unwrap();
            prop_assert!(want.iter().map(|i| *i as i64).eq(indices.iter().copied()));
            prop_assert!(want.iter().map(|&i| sums[i]).eq(values.iter().copied()));
        }
    }

    /// Whole numbers, whose products have no rounding.
    #[test]
    fn tucker_scores_are_those_of_all_pairs(
        (na, nb, rank) in (1usize..40, 1usize..40, 1usize..4), share in 0.0f64..=1.0, seed in any::<u64>(),
    ) {
        let whole = |n: usize, seed: u64| row(n, 1, seed);
        let (a, b, core) = (whole(rank * na, seed), whole(rank * nb, seed ^ 1), whole(rank * rank, seed ^ 2));
        let score = |i: usize, j: usize| -> f32 {
            let pairs = (0..rank).flat_map(|r| (0..rank).map(move |s| (r, s)));
            pairs.map(|(r, s)| a[r * na + i] * core[r * rank + s] * b[s * nb + j]).sum()
        };
        let grid: Vec<f32> = (0..na * nb).map(|pair| score(pair / nb, pair % nb)).collect();
        let k = (share * grid.len() as f64) as usize;
        let mut want = sorted(&grid);
        want.truncate(k);
        let (rows_a, rows_b) = (Rows::even(&a, 1, a.len()).unwrap(), Rows::even(&b, 1, b.len()).unwrap());
        let mut first = None;
        for isa in Isa::available() {
            let (mut values, mut indices) = (vec![0.0; k], vec![0; k]);
            let top = Top { values: &mut values, indices: &mut indices, width: k };
            let core = TuckerCore { data: &core, rank };
            tucker_top_k(isa, &Serial, &rows_a, &rows_b, core, k, true, top).unwrap();
            prop_assert!(want.iter().map(|i| *i as i64).eq(indices.iter().copied()));
            prop_assert_eq!(first.get_or_insert(values.clone()), &values);
        }
    }

    #[test]
    fn blocks_are_chosen_by_their_maximum(
        length in 1usize..700, block in 1usize..70, kind in 0u32..10, share in 0.0f64..=1.0, seed in any::<u64>(),
    ) {
        let row = row(length, kind, seed);
        let greatest = |block: &[f32]| block.iter().copied().max_by_key(|x| key::key(*x)).unwrap();
        let maxima: Vec<f32> = row.chunks(block).map(greatest).collect();
        let k = (share * maxima.len() as f64) as usize;
        let mut want = sorted(&maxima);
        want.truncate(k);
        let rows = Rows::even(&row, 1, length).unwrap();
        for isa in Isa::available() {
            let (mut values, mut indices) = (vec![0.0; k], vec![0; k]);
            let top = Top { values: &mut values, indices: &mut indices, width: k };
            top_blocks(isa, &Serial, &rows, block, k, true, top).unwrap();
            prop_assert!(want.iter().map(|i| *i as i64).eq(indices.iter().copied()));
            prop_assert!(values.iter().zip(&want).all(|(x, &i)| key::key(*x) == key::key(maxima[i])));
        }
    }
}

#[test]
fn rows_do_not_depend_on_each_other_or_on_threads() {
    let lengths = [70_000, 0, 3, 500_000, 1, 40_000, 65_536];
    let mut offsets = vec![0i64];
    lengths.iter().for_each(|length| offsets.push(offsets.last().unwrap() + length));
    let data: Vec<f32> =
        (0..lengths.len()).flat_map(|i| row(lengths[i] as usize, i as u32, i as u64)).collect();
    let rows = Rows::ragged(&data, &offsets).unwrap();
    let counts = [64, 5, 2, 2048, 0, 7, 300];
    let run = |pool: &dyn Parallel| {
        let (mut values, mut indices) = (vec![0.0; 7 * 2048], vec![0; 7 * 2048]);
        let top = Top { values: &mut values, indices: &mut indices, width: 2048 };
        top_k(Isa::detected(), pool, &rows, Counts::Each(&counts), Order::default(), top).unwrap();
        indices
    };
    let serial = run(&Serial);
    assert_eq!(serial, run(&Rayon));
    for (i, &k) in counts.iter().enumerate() {
        let mut want = sorted(rows.row(i));
        want.truncate(k as usize);
        want.sort_unstable();
        let got = serial[i * 2048..(i + 1) * 2048].iter().take_while(|at| **at >= 0);
        assert!(want.iter().map(|at| *at as i64).eq(got.copied()), "row {i}");
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let data = [1.0f32, 2.0, 3.0];
    let run = |rows: Result<Rows<'_, f32>>, counts: Counts<'_>| {
        let (mut values, mut indices) = ([0.0; 2], [0; 2]);
        let top = Top { values: &mut values, indices: &mut indices, width: 2 };
        top_k(Isa::detected(), &Serial, &rows?, counts, Order::default(), top).map(|()| indices)
    };
    let text = |outcome: Result<[i64; 2]>| outcome.unwrap_err().to_string();
    assert_eq!(run(Rows::even(&data, 1, 3), Counts::All(2)), Ok([1, 2]));
    assert_eq!(run(Rows::ragged(&data[..1], &[0, 1]), Counts::All(2)), Ok([0, -1]));
    assert_eq!(
        text(run(Rows::even(&data, 1, 3), Counts::All(4))),
        "k is 4, expected 0 to 3, the length of a row"
    );
    assert_eq!(
        text(run(Rows::even(&data, 1, 3), Counts::All(3))),
        "k is 3, expected at most 2, the places of a row"
    );
    assert!(text(run(Rows::even(&data, 1, 3), Counts::Each(&[-1]))).starts_with("k is -1"));
    assert!(text(run(Rows::even(&data, 1, 3), Counts::Each(&[1, 1]))).starts_with("k is 2"));
    assert!(text(run(Rows::even(&data, 2, 3), Counts::All(1))).starts_with("scores is 3"));
    for offsets in [&[0i64, 2] as &[i64], &[], &[1, 3], &[0, 4, 3], &[0, -1, 3]] {
        assert!(text(run(Rows::ragged(&data, offsets), Counts::All(1))).starts_with("offsets is"));
    }
}
