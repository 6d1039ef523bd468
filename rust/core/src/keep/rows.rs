//! Which rows of attention a score looks at, and the probability mass that they give.

use super::Layer;
use crate::error::{Error, Result};
use crate::ops::key_mass::{KeyMass, add_key_mass};
use crate::rng::philox;
use crate::simd::Isa;

/// The tag of probe draws in a Philox counter, beside those of [`crate::rng::Domain`].
const PROBE_DOMAIN: u32 = 5 << 24;

/// Rows of attention, one a token of the sequence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum QueryRows {
    /// The last ones, or all where there are fewer.
    Last(usize),
    /// Every row.
    All,
    /// The last `recent` of all rows, and of those before them `random`, drawn without replacement.
    Probes {
        /// Share of all rows, taken from the end; at least one row.
        recent: f64,
        /// Share of all rows, drawn from those before.
        random: f64,
        /// Seed of the draw.
        seed: u64,
    },
}

impl QueryRows {
    /// Positions of the rows, ascending, in a sequence of `num_tokens`.
    pub fn positions(&self, num_tokens: usize) -> Vec<u32> {
        let all = num_tokens as u32;
        match *self {
            Self::Last(count) => (all - count.min(num_tokens) as u32..all).collect(),
            Self::All => (0..all).collect(),
            Self::Probes { recent, random, seed } => {
                let share = |part: f64| (num_tokens as f64 * part) as usize;
                let first_recent = all - share(recent).clamp(1.min(num_tokens), num_tokens) as u32;
                // A row's rank is a random word of its own: the draw does not depend on an order.
                let key = [seed as u32, (seed >> 32) as u32];
                let word = |row: u32| philox([row / 4, all, 0, PROBE_DOMAIN], key)[row as usize % 4];
                let mut drawn: Vec<(u32, u32)> = (0..first_recent).map(|row| (word(row), row)).collect();
                drawn.sort_unstable();
                drawn.truncate(share(random));
                let mut rows: Vec<u32> = drawn.into_iter().map(|(_, row)| row).collect();
                rows.sort_unstable();
                rows.extend(first_recent..all);
                rows
            }
        }
    }
}

/// Probability mass by kv head and key, summed over rows and over the query heads of the group.
#[derive(Debug, Clone, PartialEq)]
pub struct Mass {
    /// `[num_heads][num_tokens]` in units of `1 / MASS_ONE`.
    pub sums: Vec<u64>,
    /// `[num_tokens]`: how many of the rows could see the key.
    pub seen: Vec<u32>,
}

impl Mass {
    /// Computes the mass of some rows from a layer's keys and queries.
    ///
    /// # Errors
    /// [`Error::Shape`] if the layer holds the queries of too few rows, naming how many are needed.
    pub fn of(isa: Isa, layer: &Layer<'_>, rows: QueryRows) -> Result<Self> {
        let n = layer.num_seen;
        let positions = rows.positions(n);
        let first = n - layer.num_rows.min(positions.len());
        // The rows that are asked for must be the last ones that there are.
        let skipped = layer.num_rows.saturating_sub(positions.len());
        let there = |(i, row): (usize, &u32)| layer.row_position(skipped + i) == *row as usize;
        let direct = layer.row_positions.is_empty();
        if layer.row_positions.is_empty()
            && positions.first().is_some_and(|&low| (low as usize) < n - layer.num_rows)
            || !direct && (layer.num_rows < positions.len() || !positions.iter().enumerate().all(there))
        {
            let lowest = positions.first().copied().unwrap_or(0);
            let what = "queries.shape[3]";
            let why = match rows {
                QueryRows::Last(count) => format!("the last {} rows", count.min(n)),
                QueryRows::All => format!("all {n} rows, since the score sums over every query"),
                QueryRows::Probes { .. } => {
                    format!("the last {} rows, which hold the probes", n - lowest as usize)
                }
            };
            return Err(Error::shape(what, layer.num_rows, why));
        }
        let d = layer.head_dim;
        let first = if direct { n - layer.num_rows } else { first };
        let num_keys = layer.num_tokens;
        let mut sums = vec![0; layer.planes.len() * num_keys];
        let mut queries = Vec::with_capacity(positions.len() * d);
        for (plane, sums) in layer.planes.iter().zip(sums.chunks_exact_mut(num_keys.max(1))) {
            let visible: Vec<u32> =
                positions.iter().map(|row| plane.visible(*row as usize, num_keys) as u32).collect();
            for head in plane.queries.chunks_exact((layer.num_rows * d).max(1)) {
                queries.clear();
                for (i, row) in positions.iter().enumerate() {
                    let row = if direct { *row as usize - first } else { skipped + i };
                    queries.extend_from_slice(&head[row * d..][..d]);
                }
                let rows = KeyMass {
                    keys: plane.keys,
                    queries: &queries,
                    visible: &visible,
                    head_dim: d,
                    scale: layer.scale,
                };
                add_key_mass(isa, &rows, sums)?;
            }
        }
        let plane = layer.planes.first().copied().unwrap_or_default();
        Ok(Self { sums, seen: seen(&positions, (0..num_keys).map(|key| plane.position(key))) })
    }
}

/// For every key, by position, how many of the rows, ascending, lie at or after it.
fn seen(rows: &[u32], keys: impl Iterator<Item = usize>) -> Vec<u32> {
    keys.map(|key| (rows.len() - rows.partition_point(|row| (*row as usize) < key)) as u32).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::keep::testing::with_layer;
    use crate::ops::key_mass::MASS_ONE;

    #[test]
    fn probes_are_the_recent_rows_and_distinct_others() {
        let probes = QueryRows::Probes { recent: 0.05, random: 0.1, seed: 3 };
        let rows = probes.positions(200);
        assert_eq!(rows.len(), 10 + 20);
        assert_eq!(rows[20..], (190..200).collect::<Vec<u32>>());
        assert!(rows.windows(2).all(|pair| pair[0] < pair[1]));
        assert_ne!(rows, QueryRows::Probes { recent: 0.05, random: 0.1, seed: 4 }.positions(200));
        assert_eq!(probes.positions(1), [0]);
        assert_eq!(probes.positions(0), []);
        assert_eq!(QueryRows::Probes { recent: 1.0, random: 1.0, seed: 0 }.positions(5), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn every_row_spends_one_among_the_keys_it_sees() {
        with_layer([2, 3, 9, 4, 5], |layer| {
            let mass = Mass::of(Isa::detected(), layer, QueryRows::Last(2)).unwrap();
            assert_eq!(mass.seen, [2, 2, 2, 2, 2, 2, 2, 2, 1]);
            for head in mass.sums.chunks_exact(9) {
                let total = head.iter().sum::<u64>() as f64 / MASS_ONE as f64;
                assert!((total - 6.0).abs() < 1e-9, "{total}");
            }
            let message = Mass::of(Isa::detected(), layer, QueryRows::All).unwrap_err().to_string();
            assert_eq!(
                message,
                "queries.shape[3] is 4, expected all 9 rows, since the score sums over every query"
            );
        });
    }
}
