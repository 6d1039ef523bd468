//! Opening a step.

use std::sync::Arc;

use hornbeam_core::plan::step_plan;
use hornbeam_core::tree::{Begin, BranchId, Request};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyList};

use super::changes::change;
use super::handles::PyStepHandle;
use super::state::Shared;
use crate::integers::{narrow, token_ids};
use crate::plan::PyPlan;

/// The step, its plan, token ids and positions of the rows, rows of each request: int64 as bytes.
pub(super) type Opened<'py> = (
    PyStepHandle,
    Bound<'py, PyPlan>,
    Bound<'py, PyByteArray>,
    Bound<'py, PyByteArray>,
    Vec<Bound<'py, PyByteArray>>,
);

/// Branch, tokens, parents.
pub(super) type Asked<'py> = (u64, Bound<'py, PyAny>, Option<Bound<'py, PyAny>>);

#[derive(IntoPyObject)]
pub(super) enum Started<'py> {
    Grow(usize),
    Open(Opened<'py>),
}

/// Opens a step over some requests; see `Tree.begin`.
pub(super) fn open_step<'py>(
    py: Python<'py>,
    shared: &Arc<Shared>,
    requests: &[Asked<'py>],
    owner: usize,
    exact: &[bool],
    chunks: Option<&Bound<'py, PyList>>,
) -> PyResult<Started<'py>> {
    type Parsed = (BranchId, Vec<u32>, Option<Vec<i32>>);
    let parsed: Vec<Parsed> = requests
        .iter()
        .map(|(branch, tokens, parents)| {
            let parents = match parents {
                Some(parents) => Some(narrow(py, parents, "parents", "-1 or the index of an earlier token")?),
                None => None,
            };
            Ok(((*branch).into(), token_ids(tokens)?, parents))
        })
        .collect::<PyResult<_>>()?;
    let requests: Vec<Request<'_>> = parsed
        .iter()
        .map(|(branch, tokens, parents)| Request { branch: *branch, tokens, parents: parents.as_deref() })
        .collect();
    let opened = change(shared, py, chunks, |state| {
        if let Begin::Grow(chunks) = state.tree.begin(&requests)? {
            return Ok(Err(chunks));
        }
        for (request, _) in exact.iter().enumerate().filter(|(_, exact)| !**exact) {
            state.tree.mark_request_inexact(request);
        }
        state.steps += 1;
        state.owner = owner;
        let step = PyStepHandle { shared: Arc::clone(shared), ticket: state.steps };
        let tree = &state.tree;
        let plan = Arc::new(step_plan(tree));
        Ok(Ok((step, plan, tree.row_tokens().to_vec(), tree.rows())))
    })?;
    let (step, plan, tokens, rows) = match opened {
        Ok(opened) => opened,
        Err(chunks) => return Ok(Started::Grow(chunks)),
    };
    let positions = int64_bytes(py, plan.row_positions.iter().map(|&p| i64::from(p)));
    let tokens = int64_bytes(py, tokens.into_iter().map(i64::from));
    let rows = rows.into_iter().map(|rows| int64_bytes(py, rows.into_iter().map(i64::from))).collect();
    Ok(Started::Open((step, Bound::new(py, PyPlan::of(plan))?, tokens, positions, rows)))
}

/// int64 as bytes.
pub(super) fn int64_bytes<'py>(
    py: Python<'py>,
    numbers: impl Iterator<Item = i64>,
) -> Bound<'py, PyByteArray> {
    PyByteArray::new(py, &numbers.flat_map(i64::to_ne_bytes).collect::<Vec<u8>>())
}
