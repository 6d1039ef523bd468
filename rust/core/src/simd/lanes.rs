//! The vector that kernels are written in: sixteen lanes of f32.

use super::ahead::MemoryRange;
use super::product::{FourByTwo, Group};
use crate::format::Element;

/// Lanes of a vector, on every instruction set.
pub const WIDTH: usize = 16;

/// Elements of the largest head that attention takes: so large is what it keeps on the stack.
pub const MOST_HEAD_DIM: usize = 512;

/// The operations of one instruction set. A value of the type is the proof that the machine has
/// it: only [`Isa::run`](super::Isa::run) makes one.
///
/// Every operation rounds as IEEE 754 says, so all implementations agree bit for bit, NaN payloads
/// aside.
pub trait Lanes: Copy + Send + Sync + 'static {
    /// Sixteen f32.
    type Vector: Copy;
    /// Sixteen truth values.
    type Mask: Copy;
    /// Vectors that a register-blocked kernel can hold beside its operands; at most 8.
    const ACCUMULATORS: usize;
    /// Whether [`Lanes::three_by_two`] is a loop of its own, with fewer loads a multiply-add.
    const PAIRS: bool = false;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::Vector;
    /// Widens sixteen elements, exactly.
    fn load<E: Element>(self, from: &[E; WIDTH]) -> Self::Vector;
    /// Sixteen bytes as bit patterns of 32-bit integers.
    fn load_bytes(self, from: &[u8; WIDTH]) -> Self::Vector;
    /// Stores all lanes.
    fn store(self, v: Self::Vector, to: &mut [f32; WIDTH]);
    /// `a + b`.
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a - b`.
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b`.
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a / b`.
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c` with one rounding.
    fn fma(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// `if a > b { a } else { b }`: `b` where either is NaN.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `if a < b { a } else { b }`: `b` where either is NaN.
    fn min(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a < b`; false where either is NaN.
    fn lt(self, a: Self::Vector, b: Self::Vector) -> Self::Mask;
    /// `a == b`; false where either is NaN.
    fn eq(self, a: Self::Vector, b: Self::Vector) -> Self::Mask;
    /// `if mask { a } else { b }`.
    fn select(self, mask: Self::Mask, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Bit `i` is lane `i`.
    fn mask_bits(self, mask: Self::Mask) -> u32;
    /// Writes `first + i` for every set bit `i` of `mask`, ascending, from the front of `to`, and returns how many
    /// they are. What lies behind them in `to` is of no meaning afterwards.
    #[inline(always)]
    fn positions(self, mask: u32, first: u32, to: &mut [u32; WIDTH]) -> usize {
        let (mut rest, mut count) = (mask & 0xffff, 0);
        while rest != 0 {
            to[count] = first + rest.trailing_zeros();
            rest &= rest - 1;
            count += 1;
        }
        count
    }
    /// The sum of the bit patterns, as 32-bit integers that wrap.
    fn bits_add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Bitwise and with one pattern.
    fn bits_and(self, a: Self::Vector, pattern: u32) -> Self::Vector;
    /// Bitwise or with one pattern.
    fn bits_or(self, a: Self::Vector, pattern: u32) -> Self::Vector;
    /// Shifts the bit patterns left.
    fn bits_shl<const N: i32>(self, a: Self::Vector) -> Self::Vector;
    /// Shifts the bit patterns right, copies of the sign bit coming in. `N` is at least 1.
    fn bits_sra<const N: i32>(self, a: Self::Vector) -> Self::Vector;
    /// The bit patterns, as signed integers, rounded to f32.
    fn bits_to_float(self, a: Self::Vector) -> Self::Vector;
    /// The sum over lanes, in the fixed order `i + (i + 8)`, `i + (i + 4)`, `i + (i + 2)`, `i + (i + 1)`.
    fn reduce_add(self, v: Self::Vector) -> f32;
    /// The four sums over lanes of four vectors, each in the order of [`Lanes::reduce_add`].
    #[inline(always)]
    fn reduce_add4(self, v: [Self::Vector; 4]) -> [f32; 4] {
        v.map(|v| self.reduce_add(v))
    }
    /// Turns a square of elements and widens it: `to[i][j] = from[j][i]`.
    #[inline(always)]
    fn transpose<E: Element>(self, from: &[&[E; WIDTH]; WIDTH], to: &mut [[f32; WIDTH]; WIDTH]) {
        for (i, to) in to.iter_mut().enumerate() {
            *to = std::array::from_fn(|j| from[j][i].to_f32());
        }
    }
    /// Asks for the cache line of `at` in the second-level cache; no effect on results, and none at
    /// all where the instruction set has no such request.
    #[inline(always)]
    fn prefetch<T>(self, _at: *const T) {}
    /// As [`Lanes::prefetch`], in the first-level cache.
    #[inline(always)]
    fn prefetch_near<T>(self, _at: *const T) {}

    /// Adds to the places of the group, or writes there if not `ADD`, the products of three rows
    /// with two panels, and asks for `ahead` meanwhile. Each sum in the order of the row.
    ///
    /// # Safety
    /// The slices that the group was made from are still borrowed.
    #[inline(always)]
    unsafe fn three_by_two<const STEP: usize, const ADD: bool>(
        self,
        group: Group<3, 2, STEP>,
        ahead: MemoryRange,
    ) {
        // SAFETY: the caller's.
        unsafe { group.add::<ADD, Self>(self, ahead) }
    }

    /// The dot products of four rows with two, each sum in the order of [`dots`](super::product::dots).
    ///
    /// # Safety
    /// The slices that the rows were made from are still borrowed.
    #[inline(always)]
    unsafe fn four_by_two<E: Element>(self, rows: FourByTwo<E>) -> [[f32; 4]; 2] {
        // SAFETY: the caller's.
        unsafe { rows.apart(self) }
    }

    /// The greatest lane that is not NaN, or -inf.
    #[inline(always)]
    fn reduce_max(self, v: Self::Vector) -> f32 {
        let mut lanes = [0.0; WIDTH];
        self.store(v, &mut lanes);
        lanes.into_iter().fold(f32::NEG_INFINITY, |max, x| if x > max { x } else { max })
    }

    /// The first lanes from up to sixteen elements, `fill` in the others.
    #[inline(always)]
    fn load_partial<E: Element>(self, from: &[E], fill: f32) -> Self::Vector {
        let mut lanes = [fill; WIDTH];
        for (lane, x) in lanes.iter_mut().zip(from) {
            *lane = x.to_f32();
        }
        self.load(&lanes)
    }

    /// Stores the first lanes, as many as `to` has, up to sixteen.
    #[inline(always)]
    fn store_partial(self, v: Self::Vector, to: &mut [f32]) {
        let mut lanes = [0.0; WIDTH];
        self.store(v, &mut lanes);
        to.iter_mut().zip(lanes).for_each(|(to, x)| *to = x);
    }
}

/// Plain Rust.
#[derive(Debug, Clone, Copy)]
pub struct Portable;

macro_rules! lanewise {
    ($($name:ident($($arg:ident),+) => $result:expr;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: Self::Vector),+) -> Self::Vector {
            std::array::from_fn(|i| { $(let $arg = $arg[i];)+ $result })
        }
    )+};
}

#[inline(always)]
fn on_bits(v: [f32; WIDTH], f: impl Fn(u32) -> u32) -> [f32; WIDTH] {
    v.map(|x| f32::from_bits(f(x.to_bits())))
}

impl Lanes for Portable {
    type Vector = [f32; WIDTH];
    type Mask = [bool; WIDTH];
    const ACCUMULATORS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Vector {
        [x; WIDTH]
    }
    #[inline(always)]
    fn load<E: Element>(self, from: &[E; WIDTH]) -> Self::Vector {
        from.map(E::to_f32)
    }
    #[inline(always)]
    fn load_bytes(self, from: &[u8; WIDTH]) -> Self::Vector {
        from.map(|byte| f32::from_bits(u32::from(byte)))
    }
    #[inline(always)]
    fn store(self, v: Self::Vector, to: &mut [f32; WIDTH]) {
        *to = v;
    }
    lanewise! {
        add(a, b) => a + b;
        sub(a, b) => a - b;
        mul(a, b) => a * b;
        div(a, b) => a / b;
        fma(a, b, c) => a.mul_add(b, c);
        max(a, b) => if a > b { a } else { b };
        min(a, b) => if a < b { a } else { b };
        bits_add(a, b) => f32::from_bits(a.to_bits().wrapping_add(b.to_bits()));
        bits_to_float(a) => a.to_bits() as i32 as f32;
    }
    #[inline(always)]
    fn lt(self, a: Self::Vector, b: Self::Vector) -> Self::Mask {
        std::array::from_fn(|i| a[i] < b[i])
    }
    #[inline(always)]
    fn eq(self, a: Self::Vector, b: Self::Vector) -> Self::Mask {
        std::array::from_fn(|i| a[i] == b[i])
    }
    #[inline(always)]
    fn select(self, mask: Self::Mask, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|i| if mask[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn mask_bits(self, mask: Self::Mask) -> u32 {
        mask.into_iter().rev().fold(0, |bits, lane| bits << 1 | u32::from(lane))
    }
    #[inline(always)]
    fn bits_and(self, a: Self::Vector, pattern: u32) -> Self::Vector {
        on_bits(a, |x| x & pattern)
    }
    #[inline(always)]
    fn bits_or(self, a: Self::Vector, pattern: u32) -> Self::Vector {
        on_bits(a, |x| x | pattern)
    }
    #[inline(always)]
    fn bits_shl<const N: i32>(self, a: Self::Vector) -> Self::Vector {
        on_bits(a, |x| x << N)
    }
    #[inline(always)]
    fn bits_sra<const N: i32>(self, a: Self::Vector) -> Self::Vector {
        on_bits(a, |x| ((x as i32) >> N) as u32)
    }
    #[inline(always)]
    fn reduce_add(self, v: Self::Vector) -> f32 {
        let eight: [f32; 8] = std::array::from_fn(|i| v[i] + v[i + 8]);
        let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Isa, Kernel};
    use super::*;
    use half::{bf16, f16};

    struct Everything<'a>(&'a [[f32; WIDTH]; WIDTH]);

    impl Kernel for Everything<'_> {
        type Output = Vec<u32>;
        /// The bits of every operation's result, one after the other.
        #[inline(always)]
        fn run<L: Lanes>(self, l: L) -> Vec<u32> {
            let rows: [L::Vector; WIDTH] = std::array::from_fn(|i| l.load(&self.0[i]));
            let [a, b, c] = [rows[0], rows[1], rows[2]];
            let mut results = vec![
                l.add(a, b),
                l.sub(a, b),
                l.mul(a, b),
                l.div(a, b),
                l.fma(a, b, c),
                l.max(a, b),
                l.min(a, b),
                l.select(l.lt(a, b), a, c),
                l.select(l.eq(a, b), b, c),
                l.bits_add(a, b),
                l.bits_and(a, 0xffff_0fff),
                l.bits_or(a, 0x0000_f000),
                l.bits_shl::<7>(a),
                l.bits_sra::<23>(a),
                l.bits_to_float(a),
                l.load(&self.0[3].map(bf16::from_f32)),
                l.load(&self.0[3].map(f16::from_f32)),
                l.load_partial(&self.0[4][..5], 7.0),
                l.bits_to_float(l.load_bytes(&self.0[4].map(|x| x.to_bits() as u8))),
            ];
            let mut bits = vec![l.mask_bits(l.lt(a, b)), l.mask_bits(l.eq(a, b)), l.reduce_add(c).to_bits()];
            bits.extend(l.reduce_add4([a, b, c, rows[5]]).map(f32::to_bits));
            bits.push(l.reduce_max(c).to_bits());
            let mut transposed = [[0.0; WIDTH]; WIDTH];
            l.transpose(&std::array::from_fn(|i| &self.0[i]), &mut transposed);
            results.extend(transposed.iter().map(|row| l.load(row)));
            for half in [false, true] {
                let rows = self.0.map(|row| {
                    row.map(if half {
                        |x| f16::from_f32(x).to_bits()
                    } else {
                        |x| bf16::from_f32(x).to_bits()
                    })
                });
                if half {
                    let rows = rows.map(|row| row.map(f16::from_bits));
                    l.transpose(&std::array::from_fn(|i| &rows[i]), &mut transposed);
                } else {
                    let rows = rows.map(|row| row.map(bf16::from_bits));
                    l.transpose(&std::array::from_fn(|i| &rows[i]), &mut transposed);
                }
                results.extend(transposed.iter().map(|row| l.load(row)));
            }
            for v in results {
                let mut lanes = [0.0f32; WIDTH];
                l.store(v, &mut lanes);
                bits.extend(lanes.map(|x| if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() }));
            }
            let mut places = [0; WIDTH];
            let count = l.positions(l.mask_bits(l.lt(a, b)), 7, &mut places);
            bits.extend(&places[..count]);
            bits
        }
    }

    #[test]
    fn every_isa_gives_the_bits_of_plain_rust() {
        let mut state = 1u32;
        for _ in 0..200 {
            let rows: [[f32; WIDTH]; WIDTH] = std::array::from_fn(|i| {
                std::array::from_fn(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let x = (state >> 8) as f32 / (1 << 22) as f32 - 2.0;
                    match state >> 28 {
                        0 if i < 2 => f32::NAN,
                        1 if i < 2 => f32::INFINITY,
                        2 => (x * 2.0).round(),
                        _ => x,
                    }
                })
            });
            let want = Isa::Portable.run(Everything(&rows));
            for isa in Isa::available() {
                assert_eq!(isa.run(Everything(&rows)), want, "{isa:?}");
            }
            let transposed = &want[8 + 19 * WIDTH..];
            for (i, j) in (0..WIDTH).flat_map(|i| (0..WIDTH).map(move |j| (i, j))) {
                let x = rows[j][i];
                assert!(transposed[i * WIDTH + j] == x.to_bits() || x.is_nan());
            }
        }
    }
}
