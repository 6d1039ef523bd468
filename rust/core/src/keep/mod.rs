//! Which keys and values a cache keeps: **score** (what is a key worth) × **split** (who gets how
//! much of the budget) × **reduce** (what happens to the rest).
//!
//! Everything here is a function of flat arrays. It knows neither the tree nor pages: a caller
//! gathers the planes of one sequence, asks for scores, budgets and kept indices, and reduces.
//! Selections break ties by lowest index; sums that decide are integers, or run in one order.
//!
//! From the keys of a cache to what of them stays:
//!
//! ```
//! use hornbeam_core::keep::split::{self, Scores};
//! use hornbeam_core::keep::{Layer, Params, Plane, score, select};
//! use hornbeam_core::simd::Isa;
//!
//! // One layer of two key-value heads with six keys each. In the first their norms rise, in the second they
//! // fall.
//! let rising: Vec<f32> = (1..=6).flat_map(|norm| [norm as f32, 0.0]).collect();
//! let falling: Vec<f32> = (1..=6).rev().flat_map(|norm| [norm as f32, 0.0]).collect();
//! let values = [0.0; 12];
//! let planes = [&rising, &falling].map(|keys| Plane { keys, values: &values, ..Plane::default() });
//! let layer = Layer {
//!     planes: &planes,
//!     group: 1,
//!     num_tokens: 6,
//!     num_seen: 6,
//!     num_rows: 0,
//!     row_positions: &[],
//!     head_dim: 2,
//!     scale: 1.0,
//! };
//!
//! // Score: a key is worth the more the shorter it is (Devoto et al. 2024).
//! let rule = score::build("key_norm", Params::default())?;
//! let mut scores = [0.0; 12];
//! score::score_layer(Isa::detected(), &*rule, &layer, &mut scores)?;
//!
//! // Split: six keys in all, as many for each head.
//! let offsets = split::even(2, 6);
//! let all = Scores {
//!     values: &scores,
//!     offsets: &offsets,
//!     num_layers: 1,
//!     num_heads: 2,
//!     protect: rule.protect(),
//! };
//! let mut budgets = [0; 2];
//! split::split(&*split::build("uniform", Params::default())?, &all, 6, &mut budgets)?;
//!
//! // What stays of each head. `Tree::compact` takes it, or a table of your own.
//! let kept =
//!     [0, 1].map(|head| select(all.plane(head), budgets[head] as usize, rule.unit(), rule.protect()));
//! assert_eq!(kept, [[0, 1, 2], [3, 4, 5]]);
//! # Ok::<(), hornbeam_core::Error>(())
//! ```

mod method;
pub mod params;
pub mod reduce;
pub mod resident;
pub mod rows;
pub mod score;
pub mod select;
pub mod split;

pub use params::{Param, Params};
pub use rows::{Mass, QueryRows};
pub use select::{Protect, select};

use crate::error::{Error, Result};

/// One kv head of one layer of one sequence.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plane<'a> {
    /// `[num_tokens][head_dim]`, rotated as they lie in the cache.
    pub keys: &'a [f32],
    /// `[num_tokens][head_dim]`.
    pub values: &'a [f32],
    /// `[group][num_rows][head_dim]`: rows of the query heads that read this kv head.
    pub queries: &'a [f32],
    /// `[group]`: what is expected of queries to come where more of them were seen than `queries` has; or
    /// empty.
    pub expected: &'a [Expected<'a>],
    /// Logical position of each key, ascending; empty where they are 0, 1, 2 and so on.
    pub positions: &'a [i32],
}

/// Moments that the queries of one head are expected to have.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// `[head_dim]`.
    pub mean: &'a [f64],
    /// `[head_dim][head_dim]`.
    pub covariance: &'a [f64],
}

impl Plane<'_> {
    /// How many keys, from the first, a row at `position` sees.
    pub fn visible(&self, position: usize, num_keys: usize) -> usize {
        match self.positions {
            [] => (position + 1).min(num_keys),
            positions => positions.partition_point(|&at| at as usize <= position),
        }
    }

    /// Logical position of a key.
    pub fn position(&self, key: usize) -> usize {
        self.positions.get(key).map_or(key, |at| *at as usize)
    }
}

/// All kv heads of one layer of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// One a kv head.
    pub planes: &'a [Plane<'a>],
    /// Query heads to a kv head.
    pub group: usize,
    /// Keys of a plane.
    pub num_tokens: usize,
    /// Tokens seen so far, kept or not: the logical position of the next one.
    pub num_seen: usize,
    /// Query rows that are there.
    pub num_rows: usize,
    /// Logical positions of the query rows, ascending; empty where they are those of the last tokens.
    pub row_positions: &'a [u32],
    /// Elements of a key, of a value and of a query.
    pub head_dim: usize,
    /// What attention multiplies scores by before the softmax.
    pub scale: f32,
}

impl Layer<'_> {
    /// Checks lengths.
    ///
    /// # Errors
    /// [`Error::Shape`] naming the array that does not fit.
    pub fn check(&self) -> Result<()> {
        let (tokens, rows) = (self.num_tokens * self.head_dim, self.group * self.num_rows * self.head_dim);
        for plane in self.planes {
            let lengths = [
                ("keys", plane.keys, tokens),
                ("values", plane.values, tokens),
                ("queries", plane.queries, rows),
            ];
            for (what, got, want) in lengths {
                if got.len() != want {
                    return Err(Error::shape(what, got.len(), format!("{want} elements a plane")));
                }
            }
        }
        self.check_rows()
    }

    /// As [`Layer::check`], for the rows alone.
    pub(crate) fn check_rows(&self) -> Result<()> {
        let rising = self.row_positions.windows(2).all(|pair| pair[0] < pair[1]);
        let listed = [0, self.num_rows].contains(&self.row_positions.len());
        let past = self.row_positions.last().is_some_and(|last| *last as usize >= self.num_seen);
        if self.num_rows > self.num_seen || !rising || !listed || past {
            let want = format!("at most {} tokens, at ascending positions", self.num_seen);
            return Err(Error::shape("query rows", self.num_rows, want));
        }
        Ok(())
    }

    /// Logical position of a query row.
    pub fn row_position(&self, row: usize) -> usize {
        self.row_positions.get(row).map_or(self.num_seen - self.num_rows + row, |at| *at as usize)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Random layers that own their memory.

    use super::{Layer, Plane};

    /// Numbers that are alike on every machine.
    pub(crate) fn noise(seed: u32, len: usize) -> Vec<f32> {
        (0..len as u32)
            .map(|i| crate::rng::philox([i, 0, 0, 0], [seed, 0])[0] as f32 / (1u32 << 30) as f32 - 2.0)
            .collect()
    }

    /// Calls `test` with a random layer.
    pub(crate) fn with_layer<T>(
        [heads, group, num_tokens, num_rows, head_dim]: [usize; 5],
        test: impl FnOnce(&Layer<'_>) -> T,
    ) -> T {
        let arrays: Vec<[Vec<f32>; 3]> = (0..heads as u32)
            .map(|head| {
                [num_tokens, num_tokens, group * num_rows]
                    .map(|rows| noise(head * 3 + rows as u32, rows * head_dim))
            })
            .collect();
        let planes: Vec<Plane<'_>> = arrays
            .iter()
            .map(|[keys, values, queries]| Plane { keys, values, queries, expected: &[], positions: &[] })
            .collect();
        test(&Layer {
            planes: &planes,
            group,
            num_tokens,
            num_seen: num_tokens,
            num_rows,
            row_positions: &[],
            head_dim,
            scale: 0.5,
        })
    }
}
