//! For every evicted key, the kept key that is most like it.

use super::Before;
use crate::ops::key_mass::dot;
use crate::simd::{Isa, Kernel, Lanes};

/// A kept slot and its cosine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nearest {
    /// Slot among the kept.
    pub slot: u32,
    /// Cosine of the two keys; 0 where one of them has no direction.
    pub cosine: f32,
}

/// The kept key of greatest cosine for each of `evicted`, ties to the lowest slot. Something must
/// be kept.
pub fn nearest(isa: Isa, before: &Before<'_>, evicted: &[u32]) -> Vec<Nearest> {
    let directions = |indices: &[u32]| {
        let d = before.head_dim;
        let mut rows = Vec::with_capacity(indices.len() * d);
        for &i in indices {
            let key = &before.keys[i as usize * d..][..d];
            let length = key.iter().map(|&k| f64::from(k) * f64::from(k)).sum::<f64>().sqrt();
            rows.extend(key.iter().map(|&k| if length > 0.0 { (f64::from(k) / length) as f32 } else { 0.0 }));
        }
        rows
    };
    let (kept, evicted) = (directions(before.kept), directions(evicted));
    isa.run(Search { kept: &kept, evicted: &evicted, d: before.head_dim })
}

struct Search<'a> {
    kept: &'a [f32],
    evicted: &'a [f32],
    d: usize,
}

impl Kernel for Search<'_> {
    type Output = Vec<Nearest>;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> Vec<Nearest> {
        let mut found = Vec::with_capacity(self.evicted.len() / self.d.max(1));
        for evicted in self.evicted.chunks_exact(self.d.max(1)) {
            let mut best = Nearest { slot: 0, cosine: f32::NEG_INFINITY };
            for (slot, kept) in self.kept.chunks_exact(self.d.max(1)).enumerate() {
                let cosine = dot(l, evicted, kept);
                if cosine > best.cosine {
                    best = Nearest { slot: slot as u32, cosine };
                }
            }
            found.push(best);
        }
        found
    }
}
