//! Keys that some query of a block does not see.
//!
//! Their scores become -inf and their weights 0, whatever the keys hold. Their values are weighed with that
//! 0, which hides all numbers but infinities and NaN: 0 times those is NaN. So a block whose hidden values
//! are not all finite is weighed query by query, with zeros where a query does not see such a value.

use super::block::{KeySet, Shown, TILE_KEYS, visible};
use super::problem::Problem;
use crate::format::Element;
use crate::simd::product::weigh;
use crate::simd::{Lanes, MOST_HEAD_DIM, WIDTH};

/// Those of the `hidden` keys whose values hold an infinity or a NaN.
#[inline(always)]
pub(super) fn not_finite<E: Element, L: Lanes>(l: L, values: &[&[E]], hidden: KeySet) -> KeySet {
    let mut bad = 0;
    let mut left = hidden;
    while left != 0 {
        let key = left.trailing_zeros();
        left &= left - 1;
        let (vectors, rest) = values[key as usize].as_chunks::<WIDTH>();
        // 0 for finite elements, NaN for others.
        let zero = l.splat(0.0);
        let mut health = l.mul(l.load_partial(rest, 0.0), zero);
        for x in vectors {
            health = l.fma(l.load(x), zero, health);
        }
        bad |= KeySet::from(l.mask_bits(l.eq(health, zero)) != 0xffff) << key;
    }
    bad
}

/// Adds the weighted values of a block to its queries, one query after the other, where the values of
/// `bad` keys that a query does not see count as zeros: the sums of one that sees them are what they
/// always are, bit by bit. `weight(query, key)` is a query's weight of a key, `first_row` the row of query 0.
#[inline(always)]
pub(super) fn weigh_apart<E: Element, L: Lanes>(
    l: L,
    problem: &Problem<'_>,
    first_row: usize,
    shown: &Shown,
    values: &[&[E]; TILE_KEYS],
    bad: KeySet,
    weight: impl Fn(usize, usize) -> f32,
    to: &mut [[f32; WIDTH]],
) {
    let dim = problem.layout.head_dim;
    let width = dim.div_ceil(WIDTH);
    let zeros = [E::default(); MOST_HEAD_DIM];
    for query in shown.queries.clone() {
        let unseen = bad & !visible(problem, shown, first_row, query);
        let (mut values, mut weights) = (*values, [0.0; TILE_KEYS]);
        for key in 0..shown.count {
            weights[key] = weight(query, key);
            if unseen >> key & 1 != 0 {
                values[key] = &zeros[..dim];
            }
        }
        for d in 0..width {
            let to = &mut to[query * width + d];
            let sums = [l.load(to)];
            let [sum] = weigh(l, [&weights[..shown.count]], &values[..shown.count], d * WIDTH, sums);
            l.store(sum, to);
        }
    }
}
