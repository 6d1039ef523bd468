//! As much as pays: the greatest rate of gain over time.

/// How many candidates to take, the first ones of a list whose gains fall, so that `(base + their gains) / seconds(how
/// many)` is greatest; ties, and what differs by less than a billionth, go to fewer. What takes an unknown time has a
/// rate of 0.
pub fn by_rate(base: f64, gains: impl Iterator<Item = f64>, seconds: impl Fn(usize) -> Option<f64>) -> usize {
    let rate = |gained: f64, count| seconds(count).map_or(0.0, |seconds| gained / seconds);
    let (mut gained, mut best, mut best_rate) = (base, 0, rate(base, 0));
    for (index, gain) in gains.enumerate() {
        gained += gain;
        let rate = rate(gained, index + 1);
        if rate > best_rate * (1.0 + 1e-9) {
            (best, best_rate) = (index + 1, rate);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_other_count_has_a_greater_rate(
            base in 0.1f64..4.0, mut gains in prop::collection::vec(0.0f64..1.0, 0..12), fixed in 0.1f64..3.0, each in 0.0f64..1.0,
        ) {
            gains.sort_by(|a, b| b.total_cmp(a));
            let seconds = |count: usize| fixed + each * count as f64;
            let found = by_rate(base, gains.iter().copied(), |count| Some(seconds(count)));
            let rate = |count: usize| (base + gains[..count].iter().sum::<f64>()) / seconds(count);
            for count in 0..=gains.len() {
                prop_assert!(rate(count) <= rate(found) * (1.0 + 1e-8));
            }
        }
    }

    #[test]
    fn what_is_not_known_is_not_worth_it() {
        assert_eq!(by_rate(1.0, [1.0, 1.0].into_iter(), |_| None), 0);
        assert_eq!(by_rate(1.0, [1.0, 1.0].into_iter(), |_| Some(1.0)), 2);
        assert_eq!(by_rate(1.0, [0.0, 0.0].into_iter(), |_| Some(1.0)), 0);
        assert_eq!(by_rate(1.0, [1.0].into_iter(), |count| (count == 0).then_some(1.0)), 0);
    }
}
