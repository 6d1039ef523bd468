//! Product loops of x86. That of AVX2 over panels is in assembly: it needs all sixteen registers, and a compiler
//! that loads one vector earlier than here has to put a sum into memory.

use std::arch::asm;
use std::arch::x86_64::*;

use super::Lanes;
use super::ahead::MemoryRange;
use super::product::{FourByTwo, Group};
use super::x86::{Avx2, Avx512};
use super::x86_eight::{load_eight, reduce_eight4};
use crate::format::Element;

/// One turn: three numbers, each for four registers of eight lanes. Twelve multiply-adds for seven
/// loads, where six numbers for two registers are eight.
macro_rules! turn {
    ($turn:literal) => {
        concat!(
            turn!(number, "0", $turn),
            turn!(number, "1", $turn),
            turn!(number, "2", $turn),
            turn!(vector, "0", "0", $turn),
            turn!(vector, "0", "1", $turn),
            turn!(vector, "1", "0", $turn),
            turn!(vector, "1", "1", $turn),
        )
    };
    (number, $row:literal, $turn:literal) => {
        concat!("vbroadcastss {x", $row, "}, dword ptr [{row", $row, "} + {step} * ", $turn, "]\n")
    };
    (vector, $panel:literal, $half:literal, $turn:literal) => {
        concat!(
            "vmovups {v}, ymmword ptr [{panel",
            $panel,
            "} + 64 * ",
            $turn,
            " + 32 * ",
            $half,
            "]\n",
            turn!(add, "0", $panel, $half),
            turn!(add, "1", $panel, $half),
            turn!(add, "2", $panel, $half),
        )
    };
    (add, $row:literal, $panel:literal, $half:literal) => {
        concat!("vfmadd231ps {s", $row, $panel, $half, "}, {x", $row, "}, {v}\n")
    };
}

/// [`Lanes::three_by_two`](super::Lanes::three_by_two). Out of line: it leaves its caller no register.
///
/// # Safety
/// Its contract; the machine has AVX2 and FMA.
#[inline(never)]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn three_by_two<const STEP: usize, const ADD: bool>(
    l: Avx2,
    group: Group<3, 2, STEP>,
    ahead: MemoryRange,
) {
    let Group { n, rows, panels, .. } = group;
    // SAFETY: the caller's contract. A prefetch may be given any address.
    unsafe {
        let mut sums = group.begin::<ADD, Avx2>(l);
        let fours = n / 4;
        if fours > 0 {
            asm!(
                "2:",
                turn!("0"),
                turn!("1"),
                "prefetcht1 byte ptr [{ahead}]",
                turn!("2"),
                turn!("3"),
                "add {row0}, 4 * {step}",
                "add {row1}, 4 * {step}",
                "add {row2}, 4 * {step}",
                "add {panel0}, 256",
                "add {panel1}, 256",
                "add {ahead}, {stride}",
                "dec {fours}",
                "jne 2b",
                step = const STEP * size_of::<f32>(),
                row0 = inout(reg) rows[0] => _,
                row1 = inout(reg) rows[1] => _,
                row2 = inout(reg) rows[2] => _,
                panel0 = inout(reg) panels[0] => _,
                panel1 = inout(reg) panels[1] => _,
                ahead = inout(reg) ahead.at => _,
                stride = in(reg) ahead.bytes.div_ceil(fours),
                fours = inout(reg) fours => _,
                x0 = out(ymm_reg) _,
                x1 = out(ymm_reg) _,
                x2 = out(ymm_reg) _,
                v = out(ymm_reg) _,
                s000 = inout(ymm_reg) sums[0][0][0],
                s001 = inout(ymm_reg) sums[0][0][1],
                s010 = inout(ymm_reg) sums[0][1][0],
                s011 = inout(ymm_reg) sums[0][1][1],
                s100 = inout(ymm_reg) sums[1][0][0],
                s101 = inout(ymm_reg) sums[1][0][1],
                s110 = inout(ymm_reg) sums[1][1][0],
                s111 = inout(ymm_reg) sums[1][1][1],
                s200 = inout(ymm_reg) sums[2][0][0],
                s201 = inout(ymm_reg) sums[2][0][1],
                s210 = inout(ymm_reg) sums[2][1][0],
                s211 = inout(ymm_reg) sums[2][1][1],
                options(nostack, readonly),
            );
        }
        group.end(l, n - n % 4, sums);
    }
}

/// [`Lanes::four_by_two`] of AVX2: the lower halves of all vectors, then the upper ones. So eight sums, two vectors
/// and a number fit the registers, and there are fewer loads than multiply-adds.
///
/// # Safety
/// Its contract; the machine has AVX2, FMA and F16C.
#[inline(always)]
pub(super) unsafe fn four_by_two_eights<E: Element>(rows: FourByTwo<E>) -> [[f32; 4]; 2] {
    let FourByTwo { turns, a, b } = rows;
    // SAFETY: the caller's contract; every row has `turns` vectors of sixteen.
    unsafe {
        let mut halves = [[[_mm256_setzero_ps(); 4]; 2]; 2];
        for half in 0..2 {
            let mut sums = [[_mm256_setzero_ps(); 4]; 2];
            for turn in 0..turns {
                let at = turn * 16 + half * 8;
                let x = load_eight(b[0].cast::<E>().add(at));
                let y = load_eight(b[1].cast::<E>().add(at));
                for q in 0..4 {
                    let number = _mm256_loadu_ps(a[q].cast::<f32>().add(at));
                    sums[0][q] = _mm256_fmadd_ps(number, x, sums[0][q]);
                    sums[1][q] = _mm256_fmadd_ps(number, y, sums[1][q]);
                }
            }
            halves[half] = sums;
        }
        let [low, high] = halves;
        let mut sums = [[0.0; 4]; 2];
        for k in 0..2 {
            let mut both = [_mm256_setzero_ps(); 4];
            for q in 0..4 {
                both[q] = _mm256_add_ps(low[k][q], high[k][q]);
            }
            sums[k] = reduce_eight4(both);
        }
        sums
    }
}

/// [`Lanes::four_by_two`] of AVX-512: eight sums, as many as its multiply-adds have to wait for.
///
/// # Safety
/// Its contract.
#[inline(always)]
pub(super) unsafe fn four_by_two_sixteens<E: Element>(l: Avx512, rows: FourByTwo<E>) -> [[f32; 4]; 2] {
    let FourByTwo { turns, a, b } = rows;
    let mut sums = [[l.splat(0.0); 4]; 2];
    for turn in 0..turns {
        // SAFETY: the caller's contract; every row has `turns` vectors.
        unsafe {
            let (x, y) = (l.load(&*b[0].add(turn)), l.load(&*b[1].add(turn)));
            for q in 0..4 {
                let number = l.load(&*a[q].add(turn));
                sums[0][q] = l.fma(number, x, sums[0][q]);
                sums[1][q] = l.fma(number, y, sums[1][q]);
            }
        }
    }
    [l.reduce_add4(sums[0]), l.reduce_add4(sums[1])]
}
