//! The same to every plane.

use super::{Scores, Split, apportion};
use crate::error::Result;
use crate::keep::method::Method;

pub(super) const METHOD: Method<dyn Split> = Method { name: "uniform", build: |_| Ok(Box::new(Uniform)) };

/// Every plane gets the same; what does not divide goes to the first ones.
#[derive(Debug, Clone, Copy)]
pub struct Uniform;

impl Split for Uniform {
    fn budgets(&self, scores: &Scores<'_>, total: u64, out: &mut [u32]) -> Result<()> {
        let planes = scores.num_planes();
        let shares = apportion(total, &vec![1; planes], &vec![0; planes], &scores.caps());
        out.iter_mut().zip(shares).for_each(|(out, share)| *out = share as u32);
        Ok(())
    }
}
