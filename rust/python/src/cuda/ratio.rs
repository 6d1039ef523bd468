//! Bias and penalties, and verification by ratio tests, on the device.

use hornbeam_core::format::Dtype;
use hornbeam_cuda::decide;
use hornbeam_cuda::params::{Adjust, Bias, Count, Law, Laws, Penalties, ROW_LAW_BYTES, Ratio, Rule};
use pyo3::prelude::*;

use super::decide::vector;
use super::{OrRaise, PyCudaLane, contiguous};
use crate::tensor::{Kind, Tensor};

type Any<'py> = Bound<'py, PyAny>;

/// `[rows, vocabulary]` with a unit last stride.
fn logits_of(py: Python<'_>, object: &Any<'_>) -> PyResult<Tensor> {
    let logits = Tensor::new(object, "logits")?;
    logits.expect_shape(py, &[None, None])?;
    let vocabulary = logits.shape()[1];
    if vocabulary == 0 || vocabulary > 1 << 24 || (vocabulary > 1 && logits.strides()[1] != 1) {
        let got = format!("of shape {:?}, strides {:?}", logits.shape(), logits.strides());
        return Err(logits.refuse(py, &got, "1 to 16777216 columns, a unit last stride"));
    }
    Ok(logits)
}

/// Bytes of `[rows, width]` structs; their address.
fn table(py: Python<'_>, tensor: &Tensor, rows: Option<usize>, width: usize) -> PyResult<u64> {
    contiguous(py, tensor, Kind::U8, &[rows, Some(width)])
}

/// Tokens, parents and offsets of draft trees.
struct Tree {
    tokens: Tensor,
    parents: Tensor,
    offsets: Tensor,
}

impl Tree {
    fn new((tokens, parents, offsets): (Any<'_>, Any<'_>, Any<'_>)) -> PyResult<Self> {
        Ok(Self {
            tokens: Tensor::new(&tokens, "draft_tokens")?,
            parents: Tensor::new(&parents, "draft_parents")?,
            offsets: Tensor::new(&offsets, "offsets")?,
        })
    }

    fn parts(&self) -> [&Tensor; 3] {
        [&self.tokens, &self.parents, &self.offsets]
    }

    fn num_sequences(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// The addresses, and whether the rows of `logits` are those of the trees.
    fn check(&self, py: Python<'_>, logits: &Tensor) -> PyResult<[u64; 3]> {
        let want = self.tokens.len() + self.num_sequences();
        if self.offsets.len() == 0 || logits.shape()[0] != want {
            let got = format!("of shape {:?}", logits.shape());
            return Err(logits.refuse(
                py,
                &got,
                &format!("{want} rows: one a draft token and one a sequence"),
            ));
        }
        Ok([
            vector(py, &self.tokens, Kind::I64, None)?,
            vector(py, &self.parents, Kind::I32, Some(self.tokens.len()))?,
            vector(py, &self.offsets, Kind::I32, None)?,
        ])
    }
}

/// Marks the tokens of histories in `marks` int32 `[sequences, vocabulary]`, zeros before: `tokens`
/// int64 are prompt, output, prompt, output, ..., each from `begins` int32 on.
#[pyfunction]
#[pyo3(name = "cuda_count")]
fn count(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    tokens: &Any<'_>,
    begins: &Any<'_>,
    marks: &Any<'_>,
) -> PyResult<()> {
    let (list, begins) = (Tensor::new(tokens, "tokens")?, Tensor::new(begins, "begins")?);
    let marks = Tensor::new(marks, "marks")?;
    let target = lane.get().target(py, tokens, &[&list, &begins, &marks])?;
    let sequences = begins.len().saturating_sub(1) / 2;
    let parameters = Count {
        tokens: vector(py, &list, Kind::I64, None)?,
        begins: vector(py, &begins, Kind::I32, Some(2 * sequences + 1))?,
        marks: contiguous(py, &marks, Kind::I32, &[Some(sequences), None])?,
        num_sequences: sequences as i32,
        vocabulary: marks.shape()[1] as i32,
    };
    // SAFETY: the tensors are on the device and of the shapes that were checked, the caller checked
    // the tokens, and torch's stream orders their reuse.
    unsafe { decide::count(lane.get().lane(), target.device, target.stream, &parameters) }.or_raise(py)
}

/// Applies bias and penalties to rows of `logits`, into `out` float32 of their shape. `tree` is
/// (tokens, parents, offsets); `marks` comes from `cuda_count`; `penalties`, of one
/// sequence or of each, and `bias` are those of `cuda_pack_penalties`.
#[pyfunction]
#[pyo3(name = "cuda_adjust")]
fn adjust(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    logits: &Any<'_>,
    tree: (Any<'_>, Any<'_>, Any<'_>),
    marks: Option<&Any<'_>>,
    penalties: &Any<'_>,
    bias: &Any<'_>,
    out: &Any<'_>,
) -> PyResult<()> {
    let (rows, tree) = (logits_of(py, logits)?, Tree::new(tree)?);
    let marks = marks.map(|t| Tensor::new(t, "marks")).transpose()?;
    let (penalties, bias) = (Tensor::new(penalties, "penalties")?, Tensor::new(bias, "bias")?);
    let out = Tensor::new(out, "out")?;
    let mut all = vec![&rows, &penalties, &bias, &out];
    all.extend(tree.parts());
    all.extend(&marks);
    let target = lane.get().target(py, logits, &all)?;
    let [draft_tokens, parents, offsets] = tree.check(py, &rows)?;
    let is_shared = penalties.shape().first() == Some(&1);
    let parameters = Adjust {
        logits: rows.address(),
        out: contiguous(py, &out, Kind::Float(Dtype::F32), &[Some(rows.shape()[0]), Some(rows.shape()[1])])?,
        draft_tokens,
        parents,
        offsets,
        marks: marks
            .as_ref()
            .map_or(Ok(0), |marks| contiguous(py, marks, Kind::I32, &[Some(tree.num_sequences()), None]))?,
        penalties: table(
            py,
            &penalties,
            (!is_shared).then_some(tree.num_sequences()),
            size_of::<Penalties>(),
        )?,
        bias: table(py, &bias, None, size_of::<Bias>())?,
        row_stride: rows.strides()[0] as i64,
        num_rows: rows.shape()[0] as i32,
        num_sequences: tree.num_sequences() as i32,
        vocabulary: rows.shape()[1] as i32,
        dtype: rows.float(py)?.into(),
        marked: marks.as_ref().map_or(0, |marks| marks.shape()[1] as i32),
        is_shared: i32::from(is_shared),
    };
    // SAFETY: as above; the caller checked the trees.
    unsafe { decide::adjust(lane.get().lane(), target.device, target.stream, &parameters) }.or_raise(py)
}

/// One side of a ratio test: logits, laws of its sequences, of `cuda_pack_laws`, and where the
/// laws of its rows go (uint8 `[rows, row_law]`, of `cuda_sizes`).
type Side<'py> = (Any<'py>, Any<'py>, Any<'py>);

/// Verifies drafts by a rule that draws, see `hornbeam.ops.verify`: `rule` is one of its names. `scratch` is (uint8 `[rows, 8]`, int32 `[rows]`);
/// `out` is (accepted, num_accepted, next_token, fault_rows).
#[pyfunction]
#[pyo3(name = "cuda_ratio")]
fn ratio(
    py: Python<'_>,
    lane: &Bound<'_, PyCudaLane>,
    rule: &str,
    tree: (Any<'_>, Any<'_>, Any<'_>),
    counters: (Option<Any<'_>>, Option<Any<'_>>),
    target: Side<'_>,
    draft: Option<Side<'_>>,
    scratch: (Any<'_>, Any<'_>),
    bounds: (f64, f64),
    seed: u64,
    out: (Any<'_>, Any<'_>, Any<'_>, Any<'_>),
) -> PyResult<()> {
    let object = target.0.clone();
    let tree = Tree::new(tree)?;
    let side = |side: Side<'_>| {
        let laws = (Tensor::new(&side.1, "laws")?, Tensor::new(&side.2, "row_laws")?);
        PyResult::Ok((logits_of(py, &side.0)?, laws.0, laws.1))
    };
    let target = side(target)?;
    let draft = draft.map(side).transpose()?;
    let sides: Vec<_> = std::iter::once(&target).chain(&draft).collect();
    let optional = |object: Option<Any<'_>>, name| object.map(|o| Tensor::new(&o, name)).transpose();
    let (sequences, positions) = (optional(counters.0, "sequences")?, optional(counters.1, "positions")?);
    let scratch = (Tensor::new(&scratch.0, "likelihoods")?, Tensor::new(&scratch.1, "depths")?);
    let (accepted, counts) = (Tensor::new(&out.0, "accepted")?, Tensor::new(&out.1, "num_accepted")?);
    let (next, broken) = (Tensor::new(&out.2, "next_token")?, Tensor::new(&out.3, "fault_rows")?);
    let mut all = vec![&target.0, &scratch.0, &scratch.1, &accepted, &counts, &next, &broken];
    all.extend(tree.parts());
    all.extend(sequences.iter().chain(&positions));
    all.extend(sides.iter().flat_map(|side| [&side.0, &side.1, &side.2]));
    let place = lane.get().target(py, &object, &all)?;
    let num_sequences = tree.num_sequences();
    let mut parameters = Ratio {
        draft_tokens: 0,
        parents: 0,
        offsets: 0,
        sequences: sequences.as_ref().map_or(Ok(0), |t| vector(py, t, Kind::I64, Some(num_sequences)))?,
        positions: positions.as_ref().map_or(Ok(0), |t| vector(py, t, Kind::I64, Some(num_sequences)))?,
        logits: [0; 2],
        row_laws: [0; 2],
        laws: [0; 2],
        likelihoods: table(py, &scratch.0, Some(target.0.shape()[0]), 8)?,
        depths: vector(py, &scratch.1, Kind::I32, Some(target.0.shape()[0]))?,
        accepted: contiguous(py, &accepted, Kind::I32, &[Some(num_sequences), None])?,
        num_accepted: vector(py, &counts, Kind::I32, Some(num_sequences))?,
        next_token: vector(py, &next, Kind::I64, Some(num_sequences))?,
        fault_rows: vector(py, &broken, Kind::I32, Some(num_sequences))?,
        strides: [0; 2],
        epsilon: bounds.0,
        alpha: bounds.1,
        seed: [seed as u32, (seed >> 32) as u32],
        rule: Rule::named(rule).or_raise(py)?,
        num_sequences: num_sequences as i32,
        max_depth: accepted.shape()[1] as i32,
        vocabularies: [0; 2],
        dtypes: [Dtype::F32.into(); 2],
        reserved: 0,
    };
    for (which, (logits, laws, row_laws)) in sides.into_iter().enumerate() {
        [parameters.draft_tokens, parameters.parents, parameters.offsets] = tree.check(py, logits)?;
        let rows = Laws {
            logits: logits.address(),
            offsets: parameters.offsets,
            laws: table(py, laws, Some(num_sequences), size_of::<Law>())?,
            out: table(py, row_laws, Some(logits.shape()[0]), ROW_LAW_BYTES)?,
            row_stride: logits.strides()[0] as i64,
            num_rows: logits.shape()[0] as i32,
            num_sequences: num_sequences as i32,
            vocabulary: logits.shape()[1] as i32,
            dtype: logits.float(py)?.into(),
        };
        (parameters.logits[which], parameters.row_laws[which]) = (rows.logits, rows.out);
        (parameters.laws[which], parameters.strides[which]) = (rows.laws, rows.row_stride);
        (parameters.vocabularies[which], parameters.dtypes[which]) = (rows.vocabulary, rows.dtype);
        // SAFETY: as above.
        unsafe { decide::laws(lane.get().lane(), place.device, place.stream, &rows) }.or_raise(py)?;
    }
    // A rule without a draft reads none; its law must still be one.
    if parameters.laws[1] == 0 {
        parameters.laws[1] = parameters.laws[0];
    }
    // SAFETY: as above.
    unsafe { decide::ratio(lane.get().lane(), place.device, place.stream, &parameters) }.or_raise(py)
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(count, m)?)?;
    m.add_function(wrap_pyfunction!(adjust, m)?)?;
    m.add_function(wrap_pyfunction!(ratio, m)?)
}
