//! The automaton against the definition: every substring, every occurrence, every successor.

use proptest::prelude::*;

use super::*;

fn build(text: &[u32]) -> Automaton {
    let mut automaton = Automaton::new();
    for &token in text {
        automaton.push(token).unwrap();
    }
    automaton
}

fn occurrences(text: &[u32], pattern: &[u32]) -> Vec<usize> {
    (pattern.len()..=text.len())
        .filter(|&stop| &text[stop - pattern.len()..stop] == pattern)
        .map(|stop| stop - 1)
        .collect()
}

fn walk(automaton: &Automaton, pattern: &[u32]) -> Option<u32> {
    pattern.iter().try_fold(ROOT, |state, &token| automaton.step(state, token))
}

proptest! {
    #[test]
    fn spells_exactly_the_substrings(
        text in prop::collection::vec(0u32..3, 0..40),
        pattern in prop::collection::vec(0u32..3, 1..6),
    ) {
        let automaton = build(&text);
        prop_assert_eq!(walk(&automaton, &pattern).is_some(), !occurrences(&text, &pattern).is_empty());
    }

    #[test]
    fn matches_the_longest_earlier_suffix(text in prop::collection::vec(0u32..3, 0..60)) {
        let automaton = build(&text);
        let expected = (0..text.len())
            .rev()
            .find(|&length| {
                let suffix = &text[text.len() - length..];
                length == 0 || occurrences(&text, suffix).len() > 1
            })
            .unwrap_or(0);
        prop_assert_eq!(automaton.length(automaton.matched()) as usize, expected);
    }

    #[test]
    fn marks_every_occurrence_that_has_a_successor(text in prop::collection::vec(0u32..4, 2..60)) {
        let automaton = build(&text);
        for start in 0..text.len() {
            for stop in start + 1..text.len() {
                let pattern = &text[start..stop];
                let state = walk(&automaton, pattern).unwrap();
                let mut ends = occurrences(&text, pattern);
                ends.retain(|&end| end + 1 < text.len());
                prop_assert_eq!(automaton.count(state) as usize, ends.len());
                prop_assert_eq!(Some(&automaton.latest_end(state)), ends.last());
            }
        }
    }

    #[test]
    fn a_majority_successor_is_the_likely_one(text in prop::collection::vec(0u32..3, 2..60)) {
        let automaton = build(&text);
        for start in 0..text.len() - 1 {
            let pattern = &text[start..=start];
            let state = walk(&automaton, pattern).unwrap();
            let mut successors = [0usize; 3];
            for end in occurrences(&text, pattern).into_iter().filter(|end| end + 1 < text.len()) {
                successors[text[end + 1] as usize] += 1;
            }
            let total: usize = successors.iter().sum();
            if let Some(best) = (0..3).find(|&token| successors[token] * 2 > total) {
                let likely = automaton.likely_successor(state).map(|(token, _)| token);
                prop_assert_eq!(likely, Some(best as u32));
            }
        }
    }

    #[test]
    fn states_and_edges_stay_within_the_theory(text in prop::collection::vec(0u32..5, 3..400)) {
        let automaton = build(&text);
        let inline = automaton.states.iter().filter(|state| state.target != NONE).count();
        prop_assert!(automaton.states.len() <= 2 * text.len());
        prop_assert!(inline + automaton.edges.len() <= 3 * text.len());
        for (number, state) in automaton.states.iter().enumerate().skip(1) {
            prop_assert!(automaton.length(state.link) < state.length);
            if state.target != NONE {
                prop_assert_eq!(automaton.step(number as u32, state.token), Some(state.target));
            }
        }
        for edge in automaton.edges.iter() {
            prop_assert_eq!(automaton.step(edge.source, edge.token), Some(edge.target));
        }
    }
}

#[test]
fn a_large_alphabet_and_a_constant_text_stay_linear() {
    let wide = build(&(0..20_000).map(|i| i % 7_000).collect::<Vec<_>>());
    assert!(wide.edges.len() < 20_000);
    let constant = build(&[5; 20_000]);
    assert_eq!(constant.length(constant.matched()), 19_999);
}
