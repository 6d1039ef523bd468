//! Exact proportional shares.

/// Shares `total` out in proportion to `weights`, no share below its floor or above its cap.
///
/// Where `total` does not hold the floors, it is shared in proportion to them instead; what it
/// holds beyond the caps is not shared out. Otherwise each share is its floor plus a part of the
/// rest in proportion to its weight; a share that reaches its cap stops there, and the others
/// share what it leaves. Fractions go to the largest remainders, ties to the lowest index. All
/// arithmetic is on integers. Weights that are all zero count as equal.
///
/// Floors must not exceed caps; the slices have one length.
pub fn apportion(total: u64, weights: &[u64], floors: &[u64], caps: &[u64]) -> Vec<u64> {
    let needed: u64 = floors.iter().sum();
    if total <= needed {
        return within(total, floors, floors);
    }
    let room: Vec<u64> = caps.iter().zip(floors).map(|(cap, floor)| cap - floor).collect();
    let rest = (total - needed).min(room.iter().sum());
    let mut shares = within(rest, weights, &room);
    shares.iter_mut().zip(floors).for_each(|(share, floor)| *share += floor);
    shares
}

/// Shares `total`, at most the sum of the caps, out.
fn within(total: u64, weights: &[u64], caps: &[u64]) -> Vec<u64> {
    let mut shares = vec![0u64; caps.len()];
    let mut rest = u128::from(total);
    let mut open: Vec<usize> = (0..caps.len()).filter(|&i| caps[i] > 0).collect();
    while rest > 0 && !open.is_empty() {
        let sum: u128 = open.iter().map(|&i| u128::from(weights[i])).sum();
        let weight = |i: usize| if sum == 0 { 1 } else { u128::from(weights[i]) };
        let sum = if sum == 0 { open.len() as u128 } else { sum };
        let full: Vec<usize> =
            open.iter().copied().filter(|&i| rest * weight(i) >= u128::from(caps[i]) * sum).collect();
        if full.is_empty() {
            let mut remainders: Vec<(u128, usize)> = Vec::with_capacity(open.len());
            let mut left = rest;
            for &i in &open {
                shares[i] = (rest * weight(i) / sum) as u64;
                left -= u128::from(shares[i]);
                remainders.push((rest * weight(i) % sum, i));
            }
            remainders.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
            remainders.iter().take(left as usize).for_each(|&(_, i)| shares[i] += 1);
            return shares;
        }
        for &i in &full {
            shares[i] = caps[i];
            rest -= u128::from(caps[i]);
        }
        open.retain(|i| !full.contains(i));
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fractions_go_to_the_largest_remainders() {
        assert_eq!(apportion(10, &[1, 1, 1], &[0; 3], &[10; 3]), [4, 3, 3]);
        assert_eq!(apportion(10, &[5, 3, 1], &[0; 3], &[10; 3]), [6, 3, 1]);
        assert_eq!(apportion(10, &[9, 1, 1], &[0; 3], &[4; 3]), [4, 3, 3]);
        assert_eq!(apportion(3, &[1, 1, 1], &[2, 2, 0], &[9; 3]), [2, 1, 0]);
        assert_eq!(apportion(7, &[0, 0, 0], &[0; 3], &[9; 3]), [3, 2, 2]);
        assert_eq!(apportion(7, &[0, 0, 1], &[0; 3], &[5; 3]), [1, 1, 5]);
        assert_eq!(apportion(99, &[1, 2], &[0; 2], &[5; 2]), [5, 5]);
        assert_eq!(apportion(5, &[], &[], &[]), []);
    }

    proptest! {
        #[test]
        fn shares_sum_exactly_within_their_bounds(
            items in prop::collection::vec((0u64..1 << 40, 0u64..20, 0u64..50), 0..12), total in 0u64..500,
        ) {
            let weights: Vec<u64> = items.iter().map(|i| i.0).collect();
            let floors: Vec<u64> = items.iter().map(|i| i.1).collect();
            let caps: Vec<u64> = items.iter().map(|i| i.1 + i.2).collect();
            let shares = apportion(total, &weights, &floors, &caps);
            prop_assert_eq!(shares.iter().sum::<u64>(), total.min(caps.iter().sum()));
            prop_assert!(shares.iter().zip(&caps).all(|(share, cap)| share <= cap));
            if total >= floors.iter().sum() {
                prop_assert!(shares.iter().zip(&floors).all(|(share, floor)| share >= floor));
            }
        }
    }
}
