//! Brute force against the global maximum, and simulated texts against the promised bounds.

use proptest::prelude::*;

use super::*;

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

proptest! {
    #[test]
    fn finds_the_global_maximum(
        chains in prop::collection::vec(prop::collection::vec(0.0f64..0.999, 0..6), 1..4),
        steps in prop::collection::vec((1usize..20, 0.01f64..0.3), 1..8),
    ) {
        let mut curve = CostCurve::default();
        steps.iter().for_each(|&(rows, seconds)| curve.observe(rows, seconds));
        let choice = best_lengths(&curve, &chains);
        let (got, best) = (rate(&curve, &chains, &choice.lengths), brute_force(&curve, &chains));
        prop_assert!(got >= best * (1.0 - 1e-6), "{} < {} with {:?}", got, best, choice.lengths);
        prop_assert_eq!(choice.lengths.iter().sum::<usize>(), choice.num_tokens);
    }
}

#[test]
fn jumps_a_step_of_the_staircase_only_as_a_whole() {
    let curve = staircase();
    assert_eq!(best_lengths(&curve, &[vec![0.6]]).lengths, [0]);
    assert_eq!(best_lengths(&curve, &[vec![0.6; 15]]).lengths, [15]);
    assert_eq!(best_lengths(&curve, &[vec![0.3; 15]]).lengths, [0]);
}

#[test]
fn rows_go_to_the_sequences_that_are_likely_to_use_them() {
    let lengths = best_lengths(&staircase(), &[vec![0.95; 30], vec![0.1; 30], vec![]]).lengths;
    assert!(lengths[0] >= 12 && lengths[1] <= 1 && lengths[2] == 0, "{lengths:?}");
}

/// A pseudo-random number in 0..1, the same on every run.
fn noise(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 11) as f64 / (1u64 << 53) as f64
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
        let lengths = gain.choose(&curve, &[&signals]);
        let matching = (0..15).take_while(|_| noise(&mut random) < acceptance).count();
        let accepted = matching.min(lengths[0]);
        let agreed = told.then_some(matching > lengths[0]);
        gain.observe(&curve, &[&signals], &lengths, &[accepted], &[agreed]).unwrap();
        tokens += accepted + 1;
        seconds += curve.seconds(1 + lengths[0]).unwrap();
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
        (0..steps)
            .filter(|_| {
                let length = gain.choose(&curve, &[&signals])[0];
                let agreed = told.then_some(matching > length);
                gain.observe(&curve, &[&signals], &[length], &[matching.min(length)], &[agreed]).unwrap();
                length > 0
            })
            .count()
    };
    assert!(decode(40, 0, true) < 10);
    assert!(decode(40, 15, true) > 25);
}

#[test]
fn nothing_is_spent_without_a_curve_or_a_proposal() {
    let mut gain = Gain::new(Settings::default()).unwrap();
    let mut signals = Signals::default();
    signals.push(90, 1, 0.9);
    assert_eq!(gain.choose(&CostCurve::default(), &[&signals]), [0]);
    assert_eq!(gain.choose(&staircase(), &[&Signals::default(), &Signals::default()]), [0, 0]);
    assert!(gain.choose(&staircase(), &[]).is_empty());
}

#[test]
fn refuses_outcomes_that_cannot_be() {
    let mut gain = Gain::new(Settings::default()).unwrap();
    let mut signals = Signals::default();
    signals.push(3, 1, 0.9);
    let curve = staircase();
    assert!(gain.observe(&curve, &[&signals], &[2], &[0], &[None]).is_err());
    assert!(gain.observe(&curve, &[&signals], &[1], &[2], &[None]).is_err());
    assert!(gain.observe(&curve, &[&signals], &[1], &[], &[None]).is_err());
    assert!(Gain::new(Settings { exploration: 1.0, ..Settings::default() }).is_err());
    assert!(Gain::new(Settings { memory: 0.0, ..Settings::default() }).is_err());
}
