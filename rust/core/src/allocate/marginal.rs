//! One unit after the other, each where it brings most.

/// Gives out at most `total` units, one at a time, to the candidate whose next unit brings most; stops where none
/// brings anything. Where the gains of a candidate never rise this is the best that there is.
///
/// `gain(i, k)` is what unit `k` (from 0) brings to candidate `i`. No candidate gets more than its cap. Returns how
/// many units were given. Equal gains: the lowest index.
pub fn by_marginal_gain(
    total: u64,
    caps: &[u64],
    mut gain: impl FnMut(usize, u64) -> f64,
    next: &mut Vec<f64>,
    out: &mut [u64],
) -> u64 {
    out.fill(0);
    next.clear();
    next.extend((0..caps.len()).map(|i| if caps[i] == 0 { f64::NEG_INFINITY } else { gain(i, 0) }));
    for given in 0..total {
        let mut best = 0;
        for i in 1..next.len() {
            if next[i] > next[best] {
                best = i;
            }
        }
        match next.get(best) {
            Some(&gained) if gained > 0.0 => {}
            _ => return given,
        }
        out[best] += 1;
        next[best] = if out[best] == caps[best] { f64::NEG_INFINITY } else { gain(best, out[best]) };
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All ways to give out at most `total` units.
    fn best(total: u64, gains: &[Vec<u32>]) -> u32 {
        match gains.split_first() {
            None => 0,
            Some((first, rest)) => (0..=first.len().min(total as usize))
                .map(|k| first[..k].iter().sum::<u32>() + best(total - k as u64, rest))
                .max()
                .unwrap_or(0),
        }
    }

    proptest! {
        #[test]
        fn is_the_best_where_gains_never_rise(
            mut gains in prop::collection::vec(prop::collection::vec(0u32..9, 0..5), 0..5), total in 0u64..12,
        ) {
            gains.iter_mut().for_each(|own| own.sort_unstable_by(|a, b| b.cmp(a)));
            let caps: Vec<u64> = gains.iter().map(|own| own.len() as u64).collect();
            let mut out = vec![9; gains.len()];
            let gain = |i: usize, k: u64| f64::from(gains[i][k as usize]);
            let given = by_marginal_gain(total, &caps, gain, &mut Vec::new(), &mut out);
            prop_assert_eq!(given, out.iter().sum::<u64>());
            let found: u32 = gains.iter().zip(&out).map(|(own, k)| own[..*k as usize].iter().sum::<u32>()).sum();
            prop_assert_eq!(found, best(total, &gains));
        }
    }

    #[test]
    fn ties_go_to_the_lowest_index() {
        let mut out = [0; 3];
        by_marginal_gain(4, &[9, 9, 9], |_, k| 1.0 / (k + 1) as f64, &mut Vec::new(), &mut out);
        assert_eq!(out, [2, 1, 1]);
    }
}
