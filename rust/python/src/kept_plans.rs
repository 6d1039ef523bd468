//! Plans of `torch.ops.hornbeam`, which come as words: all layers of a step give the same ones, so the last plans are
//! kept and found again by what they say.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use hornbeam_core::format::plan::Plan;
use hornbeam_core::parallel::lock_whole;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::error::attached;
use crate::plan::PyPlan;
use crate::tensor::{Kind, Tensor};

/// Plans that are kept.
const MOST_PLANS: usize = 8;

struct Kept {
    words: Vec<i32>,
    plan: Py<PyPlan>,
}

/// The last plans, the latest first.
static PLANS: PyOnceLock<Mutex<VecDeque<Kept>>> = PyOnceLock::new();

/// The plan of contiguous int32 `words [W]` on the CPU, which are compared in full: words that have changed are another
/// plan. `None` for anything else. Raises as `Plan.from_words`.
#[pyfunction]
fn kept_plan(py: Python<'_>, words: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyPlan>>> {
    let Some(tensor) = Tensor::plain(words, "plan")? else { return Ok(None) };
    if tensor.kind() != Kind::I32 || tensor.shape().len() != 1 {
        return Ok(None);
    }
    // SAFETY: the words are read at once, with the GIL held.
    let words = unsafe { tensor.i32s(py) }?;
    let plans = PLANS.get_or_init(py, Mutex::default);
    if let Some(plan) = found(py, &mut lock_whole(plans), words) {
        return Ok(Some(plan));
    }
    let plan = PyPlan::of(Arc::new(attached(py, || Plan::from_words(words))?));
    let plan = Py::new(py, plan)?;
    let kept = Kept { words: words.to_vec(), plan: plan.clone_ref(py) };
    let mut plans = lock_whole(plans);
    plans.push_front(kept);
    let dropped = if plans.len() > MOST_PLANS { plans.pop_back() } else { None };
    // What is dropped takes no lock with it.
    drop(plans);
    drop(dropped);
    Ok(Some(plan))
}

/// The plan of any words, of which Python says what is wrong.
pub(crate) fn plan_of(words: &Bound<'_, PyAny>) -> PyResult<Py<PyPlan>> {
    let py = words.py();
    match kept_plan(py, words)? {
        Some(plan) => Ok(plan),
        None => {
            let module = py.import("hornbeam.ops.registered.words")?;
            Ok(module.getattr("plan_of")?.call1((words,))?.cast_into::<PyPlan>()?.unbind())
        }
    }
}

fn found(py: Python<'_>, plans: &mut VecDeque<Kept>, words: &[i32]) -> Option<Py<PyPlan>> {
    let at = plans.iter().position(|kept| kept.words == words)?;
    if at > 0 {
        let kept = plans.remove(at)?;
        plans.push_front(kept);
    }
    plans.front().map(|kept| kept.plan.clone_ref(py))
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(kept_plan, m)?)
}
