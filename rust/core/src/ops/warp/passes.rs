//! Passes over a whole vocabulary row. Each is compiled once an instruction set, and none depends
//! on it: maxima are exact, exp has one set of bits, sums are of integers.

use super::Fault;
use crate::format::Element;
use crate::simd::{Isa, Kernel, Lanes, WIDTH, math};

/// Tokens of a block: the grain at which passes skip, and of partial sums.
pub const BLOCK: usize = 256;

/// The weight of the likeliest token: 2^40.
pub const UNIT: f32 = 1_099_511_627_776.0;

/// Below it, `exp(z) * UNIT < 1`, so the weight is 0.
const LOWEST: f32 = -28.0;

/// The block maximum below which [`weights`] does not read a block, up to rounding.
pub(super) fn lowest(max: f32, scale: f32) -> f32 {
    max + LOWEST / scale
}

/// 2^52: adding it to an integral double below 2^52 leaves the integer in the low bits.
const MAGIC: f64 = 4_503_599_627_370_496.0;

/// Widens a row.
pub(super) fn widen<E: Element>(isa: Isa, row: &[E], out: &mut Vec<f32>) {
    struct Widen<'a, E>(&'a [E], &'a mut [f32]);
    impl<E: Element> Kernel for Widen<'_, E> {
        type Output = ();
        #[inline(always)]
        fn run<L: Lanes>(self, l: L) {
            let (blocks, tail) = self.0.as_chunks::<WIDTH>();
            let (out, rest) = self.1.as_chunks_mut::<WIDTH>();
            for (from, to) in blocks.iter().zip(out) {
                l.store(l.load(from), to);
            }
            tail.iter().zip(rest).for_each(|(from, to)| *to = from.to_f32());
        }
    }
    out.resize(row.len(), 0.0);
    isa.run(Widen(row, out));
}

/// The maximum of each block, and of the row.
pub(super) fn maxima<E: Element>(isa: Isa, row: &[E], out: &mut Vec<f32>) -> Result<f32, Fault> {
    out.resize(row.len().div_ceil(BLOCK), 0.0);
    let is_sound = isa.run(Maxima(row, out));
    let max = out.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
    match max {
        _ if !is_sound => Err(Fault::Nan),
        f32::INFINITY => Err(Fault::Infinite),
        f32::NEG_INFINITY => Err(Fault::Empty),
        max => Ok(max),
    }
}

struct Maxima<'a, E>(&'a [E], &'a mut [f32]);

impl<E: Element> Kernel for Maxima<'_, E> {
    /// Whether no element is NaN.
    type Output = bool;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> bool {
        let lowest = l.splat(f32::NEG_INFINITY);
        let mut health = [l.splat(0.0); 2];
        for (block, out) in self.0.chunks(BLOCK).zip(self.1) {
            let (vectors, tail) = block.as_chunks::<WIDTH>();
            let (pairs, rest) = vectors.as_chunks::<2>();
            let mut max = [lowest; 2];
            for pair in pairs {
                for i in 0..2 {
                    let x = l.load(&pair[i]);
                    max[i] = l.max(x, max[i]);
                    health[i] = l.select(l.eq(x, x), health[i], x);
                }
            }
            for vector in rest {
                let x = l.load(vector);
                max[0] = l.max(x, max[0]);
                health[0] = l.select(l.eq(x, x), health[0], x);
            }
            if !tail.is_empty() {
                let x = l.load_partial(tail, f32::NEG_INFINITY);
                max[0] = l.max(x, max[0]);
                health[0] = l.select(l.eq(x, x), health[0], x);
            }
            *out = l.reduce_max(l.max(max[0], max[1]));
        }
        let health = l.add(health[0], health[1]);
        l.mask_bits(l.eq(health, health)) == 0xffff
    }
}

/// The lowest index of the maximum.
pub(super) fn first<E: Element>(isa: Isa, row: &[E], maxima: &[f32], max: f32) -> u32 {
    let block = maxima.iter().position(|x| *x == max).unwrap_or(0) * BLOCK;
    let end = row.len().min(block + BLOCK);
    (block + crate::simd::row::position_of(isa, &row[block..end], max).unwrap_or(0)) as u32
}

/// The weights `floor(exp((x - max) * scale) * 2^40)` of a row; blocks whose maximum cannot reach 1
/// are zeros. `maxima` may be empty. Returns the total; `sums` gets that of each block.
pub(super) fn weights<E: Element>(
    isa: Isa,
    row: &[E],
    maxima: &[f32],
    max: f32,
    scale: f32,
    out: &mut [f32],
    sums: &mut Vec<u64>,
) -> u64 {
    sums.clear();
    isa.run(Weights { row, maxima, max, scale, out, sums });
    sums.iter().sum()
}

struct Weights<'a, E> {
    row: &'a [E],
    maxima: &'a [f32],
    max: f32,
    scale: f32,
    out: &'a mut [f32],
    sums: &'a mut Vec<u64>,
}

impl<E: Element> Kernel for Weights<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let (max, scale, unit) = (l.splat(self.max), l.splat(self.scale), l.splat(UNIT));
        for (index, (row, out)) in self.row.chunks(BLOCK).zip(self.out.chunks_mut(BLOCK)).enumerate() {
            if self.maxima.get(index).is_some_and(|x| (x - self.max) * self.scale < LOWEST) {
                out.fill(0.0);
                self.sums.push(0);
                continue;
            }
            let (vectors, tail) = row.as_chunks::<WIDTH>();
            let (outs, rest) = out.as_chunks_mut::<WIDTH>();
            for (from, to) in vectors.iter().zip(outs) {
                let z = l.mul(l.sub(l.load(from), max), scale);
                l.store(l.mul(math::exp_nonpositive(l, z), unit), to);
            }
            if !tail.is_empty() {
                let z = l.mul(l.sub(l.load_partial(tail, f32::NEG_INFINITY), max), scale);
                l.store_partial(l.mul(math::exp_nonpositive(l, z), unit), rest);
            }
            for weight in &mut *out {
                *weight = weight.floor();
            }
            self.sums.push(sum_of_block(out));
        }
    }
}

/// The integer sum of weights.
#[inline(always)]
fn sum_of_block(weights: &[f32]) -> u64 {
    let (vectors, tail) = weights.as_chunks::<8>();
    let mut sums = [0u64; 8];
    for vector in vectors {
        for (sum, &w) in sums.iter_mut().zip(vector) {
            *sum = sum.wrapping_add((f64::from(w) + MAGIC).to_bits());
        }
    }
    let bias = (vectors.len() as u64 * 8).wrapping_mul(MAGIC.to_bits());
    let whole = sums.into_iter().fold(0u64, u64::wrapping_add).wrapping_sub(bias);
    whole + tail.iter().map(|&w| w as u64).sum::<u64>()
}

/// Sums of weights, block by block.
pub(super) fn sums(isa: Isa, weights: &[f32], sums: &mut Vec<u64>) -> u64 {
    struct Sums<'a>(&'a [f32], &'a mut Vec<u64>);
    impl Kernel for Sums<'_> {
        type Output = ();
        #[inline(always)]
        fn run<L: Lanes>(self, _: L) {
            for block in self.0.chunks(BLOCK) {
                self.1.push(sum_of_block(block));
            }
        }
    }
    sums.clear();
    isa.run(Sums(weights, sums));
    sums.iter().sum()
}

/// The sum of `w ln(2^40 / w)` over weights, each rounded to an integer.
pub(super) fn surprise(isa: Isa, weights: &[f32]) -> u64 {
    struct Surprise<'a>(&'a [f32]);
    impl Kernel for Surprise<'_> {
        type Output = u64;
        #[inline(always)]
        fn run<L: Lanes>(self, l: L) -> u64 {
            let top = l.splat(math::log_scalar(UNIT));
            let mut sum = 0u64;
            for block in self.0.chunks(WIDTH) {
                let w = l.load_partial(block, 1.0);
                let mut logs = [0.0; WIDTH];
                l.store(l.sub(top, math::log(l, l.max(w, l.splat(1.0)))), &mut logs);
                for (&w, log) in block.iter().zip(logs) {
                    sum += (f64::from(w) * f64::from(log) + MAGIC).to_bits() - MAGIC.to_bits();
                }
            }
            sum
        }
    }
    isa.run(Surprise(weights))
}

/// The excess `max(a p - b q, 0)` of one law over another, token by token, in units of 2^-50, each
/// rounded to the nearest integer. `a` and `b` hold the unit: `a = 2^50 / total of p`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Excess<'a> {
    /// Weights of the minuend.
    pub(crate) p: &'a [f32],
    /// Weights of the subtrahend for the same tokens; absent ones are 0.
    pub(crate) q: &'a [f32],
    /// Factor of `p`.
    pub(crate) a: f64,
    /// Factor of `q`.
    pub(crate) b: f64,
}

impl Excess<'_> {
    /// The excess of one token, before rounding.
    #[inline(always)]
    pub(crate) fn of(p: f32, q: f32, a: f64, b: f64) -> f64 {
        let difference = f64::from(p) * a - f64::from(q) * b;
        if difference > 0.0 { difference } else { 0.0 }
    }

    #[inline(always)]
    fn units(&self, p: f32, q: f32) -> u64 {
        (Self::of(p, q, self.a, self.b) + MAGIC).to_bits() - MAGIC.to_bits()
    }

    #[inline(always)]
    fn block(&self, index: usize) -> (&[f32], &[f32]) {
        let range = |n: usize| (index * BLOCK).min(n)..((index + 1) * BLOCK).min(n);
        (&self.p[range(self.p.len())], &self.q[range(self.q.len())])
    }

    #[inline(always)]
    fn sum_of_block(&self, index: usize) -> u64 {
        let (p, q) = self.block(index);
        let (a, b) = (self.a, self.b);
        let mut sums = [0u64; 8];
        let (ps, _) = p.as_chunks::<8>();
        let (qs, _) = q.as_chunks::<8>();
        let whole = ps.len().min(qs.len());
        for (p, q) in ps.iter().zip(qs) {
            for i in 0..8 {
                sums[i] = sums[i].wrapping_add((Self::of(p[i], q[i], a, b) + MAGIC).to_bits());
            }
        }
        let bias = (whole as u64 * 8).wrapping_mul(MAGIC.to_bits());
        let sum = sums.into_iter().fold(0u64, u64::wrapping_add).wrapping_sub(bias);
        let rest = q[whole * 8..].iter().copied().chain(std::iter::repeat(0.0));
        sum + p[whole * 8..].iter().zip(rest).map(|(&p, q)| self.units(p, q)).sum::<u64>()
    }

    /// The total, and in `sums` that of each block.
    pub(crate) fn sum(&self, isa: Isa, sums: &mut Vec<u64>) -> u64 {
        struct Sum<'a, 'b>(&'a Excess<'b>, &'a mut Vec<u64>);
        impl Kernel for Sum<'_, '_> {
            type Output = ();
            #[inline(always)]
            fn run<L: Lanes>(self, _: L) {
                for index in 0..self.0.p.len().div_ceil(BLOCK) {
                    self.1.push(self.0.sum_of_block(index));
                }
            }
        }
        sums.clear();
        isa.run(Sum(self, sums));
        sums.iter().sum()
    }

    /// The index at which the running total first exceeds `target`, given the sums of blocks.
    pub(crate) fn locate(&self, sums: &[u64], target: u64) -> usize {
        locate(sums, target, |index| {
            let q = self.q.get(index).copied().unwrap_or(0.0);
            self.units(self.p[index], q)
        })
    }
}

/// The index at which the running total of `value` first exceeds `target`; `sums` holds the totals
/// of blocks, and `target` is below their sum.
pub(super) fn locate(sums: &[u64], mut target: u64, value: impl Fn(usize) -> u64) -> usize {
    let mut block = 0;
    while target >= sums[block] {
        target -= sums[block];
        block += 1;
    }
    let mut index = block * BLOCK;
    loop {
        let x = value(index);
        if target < x {
            return index;
        }
        target -= x;
        index += 1;
    }
}
