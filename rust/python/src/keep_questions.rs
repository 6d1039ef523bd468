//! Splits whose scores lie on a device: what they ask of them, and budgets from the answers.

use hornbeam_core::keep::split::{self, Answer, Question, Scores, Split};
use pyo3::prelude::*;

use crate::error::{OrRaise, attached, detached};
use crate::keep::{Factor, Protected, offsets, params, protect};
use crate::plan::int32s;
use crate::tensor::{Tensor, expect_apart};

/// Counts of planes `[L, Hk]`.
struct Counts {
    rule: Box<dyn Split>,
    offsets: Vec<usize>,
    layers: usize,
    heads: usize,
    protected: Protected,
}

impl Counts {
    fn new(
        py: Python<'_>,
        split: &Factor<'_>,
        counts: &Bound<'_, PyAny>,
        protected: Protected,
    ) -> PyResult<Self> {
        let rule = split::build(&split.0, params(&split.1)?).or_raise(py)?;
        let c = Tensor::new(counts, "counts")?;
        c.expect_shape(py, &[None, None])?;
        let &[layers, heads] = c.shape() else { unreachable!("two sizes") };
        // SAFETY: the array is copied at once, with the GIL held.
        let offsets = offsets(unsafe { c.i32s(py)? });
        Ok(Self { rule, offsets, layers, heads, protected })
    }

    fn scores(&self) -> Scores<'_> {
        let (num_layers, num_heads) = (self.layers, self.heads);
        Scores {
            values: &[],
            offsets: &self.offsets,
            num_layers,
            num_heads,
            protect: protect(self.protected),
        }
    }
}

/// What a question is called, and int32 numbers of planes, of layers, and of the leaders of layers.
type Asked<'py> = (&'static str, Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>);

/// What a split has to know of scores that are elsewhere, where int32 `counts [L, Hk]` says how many there are:
/// "nothing"; "heads", with int32 `reserved [L * Hk]` and `rooms [L]`; or "columns", with the keys to be bought
/// `[1]`. Last, the layer whose scores decide, for each layer.
#[pyfunction]
fn keep_question<'py>(
    py: Python<'py>,
    split: Factor<'py>,
    counts: &Bound<'py, PyAny>,
    total: u64,
    protected: Protected,
) -> PyResult<Asked<'py>> {
    let counts = Counts::new(py, &split, counts, protected)?;
    let question = attached(py, || split::question(&*counts.rule, &counts.scores(), total))?;
    let (name, reserved, rooms) = match question {
        Question::Nothing => ("nothing", Vec::new(), Vec::new()),
        Question::Heads { reserved, rooms } => ("heads", reserved, rooms),
        Question::Columns { keys } => ("columns", Vec::new(), vec![keys]),
    };
    let numbers = |list: Vec<u64>| int32s(py, list.into_iter().map(|x| x as i32), None);
    let leaders = (0..counts.layers).map(|layer| counts.rule.leader(layer) as u64).collect();
    Ok((name, numbers(reserved)?, numbers(rooms)?, numbers(leaders)?))
}

/// Writes int32 `budgets [L, Hk]` from the answer to the question of [`keep_question`], int32: nothing; to "heads"
/// what each plane holds `[L * Hk]`; to "columns" those that each layer has whole `[L]`, the layer of the next one,
/// and how many keys of that are bought.
#[pyfunction]
fn keep_answered(
    py: Python<'_>,
    split: Factor<'_>,
    counts: &Bound<'_, PyAny>,
    total: u64,
    protected: Protected,
    question: &str,
    answer: &Bound<'_, PyAny>,
    budgets: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let counts = Counts::new(py, &split, counts, protected)?;
    let (a, b) = (Tensor::new(answer, "answer")?, Tensor::new(budgets, "budgets")?);
    a.expect_shape(py, &[None])?;
    b.expect_shape(py, &[Some(counts.layers), Some(counts.heads)])?;
    expect_apart(py, &[&b], [&a])?;
    // SAFETY: the output shares no memory with the answer; the caller lends it for the call.
    let (a, b) = unsafe { (a.i32s(py)?, b.i32s_mut(py)?) };
    let list: Vec<u64> = a.iter().map(|x| *x as u64).collect();
    let answer = match (question, list.as_slice()) {
        ("heads", held) => Answer::Heads(held.to_vec()),
        ("columns", [whole @ .., layer, left]) => {
            Answer::Columns { whole: whole.to_vec(), next: (*layer as usize, *left) }
        }
        _ => Answer::Nothing,
    };
    detached(py, || {
        let mut shares = vec![0; b.len()];
        split::answered(&*counts.rule, &counts.scores(), total, &answer, &mut shares)?;
        b.iter_mut().zip(&shares).for_each(|(budget, share)| *budget = *share as i32);
        Ok(())
    })
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(keep_question, m)?)?;
    m.add_function(wrap_pyfunction!(keep_answered, m)?)
}
