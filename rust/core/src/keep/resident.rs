//! Scores of resident keys: planes show different ones after an eviction by head, and the rows that saw them
//! are gone. What these gave was added up by attention itself, window, cap and sinks included.

use std::ops::Range;
use std::sync::Mutex;

use super::score::Score;
use super::{Expected, Layer, Mass, Plane};
use crate::error::{Error, Result};
use crate::format::Element;
use crate::format::key_table::split_planes;
use crate::ops::gather::Resident;
use crate::parallel::{Parallel, into_whole, lock_whole};

/// Mass that was added up while its rows were there.
#[derive(Debug, Clone)]
pub struct Accumulated<'a> {
    /// For each plane, one sum a key.
    pub sums: Vec<&'a [u64]>,
    /// For each plane, how many of the rows saw the key.
    pub seen: Vec<&'a [u32]>,
}

/// What is known of the queries that the resident keys of a branch met.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// `[layers][heads][rows][head_dim]`: the last rows.
    pub queries: &'a [f32],
    /// Positions of these rows, ascending.
    pub rows: &'a [u32],
    /// For each of [`Score::rows`], a sum for each key, plane after plane, and how many of the rows saw it.
    pub masses: &'a [(Vec<u64>, Vec<u32>)],
    /// Means `[layers][heads][head_dim]` and covariances `[layers][heads][head_dim][head_dim]` of queries to
    /// come, where these are asked for moments.
    pub expected: Option<(&'a [f64], &'a [f64])>,
    /// Tokens seen so far.
    pub num_seen: usize,
    /// Planes of a layer.
    pub num_kv_heads: usize,
    /// Query heads of a plane.
    pub group: usize,
    /// What scores are multiplied by before the softmax.
    pub scale: f32,
}

/// Scores of all keys of a table, plane after plane: one task a layer where heads share a ranking, else one a
/// plane.
///
/// # Errors
/// As [`score_resident`]; and [`Error::Shape`] if what is known is not of the table's planes and keys.
pub fn score_table<P: Element>(
    score: &dyn Score,
    source: &Resident<'_, P>,
    known: &Known<'_>,
    pool: &dyn Parallel,
    out: &mut [f32],
) -> Result<()> {
    let (table, d) = (source.table, source.layout.head_dim);
    let heads = table.num_planes() * known.group;
    let lengths = [
        ("queries", known.queries.len(), heads * known.rows.len() * d),
        ("scores", out.len(), table.keys().len()),
        ("means", known.expected.map_or(heads * d, |(means, _)| means.len()), heads * d),
        ("covariances", known.expected.map_or(heads * d * d, |(_, all)| all.len()), heads * d * d),
        ("planes", table.num_planes() % known.num_kv_heads.max(1), 0),
    ];
    for (what, got, want) in lengths {
        if got != want {
            return Err(Error::shape(what, got, want));
        }
    }
    if known.masses.iter().any(|(sums, seen)| sums.len() != out.len() || seen.len() != out.len()) {
        return Err(Error::shape(
            "accumulated mass",
            "other lengths",
            format!("{} sums and counts", out.len()),
        ));
    }
    let size = if score.by_layer() { known.num_kv_heads } else { 1 };
    let mut planes = split_planes(out, table.offsets(), 1).into_iter();
    let mut parts = Vec::new();
    while planes.len() > 0 {
        parts.push(Mutex::new((planes.by_ref().take(size).collect::<Vec<_>>(), Ok(()))));
    }
    pool.run(parts.len(), &|task| {
        let mut part = lock_whole(&parts[task]);
        let (out, outcome) = &mut *part;
        *outcome = score_planes(score, source, known, task * size..(task + 1) * size, out);
    });
    parts.into_iter().try_for_each(|part| into_whole(part).1)
}

fn score_planes<P: Element>(
    score: &dyn Score,
    source: &Resident<'_, P>,
    known: &Known<'_>,
    planes: Range<usize>,
    out: &mut [&mut [f32]],
) -> Result<()> {
    let (table, d) = (source.table, source.layout.head_dim);
    let arrays: Vec<(Vec<f32>, Vec<f32>, Vec<i32>)> = planes
        .clone()
        .map(|plane| {
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            source.gather(plane, false, &mut keys);
            if score.reads_values() {
                source.gather(plane, true, &mut values);
            }
            (keys, values, table.plane(plane).iter().map(|key| key.position).collect())
        })
        .collect();
    let expected: Vec<Vec<Expected<'_>>> = planes
        .clone()
        .map(|plane| match known.expected {
            None => Vec::new(),
            Some((means, covariances)) => (plane * known.group..(plane + 1) * known.group)
                .map(|head| Expected {
                    mean: &means[head * d..][..d],
                    covariance: &covariances[head * d * d..][..d * d],
                })
                .collect(),
        })
        .collect();
    let width = known.group * known.rows.len() * d;
    let views: Vec<Plane<'_>> = planes
        .clone()
        .zip(arrays.iter().zip(&expected))
        .map(|(plane, ((keys, values, positions), expected))| Plane {
            keys,
            values,
            queries: &known.queries[plane * width..][..width],
            expected,
            positions,
        })
        .collect();
    let range = |plane: usize| table.offsets()[plane]..table.offsets()[plane + 1];
    let accumulated: Vec<Accumulated<'_>> = known
        .masses
        .iter()
        .map(|(sums, seen)| Accumulated {
            sums: planes.clone().map(|plane| &sums[range(plane)]).collect(),
            seen: planes.clone().map(|plane| &seen[range(plane)]).collect(),
        })
        .collect();
    let layer = Layer {
        planes: &views,
        group: known.group,
        num_tokens: 0,
        num_seen: known.num_seen,
        num_rows: known.rows.len(),
        row_positions: known.rows,
        head_dim: d,
        scale: known.scale,
    };
    score_resident(score, &layer, &accumulated, out)
}

/// Scores of the planes of one layer, each of as many keys as its positions say.
///
/// Keys of different heads are matched by position where the score ranks a layer as a whole; a key that
/// a head no longer shows adds nothing there. `accumulated` has one entry for each of [`Score::rows`].
/// [`Layer::num_tokens`] is not read.
///
/// # Errors
/// As [`super::score::score_layer`], and [`Error::Shape`] if lengths disagree.
pub fn score_resident(
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
    use crate::keep::{Params, QueryRows};
    use crate::simd::Isa;

    const NAMES: [&str; 6] =
        ["window_mass", "last_query", "window_tokens", "expected_attention", "key_difference", "position"];

    #[test]
    fn planes_that_show_all_score_as_arrays_do() {
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
                let resident = Layer { planes: &planes, ..*layer };
                score_resident(&*score, &resident, &accumulated, &mut out).unwrap();
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
            let resident = Layer { planes: &planes, num_seen: 10, ..*layer };
            let (mut a, mut b) = ([0.0; 3], [0.0; 2]);
            let mass = |at: usize, n: usize| {
                let layer = Layer { num_tokens: n, ..alone(&resident, at) };
                Mass::of(Isa::detected(), &layer, QueryRows::Last(1)).unwrap()
            };
            let masses = [mass(0, 3), mass(1, 2)];
            let accumulated = Accumulated {
                sums: masses.iter().map(|mass| mass.sums.as_slice()).collect(),
                seen: masses.iter().map(|mass| mass.seen.as_slice()).collect(),
            };
            score_resident(&*score, &resident, &[accumulated], &mut [&mut a, &mut b]).unwrap();
            assert_eq!(a[1..], b);
            // Every head spends one; the first position is shown by one head of two.
            assert!((a.iter().sum::<f32>() - 1.0).abs() < 1e-6 && a[0] < 0.5);
        });
    }
}
