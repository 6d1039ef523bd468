//! The numbers of a row that may be among its `k` greatest: all that are at least some threshold, collected in one pass.
//!
//! Any threshold will do that at least `k` numbers reach; the nearer it is to the k-th greatest, the fewer are left
//! to select from. It is guessed, the collected are counted, and where they are too few or too many to be of use the
//! whole row is selected from: a guess decides how long it takes, never what is chosen.
//!
//! - **A hint** of the caller, such as the k-th greatest of the same row a step ago.
//! - **Greatest of groups**, for small `k`: of the groups that a row falls into, `k` have a greatest number that is at
//!   least the k-th of these; so at least `k` numbers are. One pass that only compares.
//! - **A sample**, for large `k`: the order statistic that lies three standard deviations below the one that is
//!   wanted. For numbers in random order fewer than `k` reach it about once in a thousand rows.

use super::select::{Bins, kth};
use crate::format::Element;
use crate::simd::{Lanes, WIDTH};

/// Rows below this are selected from at once.
const SHORT: usize = 1024;
/// Groups for each number that is wanted: with so many the greatest numbers seldom share one.
const GROUPS_EACH: usize = 8;
/// Beyond so many groups it is cheaper to sample.
const MOST_GROUPS: usize = 4096;
/// Fewest vectors of a group that save anything.
const LEAST_DEPTH: usize = 4;
/// Numbers of a sample.
const SAMPLE: usize = 1024;
/// Of them lie so many side by side.
const NEIGHBOURS: usize = 8;
/// A row of which one in so few is wanted is selected from at once.
const LARGE_SHARE: usize = 3;
/// Vectors that are looked at together, for the many places where none of their numbers is a candidate.
const TOGETHER: usize = 4;

/// Memory of [`collect`].
#[derive(Debug, Default)]
pub(super) struct Guess {
    values: Vec<f32>,
}

/// Positions of at least `k` candidates, ascending, at the front of `at`, and how many there are; `None` where all of
/// the row are. Everything that is not among them is less than the k-th greatest.
#[inline(always)]
pub(super) fn collect<E: Element, L: Lanes>(
    l: L,
    row: &[E],
    k: usize,
    hint: Option<f32>,
    guess: &mut Guess,
    bins: &mut Bins,
    at: &mut Vec<u32>,
) -> Option<usize> {
    if row.len() < SHORT || k * LARGE_SHARE > row.len() {
        return None;
    }
    let enough = |count: &usize| *count >= k;
    if let Some(hint) = hint.filter(|hint| hint.is_finite()) {
        // A step later the k-th greatest may be somewhat less; beyond this many candidates the hint is of no use.
        let threshold = hint - hint.abs() / 16.0;
        let found = at_least(l, row, threshold, 4 * k + SHORT, at).filter(enough);
        if found.is_some() {
            return found;
        }
    }
    let groups = (GROUPS_EACH * k).max(16 * WIDTH).next_multiple_of(WIDTH);
    let is_grouped = groups <= MOST_GROUPS && groups * LEAST_DEPTH <= row.len();
    let threshold = match is_grouped {
        true => by_groups(l, row, k, groups, guess, bins),
        false => by_sample(l, row, k, guess, bins),
    };
    at_least(l, row, threshold, row.len(), at).filter(enough)
}

/// The `k`-th of the greatest numbers of the groups: a group is one lane of consecutive vectors.
#[inline(always)]
fn by_groups<E: Element, L: Lanes>(
    l: L,
    row: &[E],
    k: usize,
    groups: usize,
    guess: &mut Guess,
    bins: &mut Bins,
) -> f32 {
    let (blocks, _) = row.as_chunks::<WIDTH>();
    let depth = blocks.len() / (groups / WIDTH);
    guess.values.clear();
    for block in blocks.chunks_exact(depth) {
        // Two at a time, since each maximum waits for the last. NaN is passed over: it is a candidate anyway.
        let mut greatest = [l.splat(f32::NEG_INFINITY); 2];
        let (pairs, rest) = block.as_chunks::<2>();
        for [a, b] in pairs {
            greatest = [l.max(l.load(a), greatest[0]), l.max(l.load(b), greatest[1])];
        }
        for a in rest {
            greatest[0] = l.max(l.load(a), greatest[0]);
        }
        let mut lanes = [0.0; WIDTH];
        l.store(l.max(greatest[0], greatest[1]), &mut lanes);
        guess.values.extend_from_slice(&lanes);
    }
    kth(l, &guess.values, k, bins).value
}

/// A number that `k` numbers of the row reach, if they are in random order, and not many more.
#[inline(always)]
fn by_sample<E: Element, L: Lanes>(l: L, row: &[E], k: usize, guess: &mut Guess, bins: &mut Bins) -> f32 {
    // Some neighbours at each of many places: as many cache lines as places. Not always at the same place of a stretch,
    // since rows may have a period.
    let stride = row.len() / (SAMPLE / NEIGHBOURS);
    guess.values.clear();
    for place in 0..SAMPLE / NEIGHBOURS {
        let within = (place.wrapping_mul(0x9e37_79b1) >> 7) % (stride - NEIGHBOURS).max(1);
        for x in row[place * stride + within..].iter().take(NEIGHBOURS) {
            guess.values.push(x.to_f32());
        }
    }
    let share = k as f64 / row.len() as f64;
    let expected = share * SAMPLE as f64;
    let rank = expected + 3.0 * (expected * (1.0 - share)).sqrt() + 1.0;
    kth(l, &guess.values, (rank.ceil() as usize).clamp(1, SAMPLE), bins).value
}

/// The positions of all numbers that are not less than `threshold`, ascending; `None` if there are more than `most`.
#[inline(always)]
fn at_least<E: Element, L: Lanes>(
    l: L,
    row: &[E],
    threshold: f32,
    most: usize,
    at: &mut Vec<u32>,
) -> Option<usize> {
    let room = most.min(row.len()) + TOGETHER * WIDTH;
    if at.len() < room {
        at.resize(room, 0);
    }
    let threshold = l.splat(threshold);
    let (blocks, tail) = row.as_chunks::<WIDTH>();
    let (groups, rest) = blocks.as_chunks::<TOGETHER>();
    let mut count = 0;
    for (index, group) in groups.iter().enumerate() {
        let mut reach = [0; TOGETHER];
        for i in 0..TOGETHER {
            reach[i] = l.mask_bits(l.lt(l.load(&group[i]), threshold)) ^ 0xffff;
        }
        if reach.iter().fold(0, |any, reach| any | reach) == 0 {
            continue;
        }
        if count > most {
            return None;
        }
        for i in 0..TOGETHER {
            let first = (index * TOGETHER + i) * WIDTH;
            count += l.positions(reach[i], first as u32, at[count..].first_chunk_mut()?);
        }
    }
    for (index, block) in rest.iter().enumerate() {
        let reach = l.mask_bits(l.lt(l.load(block), threshold)) ^ 0xffff;
        let first = (groups.len() * TOGETHER + index) * WIDTH;
        count += l.positions(reach, first as u32, at[count..].first_chunk_mut()?);
    }
    let last = l.load_partial(tail, f32::NEG_INFINITY);
    let reach = (l.mask_bits(l.lt(last, threshold)) ^ 0xffff) & ((1 << tail.len()) - 1);
    count += l.positions(reach, (blocks.len() * WIDTH) as u32, at[count..].first_chunk_mut()?);
    (count <= most).then_some(count)
}
