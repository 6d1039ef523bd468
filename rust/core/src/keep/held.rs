//! Scores of planes that hold different keys, as they do after an eviction by head, and whose rows are
//! gone: what they gave was added up by attention itself, window, cap and sinks included.

use super::score::Score;
use super::{Layer, Mass, Plane};
use crate::error::{Error, Result};

/// Mass that was added up while its rows were there.
#[derive(Debug, Clone)]
pub struct Accumulated<'a> {
    /// For each plane, one sum a key.
    pub sums: Vec<&'a [u64]>,
    /// For each plane, how many of the rows saw the key.
    pub seen: Vec<&'a [u32]>,
}

/// Scores of the planes of one layer, each of as many keys as its positions say.
///
/// Keys of different heads are matched by position where the score ranks a layer as a whole; a key that
/// a head no longer holds adds nothing there. `accumulated` has one entry for each of [`Score::rows`].
/// [`Layer::num_tokens`] is not read.
///
/// # Errors
/// As [`super::score::score_layer`], and [`Error::Shape`] if lengths disagree.
pub fn score_held(
    score: &dyn Score,
    layer: &Layer<'_>,
    accumulated: &[Accumulated<'_>],
    out: &mut [&mut [f32]],
) -> Result<()> {
    layer.check_rows()?;
    let counts: Vec<usize> = out.iter().map(|out| out.len()).collect();
    for (plane, &count) in layer.planes.iter().zip(&counts) {
        if plane.positions.len() != count || plane.keys.len() != count * layer.head_dim {
            let want = format!("{count} keys with their positions");
            return Err(Error::shape("keys", plane.keys.len(), want));
        }
    }
    let sets = score.rows().len();
    if accumulated.len() != sets {
        return Err(Error::shape(
            "accumulated mass",
            accumulated.len(),
            format!("{sets}, one a set of rows"),
        ));
    }
    let masses = counts
        .iter()
        .enumerate()
        .map(|(at, &count)| accumulated.iter().map(|set| mass(set, at, count)).collect())
        .collect::<Result<Vec<Vec<Mass>>>>()?;
    let same = layer.planes.windows(2).all(|pair| pair[0].positions == pair[1].positions);
    if !score.by_layer() {
        for (at, out) in out.iter_mut().enumerate().filter(|(at, _)| counts[*at] > 0) {
            score.score(&alone(layer, at), &masses[at], out)?;
        }
        return Ok(());
    }
    if same {
        let n = counts.first().copied().unwrap_or(0);
        return whole(score, &Layer { num_tokens: n, ..*layer }, &masses, out);
    }
    let mut axis: Vec<i32> = layer.planes.iter().flat_map(|plane| plane.positions).copied().collect();
    axis.sort_unstable();
    axis.dedup();
    let (n, d) = (axis.len(), layer.head_dim);
    let places: Vec<Vec<usize>> = layer
        .planes
        .iter()
        .map(|plane| plane.positions.iter().map(|at| axis.partition_point(|x| x < at)).collect())
        .collect();
    let spread = |from: &[f32], places: &[usize]| {
        let mut to = vec![0.0; if from.is_empty() { 0 } else { n * d }];
        for (row, &place) in from.chunks_exact(d).zip(places) {
            to[place * d..][..d].copy_from_slice(row);
        }
        to
    };
    let spread: Vec<[Vec<f32>; 2]> = layer
        .planes
        .iter()
        .zip(&places)
        .map(|(plane, places)| [plane.keys, plane.values].map(|from| spread(from, places)))
        .collect();
    let planes: Vec<Plane<'_>> = layer
        .planes
        .iter()
        .zip(&spread)
        .map(|(plane, [keys, values])| Plane { keys, values, positions: &axis, ..*plane })
        .collect();
    let masses: Vec<Vec<Mass>> = masses
        .iter()
        .zip(&places)
        .map(|(masses, places)| {
            let on_axis = |mass: &Mass| {
                let mut sums = vec![0; n];
                places.iter().zip(&mass.sums).for_each(|(&place, sum)| sums[place] = *sum);
                Mass { sums, seen: Vec::new() }
            };
            masses.iter().map(on_axis).collect()
        })
        .collect();
    let mut scores = vec![0.0; planes.len() * n];
    let mut rows: Vec<&mut [f32]> = scores.chunks_exact_mut(n).collect();
    whole(score, &Layer { planes: &planes, num_tokens: n, ..*layer }, &masses, &mut rows)?;
    for ((out, row), places) in out.iter_mut().zip(rows).zip(&places) {
        out.iter_mut().zip(places).for_each(|(out, &place)| *out = row[place]);
    }
    Ok(())
}

/// The layer of one plane.
fn alone<'a>(layer: &Layer<'a>, plane: usize) -> Layer<'a> {
    let planes = &layer.planes[plane..=plane];
    Layer { planes, num_tokens: planes[0].positions.len(), ..*layer }
}

/// The mass of one plane.
fn mass(set: &Accumulated<'_>, plane: usize, count: usize) -> Result<Mass> {
    match (set.sums.get(plane), set.seen.get(plane)) {
        (Some(sums), Some(seen)) if sums.len() == count && seen.len() == count => {
            Ok(Mass { sums: sums.to_vec(), seen: seen.to_vec() })
        }
        _ => Err(Error::shape("accumulated mass", "other lengths", format!("{count} sums and counts"))),
    }
}

/// Scores planes of equal positions together.
fn whole(score: &dyn Score, layer: &Layer<'_>, masses: &[Vec<Mass>], out: &mut [&mut [f32]]) -> Result<()> {
    let n = layer.num_tokens;
    if n == 0 {
        return Ok(());
    }
    let sets = score.rows().len();
    let together: Vec<Mass> = (0..sets)
        .map(|set| Mass {
            sums: masses.iter().flat_map(|masses| masses[set].sums.iter().copied()).collect(),
            seen: masses.first().map(|masses| masses[set].seen.clone()).unwrap_or_default(),
        })
        .collect();
    let mut scores = vec![0.0; out.len() * n];
    score.score(layer, &together, &mut scores)?;
    out.iter_mut().zip(scores.chunks_exact(n)).for_each(|(out, row)| out.copy_from_slice(row));
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::keep::score::{build, score_layer};
    use crate::keep::testing::with_layer;
    use crate::keep::{Params, Rows};
    use crate::simd::Isa;

    const NAMES: [&str; 6] =
        ["window_mass", "last_query", "window_tokens", "expected_attention", "key_difference", "position"];

    #[test]
    fn planes_that_hold_all_score_as_arrays_do() {
        for name in NAMES.into_iter().chain(["accumulated_mass", "global_local", "normalised_mass"]) {
            let score = build(name, Params::default()).unwrap();
            with_layer([3, 2, 40, 40, 8], |layer| {
                let mut want = vec![0.0; 3 * 40];
                score_layer(Isa::detected(), &*score, layer, &mut want).unwrap();
                let positions: Vec<i32> = (0..40).collect();
                let planes: Vec<Plane<'_>> =
                    layer.planes.iter().map(|plane| Plane { positions: &positions, ..*plane }).collect();
                let masses: Vec<Mass> = score
                    .rows()
                    .into_iter()
                    .map(|rows| Mass::of(Isa::detected(), layer, rows).unwrap())
                    .collect();
                let accumulated: Vec<Accumulated<'_>> = masses
                    .iter()
                    .map(|mass| Accumulated {
                        sums: mass.sums.chunks_exact(40).collect(),
                        seen: vec![&mass.seen; 3],
                    })
                    .collect();
                let mut got = vec![0.0; 3 * 40];
                let mut out: Vec<&mut [f32]> = got.chunks_exact_mut(40).collect();
                let held = Layer { planes: &planes, ..*layer };
                score_held(&*score, &held, &accumulated, &mut out).unwrap();
                assert_eq!(got, want, "{name}");
            });
        }
    }

    #[test]
    fn heads_are_matched_by_position() {
        let score = build("last_query", Params::default()).unwrap();
        with_layer([2, 1, 3, 1, 8], |layer| {
            let short = &layer.planes[1].keys[8..];
            let planes = [
                Plane { positions: &[2, 5, 9], ..layer.planes[0] },
                Plane { keys: short, positions: &[5, 9], ..layer.planes[1] },
            ];
            let held = Layer { planes: &planes, num_seen: 10, ..*layer };
            let (mut a, mut b) = ([0.0; 3], [0.0; 2]);
            let mass = |at: usize, n: usize| {
                let layer = Layer { num_tokens: n, ..alone(&held, at) };
                Mass::of(Isa::detected(), &layer, Rows::Last(1)).unwrap()
            };
            let masses = [mass(0, 3), mass(1, 2)];
            let accumulated = Accumulated {
                sums: masses.iter().map(|mass| mass.sums.as_slice()).collect(),
                seen: masses.iter().map(|mass| mass.seen.as_slice()).collect(),
            };
            score_held(&*score, &held, &[accumulated], &mut [&mut a, &mut b]).unwrap();
            assert_eq!(a[1..], b);
            // Every head spends one; the first position is held by one head of two.
            assert!((a.iter().sum::<f32>() - 1.0).abs() < 1e-6 && a[0] < 0.5);
        });
    }
}
