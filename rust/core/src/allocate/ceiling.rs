//! REBASE's proportional split (Wu et al. 2024, arXiv 2408.00724, section 3.2).

use super::scratch::Scratch;

/// Shares `total` out in proportion to `weights`: from the greatest weight down each gets the ceiling of its share of
/// what is left, so that the shares sum to `total` and the last ones may get nothing.
///
/// The authors' code runs this in f32, where the sum may come out as one more, or a division by zero ends it; here
/// it is on integers. Weights that are all zero count as equal. Equal weights: the lowest index first (the authors':
/// the newest first).
pub fn by_ceiling(total: u64, weights: &[u64], scratch: &mut Scratch, out: &mut [u64]) {
    out.fill(0);
    let mut sum: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    let is_flat = sum == 0;
    if is_flat {
        sum = weights.len() as u128;
    }
    let mut left = u128::from(total);
    for &index in scratch.sorted(weights.len(), |a, b| weights[b].cmp(&weights[a])) {
        let weight = if is_flat { 1 } else { u128::from(weights[index as usize]) };
        if left == 0 || sum == 0 {
            break;
        }
        let share = (left * weight).div_ceil(sum);
        out[index as usize] = share as u64;
        left -= share;
        sum -= weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(total: u64, weights: &[u64]) -> Vec<u64> {
        let mut out = vec![0; weights.len()];
        by_ceiling(total, weights, &mut Scratch::default(), &mut out);
        out
    }

    #[test]
    fn the_greatest_is_rounded_up_first() {
        assert_eq!(shares(4, &[1, 1, 1]), [2, 1, 1]);
        assert_eq!(shares(16, &[10, 30, 60]), [1, 5, 10]);
        assert_eq!(shares(2, &[0, 5, 0]), [0, 2, 0]);
        assert_eq!(shares(5, &[0, 0]), [3, 2]);
        assert_eq!(shares(0, &[3]), [0]);
        assert_eq!(shares(7, &[]), [0u64; 0]);
    }

    proptest! {
        #[test]
        fn sums_are_exact_and_follow_the_weights(
            weights in prop::collection::vec(0u64..=crate::allocate::WEIGHT_ONE, 1..40), total in 0u64..600,
        ) {
            let found = shares(total, &weights);
            prop_assert_eq!(found.iter().sum::<u64>(), total);
            for (a, weight) in weights.iter().enumerate() {
                for (b, other) in weights.iter().enumerate() {
                    if weight > other {
                        prop_assert!(found[a] >= found[b], "{:?} {:?}", weights, found);
                    }
                }
            }
        }

        /// The definition, with fractions of integers.
        #[test]
        fn is_the_definition(weights in prop::collection::vec(1u64..50, 1..6), total in 0u64..20) {
            let mut order: Vec<usize> = (0..weights.len()).collect();
            order.sort_by_key(|&i| (std::cmp::Reverse(weights[i]), i));
            let (mut left, mut sum) = (total, weights.iter().sum::<u64>());
            let mut want = vec![0; weights.len()];
            for i in order {
                want[i] = (left * weights[i]).div_ceil(sum);
                left -= want[i];
                sum -= weights[i];
            }
            prop_assert_eq!(shares(total, &weights), want);
        }
    }
}
