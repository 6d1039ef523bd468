//! The fewest candidates that hold a share of all weight.

use super::scratch::Scratch;
use crate::ops::topk::mass_cut;

/// Marks the fewest weights whose sum is at least the share `numerator / denominator` of all, the greatest first, and
/// returns how many there are: none where everything is zero, or the share is.
pub fn smallest_mass(
    weights: &[u64],
    numerator: u64,
    denominator: u64,
    scratch: &mut Scratch,
    out: &mut [bool],
) -> usize {
    let sum: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    let wanted = (sum * u128::from(numerator)).div_ceil(u128::from(denominator.max(1)));
    scratch.table.clear();
    scratch.table.extend_from_slice(weights);
    let cut = mass_cut(&mut scratch.table, wanted);
    let mut equal = cut.equal;
    for (out, &weight) in out.iter_mut().zip(weights) {
        let is_tie = weight == cut.weight && equal > 0;
        equal -= usize::from(is_tie);
        *out = weight > cut.weight || is_tie;
    }
    cut.count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_smaller_set_holds_as_much(
            weights in prop::collection::vec(0u64..9, 0..10), numerator in 0u64..=10,
        ) {
            let mut out = vec![true; weights.len()];
            let count = smallest_mass(&weights, numerator, 10, &mut Scratch::default(), &mut out);
            let mass = |set: u32| -> u64 { (0..weights.len()).filter(|i| set >> i & 1 == 1).map(|i| weights[i]).sum() };
            let total = mass(u32::MAX >> 1);
            let enough = |set: u32| mass(set) * 10 >= total * numerator;
            let chosen = (0..weights.len()).filter(|&i| out[i]).fold(0u32, |set, i| set | 1 << i);
            prop_assert!(enough(chosen));
            let least = (0..1u32 << weights.len()).filter(|set| enough(*set)).map(u32::count_ones).min();
            prop_assert_eq!(Some(count as u32), least);
            prop_assert_eq!(chosen.count_ones() as usize, count);
        }
    }
}
