//! Floats as unsigned integers of the same order.

/// The key of NaN, above all others: as in torch, NaN is the greatest number.
pub(super) const NAN: u32 = u32::MAX;

/// The integer that stands where `x` stands among all floats: `key(x) < key(y)` if and only if `x < y`, where NaN is
/// greater than everything and equal to NaN, and -0.0 equals 0.0.
///
/// Positive floats are ordered as their bits are, and negative ones the other way round.
#[inline(always)]
pub(super) fn key(x: f32) -> u32 {
    // A comparison, not a look at the bits: a processor that is told to read denormals as zeros does so here too,
    // and all comparisons of one selection agree.
    let bits = if x == 0.0 { 0 } else { x.to_bits() };
    let ordered = bits ^ (((bits as i32) >> 31) as u32 | 1 << 31);
    if x.is_nan() { NAN } else { ordered }
}

/// The float of a key.
#[inline(always)]
pub(super) fn float(key: u32) -> f32 {
    if key == NAN {
        return f32::NAN;
    }
    f32::from_bits(if key >> 31 == 1 { key ^ 1 << 31 } else { !key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_are_ordered_as_floats_are(a in any::<u32>(), b in any::<u32>()) {
            let (x, y) = (f32::from_bits(a), f32::from_bits(b));
            let less = x < y || (y.is_nan() && !x.is_nan());
            prop_assert_eq!(key(x) < key(y), less);
            prop_assert_eq!(key(x) == key(y), x == y || (x.is_nan() && y.is_nan()));
            let back = float(key(x));
            prop_assert!(back == x || (back.is_nan() && x.is_nan()));
        }
    }

    #[test]
    fn the_order_has_these_ends() {
        let ascending =
            [f32::NEG_INFINITY, f32::MIN, -1e-45, -0.0, 1e-45, 1.0, f32::MAX, f32::INFINITY, -f32::NAN];
        assert!(ascending.windows(2).all(|pair| key(pair[0]) < key(pair[1])));
        assert_eq!((key(-0.0), key(f32::NAN)), (key(0.0), NAN));
    }
}
