//! Brute force against the global maximum, and simulated texts against the promised bounds.

use proptest::prelude::*;

use super::*;
use crate::spec::Signals;

const ALONE: Others = Others { sequences: 0, rows: 0 };

fn staircase() -> CostCurve {
    let mut curve = CostCurve::default();
    for (rows, seconds) in
        [(1, 0.058), (2, 0.095), (3, 0.1), (16, 0.1), (24, 0.125), (32, 0.145), (64, 0.205)]
    {
        (0..3).for_each(|_| curve.observe(rows, seconds));
    }
    curve
}

fn rate(curve: &CostCurve, chains: &[Vec<f64>], lengths: &[usize]) -> f64 {
    let tokens: f64 = chains
        .iter()
        .zip(lengths)
        .map(|(chain, &length)| 1.0 + (1..=length).map(|k| chain[..k].iter().product::<f64>()).sum::<f64>())
        .sum();
    tokens / curve.seconds(chains.len() + lengths.iter().sum::<usize>()).unwrap()
}

fn brute_force(curve: &CostCurve, chains: &[Vec<f64>]) -> f64 {
    let mut best: f64 = 0.0;
    let mut lengths = vec![0; chains.len()];
    loop {
        best = best.max(rate(curve, chains, &lengths));
        let Some(digit) = (0..lengths.len()).find(|&i| lengths[i] < chains[i].len()) else { return best };
        lengths[digit] += 1;
        lengths[..digit].fill(0);
    }
}

fn best_lengths(curve: &CostCurve, chains: &[Vec<f64>]) -> Vec<usize> {
    let survivals: Vec<Vec<f64>> =
        chains.iter().map(|chain| (1..=chain.len()).map(|k| chain[..k].iter().product()).collect()).collect();
    let price = Price::new(curve, chains.len(), ALONE);
    best_nodes(price.plain, &survivals, |drafted| price.seconds(drafted))
        .into_iter()
        .map(|nodes| {
            assert!(nodes.iter().enumerate().all(|(index, &node)| index == node));
            nodes.len()
        })
        .collect()
}

/// The best rate over all sets of tokens that are closed under parents.
fn best_subtree(curve: &CostCurve, draft: Draft<'_>, survivals: &[f64]) -> f64 {
    (0u32..1 << draft.len())
        .filter(|set| {
            (0..draft.len()).all(|token| {
                set >> token & 1 == 0 || draft.parent(token).is_none_or(|parent| set >> parent & 1 == 1)
            })
        })
        .map(|set| {
            let gained: f64 =
                (0..draft.len()).map(|token| f64::from(set >> token & 1) * survivals[token]).sum();
            (1.0 + gained) / curve.seconds(1 + set.count_ones() as usize).unwrap()
        })
        .fold(0.0, f64::max)
}

proptest! {
    #[test]
    fn finds_the_best_subtree(
        tokens in prop::collection::vec((0.0f64..0.999, 0usize..9), 0..9),
        steps in prop::collection::vec((1usize..12, 0.01f64..0.3), 1..8),
    ) {
        let mut curve = CostCurve::default();
        steps.iter().for_each(|&(rows, seconds)| curve.observe(rows, seconds));
        let mut signals = Signals::default();
        tokens.iter().for_each(|&(confidence, _)| signals.push(0, 0, confidence as f32));
        let parents: Vec<i32> =
            tokens.iter().enumerate().map(|(index, &(_, parent))| (parent % (index + 1)) as i32 - 1).collect();
        let draft = Draft::new(&signals, Some(&parents)).unwrap();
        let mut gain = Gain::new(Settings { exploration: 0.0, ..Settings::default() }).unwrap();
        let survivals = draft.survivals(gain.estimates(draft).iter().map(|estimate| estimate.mean));
        let nodes = gain.choose(&curve, ALONE, &[draft]).remove(0);
        check_outcome(draft, &nodes, &[]).unwrap();
        let gained: f64 = nodes.iter().map(|&node| survivals[node]).sum();
        let got = (1.0 + gained) / curve.seconds(1 + nodes.len()).unwrap();
        let best = best_subtree(&curve, draft, &survivals);
        prop_assert!(got >= best * (1.0 - 1e-6), "{got} < {best} with {nodes:?}");
    }

    #[test]
    fn finds_the_global_maximum(
        chains in prop::collection::vec(prop::collection::vec(0.0f64..0.999, 0..6), 1..4),
        steps in prop::collection::vec((1usize..20, 0.01f64..0.3), 1..8),
    ) {
        let mut curve = CostCurve::default();
        steps.iter().for_each(|&(rows, seconds)| curve.observe(rows, seconds));
        let lengths = best_lengths(&curve, &chains);
        let (got, best) = (rate(&curve, &chains, &lengths), brute_force(&curve, &chains));
        prop_assert!(got >= best * (1.0 - 1e-6), "{} < {} with {:?}", got, best, lengths);
    }
}

#[test]
fn jumps_a_step_of_the_staircase_only_as_a_whole() {
    let curve = staircase();
    assert_eq!(best_lengths(&curve, &[vec![0.6]]), [0]);
    assert_eq!(best_lengths(&curve, &[vec![0.6; 15]]), [15]);
    assert_eq!(best_lengths(&curve, &[vec![0.3; 15]]), [0]);
}

#[test]
fn rows_go_to_the_sequences_that_are_likely_to_use_them() {
    let lengths = best_lengths(&staircase(), &[vec![0.95; 30], vec![0.1; 30], vec![]]);
    assert!(lengths[0] >= 12 && lengths[1] <= 1 && lengths[2] == 0, "{lengths:?}");
}

/// A pseudo-random number in 0..1, the same on every run.
fn noise(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 11) as f64 / (1u64 << 53) as f64
}

/// One step with a chain whose first `matching` tokens are right; returns verified and kept tokens.
fn step(
    gain: &mut Gain,
    curve: &CostCurve,
    signals: &Signals,
    matching: usize,
    told: bool,
) -> (usize, usize) {
    let draft = Draft::chain(signals);
    let chosen = gain.choose(curve, ALONE, &[draft]);
    let length = chosen[0].len();
    let accepted = matching.min(length);
    let next = match told {
        false => Next::Unknown,
        true if matching > length && length < signals.len() => Next::Token(length),
        true => Next::Other,
    };
    gain.observe(curve, ALONE, &[draft], &chosen, &[(0..accepted).collect()], &[next]).unwrap();
    (length, accepted)
}

/// Decodes at least `num_tokens` tokens with drafts whose tokens are accepted with probability
/// `acceptance` each; returns seconds a token over those of plain decoding, and of the best fixed
/// length. Nothing tells the rule about tokens that it did not verify unless `told`.
fn simulate(
    settings: Settings,
    acceptance: f64,
    match_length: u32,
    told: bool,
    num_tokens: usize,
) -> (f64, f64) {
    let curve = staircase();
    let mut gain = Gain::new(settings).unwrap();
    let mut signals = Signals::default();
    (0..15).for_each(|ahead| signals.push(match_length + ahead, 1, 0.5));
    let mut random = 7;
    let (mut tokens, mut seconds) = (0, 0.0);
    while tokens < num_tokens {
        let matching = (0..15).take_while(|_| noise(&mut random) < acceptance).count();
        let (length, accepted) = step(&mut gain, &curve, &signals, matching, told);
        tokens += accepted + 1;
        seconds += curve.seconds(1 + length).unwrap();
    }
    let plain = curve.seconds(1).unwrap();
    let best = 1.0 / brute_force(&curve, &[vec![acceptance; 15]]);
    (seconds / tokens as f64 / plain, seconds / tokens as f64 / best)
}

#[test]
fn useless_drafts_cost_at_most_two_percent() {
    for told in [false, true] {
        for match_length in [1, 3, 4, 6, 12, 40] {
            for acceptance in [0.0, 0.1, 0.2, 0.25] {
                let (overhead, _) = simulate(Settings::default(), acceptance, match_length, told, 400);
                assert!(overhead <= 1.02, "{overhead} at {acceptance}, match {match_length}, told {told}");
            }
        }
    }
}

#[test]
fn good_drafts_are_used_almost_as_well_as_if_their_acceptance_were_known() {
    for match_length in [1, 3, 12, 40] {
        for acceptance in [0.8, 0.9, 0.98] {
            let (_, regret) = simulate(Settings::default(), acceptance, match_length, true, 2000);
            assert!(regret <= 1.05, "{regret} at {acceptance}, match {match_length}");
        }
    }
}

#[test]
fn good_drafts_that_look_bad_at_first_are_found_without_being_told() {
    for match_length in [1, 2] {
        let (_, regret) = simulate(Settings::default(), 0.95, match_length, false, 20_000);
        assert!(regret <= 1.1, "{regret} at match {match_length}");
    }
}

#[test]
fn a_pause_ends_soon_once_the_next_tokens_agree() {
    let curve = staircase();
    let mut gain = Gain::new(Settings::default()).unwrap();
    let mut signals = Signals::default();
    (0..15).for_each(|_| signals.push(40, 1, 0.5));
    let mut decode = |steps: usize, matching: usize, told: bool| -> usize {
        (0..steps).filter(|_| step(&mut gain, &curve, &signals, matching, told).0 > 0).count()
    };
    assert!(decode(40, 0, true) < 10);
    assert!(decode(40, 15, true) > 25);
}

#[test]
fn nothing_is_spent_without_a_curve_or_a_proposal() {
    let mut gain = Gain::new(Settings::default()).unwrap();
    let (mut signals, empty) = (Signals::default(), Signals::default());
    signals.push(90, 1, 0.9);
    assert_eq!(gain.choose(&CostCurve::default(), ALONE, &[Draft::chain(&signals)]), [[0; 0]]);
    assert_eq!(gain.choose(&staircase(), ALONE, &[Draft::chain(&empty); 2]), [[0; 0]; 2]);
    assert!(gain.choose(&staircase(), ALONE, &[]).is_empty());
}

#[test]
fn siblings_are_judged_by_the_one_that_was_kept() {
    let mut gain = Gain::new(Settings::default()).unwrap();
    let mut signals = Signals::default();
    [0.5, 0.4, 0.5].iter().for_each(|&confidence| signals.push(0, 0, confidence));
    let draft = Draft::new(&signals, Some(&[-1, -1, 1])).unwrap();
    let sum = |gain: &Gain| {
        let estimates = gain.estimates(draft);
        [estimates[0].mean, estimates[1].mean]
    };
    for _ in 0..60 {
        let next = [Next::Token(2)];
        gain.observe(&staircase(), ALONE, &[draft], &[vec![0, 1]], &[vec![1]], &next).unwrap();
    }
    let [first, second] = sum(&gain);
    assert!(first < 0.55 && second > 0.4 && first + second <= 1.0, "{first} {second}");
    assert!(gain.estimates(draft)[2].mean > 0.9);
}

#[test]
fn refuses_outcomes_that_cannot_be() {
    let mut gain = Gain::new(Settings::default()).unwrap();
    let mut signals = Signals::default();
    (0..3).for_each(|_| signals.push(3, 1, 0.9));
    let curve = staircase();
    let draft = Draft::new(&signals, Some(&[-1, 0, -1])).unwrap();
    let next = [Next::Unknown];
    let mut observe = |chosen: &[usize], path: &[usize]| {
        gain.observe(&curve, ALONE, &[draft], &[chosen.to_vec()], &[path.to_vec()], &next).is_ok()
    };
    assert!(observe(&[0, 1, 2], &[0, 1]) && observe(&[2], &[2]) && observe(&[], &[]));
    assert!(!observe(&[3], &[]) && !observe(&[1], &[]) && !observe(&[2, 0], &[]));
    assert!(!observe(&[0, 1], &[1]) && !observe(&[0], &[2]) && !observe(&[0, 2], &[0, 2]));
    assert!(gain.observe(&curve, ALONE, &[draft], &[vec![]], &[], &next).is_err());
    assert!(Draft::new(&signals, Some(&[-1])).is_err());
    assert!(Draft::new(&signals, Some(&[-1, 1, 0])).is_err());
    assert!(Gain::new(Settings { exploration: 1.0, ..Settings::default() }).is_err());
    assert!(Gain::new(Settings { memory: 0.0, ..Settings::default() }).is_err());
}

/// Free up to 31 rows, and twice as dear from 32 on.
fn jump() -> CostCurve {
    let mut curve = CostCurve::default();
    for (rows, seconds) in [(1, 0.1), (31, 0.1), (32, 0.2), (64, 0.2)] {
        (0..3).for_each(|_| curve.observe(rows, seconds));
    }
    curve
}

#[test]
fn a_sequence_beside_others_drafts_as_in_a_batch_of_all() {
    let settings = Settings { exploration: 0.0, ..Settings::default() };
    let mut signals = Signals::default();
    (0..6).for_each(|_| signals.push(9, 3, 0.9));
    let (own, none) = (Draft::chain(&signals), Signals::default());
    for count in [1, 2, 8, 27, 30, 31, 40] {
        let [mut alone, mut batch] = [(); 2].map(|()| Gain::new(settings).unwrap());
        for accepted in [6, 6, 0, 0, 0, 0, 6] {
            let others = Others { sequences: count, rows: 0 };
            let beside = alone.choose(&jump(), others, &[own]);
            let mut drafts = vec![own];
            drafts.resize(1 + count, Draft::chain(&none));
            let together = batch.choose(&jump(), ALONE, &drafts);
            assert_eq!(beside[0], together[0], "beside {count}");
            let paths = vec![(0..accepted.min(beside[0].len())).collect::<Vec<_>>()];
            alone.observe(&jump(), others, &[own], &beside, &paths, &[Next::Other]).unwrap();
            let mut all_paths = paths;
            all_paths.resize(1 + count, Vec::new());
            batch
                .observe(&jump(), ALONE, &drafts, &together, &all_paths, &vec![Next::Other; 1 + count])
                .unwrap();
        }
    }
    let mut gain = Gain::new(settings).unwrap();
    assert_eq!(gain.choose(&jump(), ALONE, &[own])[0].len(), 6);
    let full = Others { sequences: 30, rows: 0 };
    assert_eq!(gain.choose(&jump(), full, &[own])[0].len(), 0);
    let past = Others { sequences: 4, rows: 40 };
    assert_eq!(gain.choose(&jump(), past, &[own])[0].len(), 6, "past the jump a row is free again");
}
