//! Laws, draws and verdicts do not depend on the instruction set or on the pool.

#![allow(clippy::unwrap_used)]

use half::bf16;
use hornbeam_core::ops::logits::{Logits, Row};
use hornbeam_core::ops::sample::coupled;
use hornbeam_core::ops::verify::{Parameters, Verdict, Verification, max_depth, rule, verify};
use hornbeam_core::ops::warp::{Counts, Law, Warp, Warper};
use hornbeam_core::parallel::{Parallel, Rayon, Serial};
use hornbeam_core::rng::Stream;
use hornbeam_core::simd::Isa;
use proptest::prelude::*;

fn warps() -> Vec<Warp> {
    let make = |t: f64, k, p, m| {
        let warp = Warp::default().with_temperature(t).unwrap().with_top_k(k).unwrap();
        warp.with_top_p(p).unwrap().with_min_p(m).unwrap()
    };
    vec![
        make(0.0, None, None, None),
        make(1.0, None, None, None),
        make(0.7, Some(3), None, None),
        make(0.9, None, Some(0.8), None),
        make(1.3, None, None, Some(0.1)),
        make(0.8, Some(40), Some(0.9), Some(0.01)),
    ]
}

fn logit() -> impl Strategy<Value = f32> {
    prop_oneof![4 => -12.0f32..12.0, 2 => (-2i8..3).prop_map(f32::from), 1 => Just(f32::NEG_INFINITY)]
}

/// Weights by sorting, from the weights without cuts.
fn by_sorting(row: &[f32], full: &[f32], k: Option<usize>, p: Option<f64>, m: Option<f64>) -> Vec<f32> {
    let mut w = full.to_vec();
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
    order.iter().skip(k.unwrap_or(usize::MAX)).for_each(|&v| w[v] = 0.0);
    let limit = (p.unwrap_or(1.0) * w.iter().map(|&x| x as u64).sum::<u64>() as f64).ceil() as u64;
    let kept = w.clone();
    order.sort_by(|&a, &b| kept[b].total_cmp(&kept[a]).then(a.cmp(&b)));
    let mut before = 0;
    for &v in &order {
        if before >= limit {
            w[v] = 0.0;
        }
        before += kept[v] as u64;
    }
    let lowest = m.unwrap_or(0.0) * 2f64.powi(40);
    w.iter_mut().filter(|x| f64::from(**x) < lowest).for_each(|x| *x = 0.0);
    w
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn cuts_agree_with_sorting(
        row in prop::collection::vec(logit(), 1..700),
        k in prop::option::of(1usize..700),
        p in prop::option::of(0.01f64..1.0),
        m in prop::option::of(0.0f64..1.0),
    ) {
        prop_assume!(row.iter().any(|x| x.is_finite()));
        let (mut warper, counts) = (Warper::default(), Counts::default());
        let (mut full, mut cut) = (Law::default(), Law::default());
        let plain = Warp::default().with_temperature(0.9).unwrap();
        let warp = plain.clone().with_top_k(k).unwrap().with_top_p(p).unwrap().with_min_p(m).unwrap();
        let isa = Isa::detected();
        warper.warp(isa, Row::F32(&row), &plain, &counts, &mut full).unwrap();
        warper.warp(isa, Row::F32(&row), &warp, &counts, &mut cut).unwrap();
        let want = by_sorting(&row, full.weights(), k, p, m);
        let got: Vec<f32> = (0..row.len()).map(|v| cut.weight(v as i64)).collect();
        prop_assert_eq!(&got, &want);
        prop_assert_eq!(cut.total(), want.iter().map(|&w| w as u64).sum::<u64>());
    }

    #[test]
    fn instruction_sets_agree(row in prop::collection::vec(logit(), 1..600), seed: u64) {
        prop_assume!(row.iter().any(|x| x.is_finite()));
        let narrow: Vec<bf16> = row.iter().map(|&x| bf16::from_f32(x)).collect();
        let mut warper = Warper::default();
        for warp in warps() {
            for row in [Row::F32(&row), Row::Bf16(&narrow)] {
                let mut seen = None;
                for isa in Isa::available() {
                    let mut law = Law::default();
                    warper.warp(isa, row, &warp, &Counts::default(), &mut law).unwrap();
                    let token = coupled(isa, &law, &Stream::new(seed, 1), 7);
                    let now = (law.ids().to_vec(), law.weights().to_vec(), law.total(), token);
                    prop_assert_eq!(seen.get_or_insert_with(|| now.clone()), &now);
                }
            }
        }
    }
}

#[test]
fn verdicts_agree() {
    let wide = 30_000;
    let parents: Vec<i32> = [-1, -1, 0, 0, 1, 2, 2, -1, 3, 5].repeat(2);
    let tokens: Vec<i64> = (0..20).map(|i| i * i % 7).collect();
    // Wide enough for sequences to run in parallel; seven tokens hold nearly all the mass.
    let spread = |shift: usize| -> Vec<f32> {
        let row =
            |r: usize| move |v: usize| ((v * 5 + r * 3 + shift) % 7) as f32 * 0.4 - (v / 7).min(30) as f32;
        (0..22).flat_map(|r| (0..wide).map(row(r))).collect()
    };
    let (target, draft) = (spread(0), spread(2));
    let logits = |data| Logits::new(Row::F32(data), 22, wide, wide).unwrap();
    let warp = Warp::default();
    let depth = max_depth(&parents, &[0, 10, 20]).unwrap();
    let mut most = 0;
    for name in ["with_replacement", "without_replacement", "target_only", "coupled"] {
        for seed in 0..4 {
            let given = Verification {
                tokens: &tokens,
                parents: &parents,
                offsets: &[0, 10, 20],
                target: logits(&target),
                draft: Some(logits(&draft)),
                rule: rule(name, Parameters::default()).unwrap(),
                warps: &[&warp],
                draft_warps: &[&warp],
                seed,
                sequences: None,
                positions: Some(&[3, 8]),
                histories: None,
                reads: None,
            };
            let mut seen = None;
            for isa in Isa::available() {
                for pool in [&Serial as &dyn Parallel, &Rayon] {
                    let (mut accepted, mut count, mut next) = (vec![0; 2 * depth], [0; 2], [0; 2]);
                    let verdict =
                        Verdict { accepted: &mut accepted, num_accepted: &mut count, next_token: &mut next };
                    verify(isa, pool, &given, verdict).unwrap();
                    most = most.max(count[0]);
                    let now = (accepted, count, next);
                    assert_eq!(seen.get_or_insert_with(|| now.clone()), &now);
                }
            }
        }
    }
    assert!(most > 0, "nothing was ever accepted");
}
