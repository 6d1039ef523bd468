//! Everything that is worth so much.

/// Marks the values that are at least `threshold`, and returns how many there are.
pub fn at_least(values: &[f64], threshold: f64, out: &mut [bool]) -> usize {
    out.iter_mut().zip(values).for_each(|(out, value)| *out = *value >= threshold);
    out.iter().filter(|chosen| **chosen).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_is_enough_and_nan_is_not() {
        let mut out = [true; 4];
        assert_eq!(at_least(&[0.5, 0.4, f64::NAN, 2.0], 0.5, &mut out), 2);
        assert_eq!(out, [true, false, false, true]);
        assert_eq!(at_least(&[], 0.0, &mut []), 0);
    }
}
