//! A linear layer for few rows: `y = x W^T + b`, bound by how fast the weight streams from memory.
//!
//! Decoding multiplies each weight with a handful of rows: one a sequence, some more when drafts
//! are verified. Libraries made for large products first copy such a weight into panels, which
//! costs more than the product. Here the weight is read in place, once, in order, with the next
//! rows prefetched; the rows of `x` stay in cache.
//!
//! The bits of an output do not depend on the number of rows, on its place, or on the number of
//! threads (`simd::dot` fixes the order of summation).

use std::ops::Range;

use crate::error::{Error, Result};
use crate::format::Element;
use crate::parallel::Parallel;
use crate::simd::Isa;
use crate::simd::blocks::{ColumnBlock, ColumnBlocks};
use crate::simd::dot::{Ahead, Partial, Sums, TILE_OUTPUTS, TILE_ROWS, Tiles, as_f32};

/// Inputs of a panel: four rows of f32 weights take half of a 32 KiB first-level cache.
const PANEL: usize = 1024;
/// Weights with longer rows are left to the processor's own prefetching when a single pass reads
/// them: it follows four long streams well, but loses short ones at every row's end.
const LONG_ROW_BYTES: usize = 4096;
/// Rows of `x` between two visits to the same panel of the weight.
const MAX_ROWS: usize = 48;
/// Bytes of weight that a thread claims at once.
const CLAIM_BYTES: usize = 64 << 10;
/// Below this many multiply-adds, handing work to a second thread costs more than it saves.
const SERIAL_PRODUCTS: usize = 64 << 10;

/// The sizes of a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearShape {
    /// Rows of `x` and of the result.
    pub rows: usize,
    /// Columns of `x`, and of the weight.
    pub inputs: usize,
    /// Rows of the weight, columns of the result.
    pub outputs: usize,
}

/// `out[m, n] = sum over k of x[m, k] * weight[n, k]`, plus `bias[n]`: sums in f32, rounded once.
///
/// `x` is `[rows, inputs]`, `weight` `[outputs, inputs]`, `bias` `[outputs]`, `out` `[rows, outputs]`,
/// all contiguous. `scratch` holds `x` as f32 when it is not; pass the same one again, so that
/// nothing is allocated.
///
/// ```
/// use hornbeam_core::ops::linear::{LinearShape, linear};
/// use hornbeam_core::parallel::Serial;
///
/// let x = [1.0f32, 2.0];
/// let weight = [1.0f32, 0.0, 0.0, 1.0, 1.0, 1.0]; // three outputs of two inputs
/// let mut out = [0.0; 3];
/// let shape = LinearShape { rows: 1, inputs: 2, outputs: 3 };
/// linear(&x, &weight, Some(&[0.0, 0.0, 0.5]), &mut out, shape, &mut Vec::new(), &Serial)?;
/// assert_eq!(out, [1.0, 2.0, 3.5]);
/// # Ok::<(), hornbeam_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if a slice has another length.
pub fn linear<X: Element, W: Element>(
    x: &[X],
    weight: &[W],
    bias: Option<&[W]>,
    out: &mut [X],
    shape: LinearShape,
    scratch: &mut Vec<f32>,
    parallel: &dyn Parallel,
) -> Result<()> {
    let LinearShape { rows, inputs, outputs } = shape;
    expect_len("x.len()", x.len(), rows * inputs)?;
    expect_len("weight.len()", weight.len(), outputs * inputs)?;
    expect_len("out.len()", out.len(), rows * outputs)?;
    if let Some(bias) = bias {
        expect_len("bias.len()", bias.len(), outputs)?;
    }
    if rows == 0 || outputs == 0 {
        return Ok(());
    }
    let bias_at = |n: usize| bias.map_or(0.0, |bias| bias[n].to_f32());
    if inputs == 0 {
        for row in out.chunks_exact_mut(outputs) {
            row.iter_mut().enumerate().for_each(|(n, y)| *y = X::from_f32(bias_at(n)));
        }
        return Ok(());
    }
    let x = match as_f32(x) {
        Some(x) => x,
        None => {
            scratch.clear();
            scratch.extend(x.iter().map(|x| x.to_f32()));
            scratch
        }
    };
    let width = (CLAIM_BYTES / size_of_val(&weight[..inputs])).next_multiple_of(TILE_OUTPUTS);
    let work = Work { x, weight, inputs, tiles: Tiles::new(Isa::detected()) };
    let blocks = ColumnBlocks::new(out, outputs, width.max(TILE_OUTPUTS));
    let threads = match rows * inputs * outputs {
        products if products < SERIAL_PRODUCTS => 1,
        _ => parallel.num_threads().min(blocks.count()),
    };
    parallel.run(threads, &|_| {
        while let Some(mut block) = blocks.claim() {
            work.fill(&mut block, rows, &bias_at);
        }
    });
    Ok(())
}

fn expect_len(what: &'static str, got: usize, expected: usize) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::shape(what, got, expected)) }
}

struct Work<'a, W> {
    x: &'a [f32],
    weight: &'a [W],
    inputs: usize,
    tiles: Tiles<W>,
}

impl<W: Element> Work<'_, W> {
    fn fill<X: Element>(&self, block: &mut ColumnBlock<'_, X>, rows: usize, bias: &impl Fn(usize) -> f32) {
        let columns = block.columns();
        // One tile is most of what a short call has: it begins no memory that it does not use.
        let (mut one, mut many);
        let partials: &mut [Partial] = if rows <= TILE_ROWS {
            one = [Partial::ZERO];
            &mut one
        } else {
            many = [Partial::ZERO; MAX_ROWS.div_ceil(TILE_ROWS)];
            &mut many
        };
        for first in columns.clone().step_by(TILE_OUTPUTS) {
            let outputs = first..columns.end.min(first + TILE_OUTPUTS);
            let offset = first - columns.start;
            let bias: [f32; TILE_OUTPUTS] = std::array::from_fn(|i| bias(outputs.end.min(first + i + 1) - 1));
            for row in (0..rows).step_by(MAX_ROWS) {
                let split = Split::new(row..rows.min(row + MAX_ROWS));
                self.sum(outputs.clone(), split, partials, |rows, sums| {
                    for (row, sums) in rows.zip(sums) {
                        let y = &mut block.row(row)[offset..offset + outputs.len()];
                        for ((y, sum), bias) in y.iter_mut().zip(sums).zip(bias) {
                            *y = X::from_f32(sum + bias);
                        }
                    }
                });
            }
        }
    }

    /// Sums over all inputs for one to four outputs and some rows, panel by panel: a panel of the
    /// weight stays in the first-level cache while all rows pass over it.
    #[inline(always)]
    fn sum(
        &self,
        outputs: Range<usize>,
        split: Split,
        partials: &mut [Partial],
        mut emit: impl FnMut(Range<usize>, Sums),
    ) {
        let inputs = self.inputs;
        let weight = &self.weight[outputs.start * inputs..outputs.end * inputs];
        let row_bytes = size_of_val(&weight[..inputs]);
        let panels = if split.tiles == 1 { 1 } else { inputs.div_ceil(PANEL) };
        let panel = inputs.div_ceil(panels).next_multiple_of(64);
        let ahead_rows = if split.tiles == 1 { 16 } else { TILE_OUTPUTS };
        let mut next = weight.as_ptr().wrapping_add(ahead_rows * inputs);
        for from in (0..inputs).step_by(panel) {
            let to = inputs.min(from + panel);
            let mut left = if split.tiles == 1 && row_bytes > LONG_ROW_BYTES { 0 } else { TILE_OUTPUTS };
            for (tile, partial) in partials[..split.tiles].iter_mut().enumerate() {
                let rows = split.tile(tile);
                let lines = left.div_ceil(split.tiles - tile);
                left -= lines;
                let x = &self.x[rows.start * inputs..rows.end * inputs];
                let ahead = Ahead { at: next, lines };
                let sums = self.tiles.run(x, weight, inputs, (from, to), ahead, partial);
                if to == inputs {
                    emit(rows, sums);
                }
                next = next.wrapping_add(lines * (to - from));
            }
        }
    }
}

/// Rows, cut into as few tiles as hold them, of sizes that differ by at most one.
#[derive(Clone, Copy)]
struct Split {
    start: usize,
    rows: usize,
    tiles: usize,
}

impl Split {
    fn new(rows: Range<usize>) -> Self {
        Self { start: rows.start, rows: rows.len(), tiles: rows.len().div_ceil(TILE_ROWS) }
    }

    fn tile(self, index: usize) -> Range<usize> {
        let bound = |i: usize| self.start + i * self.rows / self.tiles;
        bound(index)..bound(index + 1)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::parallel::{Rayon, Serial};
    use half::{bf16, f16};
    use proptest::prelude::*;

    /// Numbers that are exact in all element types, with signs and magnitudes that make order matter.
    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 56) as f32 - 127.5) * (0.5f32).powi((state >> 40 & 7) as i32)
        };
        (0..count).map(|_| next()).collect()
    }

    /// The order of summation that `simd::dot` promises, written plainly.
    fn plain(x: &[f32], weight: &[f32]) -> f32 {
        let mut p = [0.0f32; 8];
        for (k, (x, w)) in x.iter().zip(weight).enumerate() {
            p[k % 8] = x.mul_add(*w, p[k % 8]);
        }
        ((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + (p[6] + p[7]))
    }

    fn check<X: Element + PartialEq + std::fmt::Debug, W: Element>(
        shape: LinearShape,
        parallel: &dyn Parallel,
        seed: u64,
    ) {
        let LinearShape { rows, inputs, outputs } = shape;
        let narrow = |v: Vec<f32>| v.into_iter().map(X::from_f32).collect::<Vec<X>>();
        let narrow_weight = |v: Vec<f32>| v.into_iter().map(W::from_f32).collect::<Vec<W>>();
        let x = narrow(numbers(rows * inputs, seed));
        let weight = narrow_weight(numbers(outputs * inputs, seed + 1));
        let bias = narrow_weight(numbers(outputs, seed + 2));
        let mut out = vec![X::from_f32(f32::NAN); rows * outputs];
        linear(&x, &weight, Some(&bias), &mut out, shape, &mut Vec::new(), parallel).unwrap();
        let wide: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
        let wide_weight: Vec<f32> = weight.iter().map(|w| w.to_f32()).collect();
        for m in 0..rows {
            for n in 0..outputs {
                let sum =
                    plain(&wide[m * inputs..(m + 1) * inputs], &wide_weight[n * inputs..(n + 1) * inputs]);
                let expected = X::from_f32(sum + bias[n].to_f32());
                assert_eq!(out[m * outputs + n], expected, "row {m}, output {n} of {shape:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn bits_follow_the_promised_order(
            rows in 0usize..60, inputs in 0usize..90, outputs in 0usize..30, seed in 0u64..1000,
        ) {
            let shape = LinearShape { rows, inputs, outputs };
            check::<f32, f32>(shape, &Serial, seed);
            check::<f32, bf16>(shape, &Serial, seed);
            check::<bf16, bf16>(shape, &Serial, seed);
            check::<f16, f16>(shape, &Serial, seed);
        }
    }

    #[test]
    fn long_rows_and_threads_change_no_bit() {
        for (rows, inputs, outputs) in [(1, 5000, 70), (4, 2049, 65), (50, 1027, 33)] {
            let shape = LinearShape { rows, inputs, outputs };
            check::<f32, f32>(shape, &Rayon, 7);
            check::<bf16, f16>(shape, &Rayon, 7);
        }
    }

    #[test]
    fn lengths_are_checked() {
        let shape = LinearShape { rows: 2, inputs: 3, outputs: 4 };
        let run = |x: usize, weight: usize, bias: usize, out: usize| {
            let (x, weight, bias) = (vec![0.0f32; x], vec![0.0f32; weight], vec![0.0f32; bias]);
            linear(&x, &weight, Some(&bias), &mut vec![0.0; out], shape, &mut Vec::new(), &Serial)
        };
        assert_eq!(run(6, 12, 4, 8), Ok(()));
        assert_eq!(run(5, 12, 4, 8), Err(Error::shape("x.len()", 5, 6)));
        assert_eq!(run(6, 13, 4, 8), Err(Error::shape("weight.len()", 13, 12)));
        assert_eq!(run(6, 12, 3, 8), Err(Error::shape("bias.len()", 3, 4)));
        assert_eq!(run(6, 12, 4, 9), Err(Error::shape("out.len()", 9, 8)));
    }

    #[test]
    fn tiles_cover_all_rows() {
        for rows in 1..=MAX_ROWS {
            let split = Split::new(5..5 + rows);
            let tiles: Vec<_> = (0..split.tiles).map(|tile| split.tile(tile)).collect();
            assert_eq!(
                tiles.iter().cloned().flatten().collect::<Vec<_>>(),
                (5..5 + rows).collect::<Vec<_>>()
            );
            assert!(tiles.iter().all(|tile| (1..=TILE_ROWS).contains(&tile.len())));
        }
    }
}
