//! SparseMM (Wang et al. 2025, arXiv 2506.05344): budgets from calibrated head scores.

use super::{Scores, Split, apportion, fixed};
use crate::error::{Error, Result};
use crate::keep::Params;
use crate::keep::method::Method;

pub(super) const METHOD: Method<dyn Split> =
    Method { name: "head_scores", build: |params| Ok(Box::new(HeadScores::from_params(params)?)) };

/// Every head gets what is protected plus a share `floor` of the rest of the mean budget; what
/// remains goes by given scores, one a (layer, kv head). Scores that are all zero count as equal.
#[derive(Debug, Clone)]
pub struct HeadScores {
    /// `[num_layers * num_heads]`, not negative.
    pub scores: Vec<f64>,
    /// The paper's rho.
    pub floor: f64,
}

impl HeadScores {
    pub(super) fn from_params(params: &mut Params) -> Result<Self> {
        let scores = params.weights("scores")?;
        let scores =
            scores.ok_or_else(|| Error::value("scores", "None", "one number a layer and kv head"))?;
        Ok(Self { scores, floor: params.number("floor", 0.1, 0.0, 1.0)? })
    }
}

impl Split for HeadScores {
    fn budgets(&self, scores: &Scores<'_>, total: u64, out: &mut [u32]) -> Result<()> {
        let planes = scores.num_planes();
        if self.scores.len() != planes {
            let want = format!("{} layers of {} kv heads", scores.num_layers, scores.num_heads);
            return Err(Error::shape("head scores", self.scores.len(), want));
        }
        let caps = scores.caps();
        let floor = |(protected, cap): (u64, &u64)| {
            let beyond = (total / planes as u64).min(*cap).saturating_sub(protected);
            protected + (beyond as f64 * self.floor) as u64
        };
        let floors: Vec<u64> = scores.floors().into_iter().zip(&caps).map(floor).collect();
        let shares = apportion(total, &fixed(&self.scores), &floors, &caps);
        out.iter_mut().zip(shares).for_each(|(out, share)| *out = share as u32);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::keep::Protect;

    #[test]
    fn heads_get_a_floor_and_then_by_score() {
        let values = vec![0.0; 3 * 1000];
        let protect = Protect { recent: 32, ..Protect::default() };
        let offsets = super::super::even(3, 1000);
        let scores = Scores { values: &values, offsets: &offsets, num_layers: 1, num_heads: 3, protect };
        let rule = HeadScores { scores: vec![0.5, 0.0, 0.25], floor: 0.1 };
        let mut out = [0; 3];
        rule.budgets(&scores, 3 * 132, &mut out).unwrap();
        assert_eq!(out, [42 + 180, 42, 42 + 90]);
        let other = HeadScores { scores: vec![1.0], floor: 0.1 };
        assert!(other.budgets(&scores, 9, &mut out).is_err());
    }
}
