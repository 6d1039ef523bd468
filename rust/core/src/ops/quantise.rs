//! Integers of 2, 4 or 8 bits for keys and values, with an offset and a step for every block.
//!
//! One encoder serves the published schemes, which differ in the shape of a block alone: a row of
//! a token (int8; KIVI's values, Liu et al. 2024, arXiv 2402.02750), a run of one channel (KIVI's
//! and ZipCache's keys), a token after its channels were brought to one size (ZipCache's values,
//! He et al. 2024, arXiv 2405.14256).
//!
//! ```
//! use hornbeam_core::ops::quantise::Blocks;
//!
//! let x = [0.0f32, 0.1, 0.5, 1.0];
//! let coded = Blocks { bits: 4, tokens: 1, channels: 4 }.encode(&x, 4)?;
//! let mut back = [0.0; 4];
//! coded.decode(&mut back)?;
//! // Fifteen steps from the least to the greatest: what comes back errs by half a step at most.
//! assert!(x.iter().zip(back).all(|(x, y)| (x - y).abs() <= 0.5 / 15.0 + 1e-6));
//! # Ok::<(), hornbeam_core::Error>(())
//! ```

use crate::error::{Error, Result};

/// Shape of a block, and bits of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// 2, 4 or 8.
    pub bits: u32,
    /// Tokens of a block; the last block may be shorter.
    pub tokens: usize,
    /// Channels of a block; the last block may be narrower.
    pub channels: usize,
}

/// A matrix `[num_tokens][num_channels]` in codes.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantised {
    /// How it was encoded.
    pub blocks: Blocks,
    /// Rows.
    pub num_tokens: usize,
    /// Columns.
    pub num_channels: usize,
    /// `[num_tokens][ceil(num_channels * bits / 8)]`, lowest channel in the lowest bits.
    pub codes: Vec<u8>,
    /// `[token blocks][channel blocks]` of (least element, step).
    pub params: Vec<[f32; 2]>,
    /// Factors that channels were divided by; empty for none.
    pub channel_scale: Vec<f32>,
}

impl Blocks {
    /// Whether the shape and the bits are possible.
    ///
    /// # Errors
    /// [`Error::Value`] for other bits, or an empty block.
    pub fn check(&self) -> Result<()> {
        if ![2, 4, 8].contains(&self.bits) {
            return Err(Error::value("bits", self.bits, "2, 4 or 8"));
        }
        if self.tokens == 0 || self.channels == 0 {
            let got = format!("{} tokens by {} channels", self.tokens, self.channels);
            return Err(Error::value("block", got, "at least one token and one channel"));
        }
        Ok(())
    }

    /// Bytes of one row of codes.
    pub fn row_bytes(&self, num_channels: usize) -> usize {
        (num_channels * self.bits as usize).div_ceil(8)
    }

    /// How many blocks cover a matrix: along tokens, and along channels.
    pub fn grid(&self, num_tokens: usize, num_channels: usize) -> (usize, usize) {
        (num_tokens.div_ceil(self.tokens), num_channels.div_ceil(self.channels))
    }

    /// Encodes `[num_tokens][num_channels]`. Codes are `(x - least) / step` rounded half to even,
    /// with `step = (greatest - least) / (2^bits - 1)`, so that decoding errs by half a step at
    /// most, up to f32 rounding. A block whose elements are all equal is exact.
    ///
    /// # Errors
    /// [`Error::Value`] for other bits, an empty block, or an element that is not finite;
    /// [`Error::Shape`] if `x` is not a whole number of rows.
    pub fn encode(self, x: &[f32], num_channels: usize) -> Result<Quantised> {
        self.check()?;
        if num_channels == 0 || !x.len().is_multiple_of(num_channels) {
            return Err(Error::shape("x", x.len(), format!("rows of {num_channels} channels")));
        }
        if let Some(bad) = x.iter().find(|x| !x.is_finite()) {
            return Err(Error::value("x", bad, "finite elements"));
        }
        let num_tokens = x.len() / num_channels;
        let (down, across) = self.grid(num_tokens, num_channels);
        let row_bytes = self.row_bytes(num_channels);
        let mut codes = vec![0u8; num_tokens * row_bytes];
        let mut params = Vec::with_capacity(down * across);
        let levels = ((1u32 << self.bits) - 1) as f32;
        for block in 0..down * across {
            let tokens = span(block / across, self.tokens, num_tokens);
            let channels = span(block % across, self.channels, num_channels);
            let rows = tokens.clone().map(|token| &x[token * num_channels..][channels.clone()]);
            let (least, greatest) =
                rows.flatten().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &x| {
                    (if x < low { x } else { low }, if x > high { x } else { high })
                });
            // Halved first: the difference of two finite numbers may overflow.
            let step = (greatest / levels - least / levels).max(0.0);
            params.push([least, step]);
            if step == 0.0 {
                continue;
            }
            for token in tokens {
                for channel in channels.clone() {
                    let scaled = x[token * num_channels + channel] / step - least / step;
                    let code = scaled.round_ties_even().clamp(0.0, levels) as u32;
                    let bit = channel * self.bits as usize;
                    codes[token * row_bytes + bit / 8] |= (code << (bit % 8)) as u8;
                }
            }
        }
        Ok(Quantised { blocks: self, num_tokens, num_channels, codes, params, channel_scale: Vec::new() })
    }

    /// ZipCache's channel-separable encoding: channel `j` is divided by `sqrt(max |x_j|)` before,
    /// and multiplied after. The error is half a step times that factor.
    ///
    /// # Errors
    /// As [`Blocks::encode`].
    pub fn encode_channel_separable(self, x: &[f32], num_channels: usize) -> Result<Quantised> {
        let mut scale = vec![0.0f32; num_channels];
        for row in x.chunks_exact(num_channels.max(1)) {
            scale.iter_mut().zip(row).for_each(|(scale, x)| *scale = scale.max(x.abs()));
        }
        scale.iter_mut().for_each(|scale| *scale = if *scale > 0.0 { scale.sqrt() } else { 1.0 });
        let divided: Vec<f32> =
            x.iter().enumerate().map(|(i, x)| x / scale[i % num_channels.max(1)]).collect();
        let mut encoded = self.encode(&divided, num_channels)?;
        encoded.channel_scale = scale;
        Ok(encoded)
    }
}

fn span(block: usize, size: usize, end: usize) -> std::ops::Range<usize> {
    block * size..(block * size + size).min(end)
}

impl Quantised {
    /// Offset and step of an element's block.
    pub fn param(&self, token: usize, channel: usize) -> [f32; 2] {
        let (_, across) = self.blocks.grid(self.num_tokens, self.num_channels);
        self.params[token / self.blocks.tokens * across + channel / self.blocks.channels]
    }

    /// Writes `[num_tokens][num_channels]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if lengths disagree.
    pub fn decode(&self, out: &mut [f32]) -> Result<()> {
        self.blocks.check()?;
        let (down, across) = self.blocks.grid(self.num_tokens, self.num_channels);
        let row_bytes = self.blocks.row_bytes(self.num_channels);
        let lengths = [
            ("out", out.len(), self.num_tokens * self.num_channels),
            ("codes", self.codes.len(), self.num_tokens * row_bytes),
            ("params", self.params.len(), down * across),
        ];
        for (what, got, want) in lengths {
            if got != want {
                return Err(Error::shape(what, got, want));
            }
        }
        if !self.channel_scale.is_empty() && self.channel_scale.len() != self.num_channels {
            return Err(Error::shape("channel_scale", self.channel_scale.len(), self.num_channels));
        }
        let mask = (1u32 << self.blocks.bits) - 1;
        for (token, row) in out.chunks_exact_mut(self.num_channels.max(1)).enumerate() {
            let codes = &self.codes[token * row_bytes..][..row_bytes];
            for (channel, out) in row.iter_mut().enumerate() {
                let bit = channel * self.blocks.bits as usize;
                let code = u32::from(codes[bit / 8]) >> (bit % 8) & mask;
                let [least, step] = self.param(token, channel);
                *out = (code as f32).mul_add(step, least);
            }
        }
        if !self.channel_scale.is_empty() {
            for row in out.chunks_exact_mut(self.num_channels) {
                row.iter_mut().zip(&self.channel_scale).for_each(|(out, scale)| *out *= scale);
            }
        }
        Ok(())
    }

    /// Bytes of codes and parameters, in f32.
    pub fn bytes(&self) -> usize {
        self.codes.len() + 8 * self.params.len() + 4 * self.channel_scale.len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_error_is_half_a_step(
            n in 0usize..20, channels in 1usize..20, tokens in 1usize..8, width in 1usize..8,
            bits in prop::sample::select(vec![2u32, 4, 8]), separable in any::<bool>(),
            values in prop::collection::vec(-100.0f32..100.0, 400),
        ) {
            let x = &values[..n * channels];
            let blocks = Blocks { bits, tokens, channels: width };
            let encoded = match separable {
                true => blocks.encode_channel_separable(x, channels),
                false => blocks.encode(x, channels),
            }.unwrap();
            let mut out = vec![f32::NAN; x.len()];
            encoded.decode(&mut out).unwrap();
            for (i, (got, want)) in out.iter().zip(x).enumerate() {
                let (token, channel) = (i / channels, i % channels);
                let scale = encoded.channel_scale.get(channel).copied().unwrap_or(1.0);
                let step = encoded.param(token, channel)[1] * scale;
                prop_assert!((got - want).abs() <= step * 0.5001 + 1e-4, "{got} {want} {step}");
            }
        }
    }

    #[test]
    fn extremes_and_constants_are_exact() {
        let blocks = Blocks { bits: 2, tokens: 1, channels: 4 };
        let x = [-1.0, 2.0, 5.0, 8.0, 3.0, 3.0, 3.0, 3.0];
        let encoded = blocks.encode(&x, 4).unwrap();
        let mut out = [0.0; 8];
        encoded.decode(&mut out).unwrap();
        assert_eq!(out, x);
        assert_eq!(encoded.codes, [0b1110_0100, 0]);
        let wide = [f32::MAX, f32::MIN];
        let encoded = Blocks { bits: 8, tokens: 1, channels: 2 }.encode(&wide, 2).unwrap();
        let mut out = [0.0; 2];
        encoded.decode(&mut out).unwrap();
        assert!(out.iter().zip(wide).all(|(got, want)| (got / want - 1.0).abs() < 1e-5), "{out:?}");
    }

    #[test]
    fn what_cannot_be_encoded_is_refused() {
        let blocks = Blocks { bits: 4, tokens: 1, channels: 2 };
        assert!(blocks.encode(&[0.0, f32::NAN], 2).is_err());
        assert!(blocks.encode(&[0.0, f32::INFINITY], 2).is_err());
        assert!(blocks.encode(&[0.0; 3], 2).is_err());
        assert!(Blocks { bits: 3, ..blocks }.encode(&[0.0; 2], 2).is_err());
        assert!(Blocks { tokens: 0, ..blocks }.encode(&[0.0; 2], 2).is_err());
    }
}
