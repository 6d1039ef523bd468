//! Tiles of dot products: up to three rows of `x` times four rows of a weight, the inner part of
//! [`crate::ops::linear`].
//!
//! **One order of summation.** An output is eight partial sums, `p[i]` over the inputs `k` with
//! `k % 8 == i` in ascending order, each built by fused multiply-adds from zero, added up as
//! `((p0 + p1) + (p2 + p3)) + ((p4 + p5) + (p6 + p7))`. Nothing else enters: not how many rows
//! there are, not where panels or threads divide the work, not the instruction set. So an output
//! has the same bits whatever it was computed together with.
//!
//! Machines with AVX-512 run the AVX2 kernels: a register of sixteen lanes would hold another
//! order, and the rows that these kernels are for are bound by memory.

use super::Isa;
use crate::format::{Dtype, Element};

/// Rows of `x` in the largest tile.
pub(crate) const TILE_ROWS: usize = 3;
/// Rows of the weight, that is outputs, in a tile: with three rows of `x`, twelve accumulators
/// and four operands fill the sixteen registers of AVX2.
pub(crate) const TILE_OUTPUTS: usize = 4;

/// The partial sums of a tile: `[row][output][lane]`.
#[derive(Clone, Copy)]
#[repr(align(32))]
pub(crate) struct Partial([[[f32; 8]; TILE_OUTPUTS]; TILE_ROWS]);

impl Partial {
    pub(crate) const ZERO: Self = Self([[[0.0; 8]; TILE_OUTPUTS]; TILE_ROWS]);
}

/// The finished sums of a tile: `[row][output]`.
pub(crate) type Sums = [[f32; TILE_OUTPUTS]; TILE_ROWS];

/// What a tile reads: a *panel*, `count` inputs from some offset on, of consecutive rows.
struct Panel<W> {
    /// The first row of `x`, at the panel's first input.
    x: *const f32,
    /// The first row of the weight, likewise.
    weight: *const W,
    /// Rows of the weight, minus 1; a tile with fewer than four repeats the last.
    last: usize,
    /// From one row to the next.
    stride: usize,
    count: usize,
    /// Whether this panel is the first, so that the sums begin at zero.
    start: bool,
    /// Whether it is the last, so that they are finished.
    finish: bool,
    ahead: Ahead<W>,
}

/// What a tile prefetches while it computes: `lines` cache lines for each line of its own rows, in
/// order from `at` on, which may be any address.
#[derive(Clone, Copy)]
pub(crate) struct Ahead<W> {
    pub(crate) at: *const W,
    pub(crate) lines: usize,
}

type Kernel<W> = unsafe fn(&Panel<W>, &mut Partial) -> Sums;

/// The tile kernels for one element type of the weight, chosen for this machine.
#[derive(Clone, Copy)]
pub(crate) struct Tiles<W> {
    /// By rows of `x`, minus 1; the second of a pair prefetches.
    kernels: [[Kernel<W>; 2]; TILE_ROWS],
}

impl<W: Element> Tiles<W> {
    /// The kernels of an instruction set that this machine has.
    ///
    /// # Panics
    /// If it has not.
    pub(crate) fn new(isa: Isa) -> Self {
        assert!(isa.is_available(), "this machine has no {}", isa.name());
        let kernels = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx512 => x86::kernels(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => arm::kernels(),
            _ => portable::kernels(),
        };
        Self { kernels }
    }

    /// Adds to `partial` (from zero if `from` is 0) the products over the inputs `from..to` of the one to three rows of `x`
    /// with the one to four rows of `weight`, both `[.., inputs]`, and meanwhile prefetches. Returns
    /// the sums if `to` is the end, otherwise nothing of use.
    #[inline]
    pub(crate) fn run(
        &self,
        x: &[f32],
        weight: &[W],
        inputs: usize,
        (from, to): (usize, usize),
        ahead: Ahead<W>,
        partial: &mut Partial,
    ) -> Sums {
        let (rows, outputs) = (x.len() / inputs, weight.len() / inputs);
        assert!((1..=TILE_ROWS).contains(&rows) && (1..=TILE_OUTPUTS).contains(&outputs));
        assert!(from <= to && to <= inputs && from.is_multiple_of(8));
        let panel = Panel {
            x: x[from..].as_ptr(),
            weight: weight[from..].as_ptr(),
            last: outputs - 1,
            stride: inputs,
            count: to - from,
            start: from == 0,
            finish: to == inputs,
            ahead,
        };
        // SAFETY: all rows hold `inputs` elements and `to` is at most that, as just asserted; the
        // constructor chose kernels that this machine runs.
        unsafe { self.kernels[rows - 1][usize::from(ahead.lines > 0)](&panel, partial) }
    }
}

/// `x` itself if its elements are f32.
pub(crate) fn as_f32<T: Element>(x: &[T]) -> Option<&[f32]> {
    // SAFETY: `Element` is implemented for three types, told apart by `DTYPE`; this one is f32.
    (T::DTYPE == Dtype::F32).then(|| unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), x.len()) })
}

/// Eight lanes of f32.
///
/// # Safety
/// Every method needs the instruction set of the type, enabled in the function that it is inlined
/// into; pointers must be valid for eight elements, except that of `prefetch`.
trait Eight: Copy {
    unsafe fn zero() -> Self;
    unsafe fn load<T: Element>(from: *const T) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `a * b + self`, rounded once.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// The sum of each vector's lanes, in the order that the head of this file gives.
    unsafe fn sums(vectors: [Self; 4]) -> [f32; 4];
    unsafe fn prefetch(address: *const u8);
}

/// The tile, for every instruction set, element type and number of rows.
///
/// # Safety
/// As [`Eight`], with `panel` valid for `ROWS` rows of `x` and `last + 1` of the weight.
#[inline(always)]
unsafe fn tile<V: Eight, W: Element, const ROWS: usize, const AHEAD: bool>(
    panel: &Panel<W>,
    partial: &mut Partial,
) -> Sums {
    let &Panel { x, weight, last, stride, count, start, finish, ahead } = panel;
    let mut finished = [[0.0; TILE_OUTPUTS]; TILE_ROWS];
    let partial = &mut partial.0;
    let line = 64 / size_of::<W>();
    // SAFETY: all addresses but `next`, which is only prefetched, lie in the rows that the caller vouches for.
    unsafe {
        let rows: [*const f32; ROWS] = std::array::from_fn(|r| x.add(r * stride));
        let weights: [*const W; TILE_OUTPUTS] = std::array::from_fn(|o| weight.add(o.min(last) * stride));
        let mut sums = [[V::zero(); TILE_OUTPUTS]; ROWS];
        if !start {
            for r in 0..ROWS {
                for o in 0..TILE_OUTPUTS {
                    sums[r][o] = V::load(partial[r][o].as_ptr());
                }
            }
        }
        let mut next = ahead.at;
        let whole = count & !7;
        let mut at = 0;
        while at < whole {
            if AHEAD && at.is_multiple_of(line) {
                for _ in 0..ahead.lines {
                    V::prefetch(next.cast());
                    next = next.wrapping_add(line);
                }
            }
            accumulate(&mut sums, &rows, &weights, at);
            at += 8;
        }
        for r in 0..ROWS {
            for o in 0..TILE_OUTPUTS {
                sums[r][o].store(partial[r][o].as_mut_ptr());
            }
        }
        // The last inputs, fewer than eight: rare, so not in registers, which are all taken.
        for (i, k) in (whole..count).enumerate() {
            for r in 0..ROWS {
                for o in 0..TILE_OUTPUTS {
                    let (x, w) = (*rows[r].add(k), (*weights[o].add(k)).to_f32());
                    partial[r][o][i] = x.mul_add(w, partial[r][o][i]);
                }
            }
        }
        if finish {
            for r in 0..ROWS {
                finished[r] = V::sums(std::array::from_fn(|o| V::load(partial[r][o].as_ptr())));
            }
        }
    }
    finished
}

/// Eight inputs of every row.
///
/// # Safety
/// As [`tile`], with eight more inputs from `at` on.
#[inline(always)]
unsafe fn accumulate<V: Eight, W: Element, const ROWS: usize>(
    sums: &mut [[V; TILE_OUTPUTS]; ROWS],
    rows: &[*const f32; ROWS],
    weights: &[*const W; TILE_OUTPUTS],
    at: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let x: [V; ROWS] = std::array::from_fn(|r| V::load(rows[r].add(at)));
        for o in 0..TILE_OUTPUTS {
            let w = V::load(weights[o].add(at));
            for r in 0..ROWS {
                sums[r][o] = sums[r][o].add_product(x[r], w);
            }
        }
    }
}

macro_rules! kernels {
    ($vector:ty $(, $features:literal)?) => {
        pub(super) fn kernels<W: Element>() -> [[Kernel<W>; 2]; TILE_ROWS] {
            $(#[target_feature(enable = $features)])?
            unsafe fn kernel<W: Element, const ROWS: usize, const AHEAD: bool>(panel: &Panel<W>, partial: &mut Partial) -> Sums {
                // SAFETY: the caller vouches for the panel and for the instruction set.
                unsafe { tile::<$vector, W, ROWS, AHEAD>(panel, partial) }
            }
            [
                [kernel::<W, 1, false>, kernel::<W, 1, true>],
                [kernel::<W, 2, false>, kernel::<W, 2, true>],
                [kernel::<W, 3, false>, kernel::<W, 3, true>],
            ]
        }
    };
}

mod portable {
    use super::*;

    kernels!([f32; 8]);

    impl Eight for [f32; 8] {
        #[inline(always)]
        unsafe fn zero() -> Self {
            [0.0; 8]
        }
        #[inline(always)]
        unsafe fn load<T: Element>(from: *const T) -> Self {
            // SAFETY: the caller's contract.
            unsafe { from.cast::<[T; 8]>().read() }.map(T::to_f32)
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's contract.
            unsafe { to.cast::<Self>().write(self) }
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            std::array::from_fn(|i| a[i].mul_add(b[i], self[i]))
        }
        #[inline(always)]
        unsafe fn sums(vectors: [Self; 4]) -> [f32; 4] {
            vectors.map(|p| ((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + (p[6] + p[7])))
        }
        #[inline(always)]
        unsafe fn prefetch(_address: *const u8) {}
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    use std::arch::x86_64::*;

    kernels!(__m256, "avx2,fma,f16c");

    impl Eight for __m256 {
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller's contract, here and below.
            unsafe { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load<T: Element>(from: *const T) -> Self {
            // SAFETY: as above.
            unsafe {
                match T::DTYPE {
                    Dtype::F32 => _mm256_loadu_ps(from.cast()),
                    Dtype::Bf16 => {
                        let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
                    }
                    Dtype::F16 => _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
                }
            }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_fmadd_ps(a, b, self) }
        }
        #[inline(always)]
        unsafe fn sums([a, b, c, d]: [Self; 4]) -> [f32; 4] {
            // SAFETY: as above; a __m128 is four floats.
            unsafe {
                // Lanes 0 to 3 of the four vectors in the low half, lanes 4 to 7 in the high half.
                let halves = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
                let sums = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
                std::mem::transmute::<__m128, [f32; 4]>(sums)
            }
        }
        #[inline(always)]
        unsafe fn prefetch(address: *const u8) {
            // SAFETY: a hint; it faults at no address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::*;
    use std::arch::aarch64::*;

    /// Two registers of four lanes.
    #[derive(Clone, Copy)]
    pub(super) struct Pair(float32x4_t, float32x4_t);

    kernels!(Pair, "neon");

    impl Eight for Pair {
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller's contract, here and below.
            unsafe { Self(vdupq_n_f32(0.0), vdupq_n_f32(0.0)) }
        }
        #[inline(always)]
        unsafe fn load<T: Element>(from: *const T) -> Self {
            // SAFETY: as above.
            unsafe {
                match T::DTYPE {
                    Dtype::F32 => {
                        let from = from.cast::<f32>();
                        Self(vld1q_f32(from), vld1q_f32(from.add(4)))
                    }
                    Dtype::Bf16 => {
                        let bits = vld1q_u16(from.cast());
                        let (low, high) = (vget_low_u16(bits), vget_high_u16(bits));
                        Self(
                            vreinterpretq_f32_u32(vshll_n_u16::<16>(low)),
                            vreinterpretq_f32_u32(vshll_n_u16::<16>(high)),
                        )
                    }
                    Dtype::F16 => {
                        let lanes = from.cast::<[T; 8]>().read().map(T::to_f32);
                        Self(vld1q_f32(lanes.as_ptr()), vld1q_f32(lanes[4..].as_ptr()))
                    }
                }
            }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above.
            unsafe {
                vst1q_f32(to, self.0);
                vst1q_f32(to.add(4), self.1);
            }
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { Self(vfmaq_f32(self.0, a.0, b.0), vfmaq_f32(self.1, a.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn sums(vectors: [Self; 4]) -> [f32; 4] {
            vectors.map(|v| {
                let mut p = [0.0; 8];
                // SAFETY: as above.
                unsafe { v.store(p.as_mut_ptr()) };
                ((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + (p[6] + p[7]))
            })
        }
        #[inline(always)]
        unsafe fn prefetch(_address: *const u8) {}
    }
}

#[cfg(test)]
#[path = "dot_tests.rs"]
mod tests;
