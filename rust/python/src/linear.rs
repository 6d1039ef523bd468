//! `hornbeam.ops.linear`.

use std::cell::RefCell;

use half::{bf16, f16};
use hornbeam_core::format::{Dtype, Element};
use hornbeam_core::ops::linear::{LinearShape, linear as run};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use smallvec::SmallVec;

use crate::error::{attached, detached_on};
use crate::parallel::Host;
use crate::tensor::{Describe, Tensor, expect_apart};

/// `x W^T + bias`, in `out` if given; `x` [..., K], `weight` [N, K], `bias` [N] or None, `out` [..., N].
#[pyfunction]
#[pyo3(signature = (x, weight, bias=None, out=None))]
pub(crate) fn linear<'py>(
    x: &Bound<'py, PyAny>,
    weight: &Bound<'py, PyAny>,
    bias: Option<&Bound<'py, PyAny>>,
    out: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    multiply(Tensor::new, x, weight, bias, out)
}

/// As `linear`, of inputs that `describe` makes tensors of.
pub(crate) fn multiply<'py>(
    describe: Describe,
    x: &Bound<'py, PyAny>,
    weight: &Bound<'py, PyAny>,
    bias: Option<&Bound<'py, PyAny>>,
    out: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = x.py();
    let object = x;
    let (x, weight) = (describe(x, "x")?, describe(weight, "weight")?);
    let bias = bias.map(|bias| describe(bias, "bias")).transpose()?;
    weight.expect_shape(py, &[None, None])?;
    let (outputs, inputs) = (weight.shape()[0], weight.shape()[1]);
    let Some((&last, leading)) = x.shape().split_last() else {
        return Err(x.refuse(py, "a tensor without dimensions", &format!("shape [..., {inputs}]")));
    };
    if last != inputs {
        return Err(x.refuse(
            py,
            &format!("a tensor of shape {:?}", x.shape()),
            &format!("shape [..., {inputs}]"),
        ));
    }
    let result = match out {
        Some(out) => out,
        None => {
            let shape: SmallVec<[usize; 6]> = leading.iter().copied().chain([outputs]).collect();
            let shape = PyTuple::new(py, shape)?;
            object.call_method1(intern!(py, "new_empty"), (shape,))?
        }
    };
    let out = Tensor::new(&result, "out")?;
    if out.shape().split_last() != Some((&outputs, leading)) {
        let expected: Vec<usize> = leading.iter().copied().chain([outputs]).collect();
        return Err(out.refuse(
            py,
            &format!("a tensor of shape {:?}", out.shape()),
            &format!("shape {expected:?}"),
        ));
    }
    if let Some(bias) = &bias {
        bias.expect_shape(py, &[Some(outputs)])?;
    }
    let shape = LinearShape { rows: leading.iter().product(), inputs, outputs };
    let arguments = Arguments { x: &x, weight: &weight, bias: bias.as_ref(), out: &out, shape };
    match x.float(py)? {
        Dtype::F32 => arguments.by_weight::<f32>(py),
        Dtype::Bf16 => arguments.by_weight::<bf16>(py),
        Dtype::F16 => arguments.by_weight::<f16>(py),
    }?;
    Ok(result)
}

/// Products above which the GIL is released: about 10 µs.
const DETACH_PRODUCTS: usize = 1 << 17;

struct Arguments<'a> {
    x: &'a Tensor,
    weight: &'a Tensor,
    bias: Option<&'a Tensor>,
    out: &'a Tensor,
    shape: LinearShape,
}

impl Arguments<'_> {
    fn by_weight<X: Element>(self, py: Python<'_>) -> PyResult<()> {
        match self.weight.float(py)? {
            Dtype::F32 => self.run::<X, f32>(py),
            Dtype::Bf16 => self.run::<X, bf16>(py),
            Dtype::F16 => self.run::<X, f16>(py),
        }
    }

    fn run<X: Element, W: Element>(self, py: Python<'_>) -> PyResult<()> {
        thread_local! {
            static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
        }
        let inputs = || [self.x, self.weight].into_iter().chain(self.bias);
        expect_apart(py, &[self.out], inputs())?;
        // SAFETY: `out` shares no memory with the others, and whoever writes to an operand in another
        // thread meanwhile races with torch as well.
        let (x, weight, bias, out) = unsafe {
            (
                self.x.slice::<X>(py)?,
                self.weight.slice::<W>(py)?,
                self.bias.map(|bias| bias.slice::<W>(py)).transpose()?,
                self.out.slice_mut::<X>(py)?,
            )
        };
        let shape = self.shape;
        let work = || SCRATCH.with_borrow_mut(|scratch| run(x, weight, bias, out, shape, scratch, &Host));
        if shape.rows.saturating_mul(shape.inputs).saturating_mul(shape.outputs) < DETACH_PRODUCTS {
            return attached(py, work);
        }
        detached_on(py, inputs().chain([self.out]), work)
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(linear, m)?)
}
