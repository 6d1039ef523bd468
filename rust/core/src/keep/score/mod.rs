//! What a key is worth: a higher score is kept longer. One file an implementation.

mod batch;

methods! { Method<dyn Score>:
    accumulated_mass,
    expected_attention,
    global_local,
    key_difference,
    key_norm,
    last_query,
    normalised_mass,
    position,
    value_weighted,
    window_mass,
    window_tokens,
}

use std::fmt::Debug;

pub use accumulated_mass::AccumulatedMass;
pub use batch::{Batch, score_batch};
pub use expected_attention::ExpectedAttention;
pub use global_local::GlobalLocal;
pub use key_difference::KeyDifference;
pub use key_norm::KeyNorm;
pub use last_query::LastQuery;
pub use normalised_mass::NormalisedMass;
pub use position::Position;
pub use value_weighted::ValueWeighted;
pub use window_mass::WindowMass;
pub use window_tokens::WindowTokens;

use super::method::{self, Method};
use super::{Layer, Mass, Params, Protect, QueryRows};
use crate::error::{Error, Result};
use crate::ops::key_mass::MASS_ONE;
use crate::simd::Isa;

/// A rule that values the keys of one layer.
pub trait Score: Debug + Send + Sync {
    /// The rows whose probability mass it needs, one [`Mass`] each.
    fn rows(&self) -> Vec<QueryRows> {
        Vec::new()
    }

    /// What is kept whatever its score.
    fn protect(&self) -> Protect {
        Protect::default()
    }

    /// Tokens that are kept or dropped together.
    fn unit(&self) -> usize {
        1
    }

    /// Whether it reads values.
    fn reads_values(&self) -> bool {
        false
    }

    /// Whether the heads of a layer share a ranking, so that their keys have to be matched.
    fn by_layer(&self) -> bool {
        false
    }

    /// Writes `[num_heads][num_tokens]` scores. `mass` has one entry for each of [`Score::rows`].
    ///
    /// # Errors
    /// [`Error::Shape`] if the layer lacks what the score reads.
    fn score(&self, layer: &Layer<'_>, mass: &[Mass], out: &mut [f32]) -> Result<()>;
}

/// Computes the mass that a score needs from the layer's queries, then the scores.
///
/// # Errors
/// As [`Mass::of`] and [`Score::score`].
pub fn score_layer(isa: Isa, score: &dyn Score, layer: &Layer<'_>, out: &mut [f32]) -> Result<()> {
    layer.check()?;
    let expected = layer.planes.len() * layer.num_tokens;
    if out.len() != expected {
        return Err(Error::shape("scores", out.len(), expected));
    }
    if out.is_empty() {
        return Ok(());
    }
    let mass = score.rows().into_iter().map(|rows| Mass::of(isa, layer, rows)).collect::<Result<Vec<_>>>()?;
    score.score(layer, &mass, out)
}

/// The score of a name, with its parameters.
///
/// # Errors
/// [`Error::Value`] if the name or a parameter is unknown, or a parameter lies outside of its range.
pub fn build(name: &str, params: Params) -> Result<Box<dyn Score>> {
    method::build("score", ALL, name, params)
}

/// A sum of mass over `count` rows and heads as their mean probability.
fn mean(sum: u64, count: usize) -> f32 {
    (sum as f64 / (MASS_ONE as f64 * count.max(1) as f64)) as f32
}

/// Zero-padded moving sums of an odd width over `from`.
fn pooled(from: &[u64], kernel: usize) -> impl Iterator<Item = u64> {
    let half = kernel / 2;
    (0..from.len()).map(move |i| from[i.saturating_sub(half)..(i + half + 1).min(from.len())].iter().sum())
}

/// An odd kernel width.
fn kernel_from(params: &mut Params) -> Result<usize> {
    let kernel = params.count("kernel", 5, 1)?;
    if kernel % 2 == 0 {
        return Err(Error::value("kernel", kernel, "an odd number"));
    }
    Ok(kernel)
}

/// The Euclidean norm, its sum in f64 from the first element to the last.
fn norm(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::keep::params::Param;
    use crate::keep::testing::with_layer;

    #[test]
    fn every_score_takes_every_small_shape() {
        for name in method::names(ALL).into_iter().filter(|name| *name != "value_weighted") {
            let score = build(name, Params::default()).unwrap();
            let weighted =
                Params::from_iter([("score".into(), Param::Factor(name.into(), Params::default()))]);
            let weighted = build("value_weighted", weighted).unwrap();
            for n in [0, 1, 2, 7, 65] {
                with_layer([2, 2, n, n, 4], |layer| {
                    for score in [&score, &weighted] {
                        let mut out = vec![f32::NAN; 2 * n];
                        score_layer(Isa::detected(), &**score, layer, &mut out).unwrap();
                        assert!(out.iter().all(|s| s.is_finite()), "{score:?} {n} {out:?}");
                    }
                });
            }
        }
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(build("wisdom", Params::default()).is_err());
        let misspelt = Params::from_iter([("windw".to_owned(), Param::Number(3.0))]);
        assert!(build("window_mass", misspelt).unwrap_err().to_string().contains("windw"));
        let even = Params::from_iter([("kernel".to_owned(), Param::Number(4.0))]);
        assert!(build("window_mass", even).is_err());
    }

    #[test]
    fn moving_sums_are_padded_with_zeros() {
        assert!(pooled(&[1, 2, 3, 4], 3).eq([3, 6, 9, 7]));
        assert!(pooled(&[1, 2], 5).eq([3, 3]));
        assert_eq!(pooled(&[], 5).count(), 0);
    }
}
