//! The summary of the keys that one entry shows.

use super::summary::{Call, Summary};
use crate::format::plan::Entry;
use crate::format::{Dtype, Element};
use crate::ops::pages::decode_row;
use crate::simd::{Kernel, Lanes, WIDTH, bytes_of};

/// Writes the summary of the entry's keys on `page`, all of it, codes decoded.
pub(super) fn summarise<E: Element>(call: &Call<'_>, page: &[E], entry: &Entry, to: &mut [E]) {
    let (layout, summary) = (call.problem.layout, call.summary);
    let dim = layout.head_dim;
    let (first, count) = (entry.slot() as usize, usize::from(entry.count));
    let Some(coded) = call.problem.formats.coded(entry.format()) else {
        let keys = &page[first * dim..(first + count) * dim];
        return call.isa.run(Summarise { summary, keys, dim, to });
    };
    let mut keys = vec![0.0f32; count * dim];
    for (slot, key) in (first..).zip(keys.chunks_exact_mut(dim)) {
        decode_row(coded, bytes_of(page), slot, false, key);
    }
    call.isa.run(Summarise { summary, keys: &keys, dim, to });
}

struct Summarise<'a, K, E> {
    summary: Summary,
    keys: &'a [K],
    dim: usize,
    to: &'a mut [E],
}

impl<K: Element, E: Element> Kernel for Summarise<'_, K, E> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Self { summary, keys, dim, to } = self;
        let zero = l.splat(0.0);
        for at in (0..dim).step_by(WIDTH) {
            let (mut greatest, mut least) = (l.splat(f32::NEG_INFINITY), l.splat(f32::INFINITY));
            let (mut sum, mut health) = (zero, zero);
            for key in keys.chunks_exact(dim) {
                let x = match key[at..].first_chunk::<WIDTH>() {
                    Some(x) => l.load(x),
                    None => l.load_partial(&key[at..], 0.0),
                };
                greatest = l.max(x, greatest);
                least = l.min(x, least);
                sum = l.add(sum, x);
                // NaN where any key is not finite, which a maximum would hide.
                health = l.fma(x, zero, health);
            }
            let width = WIDTH.min(dim - at);
            match summary {
                Summary::Bounds => {
                    narrow(l, l.add(greatest, health), round_up, &mut to[at..at + width]);
                    narrow(l, l.add(least, health), round_down, &mut to[dim + at..dim + at + width]);
                }
                Summary::Mean => {
                    let count = l.splat((keys.len() / dim) as f32);
                    narrow(l, l.add(l.div(sum, count), health), E::from_f32, &mut to[at..at + width]);
                }
            }
        }
    }
}

/// The first lanes, as many as `to` has, each rounded by `round`.
#[inline(always)]
fn narrow<E: Element, L: Lanes>(l: L, v: L::Vector, round: impl Fn(f32) -> E, to: &mut [E]) {
    let mut lanes = [0.0; WIDTH];
    l.store(v, &mut lanes);
    to.iter_mut().zip(lanes).for_each(|(to, x)| *to = round(x));
}

/// An element that is not less, near it: bounds of elements are elements, those of decoded keys are not.
#[inline(always)]
fn round_up<E: Element>(x: f32) -> E {
    let nearest = E::from_f32(x);
    if nearest.to_f32() < x {
        // One step of the type: relative to normal numbers, and the steps below those.
        let (relative, least) = match E::DTYPE {
            Dtype::F32 => (0.0, 0.0),
            Dtype::Bf16 => (1.0 / 128.0, f32::MIN_POSITIVE / 128.0),
            Dtype::F16 => (1.0 / 1024.0, 1.0 / 16_777_216.0),
        };
        return E::from_f32(x + (x.abs() * relative).max(least));
    }
    nearest
}

/// An element that is not greater, near it.
#[inline(always)]
fn round_down<E: Element>(x: f32) -> E {
    E::from_f32(-round_up::<E>(-x).to_f32())
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use proptest::prelude::*;

    fn holds<E: Element>(x: f32) {
        let (up, down) = (round_up::<E>(x).to_f32(), round_down::<E>(x).to_f32());
        assert!(down <= x && x <= up, "{x} is not within {down} and {up}");
        assert!(up - down <= x.abs() / 30.0 + 1e-6, "{down} and {up} are not near {x}");
    }

    proptest! {
        #[test]
        fn bounds_are_rounded_outwards(x in prop_oneof![-7e4f32..7e4, -1.0f32..1.0, -1e-5f32..1e-5]) {
            holds::<f32>(x);
            holds::<bf16>(x);
            if x.abs() < 65000.0 {
                holds::<f16>(x);
            }
            prop_assert_eq!(round_up::<bf16>(bf16::from_f32(x).to_f32()), bf16::from_f32(x));
        }
    }
}
