//! Scores, splits and reductions of caches: on flat CPU arrays.

use hornbeam_core::Error;
use hornbeam_core::keep::reduce::{self, Before};
use hornbeam_core::keep::score::{self, Batch, score_batch};
use hornbeam_core::keep::split::{self, Scores};
use hornbeam_core::keep::{Param, Params, Protect};
use hornbeam_core::simd::Isa;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::{OrRaise, detached_on};
use crate::parallel::Host;
use crate::tensor::{Tensor, expect_apart};

/// A factor as Python names it: its name in the core, and its parameters.
pub(crate) type Factor<'py> = (String, Bound<'py, PyDict>);

/// (sinks, recent, recent_percent) of [`Protect`].
pub(crate) type Protected = (u32, u32, u32);

pub(crate) fn params(dict: &Bound<'_, PyDict>) -> PyResult<Params> {
    let mut list = Vec::with_capacity(dict.len());
    for (key, value) in dict {
        let param = if value.is_none() {
            continue;
        } else if let Ok(text) = value.extract::<String>() {
            Param::Text(text)
        } else if let Ok(number) = value.extract::<f64>() {
            Param::Number(number)
        } else if let Ok((name, inner)) = value.extract::<Factor<'_>>() {
            Param::Factor(name, params(&inner)?)
        } else {
            Param::Numbers(value.extract()?)
        };
        list.push((key.extract()?, param));
    }
    Ok(list.into_iter().collect())
}

pub(crate) fn protect((sinks, recent, recent_percent): Protected) -> Protect {
    Protect { sinks, recent, recent_percent }
}

/// Checks a factor's name and parameters. `kind` is `score`, `split` or `reduce`. For a score
/// returns (sinks, recent, recent_percent, unit), for others zeros.
#[pyfunction]
fn keep_check(py: Python<'_>, kind: &str, factor: Factor<'_>) -> PyResult<(u32, u32, u32, usize)> {
    let (name, params) = (factor.0, params(&factor.1)?);
    match kind {
        "score" => {
            let score = score::build(&name, params).or_raise(py)?;
            let protect = score.protect();
            return Ok((protect.sinks, protect.recent, protect.recent_percent, score.unit()));
        }
        "split" => drop(split::build(&name, params).or_raise(py)?),
        "reduce" => drop(reduce::build(&name, params).or_raise(py)?),
        _ => return Err(Error::value("kind", kind, "score, split or reduce")).or_raise(py),
    }
    Ok((0, 0, 0, 0))
}

/// Writes the scores `[B, L, Hk, N]` of keys and values `[L, B, Hk, N, D]` and of the queries
/// `[L, B, H, W, D]` of the last W rows. All float32, contiguous, on the CPU.
#[pyfunction]
fn keep_scores(
    py: Python<'_>,
    score: Factor<'_>,
    keys: &Bound<'_, PyAny>,
    values: &Bound<'_, PyAny>,
    queries: &Bound<'_, PyAny>,
    scale: f32,
    out: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let score = score::build(&score.0, params(&score.1)?).or_raise(py)?;
    let (k, v) = (Tensor::new(keys, "keys")?, Tensor::new(values, "values")?);
    let (q, o) = (Tensor::new(queries, "queries")?, Tensor::new(out, "out")?);
    k.expect_shape(py, &[None; 5])?;
    let &[layers, batch, heads, tokens, dim] = k.shape() else { unreachable!("five sizes") };
    v.expect_shape(py, &[Some(layers), Some(batch), Some(heads), Some(tokens), Some(dim)])?;
    q.expect_shape(py, &[Some(layers), Some(batch), None, None, Some(dim)])?;
    o.expect_shape(py, &[Some(batch), Some(layers), Some(heads), Some(tokens)])?;
    let (query_heads, rows) = (q.shape()[2], q.shape()[3]);
    if heads == 0 || query_heads % heads != 0 {
        return Err(q.refuse(
            py,
            &format!("{query_heads} heads"),
            &format!("a multiple of {heads} kv heads"),
        ));
    }
    expect_apart(py, &[&o], [&k, &v, &q])?;
    let all = [&k, &v, &q, &o];
    // SAFETY: `out` shares no memory with others; the caller lends it for the call.
    let (k, v, q, o) =
        unsafe { (k.slice::<f32>(py)?, v.slice::<f32>(py)?, q.slice::<f32>(py)?, o.slice_mut::<f32>(py)?) };
    let group = query_heads / heads;
    let sizes =
        Batch { keys: k, values: v, queries: q, layers, batch, heads, group, tokens, rows, dim, scale };
    detached_on(py, all, || score_batch(Isa::detected(), &*score, &sizes, &Host, o))
}

/// Shares `total` tokens out over the planes of one sequence: writes int32 `budgets [L, Hk]` from
/// float32 `scores [T]`, plane after plane, of which int32 `counts [L, Hk]` says how many each has, and
/// int32 `positions [T]` where they lie. Then writes which stay, bool `kept [T]`.
#[pyfunction]
#[pyo3(signature = (split, scores, counts, positions, total, protected, unit, budgets, kept))]
fn keep_select(
    py: Python<'_>,
    split: Factor<'_>,
    scores: &Bound<'_, PyAny>,
    counts: &Bound<'_, PyAny>,
    positions: &Bound<'_, PyAny>,
    total: u64,
    protected: Protected,
    unit: usize,
    budgets: &Bound<'_, PyAny>,
    kept: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let rule = split::build(&split.0, params(&split.1)?).or_raise(py)?;
    let s = Tensor::with_shape(scores, "scores", &[None])?;
    let c = Tensor::with_shape(counts, "counts", &[None, None])?;
    let &[layers, heads] = c.shape() else { unreachable!("two sizes") };
    let at = Tensor::with_shape(positions, "positions", &[Some(s.len())])?;
    let b = Tensor::with_shape(budgets, "budgets", &[Some(layers), Some(heads)])?;
    let k = Tensor::with_shape(kept, "kept", &[Some(s.len())])?;
    expect_apart(py, &[&b, &k], [&s, &c, &at])?;
    let all = [&s, &c, &at, &b, &k];
    // SAFETY: the outputs share no memory with others; the caller lends them for the call.
    let (s, b, k) = unsafe { (s.slice::<f32>(py)?, b.i32s_mut(py)?, k.bools_mut(py)?) };
    // SAFETY: as above.
    let (counts, positions) = unsafe { (c.i32s(py)?, at.i32s(py)?) };
    let offsets = offsets(counts);
    if offsets.windows(2).any(|pair| pair[0] > pair[1]) || offsets.last() != Some(&s.len()) {
        return Err(c.refuse(py, &format!("{counts:?}"), &format!("{} scores in all", s.len())));
    }
    let protect = protect(protected);
    detached_on(py, all, || {
        let scores = Scores { values: s, offsets: &offsets, num_layers: layers, num_heads: heads, protect };
        let mut shares = vec![0; b.len()];
        split::select_planes(&*rule, &scores, positions, total, unit, &mut shares, k)?;
        b.iter_mut().zip(&shares).for_each(|(budget, share)| *budget = *share as i32);
        Ok(())
    })
}

/// Where each plane begins, and the end. Counts below 0 become offsets that the core refuses.
pub(crate) fn offsets(counts: &[i32]) -> Vec<usize> {
    let mut offsets = vec![0usize];
    offsets.extend(counts.iter().scan(0usize, |end, count| {
        *end = end.wrapping_add_signed(*count as isize);
        Some(*end)
    }));
    offsets
}

/// Reduces one plane. Reads float32 `keys [N, D]`, `values [N, D]`, `scores [N]` and ascending int32
/// `kept [K]`; writes float32 `out_keys [K, D]` and `out_values [K, D]`, and the weights of the merge:
/// for the N - K evicted, ascending, int32 `targets` (slot among the kept, or -1) and float32
/// `weights`; float32 `own [K]`.
#[pyfunction]
fn keep_reduce(
    py: Python<'_>,
    reduce: Factor<'_>,
    keys: &Bound<'_, PyAny>,
    values: &Bound<'_, PyAny>,
    scores: &Bound<'_, PyAny>,
    kept: &Bound<'_, PyAny>,
    out_keys: &Bound<'_, PyAny>,
    out_values: &Bound<'_, PyAny>,
    targets: &Bound<'_, PyAny>,
    weights: &Bound<'_, PyAny>,
    own: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let rule = reduce::build(&reduce.0, params(&reduce.1)?).or_raise(py)?;
    let k = Tensor::with_shape(keys, "keys", &[None, None])?;
    let (n, d) = (k.shape()[0], k.shape()[1]);
    let v = Tensor::with_shape(values, "values", &[Some(n), Some(d)])?;
    let s = Tensor::with_shape(scores, "scores", &[Some(n)])?;
    let i = Tensor::with_shape(kept, "kept", &[None])?;
    let (count, evicted) = (i.len(), n.saturating_sub(i.len()));
    let ok = Tensor::with_shape(out_keys, "out_keys", &[Some(count), Some(d)])?;
    let ov = Tensor::with_shape(out_values, "out_values", &[Some(count), Some(d)])?;
    let t = Tensor::with_shape(targets, "targets", &[Some(evicted)])?;
    let w = Tensor::with_shape(weights, "weights", &[Some(evicted)])?;
    let o = Tensor::with_shape(own, "own", &[Some(count)])?;
    let outputs = [&ok, &ov, &t, &w, &o];
    let inputs = [&k, &v, &s, &i];
    expect_apart(py, &outputs, inputs)?;
    let all = outputs.into_iter().chain(inputs);
    // SAFETY: the outputs share no memory with others; the caller lends them for the call.
    let (k, v, s, i) =
        unsafe { (k.slice::<f32>(py)?, v.slice::<f32>(py)?, s.slice::<f32>(py)?, i.i32s(py)?) };
    // SAFETY: as above.
    let (ok, ov) = unsafe { (ok.slice_mut::<f32>(py)?, ov.slice_mut::<f32>(py)?) };
    // SAFETY: as above.
    let (t, w, o) = unsafe { (t.i32s_mut(py)?, w.slice_mut::<f32>(py)?, o.slice_mut::<f32>(py)?) };
    detached_on(py, all, || {
        // A negative index becomes a great one, which the core refuses.
        let kept: Vec<u32> = i.iter().map(|&i| i as u32).collect();
        let before = Before { keys: k, values: v, scores: s, head_dim: d, kept: &kept };
        let merge = reduce::reduce(Isa::detected(), &*rule, &before, ok, ov)?;
        t.iter_mut().zip(&merge.targets).for_each(|(to, target)| *to = *target as i32);
        w.copy_from_slice(&merge.weights);
        o.copy_from_slice(&merge.own);
        Ok(())
    })
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(keep_check, m)?)?;
    m.add_function(wrap_pyfunction!(keep_scores, m)?)?;
    m.add_function(wrap_pyfunction!(keep_select, m)?)?;
    m.add_function(wrap_pyfunction!(keep_reduce, m)?)
}
