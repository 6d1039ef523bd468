//! One threshold for all candidates.

/// The greatest whole number from `low` to `high` for which `fits` holds, where it holds for every smaller one too;
/// `None` if it does not hold for `low`.
pub fn common_threshold(low: u64, high: u64, mut fits: impl FnMut(u64) -> bool) -> Option<u64> {
    if low > high || !fits(low) {
        return None;
    }
    let (mut good, mut bad) = (low, high.checked_add(1)?);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if fits(middle) { good = middle } else { bad = middle }
    }
    Some(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edge() {
        for edge in 0..12u64 {
            let want = edge.checked_sub(1).filter(|edge| *edge >= 3).map(|edge| edge.min(9));
            assert_eq!(common_threshold(3, 9, |x| x < edge), want, "{edge}");
        }
        assert_eq!(common_threshold(5, 4, |_| true), None);
    }
}
