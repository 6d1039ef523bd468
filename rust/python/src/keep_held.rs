//! Scores, plans and copies of the keys that a branch holds in its pages.

use std::sync::{Arc, Mutex};

use half::{bf16, f16};
use hornbeam_core::Error;
use hornbeam_core::format::page::{CodedPage, FORMATS};
use hornbeam_core::format::plan::{Entry, RowSlot};
use hornbeam_core::format::{Dtype, Element};
use hornbeam_core::keep::held::{Accumulated, score_held};
use hornbeam_core::keep::score::{self, Score};
use hornbeam_core::keep::{Expected, Layer, Plane, Rows};
use hornbeam_core::ops::pages::decode_row;
use hornbeam_core::parallel::{Parallel, into_whole, lock_whole};
use hornbeam_core::plan;
use hornbeam_core::simd::bytes_of;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::error::{OrRaise, attached, detached_on};
use crate::keep::{Factor, offsets, params};
use crate::parallel::Host;
use crate::plan::{PyPlan, int32s};
use crate::rows::Chunks;
use crate::tensor::{Item, Tensor, expect_apart};

/// Keys of a branch: pages, slots and positions, plane by plane.
struct Table {
    chunks: Chunks,
    offsets: Vec<usize>,
    entries: Vec<[u32; 3]>,
    /// The formats that entries name, by number less one.
    coded: [Option<CodedPage>; FORMATS.len()],
}

/// Where planes begin, and (page, slot, position) of the keys of all of them.
fn held_keys(
    py: Python<'_>,
    counts: &Bound<'_, PyAny>,
    entries: &Bound<'_, PyAny>,
) -> PyResult<(Vec<usize>, Vec<[u32; 3]>)> {
    let (c, e) = (Tensor::new(counts, "counts")?, Tensor::new(entries, "entries")?);
    c.expect_shape(py, &[None])?;
    e.expect_shape(py, &[None, Some(3)])?;
    // SAFETY: the arrays are copied at once, with the GIL held.
    let (counts, words) = unsafe { (c.i32s(py)?, e.i32s(py)?) };
    let offsets = offsets(counts);
    if counts.iter().any(|count| *count < 0) || offsets.last() != Some(&e.shape()[0]) {
        return Err(c.refuse(py, &format!("{counts:?}"), &format!("{} entries in all", e.shape()[0])));
    }
    Ok((offsets, words.chunks_exact(3).map(|w| [w[0] as u32, w[1] as u32, w[2] as u32]).collect()))
}

/// The number of a page's format, 0 for a plain one, and the slot.
fn format_and_slot(slot: u32) -> (usize, usize) {
    ((slot >> Entry::SLOT_BITS) as usize, (slot & ((1 << Entry::SLOT_BITS) - 1)) as usize)
}

impl Table {
    fn new(
        py: Python<'_>,
        chunks: &Bound<'_, PyList>,
        counts: &Bound<'_, PyAny>,
        entries: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let (offsets, entries) = held_keys(py, counts, entries)?;
        let pages = entries.iter().map(|e| e[0]);
        let chunks = Chunks::describe(py, chunks, pages, |layout, page| layout.page(page).0)?;
        let mut coded = [None; FORMATS.len()];
        for [page, slot, _] in &entries {
            let (chunk, _) = chunks.layout.page(*page);
            let tokens = match format_and_slot(*slot) {
                (0, _) => chunks.layout.page_tokens,
                (format, _) => {
                    let known = coded.get_mut(format - 1);
                    let Some(known) = known else {
                        return Err(Error::value("format", format, "that of a page in codes")).or_raise(py);
                    };
                    let page = match *known {
                        Some(page) => page,
                        None => CodedPage::new(format as u8, &chunks.layout).or_raise(py)?,
                    };
                    known.insert(page).tokens
                }
            };
            if !chunks.has(chunk) || format_and_slot(*slot).1 >= tokens {
                let got = format!("page {page}, slot {slot}");
                return Err(Error::value("entries", got, "a slot of the given chunks")).or_raise(py);
            }
        }
        Ok(Self { chunks, offsets, entries, coded })
    }

    fn num_planes(&self) -> usize {
        self.offsets.len() - 1
    }

    fn plane(&self, plane: usize) -> &[[u32; 3]] {
        &self.entries[self.offsets[plane]..self.offsets[plane + 1]]
    }
}

/// Appends keys, or values, of a plane in float32; codes are decoded.
fn gather<P: Element>(views: &[&[P]], table: &Table, entries: &[[u32; 3]], values: bool, out: &mut Vec<f32>) {
    let layout = &table.chunks.layout;
    let d = layout.head_dim;
    let half = if values { layout.page_tokens * d } else { 0 };
    out.reserve(entries.len() * d);
    for [page, slot, _] in entries {
        let (chunk, at) = layout.page(*page);
        let (format, slot) = format_and_slot(*slot);
        match format.checked_sub(1).and_then(|number| table.coded[number].as_ref()) {
            None => {
                let row = &views[chunk][at + half + slot * d..][..d];
                out.extend(row.iter().map(|x| x.to_f32()));
            }
            Some(page) => {
                let bytes = bytes_of(&views[chunk][at..at + layout.page_elements()]);
                let end = out.len();
                out.resize(end + d, 0.0);
                decode_row(page, bytes, slot, values, &mut out[end..]);
            }
        }
    }
}

/// Copies what a branch holds: writes float32 `keys [T, D]` and `values [T, D]`.
#[pyfunction]
fn gather_rows(
    py: Python<'_>,
    chunks: &Bound<'_, PyList>,
    counts: &Bound<'_, PyAny>,
    entries: &Bound<'_, PyAny>,
    keys: &Bound<'_, PyAny>,
    values: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let table = Table::new(py, chunks, counts, entries)?;
    let (k, v) = (Tensor::new(keys, "keys")?, Tensor::new(values, "values")?);
    let shape = [Some(table.entries.len()), Some(table.chunks.layout.head_dim)];
    k.expect_shape(py, &shape)?;
    v.expect_shape(py, &shape)?;
    expect_apart(py, &[&k, &v], table.chunks.tensors())?;
    let all = table.chunks.tensors().chain([&k, &v]);
    // SAFETY: the outputs share no memory with others; the caller lends them for the call.
    let (k, v) = unsafe { (k.slice_mut::<f32>(py)?, v.slice_mut::<f32>(py)?) };
    match table.chunks.layout.dtype {
        Dtype::F32 => copy_out::<f32>(py, &table, all, k, v),
        Dtype::Bf16 => copy_out::<bf16>(py, &table, all, k, v),
        Dtype::F16 => copy_out::<f16>(py, &table, all, k, v),
    }
}

fn copy_out<'a, P: Element + Item>(
    py: Python<'_>,
    table: &'a Table,
    tensors: impl Iterator<Item = &'a Tensor>,
    k: &mut [f32],
    v: &mut [f32],
) -> PyResult<()> {
    let views = table.chunks.views::<P>(py)?;
    let d = table.chunks.layout.head_dim;
    detached_on(py, tensors, || {
        for (out, values) in [(k, false), (v, true)] {
            let parts: Vec<Mutex<&mut [f32]>> =
                planes_of(out, &table.offsets, d).into_iter().map(Mutex::new).collect();
            Host.run(parts.len(), &|plane| {
                let mut rows = Vec::new();
                gather(&views, table, table.plane(plane), values, &mut rows);
                lock_whole(&parts[plane]).copy_from_slice(&rows);
            });
        }
        Ok(())
    })
}

/// Cuts what lies plane after plane.
fn planes_of<'a, T>(mut all: &'a mut [T], offsets: &[usize], width: usize) -> Vec<&'a mut [T]> {
    let cut = |pair: &[usize]| {
        let (own, rest) = std::mem::take(&mut all).split_at_mut((pair[1] - pair[0]) * width);
        all = rest;
        own
    };
    offsets.windows(2).map(cut).collect()
}

/// The plan of rows at ascending positions int32 `rows [R]` over what a branch holds, and int32 `[T]`: the
/// column of each key in its `mass_columns`, or -1 where no row sees it. With int32 `own_slots [R, 2]` the
/// rows are those of an open step, whose keys are the last of every plane.
#[pyfunction]
#[pyo3(signature = (counts, entries, rows, own_slots=None))]
fn held_plan<'py>(
    py: Python<'py>,
    counts: &Bound<'py, PyAny>,
    entries: &Bound<'py, PyAny>,
    rows: &Bound<'py, PyAny>,
    own_slots: Option<&Bound<'py, PyAny>>,
) -> PyResult<(PyPlan, Bound<'py, PyAny>)> {
    let (offsets, entries) = held_keys(py, counts, entries)?;
    let r = Tensor::new(rows, "rows")?;
    r.expect_shape(py, &[None])?;
    let own = own_slots.map(|slots| Tensor::new(slots, "own_slots")).transpose()?;
    // SAFETY: the arrays are copied at once, with the GIL held.
    let rows = unsafe { r.i32s(py)? };
    let own: Vec<RowSlot> = match &own {
        None => Vec::new(),
        Some(own) => {
            own.expect_shape(py, &[Some(rows.len()), Some(2)])?;
            // SAFETY: as above.
            let words = unsafe { own.i32s(py)? };
            words.chunks_exact(2).map(|w| RowSlot { slab: w[0] as u32, slot: w[1] as u32 }).collect()
        }
    };
    if rows.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(Error::value("rows", format!("{rows:?}"), "ascending positions")).or_raise(py);
    }
    let planes: Vec<&[[u32; 3]]> = offsets.windows(2).map(|pair| &entries[pair[0]..pair[1]]).collect();
    if planes.iter().any(|plane| plane.len() < own.len()) {
        return Err(Error::shape("own_slots", own.len(), "at most the keys of each plane")).or_raise(py);
    }
    let sorted = planes.iter().all(|plane| plane.is_sorted_by_key(|key| key[2] as i32));
    if !sorted {
        return Err(Error::value("entries", "out of order", "ascending positions in every plane"))
            .or_raise(py);
    }
    let (plan, columns) = attached(py, || {
        let (plan, columns) = plan::held_plan(&planes, rows, &own);
        plan.check()?;
        Ok((plan, columns))
    })?;
    Ok((PyPlan::of(Arc::new(plan)), int32s(py, columns.into_iter(), None)?))
}

/// Writes the scores float32 `out [T]` of what a branch holds. `queries` is float32 `[L, H, W, D]` at
/// int32 `rows [W]`, `num_seen` the tokens seen so far; `masses` has, for each of the sets of rows that the
/// score needs, int64 `[T]` sums and int32 `[T]` counts of the rows that saw the key. `expected`, the bits of
/// doubles as int64 `means [L, H, D]` and `covariances [L, H, D, D]`, takes the place of queries where these are
/// asked for moments alone.
#[pyfunction]
#[pyo3(signature = (score, chunks, counts, entries, queries, rows, masses, num_seen, num_kv_heads, scale, out, expected=None))]
fn keep_scores_held(
    py: Python<'_>,
    score: Factor<'_>,
    chunks: &Bound<'_, PyList>,
    counts: &Bound<'_, PyAny>,
    entries: &Bound<'_, PyAny>,
    queries: &Bound<'_, PyAny>,
    rows: &Bound<'_, PyAny>,
    masses: Vec<(Bound<'_, PyAny>, Bound<'_, PyAny>)>,
    num_seen: usize,
    num_kv_heads: usize,
    scale: f32,
    out: &Bound<'_, PyAny>,
    expected: Option<(Bound<'_, PyAny>, Bound<'_, PyAny>)>,
) -> PyResult<()> {
    let score = score::build(&score.0, params(&score.1)?).or_raise(py)?;
    let table = Table::new(py, chunks, counts, entries)?;
    let (q, r, o) = (Tensor::new(queries, "queries")?, Tensor::new(rows, "rows")?, Tensor::new(out, "out")?);
    let layers = table.num_planes().checked_div(num_kv_heads).unwrap_or(0);
    q.expect_shape(py, &[Some(layers), None, None, Some(table.chunks.layout.head_dim)])?;
    let (heads, num_rows) = (q.shape()[1], q.shape()[2]);
    if num_kv_heads == 0 || heads % num_kv_heads != 0 || layers * num_kv_heads != table.num_planes() {
        return Err(q.refuse(
            py,
            &format!("{heads} heads"),
            &format!("a multiple of {num_kv_heads} kv heads"),
        ));
    }
    r.expect_shape(py, &[Some(num_rows)])?;
    o.expect_shape(py, &[Some(table.entries.len())])?;
    expect_apart(py, &[&o], table.chunks.tensors().chain([&q, &r]))?;
    let all = table.chunks.tensors().chain([&q, &r, &o]);
    // SAFETY: `out` shares no memory with others; the caller lends it for the call.
    let (q, r, o) = unsafe { (q.slice::<f32>(py)?, r.i32s(py)?, o.slice_mut::<f32>(py)?) };
    let masses = masses
        .iter()
        .map(|(sums, seen)| {
            let (sums, seen) = (Tensor::new(sums, "sums")?, Tensor::new(seen, "seen")?);
            sums.expect_shape(py, &[Some(table.entries.len())])?;
            seen.expect_shape(py, &[Some(table.entries.len())])?;
            // SAFETY: as above; both are copied under the GIL.
            let (sums, seen) = unsafe { (sums.i64s(py)?, seen.i32s(py)?) };
            let sums = sums.iter().map(|sum| *sum as u64).collect();
            Ok((sums, seen.iter().map(|count| *count as u32).collect()))
        })
        .collect::<PyResult<Vec<(Vec<u64>, Vec<u32>)>>>()?;
    let expected = match &expected {
        None => None,
        Some((means, covariances)) => {
            let (m, c) = (Tensor::new(means, "means")?, Tensor::new(covariances, "covariances")?);
            let d = table.chunks.layout.head_dim;
            m.expect_shape(py, &[Some(layers), Some(heads), Some(d)])?;
            c.expect_shape(py, &[Some(layers), Some(heads), Some(d), Some(d)])?;
            // SAFETY: as above; both are copied under the GIL.
            Some(unsafe { (doubles(m.i64s(py)?), doubles(c.i64s(py)?)) })
        }
    };
    let call = Call {
        score: &*score,
        table: &table,
        q,
        rows: r.iter().map(|row| *row as u32).collect(),
        masses,
        expected,
        num_seen,
        num_kv_heads,
        group: heads / num_kv_heads,
        scale,
    };
    match table.chunks.layout.dtype {
        Dtype::F32 => call.run::<f32>(py, all, o),
        Dtype::Bf16 => call.run::<bf16>(py, all, o),
        Dtype::F16 => call.run::<f16>(py, all, o),
    }
}

/// Doubles, of which the bits are given.
fn doubles(bits: &[i64]) -> Vec<f64> {
    bits.iter().map(|bits| f64::from_bits(*bits as u64)).collect()
}

struct Call<'a> {
    score: &'a dyn Score,
    table: &'a Table,
    q: &'a [f32],
    rows: Vec<u32>,
    /// Sums and counts of each set of rows, plane after plane.
    masses: Vec<(Vec<u64>, Vec<u32>)>,
    /// Means and covariances of every query head.
    expected: Option<(Vec<f64>, Vec<f64>)>,
    num_seen: usize,
    num_kv_heads: usize,
    group: usize,
    scale: f32,
}

impl<'a> Call<'a> {
    /// One task a layer where heads share a ranking, else one a plane.
    fn run<P: Element + Item>(
        &self,
        py: Python<'_>,
        tensors: impl Iterator<Item = &'a Tensor>,
        out: &mut [f32],
    ) -> PyResult<()> {
        let views = self.table.chunks.views::<P>(py)?;
        let size = if self.score.by_layer() { self.num_kv_heads } else { 1 };
        detached_on(py, tensors, || {
            let mut planes = planes_of(out, &self.table.offsets, 1).into_iter();
            let mut parts = Vec::new();
            while planes.len() > 0 {
                parts.push(Mutex::new((planes.by_ref().take(size).collect::<Vec<_>>(), Ok(()))));
            }
            Host.run(parts.len(), &|task| {
                let mut part = lock_whole(&parts[task]);
                let (out, outcome) = &mut *part;
                *outcome = self.some(&views, task * size..(task + 1) * size, out);
            });
            parts.into_iter().try_for_each(|part| into_whole(part).1)
        })
    }

    fn some<P: Element>(
        &self,
        views: &[&[P]],
        planes: std::ops::Range<usize>,
        out: &mut [&mut [f32]],
    ) -> hornbeam_core::Result<()> {
        let layout = &self.table.chunks.layout;
        let d = layout.head_dim;
        let arrays: Vec<(Vec<f32>, Vec<f32>, Vec<i32>)> = planes
            .clone()
            .map(|plane| {
                let entries = self.table.plane(plane);
                let (mut keys, mut values) = (Vec::new(), Vec::new());
                gather(views, self.table, entries, false, &mut keys);
                if self.score.reads_values() {
                    gather(views, self.table, entries, true, &mut values);
                }
                (keys, values, entries.iter().map(|e| e[2] as i32).collect())
            })
            .collect();
        let width = self.group * self.rows.len() * d;
        let expected: Vec<Vec<Expected<'_>>> = planes
            .clone()
            .map(|plane| match &self.expected {
                None => Vec::new(),
                Some((means, covariances)) => (plane * self.group..(plane + 1) * self.group)
                    .map(|head| Expected {
                        mean: &means[head * d..][..d],
                        covariance: &covariances[head * d * d..][..d * d],
                    })
                    .collect(),
            })
            .collect();
        let views: Vec<Plane<'_>> = planes
            .clone()
            .zip(arrays.iter().zip(&expected))
            .map(|(plane, ((keys, values, positions), expected))| Plane {
                keys,
                values,
                queries: &self.q[plane * width..][..width],
                expected,
                positions,
            })
            .collect();
        let range = |plane: usize| self.table.offsets[plane]..self.table.offsets[plane + 1];
        let accumulated: Vec<Accumulated<'_>> = self
            .masses
            .iter()
            .map(|(sums, seen)| Accumulated {
                sums: planes.clone().map(|plane| &sums[range(plane)]).collect(),
                seen: planes.clone().map(|plane| &seen[range(plane)]).collect(),
            })
            .collect();
        let layer = Layer {
            planes: &views,
            group: self.group,
            num_tokens: 0,
            num_seen: self.num_seen,
            num_rows: self.rows.len(),
            row_positions: &self.rows,
            head_dim: d,
            scale: self.scale,
        };
        score_held(self.score, &layer, &accumulated, out)
    }
}

/// The number of last rows, or positions of others.
type RowSet = (Option<usize>, Option<Vec<u32>>);

/// The sets of rows whose mass a score needs: the number of last ones, or, of others, their positions in
/// `num_tokens`.
#[pyfunction]
fn keep_rows(py: Python<'_>, score: Factor<'_>, num_tokens: usize) -> PyResult<Vec<RowSet>> {
    let score = score::build(&score.0, params(&score.1)?).or_raise(py)?;
    let set = |rows: Rows| match rows {
        Rows::Last(count) => (Some(count), None),
        Rows::All | Rows::Probes { .. } => (None, Some(rows.positions(num_tokens))),
    };
    Ok(score.rows().into_iter().map(set).collect())
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(gather_rows, m)?)?;
    m.add_function(wrap_pyfunction!(held_plan, m)?)?;
    m.add_function(wrap_pyfunction!(keep_scores_held, m)?)?;
    m.add_function(wrap_pyfunction!(keep_rows, m)?)
}
