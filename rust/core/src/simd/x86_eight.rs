//! Registers of eight lanes: what AVX2 and AVX-512 both do with them.

use std::arch::x86_64::*;

use super::WIDTH;
use crate::format::{Dtype, Element};

/// The order of [`Lanes::reduce_add`](super::Lanes::reduce_add) from eight lanes on.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
pub(super) unsafe fn reduce_eight(v: __m256) -> f32 {
    // SAFETY: the caller's contract.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

/// Four reductions at once, each in the order of [`Lanes::reduce_add`](super::Lanes::reduce_add) from eight lanes on.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
pub(super) unsafe fn reduce_eight4(v: [__m256; 4]) -> [f32; 4] {
    // SAFETY: the caller's contract; a transmute between arrays of f32 of one size.
    unsafe {
        let mut four = [_mm_setzero_ps(); 4];
        for (four, v) in four.iter_mut().zip(v) {
            *four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        }
        // [a0 b0 a1 b1] + [a2 b2 a3 b3]: lanes 0 and 2 of each meet, and 1 and 3.
        let ab = _mm_add_ps(_mm_unpacklo_ps(four[0], four[1]), _mm_unpackhi_ps(four[0], four[1]));
        let cd = _mm_add_ps(_mm_unpacklo_ps(four[2], four[3]), _mm_unpackhi_ps(four[2], four[3]));
        std::mem::transmute(_mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab)))
    }
}

/// Turns eight registers of eight lanes.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn transpose_eight(v: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: the caller's contract.
    unsafe {
        let pair = |a, b| (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let ((a, b), (c, d)) = (pair(v[0], v[1]), pair(v[2], v[3]));
        let ((e, f), (g, h)) = (pair(v[4], v[5]), pair(v[6], v[7]));
        let quad = |a, b| (_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0xee>(a, b));
        let ((r0, r1), (r2, r3)) = (quad(a, c), quad(b, d));
        let ((s0, s1), (s2, s3)) = (quad(e, g), quad(f, h));
        let low = |r, s| _mm256_permute2f128_ps::<0x20>(r, s);
        let high = |r, s| _mm256_permute2f128_ps::<0x31>(r, s);
        [
            low(r0, s0),
            low(r1, s1),
            low(r2, s2),
            low(r3, s3),
            high(r0, s0),
            high(r1, s1),
            high(r2, s2),
            high(r3, s3),
        ]
    }
}

/// Eight elements, widened.
///
/// # Safety
/// The machine has AVX2 and F16C, and `at` points to eight elements.
#[inline(always)]
pub(super) unsafe fn load_eight<E: Element>(at: *const E) -> __m256 {
    // SAFETY: the caller's contract; `E::DTYPE` says the size of an element.
    unsafe {
        match E::DTYPE {
            Dtype::F32 => _mm256_loadu_ps(at.cast()),
            Dtype::Bf16 => {
                let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
            }
            Dtype::F16 => _mm256_cvtph_ps(_mm_loadu_si128(at.cast())),
        }
    }
}

/// For every mask of eight lanes, the lanes that it holds, ascending.
static LANES_OF: [[u8; 8]; 256] = {
    let mut table = [[0; 8]; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut lane, mut count) = (0, 0);
        while lane < 8 {
            if mask >> lane & 1 == 1 {
                table[mask][count] = lane as u8;
                count += 1;
            }
            lane += 1;
        }
        mask += 1;
    }
    table
};

/// [`Lanes::positions`](super::Lanes::positions) of the lower eight bits of `mask`.
///
/// # Safety
/// The machine has AVX2, and `to` points to room for eight numbers.
#[inline(always)]
pub(super) unsafe fn positions_eight(mask: u32, first: u32, to: *mut u32) -> usize {
    let lanes = &LANES_OF[(mask & 0xff) as usize];
    // SAFETY: the caller's contract; a row of the table has eight bytes.
    unsafe {
        let lanes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(lanes.as_ptr().cast()));
        _mm256_storeu_si256(to.cast(), _mm256_add_epi32(lanes, _mm256_set1_epi32(first as i32)));
    }
    (mask & 0xff).count_ones() as usize
}

/// [`Lanes::transpose`](super::Lanes::transpose) in four blocks of eight by eight.
///
/// # Safety
/// The machine has AVX2 and F16C.
#[inline(always)]
pub(super) unsafe fn transpose_sixteen<E: Element>(
    from: &[&[E; WIDTH]; WIDTH],
    to: &mut [[f32; WIDTH]; WIDTH],
) {
    for (first, half) in [(0, 0), (8, 0), (0, 8), (8, 8)] {
        // SAFETY: the caller's contract; all indices are below sixteen.
        unsafe {
            let mut rows = [_mm256_setzero_ps(); 8];
            for (row, from) in rows.iter_mut().zip(&from[first..]) {
                *row = load_eight(from.as_ptr().add(half));
            }
            for (i, row) in transpose_eight(rows).into_iter().enumerate() {
                _mm256_storeu_ps(to[half + i].as_mut_ptr().add(first), row);
            }
        }
    }
}
