//! The blocks of a row with the greatest numbers.

use super::each::for_each_row;
use super::rows::{Rows, Top};
use crate::error::{Error, Result};
use crate::format::Element;
use crate::parallel::Parallel;
use crate::simd::{Isa, Kernel, Lanes, WIDTH};

/// The `k` blocks of every row with the greatest maximum: those maxima, and the indices of the blocks. The last block of
/// a row may be short; a block with a NaN has NaN as its maximum.
///
/// # Errors
/// As [`super::top_k`], where blocks count; [`Error::Value`] for blocks of nothing.
pub fn top_blocks<E: Element>(
    isa: Isa,
    pool: &dyn Parallel,
    rows: &Rows<'_, E>,
    block: usize,
    k: usize,
    sorted: bool,
    top: Top<'_, E>,
) -> Result<()> {
    if block == 0 {
        return Err(Error::value("block", block, "at least 1"));
    }
    let most = (0..rows.count()).map(|row| rows.row(row).len().div_ceil(block)).min();
    if let Some(most) = most.filter(|most| k > *most && !rows.is_ragged()) {
        return Err(Error::value("k", k, format!("0 to {most}, the blocks of a row")));
    }
    if k > top.width {
        return Err(Error::value("k", k, format!("at most {}, the places of a row", top.width)));
    }
    for_each_row(pool, rows.count(), rows.data.len(), top, |row, values, indices, scratch| {
        let numbers = rows.row(row);
        let mut maxima = std::mem::take(&mut scratch.row);
        maxima.resize(numbers.len().div_ceil(block), 0.0);
        isa.run(Maxima { row: numbers, block, maxima: &mut maxima });
        let k = k.min(maxima.len());
        scratch.select(isa, &maxima, k, None);
        scratch.write(&maxima, k, sorted, values, indices, E::from_f32);
        scratch.row = maxima;
    })
}

struct Maxima<'a, E> {
    row: &'a [E],
    block: usize,
    maxima: &'a mut [f32],
}

impl<E: Element> Kernel for Maxima<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Self { row, block, maxima } = self;
        // Sixteen blocks at a time: their vectors are turned, so that one vector has the maxima of all.
        let (mut square, mut turned) = ([[f32::NEG_INFINITY; WIDTH]; WIDTH], [[0.0; WIDTH]; WIDTH]);
        for (maxima, blocks) in maxima.chunks_mut(WIDTH).zip(row.chunks(block * WIDTH)) {
            let mut whole = u32::MAX;
            for (lane, numbers) in blocks.chunks(block).enumerate() {
                let mut greatest = l.splat(f32::NEG_INFINITY);
                let (vectors, tail) = numbers.as_chunks::<WIDTH>();
                let mut numbers = u32::MAX;
                for vector in vectors {
                    let x = l.load(vector);
                    greatest = l.max(x, greatest);
                    numbers &= l.mask_bits(l.eq(x, x));
                }
                let x = l.load_partial(tail, f32::NEG_INFINITY);
                greatest = l.max(x, greatest);
                numbers &= l.mask_bits(l.eq(x, x));
                l.store(greatest, &mut square[lane]);
                whole &= !(u32::from(numbers & 0xffff != 0xffff) << lane);
            }
            l.transpose(&std::array::from_fn(|i| &square[i]), &mut turned);
            let mut greatest = l.load(&turned[0]);
            for row in &turned[1..] {
                greatest = l.max(l.load(row), greatest);
            }
            l.store_partial(greatest, maxima);
            for (lane, maximum) in maxima.iter_mut().enumerate() {
                if whole >> lane & 1 == 0 {
                    *maximum = f32::NAN;
                }
            }
        }
    }
}
