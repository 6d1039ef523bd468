//! The set of greatest value within a cost.

use super::scratch::Scratch;

/// Marks the items of greatest total value whose costs sum to at most `capacity`, by dynamic programming over whole
/// costs; returns the value. Of equally good sets the one with the lowest indices (the first item that tells them
/// apart is in it).
///
/// Time and memory are items times `capacity`.
pub fn knapsack(
    values: &[u64],
    costs: &[u64],
    capacity: usize,
    scratch: &mut Scratch,
    out: &mut [bool],
) -> u64 {
    let width = capacity + 1;
    let best = &mut scratch.table;
    best.clear();
    best.resize((values.len() + 1) * width, 0);
    // best[i][c]: the value of items i.. within c.
    for item in (0..values.len()).rev() {
        for room in 0..width {
            let without = best[(item + 1) * width + room];
            let with = usize::try_from(costs[item])
                .ok()
                .and_then(|cost| room.checked_sub(cost))
                .map(|rest| best[(item + 1) * width + rest] + values[item]);
            best[item * width + room] = with.map_or(without, |with| with.max(without));
        }
    }
    let mut room = capacity;
    for item in 0..values.len() {
        let cost = usize::try_from(costs[item]).unwrap_or(usize::MAX);
        let is_in = cost <= room
            && best[(item + 1) * width + room - cost] + values[item] == best[item * width + room];
        out[item] = is_in;
        room -= if is_in { cost } else { 0 };
    }
    best[capacity]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn is_the_best_of_all_sets(
            items in prop::collection::vec((0u64..9, 0u64..7), 0..9), capacity in 0usize..20,
        ) {
            let (values, costs): (Vec<u64>, Vec<u64>) = items.iter().copied().unzip();
            let mut out = vec![false; items.len()];
            let value = knapsack(&values, &costs, capacity, &mut Scratch::default(), &mut out);
            let sum = |set: u32, of: &[u64]| -> u64 {
                (0..items.len()).filter(|i| set >> i & 1 == 1).map(|i| of[i]).sum()
            };
            let all = 0..1u32 << items.len();
            let want = all.filter(|set| sum(*set, &costs) <= capacity as u64).map(|set| sum(set, &values)).max();
            prop_assert_eq!(Some(value), want);
            let chosen = (0..items.len()).filter(|&i| out[i]).fold(0u32, |set, i| set | 1 << i);
            prop_assert_eq!(sum(chosen, &values), value);
            prop_assert!(sum(chosen, &costs) <= capacity as u64);
        }
    }
}
