//! Scores of resident keys.

use half::{bf16, f16};
use hornbeam_core::format::key_table::KeyTable;
use hornbeam_core::format::{Dtype, Element};
use hornbeam_core::keep::QueryRows;
use hornbeam_core::keep::resident::{Known, score_table};
use hornbeam_core::keep::score::{self, Score};
use hornbeam_core::ops::gather::Resident;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::error::{OrRaise, detached_on};
use crate::keep::{Factor, params};
use crate::key_table::{PyKeyTable, chunks_of};
use crate::parallel::Host;
use crate::rows::Chunks;
use crate::tensor::{Item, Tensor, expect_apart};

/// Writes the scores float32 `out [T]` of resident keys. `queries` is float32 `[L, H, W, D]` at
/// int32 `rows [W]`, `num_seen` the tokens seen so far; `masses` has, for each of the sets of rows that the
/// score needs, int64 `[T]` sums and int32 `[T]` counts of the rows that saw the key. `expected`, the bits of
/// doubles as int64 `means [L, H, D]` and `covariances [L, H, D, D]`, takes the place of queries where these are
/// asked for moments alone.
#[pyfunction]
#[pyo3(signature = (score, chunks, table, queries, rows, masses, num_seen, num_kv_heads, scale, out, expected=None))]
fn keep_scores_resident(
    py: Python<'_>,
    score: Factor<'_>,
    chunks: &Bound<'_, PyList>,
    table: &Bound<'_, PyKeyTable>,
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
    let table = &*table.get().table;
    let chunks = chunks_of(py, chunks, table)?;
    let (num_keys, d) = (table.keys().len(), chunks.layout.head_dim);
    let (q, r, o) = (Tensor::new(queries, "queries")?, Tensor::new(rows, "rows")?, Tensor::new(out, "out")?);
    let layers = table.num_planes().checked_div(num_kv_heads).unwrap_or(0);
    q.expect_shape(py, &[Some(layers), None, None, Some(d)])?;
    let (heads, num_rows) = (q.shape()[1], q.shape()[2]);
    if num_kv_heads == 0 || heads % num_kv_heads != 0 || layers * num_kv_heads != table.num_planes() {
        return Err(q.refuse(
            py,
            &format!("{heads} heads"),
            &format!("a multiple of {num_kv_heads} kv heads"),
        ));
    }
    r.expect_shape(py, &[Some(num_rows)])?;
    o.expect_shape(py, &[Some(num_keys)])?;
    expect_apart(py, &[&o], chunks.tensors().chain([&q, &r]))?;
    let all = chunks.tensors().chain([&q, &r, &o]);
    // SAFETY: `out` shares no memory with others; the caller lends it for the call.
    let (q, r, o) = unsafe { (q.slice::<f32>(py)?, r.i32s(py)?, o.slice_mut::<f32>(py)?) };
    let masses = masses
        .iter()
        .map(|(sums, seen)| {
            let (sums, seen) = (Tensor::new(sums, "sums")?, Tensor::new(seen, "seen")?);
            sums.expect_shape(py, &[Some(num_keys)])?;
            seen.expect_shape(py, &[Some(num_keys)])?;
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
            m.expect_shape(py, &[Some(layers), Some(heads), Some(d)])?;
            c.expect_shape(py, &[Some(layers), Some(heads), Some(d), Some(d)])?;
            // SAFETY: as above; both are copied under the GIL.
            Some(unsafe { (doubles(m.i64s(py)?), doubles(c.i64s(py)?)) })
        }
    };
    let rows: Vec<u32> = r.iter().map(|row| *row as u32).collect();
    let known = Known {
        queries: q,
        rows: &rows,
        masses: &masses,
        expected: expected.as_ref().map(|(means, covariances)| (means.as_slice(), covariances.as_slice())),
        num_seen,
        num_kv_heads,
        group: heads / num_kv_heads,
        scale,
    };
    let call = Call { score: &*score, table, chunks: &chunks, known };
    match chunks.layout.dtype {
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
    table: &'a KeyTable,
    chunks: &'a Chunks,
    known: Known<'a>,
}

impl Call<'_> {
    fn run<'t, P: Element + Item>(
        &self,
        py: Python<'_>,
        tensors: impl Iterator<Item = &'t Tensor>,
        out: &mut [f32],
    ) -> PyResult<()> {
        let views = self.chunks.views::<P>(py)?;
        detached_on(py, tensors, || {
            let source = Resident::new(self.table, &views, &self.chunks.layout)?;
            score_table(self.score, &source, &self.known, &Host, out)
        })
    }
}

/// The number of last rows, or positions of others.
type RowSet = (Option<usize>, Option<Vec<u32>>);

/// The sets of rows whose mass a score needs: the number of last ones, or, of others, their positions in
/// `num_tokens`.
#[pyfunction]
fn keep_rows(py: Python<'_>, score: Factor<'_>, num_tokens: usize) -> PyResult<Vec<RowSet>> {
    let score = score::build(&score.0, params(&score.1)?).or_raise(py)?;
    let set = |rows: QueryRows| match rows {
        QueryRows::Last(count) => (Some(count), None),
        QueryRows::All | QueryRows::Probes { .. } => (None, Some(rows.positions(num_tokens))),
    };
    Ok(score.rows().into_iter().map(set).collect())
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(keep_scores_resident, m)?)?;
    m.add_function(wrap_pyfunction!(keep_rows, m)?)
}
