//! The k-th greatest of some numbers, exactly, and the numbers that are at least it.
//!
//! Histograms of order-preserving keys ([`super::key`]) over the range that is left: each one divides that range by up
//! to [`BINS`], so at most four are made, and one nearly always does.

use super::key::{NAN, float, key};
use crate::simd::{Lanes, WIDTH};

/// Bins of a histogram.
const BINS: usize = 512;
/// Histograms that are counted side by side: where many numbers are equal, an increment would wait for the last one.
const COPIES: usize = 4;
/// So few keys are sorted.
const FEW: usize = 24;

/// What divides the chosen numbers from the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cut {
    /// The least number that is chosen.
    pub(super) value: f32,
    /// How many numbers are greater; all of them are chosen.
    pub(super) greater: usize,
}

/// Memory of [`kth`].
#[derive(Debug)]
pub(super) struct Bins {
    keys: Vec<u32>,
    /// Positions of keys that stay.
    at: Vec<u32>,
    counts: [[u32; BINS]; COPIES],
}

impl Default for Bins {
    fn default() -> Self {
        Self { keys: Vec::new(), at: Vec::new(), counts: [[0; BINS]; COPIES] }
    }
}

/// The `k`-th greatest of `values`, `k` from 1 to their number.
#[inline(always)]
pub(super) fn kth<L: Lanes>(l: L, values: &[f32], k: usize, bins: &mut Bins) -> Cut {
    let Range { least, greatest, nans } = range(l, values);
    if k <= nans {
        return Cut { value: f32::NAN, greater: 0 };
    }
    let (low, high) = (key(least), key(greatest));
    if low == high {
        return Cut { value: least, greater: nans };
    }
    bins.keys.resize(values.len(), 0);
    for (to, &x) in bins.keys.iter_mut().zip(values) {
        *to = key(x);
    }
    // So few are sorted at once, and NaNs are left out.
    if nans > 0 || values.len() <= FEW {
        bins.keys.retain(|&key| key != NAN);
        let (key, greater) = kth_key(bins, low, high, k - nans);
        return Cut { value: float(key), greater: greater + nans };
    }
    // The first round leaves few of many: its keys are collected by vectors of the numbers themselves.
    let round = divide(&bins.keys, &mut bins.counts, low, high, k);
    collect(l, values, round.first, round.last, bins);
    let (low, high) = ends(&bins.keys);
    let (key, greater) = kth_key(bins, low, high, k - round.greater);
    Cut { value: float(key), greater: greater + round.greater }
}

/// Keeps the keys from `first` to `last`, where `bins` holds those of all `values`.
#[inline(always)]
fn collect<L: Lanes>(l: L, values: &[f32], first: u32, last: u32, bins: &mut Bins) {
    let Bins { keys, at, .. } = bins;
    if at.len() < values.len() + WIDTH {
        at.resize(values.len() + WIDTH, 0);
    }
    let (least, greatest) = (l.splat(float(first)), l.splat(float(last)));
    let (blocks, tail) = values.as_chunks::<WIDTH>();
    let mut count = 0;
    for (index, block) in blocks.iter().enumerate() {
        let x = l.load(block);
        let outside = l.mask_bits(l.lt(x, least)) | l.mask_bits(l.lt(greatest, x));
        if let Some(room) = at[count..].first_chunk_mut() {
            count += l.positions(outside ^ 0xffff, (index * WIDTH) as u32, room);
        }
    }
    for index in values.len() - tail.len()..values.len() {
        at[count] = index as u32;
        count += 1;
    }
    for (slot, &at) in at[..count].iter().enumerate() {
        keys[slot] = keys[at as usize];
    }
    keys.truncate(count);
    keep_between(keys, first, last);
}

/// What one histogram tells of the k-th greatest key.
struct Round {
    /// The bin that it lies in.
    first: u32,
    last: u32,
    /// How many keys are in higher bins.
    greater: usize,
}

/// The bin of the `k`-th greatest of the keys, which lie from `low` to `high`.
#[inline(always)]
fn divide(keys: &[u32], counts: &mut [[u32; BINS]; COPIES], low: u32, high: u32, k: usize) -> Round {
    let shift = (u32::BITS - (high - low).leading_zeros()).saturating_sub(BINS.ilog2());
    count(keys, low, shift, counts);
    let mut bin = ((high - low) >> shift) as usize;
    let mut greater = 0;
    while bin > 0 && greater + (counts[0][bin] as usize) < k {
        greater += counts[0][bin] as usize;
        bin -= 1;
    }
    let first = low + ((bin as u32) << shift);
    Round { first, last: high.min(first + ((1 << shift) - 1)), greater }
}

/// The `k`-th greatest of the keys, which lie from `low` to `high`, and how many of them are greater.
#[inline(always)]
fn kth_key(bins: &mut Bins, mut low: u32, mut high: u32, mut k: usize) -> (u32, usize) {
    let Bins { keys, counts, .. } = bins;
    let mut greater = 0;
    while keys.len() > FEW && low < high {
        let round = divide(keys, counts, low, high, k);
        greater += round.greater;
        k -= round.greater;
        keep_between(keys, round.first, round.last);
        (low, high) = ends(keys);
    }
    if low == high {
        return (low, greater);
    }
    keys.sort_unstable();
    let found = keys[keys.len() - k];
    (found, greater + keys.iter().rev().take_while(|&&key| key > found).count())
}

/// Counts the keys in bins of `1 << shift` from `low` on; the sums are in the first copy.
#[inline(always)]
fn count(keys: &[u32], low: u32, shift: u32, counts: &mut [[u32; BINS]; COPIES]) {
    counts.iter_mut().for_each(|copy| copy.fill(0));
    // Within by the range of the keys: the mask only saves a check.
    let bin = |key: u32| (key.wrapping_sub(low) >> shift) as usize & (BINS - 1);
    let (groups, rest) = keys.as_chunks::<COPIES>();
    for group in groups {
        for copy in 0..COPIES {
            counts[copy][bin(group[copy])] += 1;
        }
    }
    for &key in rest {
        counts[0][bin(key)] += 1;
    }
    let [sums, others @ ..] = counts;
    for copy in others {
        for (sum, more) in sums.iter_mut().zip(copy) {
            *sum += *more;
        }
    }
}

/// Keeps the keys from `first` to `last`.
#[inline(always)]
fn keep_between(keys: &mut Vec<u32>, first: u32, last: u32) {
    let mut kept = 0;
    for index in 0..keys.len() {
        let key = keys[index];
        // Written always, and kept by counting on: no branch to guess.
        keys[kept] = key;
        kept += usize::from(key.wrapping_sub(first) <= last - first);
    }
    keys.truncate(kept);
}

/// The least and the greatest key.
#[inline(always)]
fn ends(keys: &[u32]) -> (u32, u32) {
    let (mut low, mut high) = (u32::MAX, 0);
    for &key in keys {
        (low, high) = (low.min(key), high.max(key));
    }
    (low, high)
}

struct Range {
    least: f32,
    greatest: f32,
    nans: usize,
}

/// The least and the greatest number, NaN aside, and how many are NaN.
#[inline(always)]
fn range<L: Lanes>(l: L, values: &[f32]) -> Range {
    let mut least = [l.splat(f32::INFINITY); 2];
    let mut greatest = [l.splat(f32::NEG_INFINITY); 2];
    let mut whole = 0;
    let (blocks, tail) = values.as_chunks::<WIDTH>();
    for (index, block) in blocks.iter().enumerate() {
        // The order of the operands keeps what is there where the element is NaN.
        let x = l.load(block);
        least[index % 2] = l.min(x, least[index % 2]);
        greatest[index % 2] = l.max(x, greatest[index % 2]);
        whole += l.mask_bits(l.eq(x, x)).count_ones() as usize;
    }
    let (mut low, mut high) = ([0.0; WIDTH], [0.0; WIDTH]);
    l.store(l.min(least[0], least[1]), &mut low);
    l.store(l.max(greatest[0], greatest[1]), &mut high);
    let mut range = Range { least: f32::INFINITY, greatest: f32::NEG_INFINITY, nans: 0 };
    for x in low.into_iter().chain(high).chain(tail.iter().copied()) {
        range.least = if x < range.least { x } else { range.least };
        range.greatest = if x > range.greatest { x } else { range.greatest };
    }
    whole += tail.iter().filter(|x| !x.is_nan()).count();
    range.nans = values.len() - whole;
    range
}

/// The positions of the `k` numbers that a cut chooses, ascending, at the front of `at`, which has room for `k` and two
/// vectors more: all that are greater, and of equal ones the first.
#[inline(always)]
pub(super) fn choose<L: Lanes>(l: L, values: &[f32], cut: Cut, k: usize, at: &mut [u32]) {
    if cut.value.is_nan() {
        let nans = values.iter().enumerate().filter(|(_, x)| x.is_nan());
        at.iter_mut().zip(nans).take(k).for_each(|(at, (index, _))| *at = index as u32);
        return;
    }
    let mut chosen = Chosen { value: l.splat(cut.value), count: 0, equal: k - cut.greater };
    let (blocks, tail) = values.as_chunks::<WIDTH>();
    for (index, block) in blocks.iter().enumerate() {
        chosen.add(l, l.load(block), 0xffff, index, at);
    }
    chosen.add(l, l.load_partial(tail, f32::NEG_INFINITY), (1 << tail.len()) - 1, blocks.len(), at);
}

struct Chosen<L: Lanes> {
    value: L::Vector,
    count: usize,
    /// How many more are chosen of those that are equal.
    equal: usize,
}

impl<L: Lanes> Chosen<L> {
    /// Adds what is chosen of vector `index`, of which the lanes `there` are numbers of the row.
    #[inline(always)]
    fn add(&mut self, l: L, x: L::Vector, there: u32, index: usize, at: &mut [u32]) {
        let ties = l.mask_bits(l.eq(x, self.value)) & there;
        // NaN is not less than anything, and is above every cut that is a number.
        let mut chosen = !l.mask_bits(l.lt(x, self.value)) & there;
        let num_ties = ties.count_ones() as usize;
        if num_ties > self.equal {
            chosen &= !without_first(ties, self.equal);
        }
        self.equal -= num_ties.min(self.equal);
        if let Some(room) = at.get_mut(self.count..).and_then(<[u32]>::first_chunk_mut) {
            self.count += l.positions(chosen, (index * WIDTH) as u32, room);
        }
    }
}

/// The set bits of `mask` but for the lowest `count`.
#[inline(always)]
fn without_first(mut mask: u32, count: usize) -> u32 {
    for _ in 0..count {
        mask &= mask.wrapping_sub(1);
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel};
    use proptest::prelude::*;

    struct Both<'a>(&'a [f32], usize);

    impl Kernel for Both<'_> {
        type Output = (Cut, Vec<u32>);
        #[inline(always)]
        fn run<L: Lanes>(self, l: L) -> Self::Output {
            let cut = kth(l, self.0, self.1, &mut Bins::default());
            let mut at = vec![9; self.1 + 2 * WIDTH];
            choose(l, self.0, cut, self.1, &mut at);
            at.truncate(self.1);
            (cut, at)
        }
    }

    /// Numbers of few and of many different values, with all that is special.
    fn number() -> impl Strategy<Value = f32> {
        prop_oneof![
            4 => -3.0f32..3.0,
            3 => (-3i8..3).prop_map(f32::from),
            1 => any::<u32>().prop_map(f32::from_bits),
            1 => prop::sample::select(vec![f32::NEG_INFINITY, f32::INFINITY, f32::NAN, -0.0, 0.0, 1e-40, -1e-45]),
        ]
    }

    proptest! {
        #[test]
        fn is_what_a_sort_gives(row in prop::collection::vec(number(), 1..700), share in 0.0f64..=1.0) {
            let k = 1 + (share * (row.len() - 1) as f64) as usize;
            let mut order: Vec<u32> = (0..row.len() as u32).collect();
            order.sort_by_key(|&i| std::cmp::Reverse(key(row[i as usize])));
            let last = key(row[order[k - 1] as usize]);
            let greater = row.iter().filter(|x| key(**x) > last).count();
            order.truncate(k);
            order.sort_unstable();
            for isa in Isa::available() {
                let (cut, at) = isa.run(Both(&row, k));
                prop_assert_eq!(key(cut.value), last);
                prop_assert_eq!(cut.greater, greater);
                prop_assert_eq!(&at, &order);
            }
        }
    }
}
