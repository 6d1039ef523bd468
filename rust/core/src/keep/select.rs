//! From scores and a budget to the kept indices of one plane.

/// Tokens that are kept whatever their score. They count against the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Protect {
    /// Tokens from the start.
    pub sinks: u32,
    /// Tokens from the end.
    pub recent: u32,
    /// Where a plane's budget in percent exceeds `recent`, that many tokens from the end.
    pub recent_percent: u32,
}

impl Protect {
    /// How many tokens of the start, and of the end, a plane keeps outright. Where the budget does
    /// not hold all of them the newest come first, then the sinks.
    pub fn resolve(&self, num_tokens: usize, budget: usize) -> (usize, usize) {
        let room = budget.min(num_tokens);
        let recent = (self.recent as usize).max(room * self.recent_percent as usize / 100).min(room);
        ((room - recent).min(self.sinks as usize), recent)
    }

    /// The least that a plane needs to keep what is protected outright.
    pub fn floor(&self, num_tokens: usize) -> usize {
        (self.sinks as usize + self.recent as usize).min(num_tokens)
    }
}

/// Maps scores to integers in the same order: NaN lowest, then -inf; -0 equals 0.
#[inline(always)]
pub fn order(score: f32) -> u32 {
    if score.is_nan() {
        return 0;
    }
    let bits = (score + 0.0).to_bits();
    // A negative number's bits fall with the number, a positive number's rise.
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// The kept indices of one plane, ascending.
///
/// Protected tokens are kept. Those between them form units of `unit` tokens, the last one
/// possibly shorter; whole units are taken by their greatest score, ties by lowest index, as long
/// as the budget holds the next one. With `unit = 1` exactly `min(budget, scores.len())` tokens
/// are kept, with longer ones at most that many.
pub fn select(scores: &[f32], budget: usize, unit: usize, protect: Protect) -> Vec<u32> {
    let n = scores.len();
    if budget >= n {
        return (0..n as u32).collect();
    }
    let (sinks, recent) = protect.resolve(n, budget);
    let unit = unit.max(1);
    let middle = &scores[sinks..n - recent];
    let room = (budget - sinks - recent) / unit;
    let mut ranked: Vec<u64> = middle
        .chunks(unit)
        .enumerate()
        .map(|(index, unit)| {
            let best = unit.iter().map(|&s| order(s)).max().unwrap_or(0);
            u64::from(!best) << 32 | index as u64
        })
        .collect();
    if room < ranked.len() {
        if room > 0 {
            ranked.select_nth_unstable(room - 1);
        }
        ranked.truncate(room);
    }
    ranked.sort_unstable_by_key(|rank| *rank as u32);
    let mut kept: Vec<u32> = (0..sinks as u32).collect();
    for rank in ranked {
        let begin = rank as u32 as usize * unit;
        kept.extend((begin..(begin + unit).min(middle.len())).map(|i| (sinks + i) as u32));
    }
    kept.extend((n - recent) as u32..n as u32);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BARE: Protect = Protect { sinks: 0, recent: 0, recent_percent: 0 };

    #[test]
    fn ties_go_to_the_lowest_index_and_nan_is_last() {
        let scores = [1.0, f32::NAN, 2.0, 1.0, f32::NEG_INFINITY, 1.0, -0.0, 0.0];
        assert_eq!(select(&scores, 3, 1, BARE), [0, 2, 3]);
        assert_eq!(select(&scores, 5, 1, BARE), [0, 2, 3, 5, 6]);
        assert_eq!(select(&scores, 7, 1, BARE), [0, 2, 3, 4, 5, 6, 7]);
        assert_eq!(select(&scores, 0, 1, BARE), []);
        assert_eq!(select(&[], 3, 1, BARE), []);
    }

    #[test]
    fn the_newest_are_protected_before_the_sinks() {
        let protect = Protect { sinks: 2, recent: 2, recent_percent: 0 };
        let scores = [0.0, 0.0, 9.0, 8.0, 0.0, 0.0];
        assert_eq!(select(&scores, 1, 1, protect), [5]);
        assert_eq!(select(&scores, 3, 1, protect), [0, 4, 5]);
        assert_eq!(select(&scores, 5, 1, protect), [0, 1, 2, 4, 5]);
        let half = Protect { recent_percent: 50, ..BARE };
        assert_eq!(select(&scores, 4, 1, half), [2, 3, 4, 5]);
    }

    #[test]
    fn units_are_kept_whole() {
        let scores = [0.0, 1.0, 5.0, 5.0, 3.0, 3.0, 9.0];
        assert_eq!(select(&scores, 5, 2, Protect { recent: 1, ..BARE }), [2, 3, 4, 5, 6]);
        assert_eq!(select(&scores, 4, 2, Protect { recent: 1, ..BARE }), [2, 3, 6]);
    }

    proptest! {
        #[test]
        fn kept_is_a_sorted_stable_top_k(
            scores in prop::collection::vec(-3i8..3, 0..60), budget in 0usize..70,
            sinks in 0u32..5, recent in 0u32..5,
        ) {
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            let protect = Protect { sinks, recent, recent_percent: 0 };
            let kept = select(&scores, budget, 1, protect);
            let n = scores.len();
            prop_assert_eq!(kept.len(), budget.min(n));
            prop_assert!(kept.windows(2).all(|pair| pair[0] < pair[1]));
            let (sinks, recent) = protect.resolve(n, budget);
            let mut rest: Vec<usize> = (sinks..n - recent).collect();
            rest.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
            let mut want: Vec<usize> = (0..sinks).chain(n - recent..n).collect();
            want.extend(&rest[..budget.min(n) - sinks - recent]);
            want.sort_unstable();
            prop_assert!(kept.iter().map(|i| *i as usize).eq(want));
        }
    }
}
