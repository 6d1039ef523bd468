//! The fewest numbers that hold a share of a row's sum.
//!
//! Sums are sums of integers, so that every machine decides alike: a weight is truncated to a multiple of a power of
//! two, `2^-40` of the greatest of its row or less. What is smaller than that counts as nothing.

use std::sync::Mutex;

use super::rows::{Rows, SERIAL_ELEMENTS, TASKS_EACH};
use super::scratch::Scratch;
use crate::error::{Error, Result};
use crate::format::Element;
use crate::parallel::{Parallel, Serial, into_whole, lock_whole};

/// Bits of the greatest weight behind its first one.
const WEIGHT_BITS: i32 = 40;
/// A share of 1.
const SHARE_ONE: u64 = 1 << 53;
/// Bins of a histogram.
const BINS: usize = 256;
/// So few weights are sorted.
const FEW: usize = 24;

/// Where the fewest weights end whose sum reaches a mass, taken from the greatest down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MassCut {
    /// The least weight that is taken.
    pub weight: u64,
    /// How many weights are greater; all are taken.
    pub greater: usize,
    /// How many of those that are equal to it are taken.
    pub equal: usize,
}

impl MassCut {
    /// How many weights are taken.
    pub fn count(self) -> usize {
        self.greater + self.equal
    }
}

/// The cut of `weights`, of which the memory is used up, at the mass `wanted`, or at that of all where there is less.
pub fn mass_cut(weights: &mut Vec<u64>, wanted: u128) -> MassCut {
    let sum: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    let mut wanted = wanted.min(sum);
    if wanted == 0 {
        return MassCut { weight: u64::MAX, greater: 0, equal: 0 };
    }
    let mut greater = 0;
    let (mut low, mut high) = ends(weights);
    while weights.len() > FEW && low < high {
        let shift = (u64::BITS - (high - low).leading_zeros()).saturating_sub(BINS.ilog2());
        let mut bins = [(0usize, 0u128); BINS];
        for &weight in weights.iter() {
            let bin = &mut bins[((weight - low) >> shift) as usize];
            *bin = (bin.0 + 1, bin.1 + u128::from(weight));
        }
        let mut bin = ((high - low) >> shift) as usize;
        while bins[bin].1 < wanted {
            greater += bins[bin].0;
            wanted -= bins[bin].1;
            bin -= 1;
        }
        weights.retain(|weight| (weight - low) >> shift == bin as u64);
        (low, high) = ends(weights);
    }
    weights.sort_unstable_by(|a, b| b.cmp(a));
    for same in weights.chunk_by(|a, b| a == b) {
        let (weight, mass) = (same[0], same.len() as u128 * u128::from(same[0]));
        if mass >= wanted {
            return MassCut { weight, greater, equal: wanted.div_ceil(u128::from(weight)) as usize };
        }
        greater += same.len();
        wanted -= mass;
    }
    MassCut { weight: low, greater, equal: 0 }
}

fn ends(weights: &[u64]) -> (u64, u64) {
    weights.iter().fold((u64::MAX, 0), |(low, high), &weight| (low.min(weight), high.max(weight)))
}

/// How many weights of each row are needed.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// The part of the row's sum that they hold, 0 to 1.
    pub p: f64,
    /// At least so many, or all of a shorter row.
    pub floor: usize,
    /// At most so many.
    pub cap: usize,
}

/// Writes for every row how many of its greatest weights hold the share; rows run in parallel.
///
/// # Errors
/// [`Error::Value`] if `p` is no share, the cap is below the floor, or a weight is negative or not finite;
/// [`Error::Shape`] unless there is a count for each row.
pub fn mass_counts<E: Element>(
    pool: &dyn Parallel,
    rows: &Rows<'_, E>,
    share: Share,
    counts: &mut [i64],
) -> Result<()> {
    if !(0.0..=1.0).contains(&share.p) {
        return Err(Error::value("p", share.p, "0 to 1"));
    }
    if share.cap < share.floor {
        return Err(Error::value("cap", share.cap, format!("at least the floor, {}", share.floor)));
    }
    if counts.len() != rows.count() {
        return Err(Error::shape("counts", counts.len(), rows.count()));
    }
    let is_short = rows.data.len() < SERIAL_ELEMENTS / 8;
    let pool = if is_short { &Serial as &dyn Parallel } else { pool };
    let each = counts.len().div_ceil(pool.num_threads() * TASKS_EACH).max(1);
    let parts: Vec<_> = counts.chunks_mut(each).map(|part| Mutex::new((part, Ok(())))).collect();
    pool.run(parts.len(), &|part| {
        let (counts, outcome) = &mut *lock_whole(&parts[part]);
        *outcome = Scratch::with(|scratch| {
            counts.iter_mut().enumerate().try_for_each(|(row, count)| {
                *count = one(rows.row(part * each + row), share, &mut scratch.weights)? as i64;
                Ok(())
            })
        });
    });
    parts.into_iter().try_for_each(|part| into_whole(part).1)
}

fn one<E: Element>(row: &[E], share: Share, weights: &mut Vec<u64>) -> Result<usize> {
    let mut greatest = 0.0f32;
    for x in row {
        let x = x.to_f32();
        if !(0.0..=f32::MAX).contains(&x) {
            return Err(Error::value("weights", format!("{x} among others"), "finite numbers of at least 0"));
        }
        greatest = greatest.max(x);
    }
    // A product with a power of two is exact, and what is cut off is the same everywhere.
    let exponent = (f64::from(greatest).to_bits() >> 52) as i32 - 1023;
    let scale = f64::from_bits(((1023 + WEIGHT_BITS - exponent) as u64) << 52);
    weights.clear();
    match greatest > 0.0 {
        true => weights.extend(row.iter().map(|x| (f64::from(x.to_f32()) * scale) as u64)),
        false => weights.resize(row.len(), 0),
    }
    let sum: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    let part = (share.p * SHARE_ONE as f64).ceil() as u64;
    let wanted = (sum * u128::from(part)).div_ceil(u128::from(SHARE_ONE));
    let count = mass_cut(weights, wanted).count();
    Ok(count.max(share.floor).min(share.cap).min(row.len()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(weights: &[u64], wanted: u128) -> (u64, usize) {
        let mut sorted = weights.to_vec();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let (mut mass, mut count) = (0u128, 0);
        while mass < wanted && count < sorted.len() && sorted[count] > 0 {
            mass += u128::from(sorted[count]);
            count += 1;
        }
        (count.checked_sub(1).map_or(u64::MAX, |last| sorted[last]), count)
    }

    proptest! {
        #[test]
        fn the_cut_is_that_of_a_sort(
            weights in prop_oneof![
                prop::collection::vec(0u64..9, 0..200),
                prop::collection::vec(0u64..1 << 41, 0..200),
                prop::collection::vec((0u32..41).prop_map(|bit| 1u64 << bit), 0..200),
            ],
            share in 0.0f64..1.2,
        ) {
            let sum: u128 = weights.iter().map(|w| u128::from(*w)).sum();
            let wanted = (sum as f64 * share) as u128;
            let cut = mass_cut(&mut weights.clone(), wanted);
            let (weight, count) = plain(&weights, wanted.min(sum));
            prop_assert_eq!((cut.weight, cut.count()), (weight, count));
            prop_assert_eq!(cut.greater, weights.iter().filter(|w| **w > weight).count());
        }

        #[test]
        fn counts_hold_the_share_and_no_fewer_do(
            row in prop::collection::vec(prop_oneof![0.0f32..1.0, 0.0f32..1e-30, Just(0.25)], 1..60), p in 0.0f64..=1.0,
        ) {
            let share = Share { p, floor: 0, cap: usize::MAX };
            let mut counts = [0];
            mass_counts(&Serial, &Rows::even(&row, 1, row.len()).unwrap(), share, &mut counts).unwrap();
            let mut sorted: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let (sum, held) = (sorted.iter().sum::<f64>(), sorted[..counts[0] as usize].iter().sum::<f64>());
            let error = sum * 1e-9;
            prop_assert!(held >= p * sum - error);
            if counts[0] > 0 {
                prop_assert!(held - sorted[counts[0] as usize - 1] < p * sum + error);
            }
        }
    }

    #[test]
    fn floor_cap_and_what_is_refused() {
        let count = |row: &[f32], p, floor, cap| {
            let mut counts = [0];
            let rows = Rows::even(row, 1, row.len())?;
            mass_counts(&Serial, &rows, Share { p, floor, cap }, &mut counts).map(|()| counts[0])
        };
        assert_eq!(count(&[0.5, 0.25, 0.25], 0.5, 0, 9), Ok(1));
        assert_eq!(count(&[0.5, 0.25, 0.25], 0.75, 0, 9), Ok(2));
        assert_eq!(count(&[0.5, 0.25, 0.25], 1.0, 0, 2), Ok(2));
        assert_eq!(count(&[0.5, 0.25, 0.25], 0.0, 9, 9), Ok(3));
        assert_eq!(count(&[0.0, 0.0], 1.0, 0, 9), Ok(0));
        assert_eq!(count(&[], 1.0, 1, 9), Ok(0));
        for (row, p) in
            [([f32::NAN], 0.5), ([-1.0], 0.5), ([f32::INFINITY], 0.5), ([1.0], 1.5), ([1.0], f64::NAN)]
        {
            assert!(count(&row, p, 0, 9).is_err(), "{row:?} {p}");
        }
        assert!(count(&[1.0], 0.5, 3, 2).is_err());
    }
}
