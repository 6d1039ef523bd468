//! Passes over one row of numbers, such as a vocabulary row of logits: f32, bf16 or f16.
//!
//! Results do not depend on the instruction set. Comparisons are exact, since widening is.

use super::{Isa, Kernel, Lanes, WIDTH};
use crate::format::Element;

/// What one pass over a row finds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scan {
    /// The greatest element that is not NaN; -inf for a row without one. A row that is no
    /// distribution shows here too: `max` is +inf, or -inf where nothing is finite.
    pub max: f32,
    /// Whether any element is NaN.
    pub has_nan: bool,
}

/// Maximum and health of a row, in one pass.
pub fn scan<E: Element>(isa: Isa, row: &[E]) -> Scan {
    isa.run(ScanKernel(row))
}

/// The lowest index of the greatest element, and that element; `None` for a row that is empty or
/// holds nothing but NaN and -inf.
pub fn argmax<E: Element>(isa: Isa, row: &[E]) -> Option<(usize, f32)> {
    let max = scan(isa, row).max;
    if max == f32::NEG_INFINITY {
        return None;
    }
    position_of(isa, row, max).map(|index| (index, max))
}

/// The lowest index of an element equal to `value`.
pub fn position_of<E: Element>(isa: Isa, row: &[E], value: f32) -> Option<usize> {
    isa.run(Position(row, value))
}

/// How many elements are greater than `threshold`.
pub fn count_above<E: Element>(isa: Isa, row: &[E], threshold: f32) -> usize {
    isa.run(Count(row, threshold))
}

/// Calls `visit(index, element)` for the elements greater than `threshold`, in order.
pub fn for_each_above<E: Element>(isa: Isa, row: &[E], threshold: f32, visit: impl FnMut(usize, f32)) {
    isa.run(Above(row, threshold, visit));
}

/// The sum of `exp(x - shift)` over elements greater than `threshold`: sixteen f32 sums side by
/// side, added in f64 every 4096 elements, always in one order.
pub fn exp_sum_above<E: Element>(isa: Isa, row: &[E], shift: f32, threshold: f32) -> f64 {
    isa.run(ExpSum(row, shift, threshold))
}

struct ScanKernel<'a, E>(&'a [E]);

impl<E: Element> Kernel for ScanKernel<'_, E> {
    type Output = Scan;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> Scan {
        // The order of the operands keeps the maximum where the element is NaN. NaN is sticky in
        // the sum of x * 0; so are infinities, which a second look tells apart.
        let mut max = [l.splat(f32::NEG_INFINITY); 4];
        let mut health = [l.splat(0.0); 4];
        let zero = l.splat(0.0);
        let (blocks, tail) = self.0.as_chunks::<WIDTH>();
        let (groups, rest) = blocks.as_chunks::<4>();
        for group in groups {
            for i in 0..4 {
                let x = l.load(&group[i]);
                max[i] = l.max(x, max[i]);
                health[i] = l.fma(x, zero, health[i]);
            }
        }
        for x in rest.iter().map(|block| l.load(block)).chain([l.load_partial(tail, f32::NEG_INFINITY)]) {
            max[0] = l.max(x, max[0]);
            health[0] = l.select(l.eq(x, x), health[0], x);
        }
        let max = l.max(l.max(max[0], max[1]), l.max(max[2], max[3]));
        let health = l.add(l.add(health[0], health[1]), l.add(health[2], health[3]));
        let suspicious = l.mask_bits(l.eq(health, health)) != 0xffff;
        let has_nan = suspicious && any_nan(l, self.0);
        Scan { max: l.reduce_max(max), has_nan }
    }
}

#[inline(always)]
fn any_nan<E: Element, L: Lanes>(l: L, row: &[E]) -> bool {
    let (blocks, tail) = row.as_chunks::<WIDTH>();
    let whole = |x| l.mask_bits(l.eq(x, x)) == 0xffff;
    !(blocks.iter().all(|block| whole(l.load(block))) && whole(l.load_partial(tail, 0.0)))
}

/// The mask of elements of block `index` (the last one may be short) that pass `test`.
macro_rules! each_block {
    ($l:expr, $row:expr, $fill:expr, |$first:ident, $x:ident| $body:expr) => {{
        let (blocks, tail) = $row.as_chunks::<WIDTH>();
        for (index, block) in blocks.iter().enumerate() {
            let ($first, $x) = (index * WIDTH, $l.load(block));
            $body
        }
        if !tail.is_empty() {
            let ($first, $x) = (blocks.len() * WIDTH, $l.load_partial(tail, $fill));
            $body
        }
    }};
}

struct Position<'a, E>(&'a [E], f32);

impl<E: Element> Kernel for Position<'_, E> {
    type Output = Option<usize>;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> Option<usize> {
        let value = l.splat(self.1);
        each_block!(l, self.0, f32::NAN, |first, x| {
            let found = l.mask_bits(l.eq(x, value));
            if found != 0 {
                return Some(first + found.trailing_zeros() as usize);
            }
        });
        None
    }
}

struct Count<'a, E>(&'a [E], f32);

impl<E: Element> Kernel for Count<'_, E> {
    type Output = usize;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> usize {
        let threshold = l.splat(self.1);
        let mut count = 0;
        each_block!(l, self.0, f32::NAN, |_first, x| {
            count += l.mask_bits(l.lt(threshold, x)).count_ones() as usize;
        });
        count
    }
}

struct Above<'a, E, F>(&'a [E], f32, F);

impl<E: Element, F: FnMut(usize, f32)> Kernel for Above<'_, E, F> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(mut self, l: L) {
        let threshold = l.splat(self.1);
        each_block!(l, self.0, f32::NAN, |first, x| {
            let mut found = l.mask_bits(l.lt(threshold, x));
            while found != 0 {
                let index = first + found.trailing_zeros() as usize;
                (self.2)(index, self.0[index].to_f32());
                found &= found - 1;
            }
        });
    }
}

struct ExpSum<'a, E>(&'a [E], f32, f32);

impl<E: Element> Kernel for ExpSum<'_, E> {
    type Output = f64;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> f64 {
        let (shift, threshold) = (l.splat(self.1), l.splat(self.2));
        let mut total = 0.0;
        for part in self.0.chunks(4096) {
            let mut sum = l.splat(0.0);
            each_block!(l, part, f32::NAN, |_first, x| {
                let y = super::math::exp(l, l.sub(x, shift));
                sum = l.add(sum, l.select(l.lt(threshold, x), y, l.splat(0.0)));
            });
            total += f64::from(l.reduce_add(sum));
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use proptest::prelude::*;

    fn check<E: Element>(values: &[f32], threshold: f32) {
        let row: Vec<E> = values.iter().map(|&x| E::from_f32(x)).collect();
        let wide: Vec<f32> = row.iter().map(|x| x.to_f32()).collect();
        let max = wide.iter().copied().filter(|x| !x.is_nan()).fold(f32::NEG_INFINITY, f32::max);
        let above: Vec<(usize, f32)> =
            wide.iter().copied().enumerate().filter(|(_, x)| *x > threshold).collect();
        let expected: f64 = above.iter().map(|(_, x)| f64::from(*x - 1.0).exp()).sum();
        for isa in Isa::available() {
            assert_eq!(scan(isa, &row), Scan { max, has_nan: wide.iter().any(|x| x.is_nan()) }, "{isa:?}");
            let lowest = wide.iter().position(|x| *x == max).filter(|_| max > f32::NEG_INFINITY);
            assert_eq!(argmax(isa, &row), lowest.map(|i| (i, max)));
            assert_eq!(count_above(isa, &row, threshold), above.len());
            let mut seen = Vec::new();
            for_each_above(isa, &row, threshold, |i, x| seen.push((i, x)));
            assert_eq!(seen, above);
            let sum = exp_sum_above(isa, &row, 1.0, threshold);
            assert_eq!(sum.to_bits(), exp_sum_above(Isa::Portable, &row, 1.0, threshold).to_bits());
            let close = (sum - expected).abs() <= 1e-5 * expected + 1e-30;
            assert!(close || sum == expected, "{isa:?}: {sum} is not {expected}");
        }
    }

    fn value() -> impl Strategy<Value = f32> {
        prop_oneof![
            8 => -20.0f32..20.0,
            2 => (-3i8..3).prop_map(f32::from),
            1 => prop::sample::select(vec![f32::NEG_INFINITY, f32::INFINITY, f32::NAN, -0.0, 1e-40]),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_plain_loops(row in prop::collection::vec(value(), 0..300), threshold in -5.0f32..5.0) {
            check::<f32>(&row, threshold);
            check::<bf16>(&row, threshold);
            check::<f16>(&row, threshold);
        }
    }

    #[test]
    fn edges() {
        for isa in Isa::available() {
            assert_eq!(argmax::<f32>(isa, &[]), None);
            assert_eq!(argmax(isa, &[f32::NEG_INFINITY; 40]), None);
            assert_eq!(argmax(isa, &[f32::NAN; 40]), None);
            assert_eq!(argmax(isa, &[2.0f32; 70]), Some((0, 2.0)));
            assert_eq!(scan(isa, &[f32::INFINITY; 64]), Scan { max: f32::INFINITY, has_nan: false });
        }
    }
}
