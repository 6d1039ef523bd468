//! Scores of sequences that show all their keys, as flat arrays.

use std::sync::Mutex;

use super::{Score, score_layer};
use crate::error::{Error, Result};
use crate::keep::{Layer, Plane};
use crate::parallel::{Parallel, into_whole, lock_whole};
use crate::simd::Isa;

/// Keys and values `[layers][batch][heads][tokens][dim]`, and queries of the last rows
/// `[layers][batch][heads * group][rows][dim]`.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Keys.
    pub keys: &'a [f32],
    /// Values.
    pub values: &'a [f32],
    /// Queries.
    pub queries: &'a [f32],
    /// Layers.
    pub layers: usize,
    /// Sequences.
    pub batch: usize,
    /// Kv heads.
    pub heads: usize,
    /// Query heads of a kv head.
    pub group: usize,
    /// Tokens of a sequence.
    pub tokens: usize,
    /// Rows of queries.
    pub rows: usize,
    /// Elements of a key.
    pub dim: usize,
    /// What scores are multiplied by before the softmax.
    pub scale: f32,
}

/// Writes scores `[batch][layers][heads][tokens]`: one task a (sequence, layer).
///
/// # Errors
/// As [`score_layer`], and [`Error::Shape`] for arrays of other lengths.
pub fn score_batch(
    isa: Isa,
    score: &dyn Score,
    sizes: &Batch<'_>,
    pool: &dyn Parallel,
    out: &mut [f32],
) -> Result<()> {
    let planes = sizes.layers * sizes.batch * sizes.heads;
    let (plane_tokens, plane_rows) = (sizes.tokens * sizes.dim, sizes.group * sizes.rows * sizes.dim);
    let lengths = [
        ("keys", sizes.keys.len(), planes * plane_tokens),
        ("values", sizes.values.len(), planes * plane_tokens),
        ("queries", sizes.queries.len(), planes * plane_rows),
        ("scores", out.len(), planes * sizes.tokens),
    ];
    for (what, got, want) in lengths {
        if got != want {
            return Err(Error::shape(what, got, want));
        }
    }
    if out.is_empty() {
        return Ok(());
    }
    let tasks: Vec<_> =
        out.chunks_exact_mut(sizes.heads * sizes.tokens).map(|out| Mutex::new((out, Ok(())))).collect();
    pool.run(tasks.len(), &|task| {
        let (sequence, layer) = (task / sizes.layers, task % sizes.layers);
        let planes: Vec<Plane<'_>> = (0..sizes.heads)
            .map(|head| (layer * sizes.batch + sequence) * sizes.heads + head)
            .map(|at| Plane {
                keys: &sizes.keys[at * plane_tokens..][..plane_tokens],
                values: &sizes.values[at * plane_tokens..][..plane_tokens],
                queries: &sizes.queries[at * plane_rows..][..plane_rows],
                expected: &[],
                positions: &[],
            })
            .collect();
        let layer = Layer {
            planes: &planes,
            group: sizes.group,
            num_tokens: sizes.tokens,
            num_seen: sizes.tokens,
            num_rows: sizes.rows,
            row_positions: &[],
            head_dim: sizes.dim,
            scale: sizes.scale,
        };
        let mut slot = lock_whole(&tasks[task]);
        let (out, result) = &mut *slot;
        *result = score_layer(isa, score, &layer, out);
    });
    tasks.into_iter().try_for_each(|task| into_whole(task).1)
}
