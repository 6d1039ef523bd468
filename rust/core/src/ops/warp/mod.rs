//! From raw logits to the law that tokens are drawn from.
//!
//! The order is that of transformers: bias and penalties on raw logits, temperature, top-k, top-p,
//! min-p. Ties go to the lowest id everywhere; in particular top-k keeps exactly k tokens, where
//! transformers keeps all that tie with the last.
//!
//! Everything that decides is exact: a token's *weight* is `floor(exp(z - max z) * 2^40)`, an
//! integer that an f32 holds without rounding, and sums of weights are 64-bit integers. So the
//! result does not depend on the order of summation, the instruction set or the device.
//!
//! ```
//! use hornbeam_core::ops::logits::Row;
//! use hornbeam_core::ops::sample::coupled;
//! use hornbeam_core::ops::warp::{Counts, Law, Warp, Warper};
//! use hornbeam_core::rng::Stream;
//! use hornbeam_core::simd::Isa;
//!
//! let warp = Warp::default().with_temperature(0.7)?.with_top_k(Some(2))?;
//! let logits = Row::F32(&[1.0, 3.0, 2.0, 0.0]);
//! let mut law = Law::default();
//! let mut warper = Warper::default();
//! let (isa, counts) = (Isa::detected(), Counts::default());
//! warper.warp(isa, logits, &warp, &counts, &mut law).map_err(|fault| fault.at(0, 0))?;
//! assert_eq!(law.ids(), [1, 2]);
//! assert!(law.probability(1) > law.probability(2));
//!
//! // A draw: that of seed 7, of the token at position 12 of sequence 0.
//! let token = coupled(isa, &law, &Stream::new(7, 0), 12);
//! assert!(law.weight(token.into()) > 0.0);
//! # Ok::<(), hornbeam_core::Error>(())
//! ```

mod law;
mod passes;
mod penalty;
mod select;

pub use law::Law;
pub(crate) use passes::Excess;
pub use passes::{BLOCK, UNIT};
pub use penalty::Counts;

use crate::error::{Error, Result};
use crate::format::Element;
use crate::ops::logits::Row;
use crate::simd::Isa;
use select::{Histogram, SelectTopK};

/// How logits become a law. Validated when made.
#[derive(Debug, Clone, PartialEq)]
pub struct Warp {
    temperature: f64,
    top_k: Option<usize>,
    top_p: Option<f64>,
    min_p: Option<f64>,
    bias: Vec<(u32, f32)>,
    repetition_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
}

impl Default for Warp {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: None,
            min_p: None,
            bias: Vec::new(),
            repetition_penalty: None,
            frequency_penalty: None,
            presence_penalty: None,
        }
    }
}

/// Lowest temperature above 0: below it, differences of logits overflow.
const LOWEST_TEMPERATURE: f64 = 1e-6;

fn within(what: &'static str, value: f64, fits: bool, expected: &'static str) -> Result<()> {
    if fits { Ok(()) } else { Err(Error::value(what, value, expected)) }
}

impl Warp {
    /// Argmax.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Divides logits; 0 is argmax.
    ///
    /// # Errors
    /// [`Error::Value`] unless 0, or finite and at least 1e-6.
    pub fn with_temperature(mut self, temperature: f64) -> Result<Self> {
        let fits = temperature == 0.0 || (LOWEST_TEMPERATURE..1e6).contains(&temperature);
        within("temperature", temperature, fits, "0, or 1e-6 to 1e6")?;
        self.temperature = temperature;
        Ok(self)
    }

    /// Keeps the `k` greatest logits.
    ///
    /// # Errors
    /// [`Error::Value`] for 0.
    pub fn with_top_k(mut self, top_k: Option<usize>) -> Result<Self> {
        within("top_k", top_k.unwrap_or(1) as f64, top_k != Some(0), "at least 1")?;
        self.top_k = top_k;
        Ok(self)
    }

    /// Keeps the fewest likeliest tokens whose mass reaches `p`.
    ///
    /// # Errors
    /// [`Error::Value`] outside of (0, 1].
    pub fn with_top_p(mut self, top_p: Option<f64>) -> Result<Self> {
        let p = top_p.unwrap_or(1.0);
        within("top_p", p, p > 0.0 && p <= 1.0, "above 0 and at most 1")?;
        self.top_p = top_p.filter(|p| *p < 1.0);
        Ok(self)
    }

    /// Keeps tokens at least `p` times as likely as the likeliest.
    ///
    /// # Errors
    /// [`Error::Value`] outside of [0, 1].
    pub fn with_min_p(mut self, min_p: Option<f64>) -> Result<Self> {
        let p = min_p.unwrap_or(0.0);
        within("min_p", p, (0.0..=1.0).contains(&p), "0 to 1")?;
        self.min_p = min_p.filter(|p| *p > 0.0);
        Ok(self)
    }

    /// Adds to the logits of single tokens; -inf forbids one.
    ///
    /// # Errors
    /// [`Error::Value`] for NaN and +inf.
    pub fn with_bias(mut self, bias: Vec<(u32, f32)>) -> Result<Self> {
        for &(_, value) in &bias {
            within("bias", value.into(), value < f32::INFINITY, "a finite number or -inf")?;
        }
        self.bias = bias;
        Ok(self)
    }

    /// Divides positive and multiplies negative logits of tokens in the prompt or the output, once
    /// a token (CTRL, Keskar et al. 2019).
    ///
    /// # Errors
    /// [`Error::Value`] unless finite and above 0.
    pub fn with_repetition_penalty(mut self, penalty: Option<f32>) -> Result<Self> {
        let x = penalty.unwrap_or(1.0);
        within("repetition_penalty", x.into(), x > 0.0 && x < f32::INFINITY, "a finite number above 0")?;
        self.repetition_penalty = penalty.filter(|x| *x != 1.0);
        Ok(self)
    }

    /// Subtracted from the logit of a token for each of its occurrences in the output.
    ///
    /// # Errors
    /// [`Error::Value`] unless finite.
    pub fn with_frequency_penalty(mut self, penalty: Option<f32>) -> Result<Self> {
        let x = penalty.unwrap_or(0.0);
        within("frequency_penalty", x.into(), x.is_finite(), "a finite number")?;
        self.frequency_penalty = penalty.filter(|x| *x != 0.0);
        Ok(self)
    }

    /// Subtracted from the logit of a token that occurs in the output.
    ///
    /// # Errors
    /// [`Error::Value`] unless finite.
    pub fn with_presence_penalty(mut self, penalty: Option<f32>) -> Result<Self> {
        let x = penalty.unwrap_or(0.0);
        within("presence_penalty", x.into(), x.is_finite(), "a finite number")?;
        self.presence_penalty = penalty.filter(|x| *x != 0.0);
        Ok(self)
    }

    /// Whether the law is the argmax.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Whether the law depends on the tokens before it.
    pub fn has_penalties(&self) -> bool {
        self.repetition_penalty.is_some()
            || self.frequency_penalty.is_some()
            || self.presence_penalty.is_some()
    }
}

/// Why a row of logits has no law.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Some logit is NaN.
    Nan,
    /// Some logit is +inf.
    Infinite,
    /// No logit is finite.
    Empty,
}

impl Fault {
    /// The error of a row of a batch.
    pub fn at(self, sequence: usize, row: usize) -> Error {
        let got = match self {
            Self::Nan => "NaN",
            Self::Infinite => "+inf",
            Self::Empty => "-inf only",
        };
        Error::Logits { sequence, row, got }
    }
}

/// Buffers of [`Warper::warp`]: they grow to the largest row seen and are then reused.
#[derive(Debug, Default)]
pub struct Warper {
    logits: Vec<f32>,
    maxima: Vec<f32>,
    top_k: SelectTopK,
    histogram: Histogram,
    /// Logits that were read, in all passes over rows; counted where it is not `None`.
    pub(crate) read: Option<u64>,
}

impl Warper {
    /// Computes the law of a row of raw logits, after the tokens in `counts`.
    ///
    /// # Errors
    /// A [`Fault`] if the row, after bias and penalties, is no distribution.
    pub fn warp(
        &mut self,
        isa: Isa,
        row: Row<'_>,
        warp: &Warp,
        counts: &Counts,
        law: &mut Law,
    ) -> std::result::Result<(), Fault> {
        let is_adjusted = !warp.bias.is_empty() || (warp.has_penalties() && !counts.is_empty());
        if !is_adjusted {
            return match row {
                Row::F32(row) => self.warp_plain(isa, row, warp, law),
                Row::Bf16(row) => self.warp_plain(isa, row, warp, law),
                Row::F16(row) => self.warp_plain(isa, row, warp, law),
            };
        }
        let mut logits = std::mem::take(&mut self.logits);
        self.count(row.len(), None);
        match row {
            Row::F32(row) => passes::widen(isa, row, &mut logits),
            Row::Bf16(row) => passes::widen(isa, row, &mut logits),
            Row::F16(row) => passes::widen(isa, row, &mut logits),
        }
        for &(id, bias) in &warp.bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
        counts.apply(warp, &mut logits);
        let outcome = self.warp_plain(isa, &logits, warp, law);
        self.logits = logits;
        outcome
    }

    /// Counts a pass over a row of `len` logits: over the blocks whose maximum is at least `cut`, or all.
    fn count(&mut self, len: usize, cut: Option<f32>) {
        let Some(read) = &mut self.read else { return };
        *read += match cut {
            None => len as u64,
            Some(cut) => {
                let blocks = self.maxima.iter().enumerate().filter(|(_, max)| **max >= cut);
                blocks.map(|(block, _)| BLOCK.min(len - block * BLOCK) as u64).sum()
            }
        };
    }

    /// Temperature, top-k, top-p and min-p.
    fn warp_plain<E: Element>(
        &mut self,
        isa: Isa,
        row: &[E],
        warp: &Warp,
        law: &mut Law,
    ) -> std::result::Result<(), Fault> {
        let max = passes::maxima(isa, row, &mut self.maxima)?;
        self.count(row.len(), None);
        if warp.is_greedy() {
            law.set_point(passes::first(isa, row, &self.maxima, max));
            return Ok(());
        }
        let scale = (1.0 / warp.temperature) as f32;
        if let Some(k) = warp.top_k.filter(|k| *k < row.len()) {
            law.clear();
            let cuts = self.top_k.select(isa, row, &self.maxima, k, |id, logit| law.push(id, logit));
            cuts.iter().for_each(|cut| self.count(row.len(), Some(*cut)));
            law.weigh_candidates(isa, max, scale);
            if let Some(p) = warp.top_p {
                law.keep_mass(limit(p, law.total()), &mut self.histogram);
            }
        } else if let Some(p) = warp.top_p {
            law.weigh_row(isa, row, &self.maxima, max, scale);
            self.count(row.len(), Some(passes::lowest(max, scale)));
            let limit = limit(p, law.total());
            law.narrow(isa, limit, &self.maxima, max, scale);
            law.keep_mass(limit, &mut self.histogram);
        } else if let Some(p) = warp.min_p {
            // A logit below the cut has a weight below the threshold, rounding included.
            let cut = f64::from(max) + (p.ln() - 1e-3) / f64::from(scale);
            let cut = (cut - cut.abs() * 1e-6) as f32;
            law.clear();
            select::each_from(isa, row, &self.maxima, cut, |id, logit| law.push(id, logit));
            self.count(row.len(), Some(cut));
            law.weigh_candidates(isa, max, scale);
        } else {
            law.weigh_row(isa, row, &self.maxima, max, scale);
            self.count(row.len(), Some(passes::lowest(max, scale)));
        }
        if let Some(p) = warp.min_p {
            law.keep_from(p * f64::from(UNIT));
        }
        law.finish(isa);
        Ok(())
    }
}

/// A token belongs to the nucleus if the mass before it is below this.
fn limit(top_p: f64, total: u64) -> u64 {
    (top_p * total as f64).ceil() as u64
}
