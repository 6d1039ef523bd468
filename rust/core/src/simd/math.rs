//! Exponential and logarithm: one polynomial each, in fused multiply-adds, so that every
//! instruction set, the scalar versions and the CUDA kernels give the same bits.
//!
//! Both follow the scheme of the Cephes library (Moshier): reduce to one octave, evaluate a
//! minimax polynomial, scale back. The coefficients are our own Remez fits.

use super::Lanes;

/// Adding it moves the integer part of a small float into the low bits: 1.5 * 2^23.
const ROUND: f32 = 12_582_912.0;
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// Below it, exp is zero: the result would be denormal.
pub const EXP_LOWEST: f32 = -87.336_54;
/// Above it, exp is +inf.
pub const EXP_HIGHEST: f32 = 88.722_83;

/// `(exp(r) - 1 - r) / r^2` for |r| <= ln(2)/2, within 3.1e-9 of exp(r), relatively.
const EXP: [f32; 5] = [0.499_999_94, 0.166_665_21, 0.041_668_39, 0.008_368_745, 0.001_381_454];

/// `(2^r - 1) / r` for |r| <= 1/2, within 1.1e-7 of 2^r, relatively, and 1.1 units of its last place.
const EXP2: [f32; 5] = [0.693_146_8, 0.240_222_37, 0.055_508_915, 0.009_671_763, 0.001_322_570_7];

/// `(log(1 + f) - f + f^2/2) / f^3` for 1 + f in one octave around 1, within 5.9e-9 of the log, relatively.
const LOG: [f32; 8] = [
    0.333_333_3,
    -0.250_008_2,
    0.200_012_27,
    -0.166_233_57,
    0.142_017_57,
    -0.131_601_83,
    0.127_615_78,
    -0.076_345,
];

/// `exp(x)`, within 1.02 ulp (checked on every f32 of the range); 0 where the result would be
/// denormal, +inf above [`EXP_HIGHEST`], NaN for NaN.
#[inline(always)]
pub fn exp<L: Lanes>(l: L, x: L::Vector) -> L::Vector {
    let (p, shifted) = exp_parts(l, x);
    // The low bits of `shifted` are n, so this multiplies by 2^n, also where 2^n has no f32.
    let y = l.bits_add(p, l.bits_shl::<23>(shifted));
    let y = l.select(l.lt(x, l.splat(EXP_LOWEST)), l.splat(0.0), y);
    let y = l.select(l.lt(l.splat(EXP_HIGHEST), x), l.splat(f32::INFINITY), y);
    l.select(l.eq(x, x), y, x)
}

/// The same bits as [`exp`] for `x <= 0`, -inf included, in fewer instructions. NaN for NaN.
#[inline(always)]
pub fn exp_nonpositive<L: Lanes>(l: L, x: L::Vector) -> L::Vector {
    let (p, shifted) = exp_parts(l, x);
    let power = l.bits_shl::<23>(l.bits_add(shifted, l.splat(f32::from_bits(127))));
    l.select(l.lt(x, l.splat(EXP_LOWEST)), l.splat(0.0), l.mul(p, power))
}

/// `p` with `exp(x) = p * 2^n`, and a float whose low bits are n.
#[inline(always)]
fn exp_parts<L: Lanes>(l: L, x: L::Vector) -> (L::Vector, L::Vector) {
    let shifted = l.fma(x, l.splat(std::f32::consts::LOG2_E), l.splat(ROUND));
    let n = l.sub(shifted, l.splat(ROUND));
    let r = l.fma(n, l.splat(-LN_2_LOW), l.fma(n, l.splat(-LN_2_HIGH), x));
    let mut q = l.splat(EXP[4]);
    for coefficient in EXP[..4].iter().rev() {
        q = l.fma(q, r, l.splat(*coefficient));
    }
    (l.add(l.fma(q, l.mul(r, r), r), l.splat(1.0)), shifted)
}

/// `2^x` of several vectors for `x <= 0`, -inf included, within 1.8 ulp (checked on every f32 of the
/// range); 0 up to -126.5, NaN for NaN. Step by step side by side: one evaluation is a chain of
/// dependent operations, longer than what a processor looks ahead.
#[inline(always)]
pub fn exp2_nonpositive<const N: usize, L: Lanes>(l: L, x: [L::Vector; N]) -> [L::Vector; N] {
    // The low bits of `shifted` are n + 127, with n the integer next to x.
    let (mut power, mut r, mut q) = (x, x, [l.splat(EXP2[4]); N]);
    for i in 0..N {
        // 2^-127 comes out as 0, since its exponent bits are.
        let x = l.max(l.splat(-127.0), x[i]);
        let shifted = l.add(x, l.splat(ROUND + 127.0));
        r[i] = l.sub(x, l.sub(shifted, l.splat(ROUND + 127.0)));
        power[i] = l.bits_shl::<23>(shifted);
    }
    for coefficient in EXP2[..4].iter().rev() {
        for i in 0..N {
            q[i] = l.fma(q[i], r[i], l.splat(*coefficient));
        }
    }
    for i in 0..N {
        q[i] = l.mul(l.fma(q[i], r[i], l.splat(1.0)), power[i]);
    }
    q
}

/// The whole number next to `x`; `x` itself from 2^22 on, where floats are hardly finer. NaN for NaN.
#[inline(always)]
pub fn round_whole<L: Lanes>(l: L, x: L::Vector) -> L::Vector {
    let is_small = l.lt(l.bits_and(x, 0x7fff_ffff), l.splat(4_194_304.0));
    l.select(is_small, l.sub(l.add(x, l.splat(ROUND)), l.splat(ROUND)), x)
}

/// `2^(x - whole)` of several vectors for `x <= whole + 1/2`, where `whole` is what [`round_whole`] gives; 0 up
/// to -126.5, NaN for NaN. `x` is split whatever `whole` is, so that the results for two of them differ by
/// a power of two, exactly, as long as neither is 0.
#[inline(always)]
pub fn exp2_split<const N: usize, L: Lanes>(l: L, x: [L::Vector; N], whole: L::Vector) -> [L::Vector; N] {
    let (mut power, mut r, mut q) = (x, x, [l.splat(EXP2[4]); N]);
    for i in 0..N {
        // -inf less itself would be NaN.
        let x = l.max(l.splat(f32::MIN), x[i]);
        let n = round_whole(l, x);
        r[i] = l.sub(x, n);
        // 2^-127 comes out as 0, since its exponent bits are.
        let exponent = l.max(l.splat(-127.0), l.sub(n, whole));
        power[i] = l.bits_shl::<23>(l.add(exponent, l.splat(ROUND + 127.0)));
    }
    for coefficient in EXP2[..4].iter().rev() {
        for i in 0..N {
            q[i] = l.fma(q[i], r[i], l.splat(*coefficient));
        }
    }
    for i in 0..N {
        q[i] = l.mul(l.fma(q[i], r[i], l.splat(1.0)), power[i]);
    }
    q
}

/// `log(x)`, within 1.5 ulp (checked on every positive f32); -inf for 0, NaN for NaN and below 0.
#[inline(always)]
pub fn log<L: Lanes>(l: L, x: L::Vector) -> L::Vector {
    let tiny = l.lt(x, l.splat(f32::MIN_POSITIVE));
    let scaled = l.select(tiny, l.mul(x, l.splat(8_388_608.0)), x);
    let offset = l.select(tiny, l.splat(-23.0), l.splat(0.0));
    // Splits into 2^n * m with m in [sqrt(1/2), sqrt(2)): the subtraction borrows from the exponent
    // where the mantissa is below that of sqrt(1/2).
    let shifted = l.bits_add(scaled, l.splat(f32::from_bits((SQRT_HALF_BITS).wrapping_neg())));
    let n = l.add(l.bits_to_float(l.bits_sra::<23>(shifted)), offset);
    let mantissa = l.bits_add(l.bits_and(shifted, 0x007f_ffff), l.splat(f32::from_bits(SQRT_HALF_BITS)));
    let f = l.sub(mantissa, l.splat(1.0));
    let mut q = l.splat(LOG[7]);
    for i in (0..7).rev() {
        q = l.fma(q, f, l.splat(LOG[i]));
    }
    let square = l.mul(f, f);
    let y = l.mul(q, l.mul(square, f));
    let y = l.fma(n, l.splat(LN_2_LOW), y);
    let y = l.fma(square, l.splat(-0.5), y);
    let y = l.fma(n, l.splat(LN_2_HIGH), l.add(f, y));
    let y = l.select(l.lt(x, l.splat(f32::INFINITY)), y, x);
    let y = l.select(l.lt(x, l.splat(0.0)), l.splat(f32::NAN), y);
    l.select(l.eq(x, l.splat(0.0)), l.splat(f32::NEG_INFINITY), y)
}

const SQRT_HALF_BITS: u32 = 0x3f35_04f3;

/// `tanh(x)` from [`exp`], within 2e-7 absolutely; for soft caps.
#[inline(always)]
pub fn tanh<L: Lanes>(l: L, x: L::Vector) -> L::Vector {
    // tanh|x| = 1 - 2 / (exp(2|x|) + 1), the sign put back as bits.
    let magnitude = l.bits_and(x, 0x7fff_ffff);
    let e = exp(l, l.add(magnitude, magnitude));
    let y = l.sub(l.splat(1.0), l.div(l.splat(2.0), l.add(e, l.splat(1.0))));
    l.select(l.lt(x, l.splat(0.0)), l.sub(l.splat(0.0), y), y)
}

/// The bits of [`exp`] for one number.
pub fn exp_scalar(x: f32) -> f32 {
    if x.is_nan() {
        return x;
    }
    if x < EXP_LOWEST {
        return 0.0;
    }
    if x > EXP_HIGHEST {
        return f32::INFINITY;
    }
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let q = EXP[..4].iter().rev().fold(EXP[4], |q, &c| q.mul_add(r, c));
    let p = q.mul_add(r * r, r) + 1.0;
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// The bits of [`log`] for one number.
pub fn log_scalar(x: f32) -> f32 {
    if x == 0.0 {
        return f32::NEG_INFINITY;
    }
    if x.is_nan() || x < 0.0 {
        return f32::NAN;
    }
    if x == f32::INFINITY {
        return x;
    }
    let (scaled, offset) = if x < f32::MIN_POSITIVE { (x * 8_388_608.0, -23.0) } else { (x, 0.0) };
    let shifted = scaled.to_bits().wrapping_sub(SQRT_HALF_BITS);
    let n = (shifted as i32 >> 23) as f32 + offset;
    let f = f32::from_bits((shifted & 0x007f_ffff) + SQRT_HALF_BITS) - 1.0;
    let q = LOG[..7].iter().rev().fold(LOG[7], |q, &c| q.mul_add(f, c));
    let square = f * f;
    let y = n.mul_add(LN_2_LOW, q * (square * f));
    let y = square.mul_add(-0.5, y);
    n.mul_add(LN_2_HIGH, f + y)
}

#[cfg(test)]
mod tests {
    use super::super::{Isa, Kernel, WIDTH};
    use super::*;

    struct Map<'a>(u8, &'a [f32; WIDTH]);
    impl Kernel for Map<'_> {
        type Output = [f32; WIDTH];
        #[inline(always)]
        fn run<L: Lanes>(self, l: L) -> [f32; WIDTH] {
            let x = l.load(self.1);
            let y = match self.0 {
                0 => exp(l, x),
                1 => log(l, x),
                2 => tanh(l, x),
                3 => exp2_nonpositive(l, [l.splat(0.0), x])[1],
                _ => exp_nonpositive(l, x),
            };
            let mut out = [0.0; WIDTH];
            l.store(y, &mut out);
            out
        }
    }

    /// Distance to the correctly rounded result, in units of its last place.
    fn ulps(got: f32, want: f64) -> f64 {
        let nearest = (want as f32).abs();
        let ulp = f64::from(f32::from_bits(nearest.to_bits() + 1)) - f64::from(nearest);
        (f64::from(got) - want).abs() / ulp
    }

    /// Bit patterns from all over f32, `stride` apart.
    fn samples(stride: usize) -> impl Iterator<Item = f32> {
        (0..=u32::MAX).step_by(stride).map(f32::from_bits)
    }

    /// Every f32 with `HORNBEAM_EXHAUSTIVE=1`, else one in 997.
    fn stride() -> usize {
        if std::env::var_os("HORNBEAM_EXHAUSTIVE").is_some() { 1 } else { 997 }
    }

    #[test]
    fn exp_is_accurate() {
        let mut worst = 0.0f64;
        for x in samples(stride()) {
            let y = exp_scalar(x);
            if x.is_nan() {
                assert!(y.is_nan());
            } else if x < EXP_LOWEST {
                assert_eq!(y.to_bits(), 0);
            } else if x > EXP_HIGHEST {
                assert_eq!(y, f32::INFINITY);
            } else {
                assert!(y >= f32::MIN_POSITIVE && y.is_finite(), "exp({x}) = {y}");
                worst = worst.max(ulps(y, f64::from(x).exp()));
            }
        }
        assert!(worst <= 1.02, "exp is off by {worst} ulp");
        assert_eq!(exp_scalar(0.0), 1.0);
    }

    /// [`exp2_nonpositive`], lane by lane with the same operations.
    fn exp2_scalar(x: f32) -> f32 {
        let x = if -127.0 > x { -127.0 } else { x };
        let shifted = x + (ROUND + 127.0);
        let r = x - (shifted - (ROUND + 127.0));
        let q = EXP2[..4].iter().rev().fold(EXP2[4], |q, &c| q.mul_add(r, c));
        q.mul_add(r, 1.0) * f32::from_bits(shifted.to_bits() << 23)
    }

    #[test]
    fn exp2_is_accurate() {
        let mut worst = 0.0f64;
        for x in samples(stride()).filter(|x| *x <= 0.0) {
            let y = exp2_scalar(x);
            if x <= -126.5 {
                assert_eq!(y.to_bits(), 0, "2^{x}");
            } else {
                worst = worst.max(ulps(y, f64::from(x).exp2()));
            }
        }
        assert!(worst <= 1.8, "exp2 is off by {worst} ulp");
        assert_eq!(exp2_scalar(0.0), 1.0);
    }

    struct Split<'a>(&'a [f32; WIDTH], f32);
    impl Kernel for Split<'_> {
        type Output = [f32; WIDTH];
        #[inline(always)]
        fn run<L: Lanes>(self, l: L) -> [f32; WIDTH] {
            let whole = round_whole(l, l.splat(self.1));
            let mut out = [0.0; WIDTH];
            l.store(exp2_split(l, [l.load(self.0)], whole)[0], &mut out);
            out
        }
    }

    #[test]
    fn powers_relative_to_whole_numbers_differ_exactly() {
        let spread: Vec<f32> = (0..16_000).map(|i| (i as f32 - 8_000.0) * 0.007_31).collect();
        for x in spread.as_chunks::<WIDTH>().0 {
            let most = x.iter().copied().fold(f32::MIN, f32::max);
            for isa in Isa::available() {
                let near = isa.run(Split(x, most));
                for (x, y) in x.iter().zip(near) {
                    assert!(ulps(y, (f64::from(*x) - f64::from(most.round_ties_even())).exp2()) <= 1.8);
                }
                for beyond in [1.0, 7.25, 30.0, 60.0] {
                    let whole = (most + beyond).round_ties_even() - most.round_ties_even();
                    let far = isa.run(Split(x, most + beyond));
                    assert_eq!(far, near.map(|y| y * (-whole).exp2()), "{isa:?} {x:?} {beyond}");
                }
            }
        }
        for isa in Isa::available() {
            let edge = [f32::NEG_INFINITY, f32::NAN, f32::MIN, -200.0, 1e9, 9_999_999.0, 3e9, 3e9 - 256.0];
            let x: [f32; WIDTH] = std::array::from_fn(|i| edge[i % edge.len()]);
            let low = isa.run(Split(&x, 0.0));
            assert!(low[0] == 0.0 && low[1].is_nan() && low[2] == 0.0 && low[3] == 0.0);
            // Where floats are coarse, the greatest still has weight 1 and the others no more.
            let high = isa.run(Split(&x, 3e9));
            assert!(high[0] == 0.0 && high[1].is_nan() && high[4] == 0.0 && high[6] == 1.0 && high[7] == 0.0);
        }
    }

    #[test]
    fn log_is_accurate() {
        let mut worst = 0.0f64;
        for x in samples(stride()).filter(|x| *x > 0.0 && x.is_finite()) {
            worst = worst.max(if x == 1.0 { 0.0 } else { ulps(log_scalar(x), f64::from(x).ln()) });
        }
        assert!(worst <= 1.5, "log is off by {worst} ulp");
        assert_eq!(log_scalar(1.0), 0.0);
        assert_eq!(log_scalar(0.0), f32::NEG_INFINITY);
        assert_eq!(log_scalar(f32::INFINITY), f32::INFINITY);
        assert!(log_scalar(-1.0).is_nan() && log_scalar(f32::NAN).is_nan());
    }

    #[test]
    fn every_isa_gives_the_bits_of_the_scalar_version() {
        let special = [
            0.0,
            -0.0,
            1.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            EXP_LOWEST,
            EXP_HIGHEST,
            -87.4,
            88.73,
            1e-42,
            -1e-42,
            f32::MIN_POSITIVE,
            f32::MAX,
            f32::from_bits(0x7fc0_0001),
            0.999_999_94,
        ];
        let spread: Vec<f32> = samples(40_009).chain((-4000..4000).map(|i| i as f32 * 0.03)).collect();
        let blocks = spread.as_chunks::<WIDTH>().0.iter().chain([&special]);
        for x in blocks {
            for isa in Isa::available() {
                let (exps, logs) = (isa.run(Map(0, x)), isa.run(Map(1, x)));
                let (exp2s, nonpositive) = (isa.run(Map(3, x)), isa.run(Map(4, x)));
                for i in 0..WIDTH {
                    let same = |got: f32, want: f32| {
                        got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan()
                    };
                    assert!(same(exps[i], exp_scalar(x[i])), "{isa:?} exp({}) = {}", x[i], exps[i]);
                    assert!(same(logs[i], log_scalar(x[i])), "{isa:?} log({}) = {}", x[i], logs[i]);
                    assert!(x[i] > 0.0 || same(nonpositive[i], exp_scalar(x[i])));
                    assert!(x[i] > 0.0 || same(exp2s[i], exp2_scalar(x[i])), "{isa:?} 2^{}", x[i]);
                }
            }
        }
    }

    #[test]
    fn tanh_is_accurate_enough() {
        for isa in Isa::available() {
            for i in -2000..2000 {
                let x = i as f32 * 0.01;
                let y = isa.run(Map(2, &[x; WIDTH]))[3];
                assert!((f64::from(y) - f64::from(x).tanh()).abs() < 2e-7, "{isa:?} tanh({x}) = {y}");
            }
            assert_eq!(isa.run(Map(2, &[f32::NEG_INFINITY; WIDTH]))[0], -1.0);
        }
    }
}
