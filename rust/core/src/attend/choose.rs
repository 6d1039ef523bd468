//! The best of a row's pages: one exact choice behind one function.
//!
//! Candidates fall from the greatest score to the least, equal ones by index; one whose score is no number
//! comes first. What is chosen is the beginning of that order, as long as the rule says.

use super::rule::{Rule, Select};
use crate::ops::topk::Scratch as TopScratch;
use crate::simd::Isa;
use crate::simd::math::exp_scalar;

/// One, as the weight of a token with the greatest score: sums over 2^31 tokens stay below 2^64.
const WEIGHT_ONE: f32 = 4_294_967_296.0;

/// The candidates of one choice, a page each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidates<'a> {
    /// What each is worth; empty where the rule does not ask.
    pub(super) scores: &'a [f32],
    /// Tokens that each shows.
    pub(super) tokens: &'a [u32],
    /// Which are read in any case, one bit each.
    pub(super) forced: &'a [u64],
    /// That of the row's latest key, which is read in any case and has no part in estimates.
    pub(super) latest: Option<usize>,
}

impl Candidates<'_> {
    fn is_forced(&self, index: usize) -> bool {
        self.forced[index / 64] >> (index % 64) & 1 == 1
    }
}

/// What a choice needs beside its candidates.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Of candidates that are not forced: their place in the order, ascending from the best, and their index.
    order: Vec<u64>,
    weights: Vec<u64>,
    /// The scores of those.
    others: Vec<f32>,
    top: TopScratch,
}

/// Marks the candidates that are read: bit `i % 64` of `chosen[i / 64]` for candidate `i`.
pub(super) fn choose(
    isa: Isa,
    rule: &Rule,
    candidates: &Candidates<'_>,
    scratch: &mut Scratch,
    chosen: &mut [u64],
) {
    let count = candidates.tokens.len();
    chosen.copy_from_slice(candidates.forced);
    if rule.select == Select::None || count == 0 {
        return;
    }
    let forced = candidates.forced.iter().map(|word| word.count_ones() as usize).sum::<usize>();
    let cap = rule.cap.unwrap_or(usize::MAX).saturating_sub(forced);
    let floor = rule.floor.saturating_sub(forced);
    if let Select::TopK(pages) = rule.select {
        let wanted = pages.of(count).saturating_sub(forced).max(floor).min(cap).min(count - forced);
        return take(isa, candidates, wanted, scratch, chosen);
    }
    let order = &mut scratch.order;
    order.clear();
    let others = (0..count).filter(|&index| !candidates.is_forced(index));
    order.extend(others.map(|index| place(candidates.scores[index], index)));
    // Those that may come first: all of them, or those with enough mass, whatever their scores.
    let mut first = order.len();
    let wanted = match rule.select {
        Select::TopP(share) => {
            let total = weigh(candidates, &mut scratch.weights);
            let needed = (share * total as f64).ceil() as u64;
            let weights = &scratch.weights;
            let held = (0..count).filter(|&i| candidates.is_forced(i)).map(|i| weights[i]).sum::<u64>();
            shortest(order, needed.min(total).saturating_sub(held), |index| weights[index])
        }
        Select::Threshold(share) => {
            let total = weigh(candidates, &mut scratch.weights);
            let least = (share * total as f64).ceil() as u64;
            let enough = |key: &u64| scratch.weights[index_of(*key)] >= least.max(1);
            first = 0;
            for at in 0..order.len() {
                if enough(&order[at]) {
                    order.swap(first, at);
                    first += 1;
                }
            }
            first
        }
        Select::Elbow => elbow(candidates, order),
        Select::TopK(_) | Select::None => 0,
    };
    let wanted = wanted.max(floor).min(cap).min(order.len());
    let (begin, end) = if wanted > first { (first, order.len()) } else { (0, first) };
    if begin < wanted && wanted < end {
        order[begin..end].select_nth_unstable(wanted - begin);
    }
    for key in &order[..wanted] {
        let index = index_of(*key);
        chosen[index / 64] |= 1 << (index % 64);
    }
}

/// Marks the `wanted` best of those that are not forced.
fn take(isa: Isa, candidates: &Candidates<'_>, wanted: usize, scratch: &mut Scratch, chosen: &mut [u64]) {
    let others = &mut scratch.others;
    others.clear();
    for (forced, scores) in candidates.forced.iter().zip(candidates.scores.chunks(64)) {
        match forced {
            0 => others.extend_from_slice(scores),
            _ => others.extend((0..64).zip(scores).filter(|(i, _)| forced >> i & 1 == 0).map(|(_, x)| *x)),
        }
    }
    // The word that a place among the others falls into, and the first place and the free bits of it.
    let (mut word, mut first, mut free) = (0, 0, candidates.forced.first().map_or(0, |word| !word));
    for &at in scratch.top.select(isa, others, wanted, None) {
        while at - first >= free.count_ones() {
            first += free.count_ones();
            word += 1;
            free = !candidates.forced[word];
        }
        let mut left = free;
        if free == u64::MAX {
            left <<= at - first;
        } else {
            (first..at).for_each(|_| left &= left - 1);
        }
        chosen[word] |= left & left.wrapping_neg();
    }
}

/// A number by which the better candidate comes first, equal ones by index.
fn place(score: f32, index: usize) -> u64 {
    // Bits of floats in the order of the numbers; -0 is 0.
    let bits = if score.is_nan() { u32::MAX } else { ordered_bits(if score == 0.0 { 0.0 } else { score }) };
    u64::from(!bits) << 32 | index as u64
}

fn ordered_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

fn index_of(place: u64) -> usize {
    place as u32 as usize
}

/// The weight of each candidate: its tokens times the exponential of its score, in fixed point. Returns their sum.
fn weigh(candidates: &Candidates<'_>, weights: &mut Vec<u64>) -> u64 {
    let estimated =
        candidates.scores.iter().enumerate().filter(|(index, _)| Some(*index) != candidates.latest);
    let greatest = estimated.map(|(_, x)| *x).filter(|x| !x.is_nan()).fold(f32::NEG_INFINITY, f32::max);
    let shift = if greatest.is_finite() { greatest } else { 0.0 };
    weights.clear();
    weights.extend(candidates.scores.iter().zip(candidates.tokens).map(|(score, tokens)| {
        // One whose score is no number may be worth as much as any.
        let relative = if score.is_nan() { 0.0 } else { (score - shift).min(0.0) };
        (exp_scalar(relative) * WEIGHT_ONE) as u64 * u64::from(*tokens)
    }));
    weights.iter().sum()
}

/// The least number of candidates whose weights sum up to `needed`, the best first; all if they do not.
fn shortest(order: &mut [u64], mut needed: u64, weight: impl Fn(usize) -> u64) -> usize {
    let (mut begin, mut end) = (0, order.len());
    if needed == 0 {
        return 0;
    }
    // Every candidate before `begin` is in, and the answer lies in `begin + 1 ..= end`.
    while end - begin > 1 {
        let half = (end - begin) / 2;
        order[begin..end].select_nth_unstable(half);
        let sum: u64 = order[begin..begin + half].iter().map(|key| weight(index_of(*key))).sum();
        if sum >= needed {
            end = begin + half;
        } else {
            (begin, needed) = (begin + half, needed - sum);
        }
    }
    end
}

/// How many of `order` come before the elbow of all candidates but the latest, forced ones included.
fn elbow(candidates: &Candidates<'_>, order: &[u64]) -> usize {
    let estimated = (0..candidates.scores.len()).filter(|index| Some(*index) != candidates.latest);
    let mut all: Vec<u64> = estimated.map(|index| place(candidates.scores[index], index)).collect();
    all.sort_unstable();
    let score = |rank: usize| f64::from(candidates.scores[index_of(all[rank])]);
    let numbers = all.partition_point(|key| !candidates.scores[index_of(*key)].is_finite());
    let (first, last) = (numbers, all.len().max(1) - 1);
    let mut before = numbers;
    if last > first && score(first).is_finite() && score(last).is_finite() {
        let slope = (score(last) - score(first)) / (last - first) as f64;
        let mut farthest = 0.0;
        for rank in first..=last {
            let below = score(first) + slope * (rank - first) as f64 - score(rank);
            if below > farthest {
                (farthest, before) = (below, rank);
            }
        }
    }
    let limit = all.get(before).copied().unwrap_or(u64::MAX);
    order.iter().filter(|key| **key < limit).count()
}

#[cfg(test)]
mod tests {
    use super::super::rule::{Group, Pages};
    use super::*;
    use crate::ops::page_summary::Summary;
    use proptest::prelude::*;

    fn rule(select: Select, floor: usize, cap: Option<usize>) -> Rule {
        Rule {
            summary: Summary::Bounds,
            slack: 1.0,
            group: Group::Max,
            select,
            floor,
            cap,
            sinks: 0,
            window: 0,
        }
    }

    fn run(rule: &Rule, scores: &[f32], forced: u64) -> u64 {
        choice(rule, scores, forced, None)
    }

    fn choice(rule: &Rule, scores: &[f32], forced: u64, latest: Option<usize>) -> u64 {
        let mut tokens = vec![3; scores.len()];
        latest.into_iter().for_each(|latest| tokens[latest] = 0);
        let forced = [forced | latest.map_or(0, |latest| 1 << latest)];
        let candidates = Candidates { scores, tokens: &tokens, forced: &forced, latest };
        let mut scratch = Scratch::default();
        let each: Vec<u64> = Isa::available()
            .map(|isa| {
                let mut chosen = [0];
                choose(isa, rule, &candidates, &mut scratch, &mut chosen);
                chosen[0]
            })
            .collect();
        assert!(each.iter().all(|chosen| *chosen == each[0]));
        each[0]
    }

    /// Candidates from the best on, by the definition of the order.
    fn ranked(scores: &[f32]) -> Vec<usize> {
        let worth = |index: usize| if scores[index].is_nan() { f32::INFINITY } else { scores[index] };
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| {
            scores[*b].is_nan().cmp(&scores[*a].is_nan()).then(worth(*b).total_cmp(&(worth(*a) + 0.0)))
        });
        order
    }

    fn score() -> impl Strategy<Value = f32> {
        let odd = prop::sample::select(vec![0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-41]);
        prop_oneof![4 => -3.0f32..3.0, 4 => (-2i8..3).prop_map(f32::from), 1 => odd]
    }

    proptest! {
        #[test]
        fn the_best_are_taken_and_equal_ones_by_index(
            scores in prop::collection::vec(score(), 1..40), k in 1usize..12, forced: u64,
            floor in 0usize..9, cap in prop::option::of(9usize..15),
        ) {
            let forced = forced & ((1 << scores.len()) - 1) & 0x1111_1111_1111;
            let scores: Vec<f32> = scores.into_iter().map(|x| x + 0.0).collect();
            let mut want = forced;
            let count = |set: u64| set.count_ones() as usize;
            for index in ranked(&scores) {
                let enough = k.max(floor).min(cap.unwrap_or(usize::MAX));
                if count(want) < enough {
                    want |= 1 << index;
                }
            }
            let rule = rule(Select::TopK(Pages::Count(k)), floor, cap);
            prop_assert_eq!(run(&rule, &scores, forced), want);
        }

        #[test]
        fn the_fewest_that_hold_the_mass(
            scores in prop::collection::vec(-3.0f32..3.0, 1..30), share in 0.01f64..1.0,
        ) {
            let chosen = run(&rule(Select::TopP(share), 0, None), &scores, 0);
            let weight = |index: &usize| f64::from(scores[*index]).exp();
            let order = ranked(&scores);
            let total: f64 = order.iter().map(weight).sum();
            let fewest = (0..=order.len())
                .find(|n| order[..*n].iter().map(weight).sum::<f64>() >= share * total * (1.0 - 1e-6));
            let more = (0..=order.len())
                .find(|n| order[..*n].iter().map(weight).sum::<f64>() >= share * total * (1.0 + 1e-6));
            let count = chosen.count_ones() as usize;
            prop_assert!(fewest <= Some(count) && Some(count) <= more.or(Some(order.len())));
            let set = order[..count].iter().fold(0u64, |set, index| set | 1 << index);
            prop_assert_eq!(chosen, set);
        }
    }

    #[test]
    fn many_are_taken_across_words_whatever_is_forced() {
        let scores: Vec<f32> = (0..300).map(|i| (i * 7919 % 101) as f32).collect();
        let tokens = vec![1; scores.len()];
        // No word's, all of a word's, every third one's, and the last one's.
        let forced = [0, u64::MAX, 0x9249_2492_4924_9249, 0, 1 << 43];
        let candidates = Candidates { scores: &scores, tokens: &tokens, forced: &forced, latest: Some(299) };
        let count = |set: &[u64]| set.iter().map(|word| word.count_ones()).sum::<u32>();
        for k in [0, 87, 88, 100, 260, 300] {
            let mut want = forced;
            for index in ranked(&scores) {
                if count(&want) < k {
                    want[index / 64] |= 1 << (index % 64);
                }
            }
            let rule = rule(Select::TopK(Pages::Count(k as usize)), 0, None);
            for isa in Isa::available() {
                let mut chosen = [0; 5];
                choose(isa, &rule, &candidates, &mut Scratch::default(), &mut chosen);
                assert_eq!(chosen, want, "{k} {isa:?}");
            }
        }
    }

    #[test]
    fn an_elbow_is_where_the_curve_falls_lowest() {
        let elbow = |scores: &[f32]| run(&rule(Select::Elbow, 0, None), scores, 0);
        assert_eq!(elbow(&[1.0, 10.0, 0.9, 9.5, 0.8, 9.0]), 0b101010);
        // A straight line has none, nor have equal scores, nor has a single one.
        assert_eq!((elbow(&[3.0, 2.0, 1.0]), elbow(&[1.0; 9]), elbow(&[5.0])), (0, 0, 0));
        assert_eq!(run(&rule(Select::Elbow, 2, None), &[1.0; 9], 0), 0b11);
        assert_eq!(elbow(&[f32::NAN, 9.0, 1.0, 0.5]), 0b11);
    }

    #[test]
    fn the_latest_is_read_and_changes_nothing_else() {
        for select in [Select::TopP(0.6), Select::Threshold(0.2), Select::Elbow] {
            let choose =
                |latest: f32| choice(&rule(select, 0, None), &[3.0, 1.0, 2.5, 0.0, latest], 0, Some(4));
            assert_eq!(choose(9.0), choose(-9.0));
            assert_eq!((choose(9.0) >> 4, choose(f32::NAN)), (1, choose(0.0)));
        }
        assert_eq!(choice(&rule(Select::Elbow, 0, None), &[1.0], 0, Some(0)), 1);
    }

    #[test]
    fn thresholds_are_shares_of_all_mass() {
        let scores = [0.0, 2.0f32.ln(), 5.0f32.ln(), 2.0f32.ln()];
        let above = |share: f64| run(&rule(Select::Threshold(share), 0, None), &scores, 0);
        assert_eq!((above(0.51), above(0.49), above(0.19), above(0.09)), (0, 0b100, 0b1110, 0b1111));
        assert_eq!(run(&rule(Select::Threshold(0.19), 0, Some(2)), &scores, 0), 0b110);
        assert_eq!(run(&rule(Select::Threshold(0.9), 0, Some(2)), &scores, 0b1001), 0b1001);
    }
}
