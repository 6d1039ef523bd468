//! Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy
//! as 1, 2, 3", SC 2011).
//!
//! A draw is a pure function of (seed, sequence, position, domain, node, block). Nothing here has
//! state, so neither batch layout nor call order can change a draw. All arithmetic is on integers
//! or on plain IEEE doubles without fused operations, so that CUDA and numpy give the same bits.
//!
//! ```
//! use hornbeam_core::rng::{Domain, Stream};
//!
//! let stream = Stream::new(42, 0);
//! let draw = stream.uniform(17, Domain::Accept, 3);
//! assert_eq!(draw, Stream::new(42, 0).uniform(17, Domain::Accept, 3));
//! assert_ne!(draw, stream.uniform(18, Domain::Accept, 3));
//! assert!(0.0 < draw && draw < 1.0);
//! ```

/// What a draw is for. Draws of different domains are independent.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// Per-token noise of [coupled sampling](crate::ops::sample).
    Sample = 0,
    /// Draws of a draft.
    Draft = 1,
    /// Acceptance tests.
    Accept = 2,
    /// The token after a refusal.
    Residual = 3,
    /// The token after a leaf, and draws from a target's law as it is.
    Bonus = 4,
}

/// Largest node number that a counter holds, plus one.
pub const MAX_NODES: usize = 1 << 24;

/// Rounds of the cipher.
const ROUNDS: usize = 10;
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// One block: four words from a counter and a key.
#[inline(always)]
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..ROUNDS {
        let a = u64::from(MULTIPLIERS[0]) * u64::from(c0);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(c2);
        (c0, c1, c2, c3) = ((b >> 32) as u32 ^ c1 ^ k0, b as u32, (a >> 32) as u32 ^ c3 ^ k1, a as u32);
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [c0, c1, c2, c3]
}

/// The draws of one sequence under one seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// The seed, low word first.
    pub key: [u32; 2],
    /// Which sequence.
    pub sequence: u32,
}

impl Stream {
    /// The stream of a sequence.
    pub fn new(seed: u64, sequence: u32) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], sequence }
    }

    /// Four words. `block` is the vocabulary id / 4 for per-token noise, and 0 for single draws.
    #[inline(always)]
    pub fn words(&self, block: u32, position: u32, domain: Domain, node: u32) -> [u32; 4] {
        philox([block, position, self.sequence, (domain as u32) << 24 | node], self.key)
    }

    /// A double in (0, 1).
    pub fn uniform(&self, position: u32, domain: Domain, node: u32) -> f64 {
        uniform(self.words(0, position, domain, node)[0])
    }

    /// An integer below `total`, from 64 bits: `floor(bits * total / 2^64)`.
    pub fn below(&self, total: u64, position: u32, domain: Domain, node: u32) -> u64 {
        let [high, low, ..] = self.words(0, position, domain, node);
        let bits = u64::from(high) << 32 | u64::from(low);
        ((u128::from(bits) * u128::from(total)) >> 64) as u64
    }
}

/// `(word + 1/2) / 2^32`: exact, and never 0 or 1.
#[inline(always)]
pub fn uniform(word: u32) -> f64 {
    (f64::from(word) + 0.5) * (1.0 / 4_294_967_296.0)
}

/// `-ln(uniform(word))`: an exponential variate. With weights w, the index with the smallest
/// `exponential / w` is a draw from them; it is the argmax of ln(w) plus Gumbel noise.
///
/// Within 1e-15, relatively: `u = 2^e m` with m in [sqrt(1/2), sqrt(2)), and
/// `ln m = 2 artanh((m - 1) / (m + 1))` by its Taylor series.
#[inline(always)]
pub fn exponential(word: u32) -> f64 {
    const SQRT_HALF_BITS: u64 = 0x3FE6_A09E_667F_3BCD;
    const LN_2: f64 = std::f64::consts::LN_2;
    let bits = uniform(word).to_bits();
    let shifted = bits.wrapping_sub(SQRT_HALF_BITS) as i64 >> 52;
    let m = f64::from_bits(bits.wrapping_sub((shifted << 52) as u64));
    let s = (m - 1.0) / (m + 1.0);
    let t = s * s;
    let mut series = 1.0 / 23.0;
    for odd in [21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0] {
        series = series * t + 1.0 / odd;
    }
    let ln_m = 2.0 * (s + s * (t * series));
    -(shifted as f64 * LN_2 + ln_m)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors that the authors publish with their library (Random123, `kat_vectors`).
    #[test]
    fn known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn exponential_is_a_logarithm() {
        let mut words = vec![0, 1, 2, u32::MAX, u32::MAX - 1, 1 << 31, (1 << 31) - 1];
        words.extend((0..200_000u32).map(|i| i.wrapping_mul(0x9E37_79B9)));
        for word in words {
            let u = uniform(word);
            // Near 1, ln_1p of the exact complement is the better reference.
            let want = if u > 0.5 { -(-(1.0 - u)).ln_1p() } else { -u.ln() };
            let got = exponential(word);
            assert!((got - want).abs() <= 4e-16 * want.max(got) * 2.0, "{word}: {got} against {want}");
        }
    }

    #[test]
    fn uniform_is_open() {
        assert!(uniform(0) > 0.0 && uniform(u32::MAX) < 1.0);
        let stream = Stream::new(7, 0);
        assert!((0..1000).all(|p| stream.below(3, p, Domain::Residual, 0) < 3));
        assert_eq!(stream.below(1, 0, Domain::Residual, 0), 0);
    }
}
