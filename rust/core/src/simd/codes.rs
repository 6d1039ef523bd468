//! Register-blocked inner loops over codes of 2, 4 or 8 bits, as pages hold them.
//!
//! Sixteen bytes, a *unit*, hold `8 / BITS` vectors: vector `part` lies `part * BITS` bits up. A code is
//! masked where it lies, so what these loops multiply is the code times `2^(part * BITS)`; callers
//! take that out of the other side by [`unshift`].
//!
//! Each checks the lengths of its arguments once and then runs without checks.

use super::{Lanes, WIDTH};

/// Sixteen bytes of codes.
pub(crate) type Unit = [u8; WIDTH];

/// The codes of vector `part` of a unit, times `2^(part * BITS)`.
#[inline(always)]
pub(crate) fn codes<const BITS: usize, L: Lanes>(l: L, unit: L::Vector, part: usize) -> L::Vector {
    l.bits_to_float(l.bits_and(unit, ((1u32 << BITS) - 1) << (part * BITS)))
}

/// `2^-(part * bits)`.
#[inline(always)]
pub(crate) fn unshift(bits: usize, part: usize) -> f32 {
    f32::from_bits((127 - (part * bits) as u32) << 23)
}

/// The dot products of `Q` queries with `K` rows of codes, `Q * K <= 4`: result `k * Q + q`. `queries`
/// are, for each unit, the vectors that meet its parts, the `Q` queries side by side.
///
/// # Panics
/// If rows differ in length, or there are fewer vectors of queries than the rows need.
#[inline(always)]
pub(crate) fn code_dots<const BITS: usize, const Q: usize, const K: usize, L: Lanes>(
    l: L,
    queries: &[[f32; WIDTH]],
    rows: [&[Unit]; K],
) -> [f32; 4] {
    let (units, parts) = (rows[0].len(), 8 / BITS);
    assert!(queries.len() >= units * parts * Q && rows.iter().all(|row| row.len() == units));
    let mut sums = [l.splat(0.0); 4];
    for u in 0..units {
        // SAFETY: `(u + 1) * parts * Q <= queries.len()`.
        let queries = unsafe { queries.as_ptr().add(u * parts * Q) };
        for k in 0..K {
            // SAFETY: `u < units`, the length of every row.
            let unit = l.load_bytes(unsafe { rows[k].get_unchecked(u) });
            for part in 0..parts {
                let code = codes::<BITS, L>(l, unit, part);
                for q in 0..Q {
                    // SAFETY: `part * Q + q < parts * Q`, as above.
                    let query = l.load(unsafe { &*queries.add(part * Q + q) });
                    sums[k * Q + q] = l.fma(query, code, sums[k * Q + q]);
                }
            }
        }
    }
    l.reduce_add4(sums)
}

/// The sums over `t` of `weights[q][t] * codes`, for `P` vectors of a unit, `first` the first of them,
/// the unit of `t` at `units[t * stride]`: sum `part * Q + q`, `P * Q <= 8`.
///
/// # Panics
/// If there are fewer weights than `count`, or units do not reach so far.
#[inline(always)]
pub(crate) fn weigh_codes<const BITS: usize, const Q: usize, const P: usize, L: Lanes>(
    l: L,
    units: &[Unit],
    stride: usize,
    count: usize,
    weights: [&[f32]; Q],
    first: usize,
) -> [L::Vector; 8] {
    assert!(count > 0 && units.len() > (count - 1) * stride);
    assert!(weights.iter().all(|weights| weights.len() >= count));
    let mut sums = [l.splat(0.0); 8];
    // Two turns at a time: a loop's own instructions take room from the loads.
    for t in (0..count & !1).step_by(2) {
        // SAFETY: `t + 1 < count`: the assertions above.
        unsafe {
            add_turn::<BITS, Q, P, L>(l, units, stride, &weights, t, first, &mut sums);
            add_turn::<BITS, Q, P, L>(l, units, stride, &weights, t + 1, first, &mut sums);
        }
    }
    if count % 2 == 1 {
        // SAFETY: as above.
        unsafe { add_turn::<BITS, Q, P, L>(l, units, stride, &weights, count - 1, first, &mut sums) };
    }
    sums
}

/// Adds what `t` has to the sums.
///
/// # Safety
/// There is a unit at `t * stride`, and each query has more than `t` weights.
#[inline(always)]
unsafe fn add_turn<const BITS: usize, const Q: usize, const P: usize, L: Lanes>(
    l: L,
    units: &[Unit],
    stride: usize,
    weights: &[&[f32]; Q],
    t: usize,
    first: usize,
    sums: &mut [L::Vector; 8],
) {
    // SAFETY: the caller vouches for it.
    let unit = l.load_bytes(unsafe { units.get_unchecked(t * stride) });
    for part in 0..P {
        let code = codes::<BITS, L>(l, unit, first + part);
        for q in 0..Q {
            // SAFETY: the caller vouches for it.
            let weight = l.splat(unsafe { *weights[q].get_unchecked(t) });
            sums[part * Q + q] = l.fma(weight, code, sums[part * Q + q]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Isa, Kernel};
    use super::*;

    const ROWS: usize = 7;
    const UNITS: usize = 3;

    struct Codes;

    impl Codes {
        /// Byte `i` of any row: no two neighbours alike.
        fn byte(i: usize) -> u8 {
            (i * 37 + i / 16 * 11) as u8
        }

        /// Code of lane `lane` of vector `part` of a unit, moved up as it lies in its byte.
        fn code(bits: usize, unit: usize, part: usize, lane: usize) -> f32 {
            f32::from(Self::byte(unit * WIDTH + lane) & ((((1u32 << bits) - 1) << (part * bits)) as u8))
        }

        fn number(i: usize) -> f32 {
            (i * 29 % 17) as f32 - 8.0
        }

        #[inline(always)]
        fn check<const BITS: usize, const Q: usize, const K: usize, const P: usize, L: Lanes>(l: L) {
            let parts = 8 / BITS;
            let mut units = [[0u8; WIDTH]; ROWS * UNITS];
            for (i, byte) in units.as_flattened_mut().iter_mut().enumerate() {
                *byte = Self::byte(i);
            }
            let mut queries = [[0.0f32; WIDTH]; UNITS * 4 * 4];
            for (i, x) in queries.as_flattened_mut().iter_mut().enumerate() {
                *x = Self::number(i);
            }
            let mut rows: [&[Unit]; K] = [&[]; K];
            for k in 0..K {
                rows[k] = &units[(k + 1) * UNITS..(k + 2) * UNITS];
            }
            let dots = code_dots::<BITS, Q, K, L>(l, &queries, rows);
            for (k, q) in (0..K).flat_map(|k| (0..Q).map(move |q| (k, q))) {
                let mut want = 0.0;
                for (i, lane) in (0..UNITS * parts).flat_map(|i| (0..WIDTH).map(move |lane| (i, lane))) {
                    let code = Self::code(BITS, (k + 1) * UNITS + i / parts, i % parts, lane);
                    want += Self::number((i * Q + q) * WIDTH + lane) * code;
                }
                assert_eq!(dots[k * Q + q], want);
            }
            let weights: Vec<f32> = (0..4 * ROWS).map(Self::number).collect();
            let mut some: [&[f32]; Q] = [&[]; Q];
            for q in 0..Q {
                some[q] = &weights[q * ROWS..];
            }
            for (count, first) in [(1, 0), (6, 0), (7, parts - P)] {
                let sums = weigh_codes::<BITS, Q, P, L>(l, &units[1..], UNITS, count, some, first);
                for (part, q) in (0..P).flat_map(|part| (0..Q).map(move |q| (part, q))) {
                    let mut lanes = [0.0; WIDTH];
                    l.store(sums[part * Q + q], &mut lanes);
                    for (lane, sum) in lanes.into_iter().enumerate() {
                        let code = |t: usize| Self::code(BITS, 1 + t * UNITS, first + part, lane);
                        let want: f32 = (0..count).map(|t| weights[q * ROWS + t] * code(t)).sum();
                        assert_eq!(sum, want);
                    }
                }
            }
        }
    }

    impl Kernel for Codes {
        type Output = ();
        #[inline(always)]
        fn run<L: Lanes>(self, l: L) {
            Self::check::<2, 1, 4, 2, L>(l);
            Self::check::<2, 4, 1, 1, L>(l);
            Self::check::<4, 2, 2, 2, L>(l);
            Self::check::<4, 3, 1, 2, L>(l);
            Self::check::<4, 4, 1, 1, L>(l);
            Self::check::<8, 4, 1, 1, L>(l);
        }
    }

    /// Small integers: every order of summation is exact.
    #[test]
    fn sums_over_codes_are_exact() {
        for isa in Isa::available() {
            isa.run(Codes);
        }
        assert_eq!([unshift(4, 0), unshift(4, 1), unshift(2, 3)], [1.0, 1.0 / 16.0, 1.0 / 64.0]);
    }
}
