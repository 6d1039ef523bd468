//! A running softmax whose bits do not depend on where its keys are cut into blocks, nor on keys in between that
//! a query does not see.
//!
//! The usual one has a new maximum at the end of a block, and rounds when it rescales what was there. Here the
//! subtrahend is a whole power of two: a score is split into a whole number and a rest once, whatever the
//! maximum, and to rescale changes exponents alone. Sums go from key to key. A key that is not seen adds 0.
//! Only weights below 2^-126 of the greatest, which are no normal numbers, may be there or not.
//!
//! A whole number next to the maximum as the subtrahend is one of the savings of `FlashAttention` 4; here it
//! serves exactness.

use super::partial::{Partial, rescale};
use crate::simd::math::{exp2_split, round_whole};
use crate::simd::{Lanes, WIDTH};

/// Turns the scores of sixteen queries into weights relative to the new maxima, and rescales what was there.
/// The maxima of `partial` are whole numbers, logarithms to base two, until [`finish`].
#[inline(always)]
pub(super) fn absorb_lanes<L: Lanes>(
    l: L,
    lanes: usize,
    width: usize,
    scores: &mut [[f32; WIDTH]],
    partial: &mut Partial,
) {
    let Some((max, _)) = partial.max[lanes * WIDTH..].split_first_chunk_mut::<WIDTH>() else { return };
    let Some((sum, _)) = partial.sum[lanes * WIDTH..].split_first_chunk_mut::<WIDTH>() else { return };
    let (log2_e, nothing) = (l.splat(std::f32::consts::LOG2_E), l.splat(f32::NEG_INFINITY));
    let mut greatest = nothing;
    for s in scores.iter_mut() {
        let score = l.mul(l.load(s), log2_e);
        greatest = l.max(score, greatest);
        l.store(score, s);
    }
    let old = l.load(max);
    let new = l.max(round_whole(l, greatest), old);
    // Where nothing is visible yet any finite shift gives weight 0.
    let shift = l.select(l.eq(new, nothing), l.splat(0.0), new);
    let [factor] = exp2_split(l, [old], shift);
    let mut total = l.mul(l.load(sum), factor);
    let (pairs, rest) = scores.as_chunks_mut::<2>();
    for pair in pairs {
        let weights = exp2_split(l, [l.load(&pair[0]), l.load(&pair[1])], shift);
        total = l.add(l.add(total, weights[0]), weights[1]);
        l.store(weights[0], &mut pair[0]);
        l.store(weights[1], &mut pair[1]);
    }
    for s in rest {
        let [weight] = exp2_split(l, [l.load(s)], shift);
        total = l.add(total, weight);
        l.store(weight, s);
    }
    let changed = l.mask_bits(l.lt(old, new)) & !l.mask_bits(l.eq(old, nothing));
    l.store(total, sum);
    l.store(new, max);
    rescale(l, changed, factor, width, &mut partial.values[lanes * WIDTH * width..]);
}

/// The maxima as all others leave them, which are natural logarithms.
pub(super) fn finish(partial: &mut Partial) {
    for max in &mut partial.max {
        *max *= std::f32::consts::LN_2;
    }
}
