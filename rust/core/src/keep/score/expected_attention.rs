//! Expected attention (Devoto et al. 2025, arXiv 2510.00636), as kvpress states it.

use super::{Score, norm};
use crate::error::{Error, Result};
use crate::keep::method::Method;
use crate::keep::{Layer, Mass, Params, Protect};
use crate::simd::math::exp_scalar;

pub(super) const METHOD: Method<dyn Score> = Method {
    name: "expected_attention",
    build: |params| Ok(Box::new(ExpectedAttention::from_params(params)?)),
};

/// The probability that queries yet to come are expected to give to a key, times the norm of its
/// value: queries are taken as Gaussian with the mean and covariance of those seen, so that the
/// expected unnormalised weight is `exp(scale * m.k + scale^2/2 * k'Ck)`; softmax over the keys after
/// the sinks, which are kept anyway and would else decide how much each head of a group says; mean
/// over the query heads of the group. The sinks' own probability is 0.
///
/// With `inverse_frequencies` (rotary, halves paired as in Llama) the rotation of each query is
/// taken off, mean and covariance are found, and both are turned by the average rotation over the
/// next `future` positions. Without them queries are used as they are. Rows before the `sinks`
/// are left out of the statistics, and the sinks are kept. Needs the queries of at least one row.
#[derive(Debug, Clone)]
pub struct ExpectedAttention {
    /// Positions ahead that the rotation is averaged over.
    pub future: usize,
    /// Tokens kept from the start, and rows left out of the statistics.
    pub sinks: usize,
    /// Added to the probability before it is multiplied by the value's norm.
    pub epsilon: f64,
    /// `head_dim / 2` angles a position.
    pub inverse_frequencies: Option<Vec<f64>>,
}

impl ExpectedAttention {
    pub(super) fn from_params(params: &mut Params) -> Result<Self> {
        Ok(Self {
            future: params.count("future", 512, 1)?,
            sinks: params.count("sinks", 4, 0)?,
            epsilon: params.number("epsilon", 0.0, 0.0, 1.0)?,
            inverse_frequencies: params.weights("inverse_frequencies")?,
        })
    }

    /// Queries from which statistics can be taken, or what is expected of every head.
    fn check(&self, layer: &Layer<'_>) -> Result<()> {
        let d = layer.head_dim;
        for plane in layer.planes.iter().filter(|plane| !plane.expected.is_empty()) {
            if plane.expected.len() != layer.group {
                return Err(Error::shape("expected queries", plane.expected.len(), layer.group));
            }
            if plane.expected.iter().any(|e| e.mean.len() != d || e.covariance.len() != d * d) {
                return Err(Error::shape("expected queries", "other lengths", format!("{d} and {d} x {d}")));
            }
        }
        let known = !layer.planes.is_empty() && layer.planes.iter().all(|plane| !plane.expected.is_empty());
        if layer.num_rows == 0 && !known {
            return Err(Error::shape("queries.shape[3]", 0, "at least one row"));
        }
        match &self.inverse_frequencies {
            Some(list) if list.len() * 2 != layer.head_dim => {
                let want = format!("{} of them", layer.head_dim / 2);
                Err(Error::shape("inverse_frequencies", list.len(), want))
            }
            _ => Ok(()),
        }
    }

    /// Mean `[head_dim]` and covariance `[head_dim][head_dim]` that are expected of the queries of one head, from
    /// those of a checked layer, `[num_rows][head_dim]`.
    fn statistics(&self, layer: &Layer<'_>, queries: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let d = layer.head_dim;
        let sinks = (0..layer.num_rows).take_while(|row| layer.row_position(*row) < self.sinks).count();
        let skipped = sinks.min(layer.num_rows - 1);
        let mut rows: Vec<Vec<f64>> = queries
            .chunks_exact(d)
            .enumerate()
            .skip(skipped)
            .map(|(row, query)| {
                let mut query: Vec<f64> = query.iter().map(|&q| f64::from(q)).collect();
                if let Some(frequencies) = &self.inverse_frequencies {
                    let angle = |f: f64| -f * layer.row_position(row) as f64;
                    turn(&mut query, frequencies.iter().map(|&f| (angle(f).cos(), angle(f).sin())));
                }
                query
            })
            .collect();
        let count = rows.len() as f64;
        let mut mean = vec![0.0; d];
        for row in &rows {
            mean.iter_mut().zip(row).for_each(|(m, q)| *m += q / count);
        }
        let mut covariance = vec![0.0; d * d];
        for row in &mut rows {
            row.iter_mut().zip(&mean).for_each(|(q, m)| *q -= m);
            for (line, &a) in covariance.chunks_exact_mut(d).zip(&*row) {
                line.iter_mut().zip(&*row).for_each(|(c, b)| *c += a * b / count);
            }
        }
        if let Some(frequencies) = &self.inverse_frequencies {
            let average = average_rotation(frequencies, layer.num_seen, self.future);
            turn(&mut mean, average.iter().copied());
            // R C R': turn the lines of C, transpose, and turn them again.
            for _ in 0..2 {
                covariance.chunks_exact_mut(d).for_each(|line| turn(line, average.iter().copied()));
                for i in 0..d {
                    for j in 0..i {
                        covariance.swap(i * d + j, j * d + i);
                    }
                }
            }
        }
        (mean, covariance)
    }
}

/// Multiplies the pairs `(x[i], x[i + d/2])`, as complex numbers, by `(cos, sin)`.
fn turn(x: &mut [f64], by: impl Iterator<Item = (f64, f64)>) {
    let (low, high) = x.split_at_mut(x.len() / 2);
    for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(by) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}

/// The mean of the rotations of positions `first .. first + future`.
fn average_rotation(frequencies: &[f64], first: usize, future: usize) -> Vec<(f64, f64)> {
    frequencies
        .iter()
        .map(|&f| {
            let angles = (first..first + future).map(|position| f * position as f64);
            let (cos, sin) = angles.fold((0.0, 0.0), |(c, s), angle| (c + angle.cos(), s + angle.sin()));
            (cos / future as f64, sin / future as f64)
        })
        .collect()
}

impl Score for ExpectedAttention {
    fn reads_values(&self) -> bool {
        true
    }

    fn protect(&self) -> Protect {
        Protect { sinks: self.sinks as u32, ..Protect::default() }
    }

    fn score(&self, layer: &Layer<'_>, _mass: &[Mass], out: &mut [f32]) -> Result<()> {
        let (n, d) = (layer.num_tokens, layer.head_dim);
        self.check(layer)?;
        let scale = f64::from(layer.scale);
        let (mut logits, mut line) = (vec![0.0f64; n], vec![0.0f64; d]);
        for (plane, out) in layer.planes.iter().zip(out.chunks_exact_mut(n)) {
            let mut sums = vec![0.0f64; n];
            let first = (0..n).take_while(|key| plane.position(*key) < self.sinks).count();
            for head in 0..layer.group {
                let found;
                let (mean, covariance) = match plane.expected.get(head) {
                    Some(expected) => (expected.mean, expected.covariance),
                    None => {
                        let size = layer.num_rows * d;
                        found = self.statistics(layer, &plane.queries[head * size..][..size]);
                        (found.0.as_slice(), found.1.as_slice())
                    }
                };
                for (logit, key) in logits.iter_mut().zip(plane.keys.chunks_exact(d)) {
                    line.fill(0.0);
                    for (&k, row) in key.iter().zip(covariance.chunks_exact(d)) {
                        line.iter_mut().zip(row).for_each(|(sum, c)| *sum += f64::from(k) * c);
                    }
                    let along: f64 = mean.iter().zip(key).map(|(m, &k)| m * f64::from(k)).sum();
                    let spread: f64 = line.iter().zip(key).map(|(l, &k)| l * f64::from(k)).sum();
                    *logit = scale * along + 0.5 * scale * scale * spread;
                }
                let weights = &mut logits[first..];
                let max = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                weights.iter_mut().for_each(|x| *x = f64::from(exp_scalar((*x - max) as f32)));
                let total: f64 = weights.iter().sum();
                sums[first..].iter_mut().zip(weights).for_each(|(sum, p)| *sum += *p / total);
            }
            for ((out, sum), value) in out.iter_mut().zip(sums).zip(plane.values.chunks_exact(d)) {
                *out = ((sum / layer.group as f64 + self.epsilon) * norm(value)) as f32;
            }
        }
        Ok(())
    }
}
