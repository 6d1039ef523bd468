//! [`Lanes`] on AVX2 (two registers a vector) and AVX-512 (one).
//!
//! Every method is one or a few intrinsics; a token exists only where [`Isa::run`](super::Isa::run)
//! saw the features, which is what makes the intrinsics safe to call.
//!
//! No closures here: one that the compiler leaves out of line is compiled without the features, and
//! then every intrinsic in it is a call.

use std::arch::x86_64::*;

use super::ahead::MemoryRange;
use super::product::{FourByTwo, Group};
use super::x86_eight::{load_eight, positions_eight, reduce_eight, reduce_eight4, transpose_sixteen};
use super::{Kernel, Lanes, WIDTH, x86_product};
use crate::format::{Dtype, Element};

/// # Safety
/// The machine has AVX2, FMA, F16C and POPCNT.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

/// # Safety
/// The machine has AVX-512 F, BW, DQ and VL, and AVX2, FMA, F16C and POPCNT.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512(());

type Two = [__m256; 2];

/// Methods of AVX2 that apply one intrinsic to both registers.
macro_rules! both {
    ($($name:ident($($arg:ident),+) => $intrinsic:expr;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: Two),+) -> Two {
            // SAFETY: the token: the machine has AVX2 and FMA.
            unsafe { [ { $(let $arg = $arg[0];)+ $intrinsic }, { $(let $arg = $arg[1];)+ $intrinsic } ] }
        }
    )+};
}

/// Methods of AVX-512 that are one intrinsic.
macro_rules! one {
    ($($name:ident($($arg:ident),+) => $intrinsic:expr;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: __m512),+) -> __m512 {
            // SAFETY: the token: the machine has AVX-512 F and DQ.
            unsafe { $intrinsic }
        }
    )+};
}

impl Lanes for Avx2 {
    type Vector = Two;
    type Mask = Two;
    // Of sixteen registers twelve: six vectors.
    const ACCUMULATORS: usize = 6;
    const PAIRS: bool = true;

    #[inline(always)]
    fn splat(self, x: f32) -> Two {
        // SAFETY: the token.
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    fn load<E: Element>(self, from: &[E; WIDTH]) -> Two {
        // SAFETY: the token; `from` has sixteen elements.
        unsafe { [load_eight(from.as_ptr()), load_eight(from.as_ptr().add(8))] }
    }
    #[inline(always)]
    fn load_bytes(self, from: &[u8; WIDTH]) -> Two {
        let at = from.as_ptr();
        // SAFETY: the token; `from` has sixteen bytes.
        unsafe {
            [
                _mm256_castsi256_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(at.cast()))),
                _mm256_castsi256_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(at.add(8).cast()))),
            ]
        }
    }
    #[inline(always)]
    fn store(self, v: Two, to: &mut [f32; WIDTH]) {
        let at = to.as_mut_ptr();
        // SAFETY: the token; `to` has sixteen f32.
        unsafe {
            _mm256_storeu_ps(at, v[0]);
            _mm256_storeu_ps(at.add(8), v[1]);
        }
    }
    both! {
        add(a, b) => _mm256_add_ps(a, b);
        sub(a, b) => _mm256_sub_ps(a, b);
        mul(a, b) => _mm256_mul_ps(a, b);
        div(a, b) => _mm256_div_ps(a, b);
        fma(a, b, c) => _mm256_fmadd_ps(a, b, c);
        max(a, b) => _mm256_max_ps(a, b);
        min(a, b) => _mm256_min_ps(a, b);
        lt(a, b) => _mm256_cmp_ps::<_CMP_LT_OQ>(a, b);
        eq(a, b) => _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b);
        select(mask, a, b) => _mm256_blendv_ps(b, a, mask);
        bits_add(a, b) => _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
        bits_to_float(a) => _mm256_cvtepi32_ps(_mm256_castps_si256(a));
    }
    #[inline(always)]
    fn mask_bits(self, mask: Two) -> u32 {
        // SAFETY: the token.
        unsafe { (_mm256_movemask_ps(mask[0]) | _mm256_movemask_ps(mask[1]) << 8) as u32 }
    }
    #[inline(always)]
    fn positions(self, mask: u32, first: u32, to: &mut [u32; WIDTH]) -> usize {
        let at = to.as_mut_ptr();
        // SAFETY: the token; `to` has room for sixteen numbers, and at most eight come before the second half.
        unsafe {
            let count = positions_eight(mask, first, at);
            count + positions_eight(mask >> 8, first + 8, at.add(count))
        }
    }
    #[inline(always)]
    fn bits_and(self, a: Two, pattern: u32) -> Two {
        // SAFETY: the token.
        unsafe {
            let pattern = _mm256_set1_ps(f32::from_bits(pattern));
            [_mm256_and_ps(a[0], pattern), _mm256_and_ps(a[1], pattern)]
        }
    }
    #[inline(always)]
    fn bits_or(self, a: Two, pattern: u32) -> Two {
        // SAFETY: the token.
        unsafe {
            let pattern = _mm256_set1_ps(f32::from_bits(pattern));
            [_mm256_or_ps(a[0], pattern), _mm256_or_ps(a[1], pattern)]
        }
    }
    #[inline(always)]
    fn bits_shl<const N: i32>(self, a: Two) -> Two {
        // SAFETY: the token.
        unsafe {
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<N>(_mm256_castps_si256(a[0]))),
                _mm256_castsi256_ps(_mm256_slli_epi32::<N>(_mm256_castps_si256(a[1]))),
            ]
        }
    }
    #[inline(always)]
    fn bits_sra<const N: i32>(self, a: Two) -> Two {
        // SAFETY: the token.
        unsafe {
            [
                _mm256_castsi256_ps(_mm256_srai_epi32::<N>(_mm256_castps_si256(a[0]))),
                _mm256_castsi256_ps(_mm256_srai_epi32::<N>(_mm256_castps_si256(a[1]))),
            ]
        }
    }
    #[inline(always)]
    fn reduce_add(self, v: Two) -> f32 {
        // SAFETY: the token.
        unsafe { reduce_eight(_mm256_add_ps(v[0], v[1])) }
    }
    #[inline(always)]
    fn reduce_add4(self, v: [Two; 4]) -> [f32; 4] {
        // SAFETY: the token.
        unsafe {
            let mut eight = [_mm256_setzero_ps(); 4];
            for (eight, v) in eight.iter_mut().zip(v) {
                *eight = _mm256_add_ps(v[0], v[1]);
            }
            reduce_eight4(eight)
        }
    }
    #[inline(always)]
    fn transpose<E: Element>(self, from: &[&[E; WIDTH]; WIDTH], to: &mut [[f32; WIDTH]; WIDTH]) {
        // SAFETY: the token; both squares are whole.
        unsafe { transpose_sixteen(from, to) }
    }
    #[inline(always)]
    unsafe fn three_by_two<const STEP: usize, const ADD: bool>(
        self,
        group: Group<3, 2, STEP>,
        ahead: MemoryRange,
    ) {
        // SAFETY: the token; the caller's contract.
        unsafe { x86_product::three_by_two::<STEP, ADD>(self, group, ahead) }
    }
    #[inline(always)]
    unsafe fn four_by_two<E: Element>(self, rows: FourByTwo<E>) -> [[f32; 4]; 2] {
        // SAFETY: the token; the caller's contract.
        unsafe { x86_product::four_by_two_eights(rows) }
    }
    #[inline(always)]
    fn prefetch<T>(self, at: *const T) {
        // SAFETY: a prefetch may be given any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    fn prefetch_near<T>(self, at: *const T) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}

impl Lanes for Avx512 {
    type Vector = __m512;
    type Mask = __mmask16;
    const ACCUMULATORS: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load<E: Element>(self, from: &[E; WIDTH]) -> __m512 {
        let at = from.as_ptr();
        // SAFETY: the token; `from` has sixteen elements of the size that `E::DTYPE` says.
        unsafe {
            match E::DTYPE {
                Dtype::F32 => _mm512_loadu_ps(at.cast()),
                Dtype::Bf16 => {
                    let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
                }
                Dtype::F16 => _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())),
            }
        }
    }
    #[inline(always)]
    fn load_bytes(self, from: &[u8; WIDTH]) -> __m512 {
        // SAFETY: the token; `from` has sixteen bytes.
        unsafe { _mm512_castsi512_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn store(self, v: __m512, to: &mut [f32; WIDTH]) {
        // SAFETY: the token; `to` has sixteen f32.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
    }
    one! {
        add(a, b) => _mm512_add_ps(a, b);
        sub(a, b) => _mm512_sub_ps(a, b);
        mul(a, b) => _mm512_mul_ps(a, b);
        div(a, b) => _mm512_div_ps(a, b);
        fma(a, b, c) => _mm512_fmadd_ps(a, b, c);
        max(a, b) => _mm512_max_ps(a, b);
        min(a, b) => _mm512_min_ps(a, b);
        bits_add(a, b) => _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
        bits_to_float(a) => _mm512_cvtepi32_ps(_mm512_castps_si512(a));
    }
    #[inline(always)]
    fn lt(self, a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: the token.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) }
    }
    #[inline(always)]
    fn eq(self, a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: the token.
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b) }
    }
    #[inline(always)]
    fn select(self, mask: __mmask16, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_mask_blend_ps(mask, b, a) }
    }
    #[inline(always)]
    fn mask_bits(self, mask: __mmask16) -> u32 {
        u32::from(mask)
    }
    #[inline(always)]
    fn positions(self, mask: u32, first: u32, to: &mut [u32; WIDTH]) -> usize {
        // Compressed in a register: where it goes straight to memory, some processors take many times as long.
        // SAFETY: the token; `to` has room for sixteen numbers.
        unsafe {
            let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let all = _mm512_add_epi32(lanes, _mm512_set1_epi32(first as i32));
            _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_maskz_compress_epi32(mask as __mmask16, all));
        }
        (mask & 0xffff).count_ones() as usize
    }
    #[inline(always)]
    fn bits_and(self, a: __m512, pattern: u32) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_and_ps(a, _mm512_set1_ps(f32::from_bits(pattern))) }
    }
    #[inline(always)]
    fn bits_or(self, a: __m512, pattern: u32) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_or_ps(a, _mm512_set1_ps(f32::from_bits(pattern))) }
    }
    #[inline(always)]
    fn bits_shl<const N: i32>(self, a: __m512) -> __m512 {
        // SAFETY: the token. The variable shift takes its count from lanes, so that N may stay i32.
        unsafe {
            let count = _mm512_set1_epi32(N);
            _mm512_castsi512_ps(_mm512_sllv_epi32(_mm512_castps_si512(a), count))
        }
    }
    #[inline(always)]
    fn bits_sra<const N: i32>(self, a: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let count = _mm512_set1_epi32(N);
            _mm512_castsi512_ps(_mm512_srav_epi32(_mm512_castps_si512(a), count))
        }
    }
    #[inline(always)]
    fn reduce_add(self, v: __m512) -> f32 {
        // SAFETY: the token.
        unsafe { reduce_eight(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v))) }
    }
    #[inline(always)]
    fn reduce_add4(self, v: [__m512; 4]) -> [f32; 4] {
        // SAFETY: the token.
        unsafe {
            let mut eight = [_mm256_setzero_ps(); 4];
            for (eight, v) in eight.iter_mut().zip(v) {
                *eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            }
            reduce_eight4(eight)
        }
    }
    #[inline(always)]
    fn transpose<E: Element>(self, from: &[&[E; WIDTH]; WIDTH], to: &mut [[f32; WIDTH]; WIDTH]) {
        // SAFETY: the token; both squares are whole.
        unsafe { transpose_sixteen(from, to) }
    }
    #[inline(always)]
    unsafe fn four_by_two<E: Element>(self, rows: FourByTwo<E>) -> [[f32; 4]; 2] {
        // SAFETY: the caller's contract.
        unsafe { x86_product::four_by_two_sixteens(self, rows) }
    }
    #[inline(always)]
    fn prefetch<T>(self, at: *const T) {
        // SAFETY: a prefetch may be given any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    fn prefetch_near<T>(self, at: *const T) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}
