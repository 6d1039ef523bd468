//! Scores, mass and copies of the keys that a branch holds in its pages.

use std::sync::{Mutex, PoisonError};

use half::{bf16, f16};
use hornbeam_core::Error;
use hornbeam_core::format::{Dtype, Element, PageLayout};
use hornbeam_core::keep::held::{Accumulated, score_held};
use hornbeam_core::keep::score::{self, Score};
use hornbeam_core::keep::{Layer, Plane, Rows};
use hornbeam_core::ops::key_mass::{KeyMass, add_key_mass};
use hornbeam_core::parallel::Parallel;
use hornbeam_core::simd::Isa;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::error::{OrRaise, detached};
use crate::keep::{Factor, offsets, params};
use crate::parallel::Host;
use crate::rows::Chunks;
use crate::tensor::{Item, Tensor};

/// Rows of queries that one task adds up.
const ROW_BLOCK: usize = 256;

/// Keys of a branch: pages, slots and positions, plane by plane.
struct Table {
    chunks: Chunks,
    offsets: Vec<usize>,
    entries: Vec<[u32; 3]>,
}

impl Table {
    fn new(
        py: Python<'_>,
        chunks: &Bound<'_, PyList>,
        counts: &Bound<'_, PyAny>,
        entries: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let (c, e) = (Tensor::new(counts, "counts")?, Tensor::new(entries, "entries")?);
        c.expect_shape(py, &[None])?;
        e.expect_shape(py, &[None, Some(3)])?;
        // SAFETY: the caller's arguments hold the arrays while they are copied, under the GIL.
        let (counts, words) = unsafe { (c.i32s(py)?, e.i32s(py)?) };
        let offsets = offsets(counts);
        if counts.iter().any(|count| *count < 0) || offsets.last() != Some(&e.shape()[0]) {
            return Err(c.refuse(py, &format!("{counts:?}"), &format!("{} entries in all", e.shape()[0])));
        }
        let entries: Vec<[u32; 3]> =
            words.chunks_exact(3).map(|w| [w[0] as u32, w[1] as u32, w[2] as u32]).collect();
        let pages = entries.iter().map(|e| e[0]);
        let chunks = Chunks::describe(py, chunks, pages, |layout, page| layout.page(page).0)?;
        for [page, slot, _] in &entries {
            let (chunk, _) = chunks.layout.page(*page);
            if !chunks.has(chunk) || *slot as usize >= chunks.layout.page_tokens {
                let got = format!("page {page}, slot {slot}");
                return Err(Error::value("entries", got, "a slot of the given chunks")).or_raise(py);
            }
        }
        Ok(Self { chunks, offsets, entries })
    }

    fn num_planes(&self) -> usize {
        self.offsets.len() - 1
    }

    fn plane(&self, plane: usize) -> &[[u32; 3]] {
        &self.entries[self.offsets[plane]..self.offsets[plane + 1]]
    }
}

/// Appends keys, or values, of a plane in float32.
fn gather<P: Element>(
    views: &[&[P]],
    layout: &PageLayout,
    entries: &[[u32; 3]],
    values: bool,
    out: &mut Vec<f32>,
) {
    let d = layout.head_dim;
    let half = if values { layout.page_tokens * d } else { 0 };
    out.reserve(entries.len() * d);
    for [page, slot, _] in entries {
        let (chunk, at) = layout.page(*page);
        let row = &views[chunk][at + half + *slot as usize * d..][..d];
        out.extend(row.iter().map(|x| x.to_f32()));
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
    // SAFETY: the objects are held by the caller, who lends the outputs for the call.
    let (k, v) = unsafe { (k.slice_mut::<f32>(py)?, v.slice_mut::<f32>(py)?) };
    match table.chunks.layout.dtype {
        Dtype::F32 => copy_out::<f32>(py, &table, k, v),
        Dtype::Bf16 => copy_out::<bf16>(py, &table, k, v),
        Dtype::F16 => copy_out::<f16>(py, &table, k, v),
    }
}

fn copy_out<P: Element + Item>(py: Python<'_>, table: &Table, k: &mut [f32], v: &mut [f32]) -> PyResult<()> {
    let views = table.chunks.views::<P>(py)?;
    let d = table.chunks.layout.head_dim;
    detached(py, || {
        for (out, values) in [(k, false), (v, true)] {
            let parts: Vec<Mutex<&mut [f32]>> =
                planes_of(out, &table.offsets, d).into_iter().map(Mutex::new).collect();
            Host.run(parts.len(), &|plane| {
                let mut rows = Vec::new();
                gather(&views, &table.chunks.layout, table.plane(plane), values, &mut rows);
                parts[plane].lock().unwrap_or_else(PoisonError::into_inner).copy_from_slice(&rows);
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

/// Adds the probability that rows of queries give to the keys that they see: to int64 `mass [T]`, in
/// units of 2^-39. `queries` is float32 `[L, H, R, D]` of the layers from `first_layer` on, at int32
/// `rows [R]`. Only the keys of those layers are read.
#[pyfunction]
#[pyo3(signature = (chunks, counts, entries, queries, rows, first_layer, num_kv_heads, scale, mass))]
fn keep_add_mass(
    py: Python<'_>,
    chunks: &Bound<'_, PyList>,
    counts: &Bound<'_, PyAny>,
    entries: &Bound<'_, PyAny>,
    queries: &Bound<'_, PyAny>,
    rows: &Bound<'_, PyAny>,
    first_layer: usize,
    num_kv_heads: usize,
    scale: f32,
    mass: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let table = Table::new(py, chunks, counts, entries)?;
    let (q, r, m) =
        (Tensor::new(queries, "queries")?, Tensor::new(rows, "rows")?, Tensor::new(mass, "mass")?);
    q.expect_shape(py, &[None, None, None, Some(table.chunks.layout.head_dim)])?;
    let &[layers, heads, num_rows, _] = q.shape() else { unreachable!("four sizes") };
    r.expect_shape(py, &[Some(num_rows)])?;
    m.expect_shape(py, &[Some(table.entries.len())])?;
    let group = heads.checked_div(num_kv_heads).unwrap_or(0);
    if group * num_kv_heads != heads || (first_layer + layers) * num_kv_heads > table.num_planes() {
        let want = format!("{num_kv_heads} kv heads of {} planes", table.num_planes());
        return Err(q.refuse(py, &format!("{:?}", q.shape()), &want));
    }
    // SAFETY: the objects are held by the caller, who lends `mass` for the call.
    let (q, r, m) = unsafe { (q.slice::<f32>(py)?, r.i32s(py)?, m.i64s_mut(py)?) };
    let work = Mass { table: &table, q, rows: r, group, num_kv_heads, layers, first_layer, scale };
    match table.chunks.layout.dtype {
        Dtype::F32 => work.run::<f32>(py, m),
        Dtype::Bf16 => work.run::<bf16>(py, m),
        Dtype::F16 => work.run::<f16>(py, m),
    }
}

struct Mass<'a> {
    table: &'a Table,
    q: &'a [f32],
    rows: &'a [i32],
    group: usize,
    num_kv_heads: usize,
    layers: usize,
    first_layer: usize,
    scale: f32,
}

impl Mass<'_> {
    fn run<P: Element + Item>(&self, py: Python<'_>, mass: &mut [i64]) -> PyResult<()> {
        let views = self.table.chunks.views::<P>(py)?;
        detached(py, || {
            let parts: Vec<Mutex<&mut [i64]>> =
                planes_of(mass, &self.table.offsets, 1).into_iter().map(Mutex::new).collect();
            let blocks = self.rows.len().div_ceil(ROW_BLOCK).max(1);
            let planes = self.layers * self.num_kv_heads;
            let failure = Mutex::new(Ok(()));
            Host.run(planes * blocks, &|task| {
                let (plane, block) = (task / blocks, task % blocks);
                match self.block(&views, plane, block) {
                    Ok(sums) => {
                        let at = self.first_layer * self.num_kv_heads + plane;
                        let mut part = parts[at].lock().unwrap_or_else(PoisonError::into_inner);
                        // Integers: the order of the tasks does not show.
                        part.iter_mut().zip(sums).for_each(|(to, sum)| *to = to.wrapping_add(sum as i64));
                    }
                    Err(error) => *failure.lock().unwrap_or_else(PoisonError::into_inner) = Err(error),
                }
            });
            failure.into_inner().unwrap_or_else(PoisonError::into_inner)
        })
    }

    fn block<P: Element>(
        &self,
        views: &[&[P]],
        plane: usize,
        block: usize,
    ) -> hornbeam_core::Result<Vec<u64>> {
        let layout = &self.table.chunks.layout;
        let d = layout.head_dim;
        let entries = self.table.plane(self.first_layer * self.num_kv_heads + plane);
        let begin = block * ROW_BLOCK;
        let rows = &self.rows[begin..(begin + ROW_BLOCK).min(self.rows.len())];
        let visible: Vec<u32> =
            rows.iter().map(|row| entries.partition_point(|e| e[2] as i32 <= *row) as u32).collect();
        let most = visible.iter().max().map_or(0, |most| *most as usize);
        let mut keys = Vec::new();
        gather(views, layout, &entries[..most], false, &mut keys);
        let mut sums = vec![0u64; most];
        for head in plane * self.group..(plane + 1) * self.group {
            let queries = &self.q[(head * self.rows.len() + begin) * d..][..rows.len() * d];
            let work = KeyMass { keys: &keys, queries, visible: &visible, head_dim: d, scale: self.scale };
            add_key_mass(Isa::detected(), &work, &mut sums)?;
        }
        Ok(sums)
    }
}

/// Writes the scores float32 `out [T]` of what a branch holds. `queries` is float32 `[L, H, W, D]` at
/// int32 `rows [W]`, `num_seen` the tokens seen so far; `mass` int64 `[T]` was added up from the rows
/// int32 `mass_rows` for a score that needs more than the last ones.
#[pyfunction]
#[pyo3(signature = (score, chunks, counts, entries, queries, rows, mass, mass_rows, num_seen, num_kv_heads, scale, out))]
fn keep_scores_held(
    py: Python<'_>,
    score: Factor<'_>,
    chunks: &Bound<'_, PyList>,
    counts: &Bound<'_, PyAny>,
    entries: &Bound<'_, PyAny>,
    queries: &Bound<'_, PyAny>,
    rows: &Bound<'_, PyAny>,
    mass: &Bound<'_, PyAny>,
    mass_rows: &Bound<'_, PyAny>,
    num_seen: usize,
    num_kv_heads: usize,
    scale: f32,
    out: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let score = score::build(&score.0, params(&score.1)?).or_raise(py)?;
    let table = Table::new(py, chunks, counts, entries)?;
    let (q, r, o) = (Tensor::new(queries, "queries")?, Tensor::new(rows, "rows")?, Tensor::new(out, "out")?);
    let (m, mr) = (Tensor::new(mass, "mass")?, Tensor::new(mass_rows, "mass_rows")?);
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
    m.expect_shape(py, &[None])?;
    mr.expect_shape(py, &[None])?;
    // SAFETY: the objects are held by the caller, who lends `out` for the call.
    let (q, r, m, mr, o) =
        unsafe { (q.slice::<f32>(py)?, r.i32s(py)?, m.i64s(py)?, mr.i32s(py)?, o.slice_mut::<f32>(py)?) };
    let mass: Vec<u64> = m.iter().map(|m| *m as u64).collect();
    if !mass.is_empty() && mass.len() != table.entries.len() {
        let want = format!("{} sums, or none", table.entries.len());
        return Err(Error::shape("mass", mass.len(), want)).or_raise(py);
    }
    let unsigned = |rows: &[i32]| rows.iter().map(|row| *row as u32).collect();
    let call = Call {
        score: &*score,
        table: &table,
        q,
        rows: unsigned(r),
        mass,
        mass_rows: unsigned(mr),
        num_seen,
        num_kv_heads,
        group: heads / num_kv_heads,
        scale,
    };
    match table.chunks.layout.dtype {
        Dtype::F32 => call.run::<f32>(py, o),
        Dtype::Bf16 => call.run::<bf16>(py, o),
        Dtype::F16 => call.run::<f16>(py, o),
    }
}

struct Call<'a> {
    score: &'a dyn Score,
    table: &'a Table,
    q: &'a [f32],
    rows: Vec<u32>,
    mass: Vec<u64>,
    mass_rows: Vec<u32>,
    num_seen: usize,
    num_kv_heads: usize,
    group: usize,
    scale: f32,
}

impl Call<'_> {
    /// One task a layer where heads share a ranking, else one a plane.
    fn run<P: Element + Item>(&self, py: Python<'_>, out: &mut [f32]) -> PyResult<()> {
        let views = self.table.chunks.views::<P>(py)?;
        let size = if self.score.by_layer() { self.num_kv_heads } else { 1 };
        detached(py, || {
            let mut planes = planes_of(out, &self.table.offsets, 1).into_iter();
            let mut parts = Vec::new();
            while planes.len() > 0 {
                parts.push(Mutex::new((planes.by_ref().take(size).collect::<Vec<_>>(), Ok(()))));
            }
            Host.run(parts.len(), &|task| {
                let mut part = parts[task].lock().unwrap_or_else(PoisonError::into_inner);
                let (out, outcome) = &mut *part;
                *outcome = self.some(&views, task * size..(task + 1) * size, out);
            });
            parts.into_iter().try_for_each(|part| part.into_inner().unwrap_or_else(PoisonError::into_inner).1)
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
                gather(views, layout, entries, false, &mut keys);
                if self.score.reads_values() {
                    gather(views, layout, entries, true, &mut values);
                }
                (keys, values, entries.iter().map(|e| e[2] as i32).collect())
            })
            .collect();
        let width = self.group * self.rows.len() * d;
        let views: Vec<Plane<'_>> = planes
            .clone()
            .zip(&arrays)
            .map(|(plane, (keys, values, positions))| Plane {
                keys,
                values,
                queries: &self.q[plane * width..][..width],
                positions,
            })
            .collect();
        let sums: Vec<&[u64]> = if self.mass.is_empty() {
            Vec::new()
        } else {
            planes.map(|plane| &self.mass[self.table.offsets[plane]..self.table.offsets[plane + 1]]).collect()
        };
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
        let accumulated = Accumulated { sums: &sums, rows: &self.mass_rows };
        score_held(Isa::detected(), self.score, &layer, accumulated, out)
    }
}

/// The rows whose mass a score needs: the number of last ones, and of the others, at these positions of
/// `num_tokens`, int32.
#[pyfunction]
fn keep_rows(py: Python<'_>, score: Factor<'_>, num_tokens: usize) -> PyResult<(usize, Option<Vec<u32>>)> {
    let score = score::build(&score.0, params(&score.1)?).or_raise(py)?;
    let (mut last, mut others) = (0, None);
    for rows in score.rows() {
        match rows {
            Rows::Last(count) => last = last.max(count),
            Rows::All | Rows::Probes { .. } => others = Some(rows.positions(num_tokens)),
        }
    }
    Ok((last, others))
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(gather_rows, m)?)?;
    m.add_function(wrap_pyfunction!(keep_add_mass, m)?)?;
    m.add_function(wrap_pyfunction!(keep_scores_held, m)?)?;
    m.add_function(wrap_pyfunction!(keep_rows, m)?)
}
