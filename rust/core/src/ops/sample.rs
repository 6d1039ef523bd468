//! Coupled sampling: one seed, one text.
//!
//! Every token of the vocabulary has an exponential variate of its own, keyed by (seed, sequence,
//! position, token); the token with the least variate over weight wins. That is the Gumbel-max
//! trick, so the winner is a draw from the law. Whoever samples this position of this sequence gets
//! the same token, whatever was drafted and however rows were batched.

use crate::ops::warp::Law;
use crate::rng::{Domain, Stream, exponential};
use crate::simd::{Isa, Kernel, Lanes};

/// Words of noise made at a time: sixteen counters.
pub(super) const COUNTERS: usize = 16;

/// The best token so far.
struct Race {
    ratio: f64,
    token: u32,
    /// A single-precision bound not below `ratio`.
    bound: f32,
}

/// `exponential(word) >= 1 - uniform(word)`, of which this is a lower bound: a token whose bound
/// exceeds `ratio * weight` has lost already.
#[inline(always)]
pub(super) fn head_start(word: u32) -> f32 {
    ((!word >> 8) as i32) as f32 * (1.0 / 16_777_216.0)
}

impl Race {
    #[inline(always)]
    fn can_win(&self, word: u32, weight: f32) -> bool {
        head_start(word) <= self.bound * weight
    }

    #[inline]
    fn enter(&mut self, word: u32, weight: f32, token: u32) {
        if weight <= 0.0 {
            return;
        }
        let ratio = exponential(word) / f64::from(weight);
        if ratio < self.ratio || (ratio == self.ratio && token < self.token) {
            self.ratio = ratio;
            self.token = token;
            self.bound = (ratio as f32) * (1.0 + 1e-6) + f32::MIN_POSITIVE;
        }
    }
}

/// The words of sixteen counters, by lane: `words[lane][counter]`.
#[inline(always)]
pub(super) fn philox16(
    blocks: [u32; COUNTERS],
    stream: &Stream,
    position: u32,
    domain: Domain,
    node: u32,
) -> [[u32; COUNTERS]; 4] {
    let mut words = [[0; COUNTERS]; 4];
    for i in 0..COUNTERS {
        let four = stream.words(blocks[i], position, domain, node);
        for lane in 0..4 {
            words[lane][i] = four[lane];
        }
    }
    words
}

struct Dense<'a>(&'a Law, Stream, u32);

impl Kernel for Dense<'_> {
    type Output = u32;
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> u32 {
        let Self(law, stream, position) = self;
        let weights = law.weights();
        let mut race = Race { ratio: f64::INFINITY, token: u32::MAX, bound: f32::INFINITY };
        // The likeliest chunk first: a good early leader spares the others.
        let likeliest =
            weights.iter().position(|w| *w == crate::ops::warp::UNIT).unwrap_or(0) / (4 * COUNTERS);
        let chunks = weights.len().div_ceil(4 * COUNTERS);
        for chunk in std::iter::once(likeliest).chain(0..chunks) {
            let begin = chunk * 4 * COUNTERS;
            let mut w = [0.0; 4 * COUNTERS];
            let part = &weights[begin..weights.len().min(begin + 4 * COUNTERS)];
            w[..part.len()].copy_from_slice(part);
            let heaviest = w.iter().fold(0.0f32, |max, &x| if x > max { x } else { max });
            if heaviest == 0.0 || !race.can_win(u32::MAX, heaviest) {
                continue;
            }
            let blocks = std::array::from_fn(|i| (begin / 4 + i) as u32);
            let words = philox16(blocks, &stream, position, Domain::Sample, 0);
            for lane in 0..4 {
                let mut any = 0u32;
                for i in 0..COUNTERS {
                    any |= u32::from(race.can_win(words[lane][i], w[4 * i + lane])) << i;
                }
                while any != 0 {
                    let i = any.trailing_zeros() as usize;
                    race.enter(words[lane][i], w[4 * i + lane], (begin + 4 * i + lane) as u32);
                    any &= any - 1;
                }
            }
        }
        race.token
    }
}

struct Listed<'a>(&'a Law, Stream, u32);

impl Kernel for Listed<'_> {
    type Output = u32;
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> u32 {
        let Self(law, stream, position) = self;
        let mut race = Race { ratio: f64::INFINITY, token: u32::MAX, bound: f32::INFINITY };
        for (ids, weights) in law.ids().chunks(COUNTERS).zip(law.weights().chunks(COUNTERS)) {
            let blocks = std::array::from_fn(|i| ids.get(i).map_or(0, |id| id / 4));
            let words = philox16(blocks, &stream, position, Domain::Sample, 0);
            for (i, (&id, &weight)) in ids.iter().zip(weights).enumerate() {
                let word = words[(id % 4) as usize][i];
                if race.can_win(word, weight) {
                    race.enter(word, weight, id);
                }
            }
        }
        race.token
    }
}

/// A draw from a law: the token with the least `exponential(noise) / weight`, of equal ones the
/// lowest.
pub fn coupled(isa: Isa, law: &Law, stream: &Stream, position: u32) -> u32 {
    match law.ids() {
        [only] => *only,
        [] => isa.run(Dense(law, *stream, position)),
        _ => isa.run(Listed(law, *stream, position)),
    }
}
