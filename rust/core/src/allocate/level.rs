//! One level for all groups, found at once.

/// Buys `total` units for candidates that stand in groups of `size`: an entry (level, group, rank) is worth one unit for
/// each candidate of its group that has more than `rank` units room, and none below its floor, which it has already.
/// Entries are bought from the lowest level up, equal ones by group and rank, so that all groups reach the same level
/// but for the last entry. `out` begins with the floors; entries are sorted in place.
pub fn by_common_level(
    total: u64,
    size: usize,
    entries: &mut [(u64, usize, usize)],
    floors: &[u64],
    caps: &[u64],
    out: &mut [u32],
) {
    // Unique by group and rank, so that an unstable sort does.
    entries.sort_unstable();
    out.iter_mut().zip(floors).for_each(|(out, floor)| *out = *floor as u32);
    let mut left = total;
    for &(_, group, rank) in entries.iter() {
        for place in group * size..(group + 1) * size {
            if left > 0 && rank as u64 >= floors[place] && (rank as u64) < caps[place] {
                out[place] += 1;
                left -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_reach_one_level() {
        // Levels of two groups of one candidate: 1 4 9, and 2 3 5.
        let entries = [(1, 0, 0), (4, 0, 1), (9, 0, 2), (2, 1, 0), (3, 1, 1), (5, 1, 2)];
        let counts = |total, floors: [u64; 2], caps: [u64; 2]| {
            let mut out = [0; 2];
            by_common_level(total, 1, &mut entries.clone(), &floors, &caps, &mut out);
            out
        };
        assert_eq!(counts(3, [0, 0], [3, 3]), [1, 2]);
        assert_eq!(counts(5, [0, 0], [3, 3]), [2, 3]);
        assert_eq!(counts(9, [0, 0], [3, 3]), [3, 3]);
        assert_eq!(counts(3, [0, 0], [3, 1]), [2, 1]);
        // Two of the first group are there already.
        assert_eq!(counts(2, [2, 0], [3, 3]), [2, 2]);
    }
}
