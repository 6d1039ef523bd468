//! `Tree`: the prefix tree as Python sees it. `hornbeam.PrefixTree` is the interface for people.
//!
//! No Python code runs while the tree is locked, so that a thread that waits for it may hold the GIL.

use std::sync::{Mutex, MutexGuard};

use hornbeam_core::Error;
use hornbeam_core::format::{Dtype, PageLayout};
use hornbeam_core::ops::rows::PageMove;
use hornbeam_core::parallel::lock_whole;
use hornbeam_core::store::Scope;
use hornbeam_core::tree::{Begin, BranchId, Codes, Keep, Moves, NodeId, Request, Tree};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PySequence};

use crate::error::{OrRaise, attached, to_py};
use crate::integers::{narrow, token_ids};
use crate::plan::{PyPlan, int32s};

/// A node of a branch: (id, start, num_tokens, num_keys, digest).
type PathNode = (u64, usize, usize, usize, u64);

/// A prefix tree over pages that the caller allocates; branches and nodes are 64-bit ids.
#[pyclass(name = "Tree", module = "hornbeam._native", frozen)]
pub(crate) struct PyTree {
    tree: Mutex<Tree>,
    /// Branches whose Python objects were collected: possibly while the tree was locked.
    dropped: Mutex<Vec<BranchId>>,
}

impl PyTree {
    fn lock(&self) -> MutexGuard<'_, Tree> {
        let mut tree = lock_whole(&self.tree);
        let dropped = std::mem::take(&mut *lock_whole(&self.dropped));
        for branch in dropped {
            // A branch that was closed by hand meanwhile needs nothing.
            let _closed = tree.release(branch, true);
        }
        tree
    }

    /// Runs `work` on the locked tree; an error or a panic becomes an exception after the lock is gone.
    fn with<T>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Tree) -> hornbeam_core::Result<T>,
    ) -> PyResult<T> {
        attached(py, || work(&mut self.lock()))
    }
}

fn int64_bytes<'py>(py: Python<'py>, numbers: impl Iterator<Item = i64>) -> Bound<'py, PyByteArray> {
    PyByteArray::new(py, &numbers.flat_map(i64::to_ne_bytes).collect::<Vec<u8>>())
}

/// Plan, token ids and positions of the rows, rows of each request: int64 as bytes.
type Opened<'py> =
    (Bound<'py, PyPlan>, Bound<'py, PyByteArray>, Bound<'py, PyByteArray>, Vec<Bound<'py, PyByteArray>>);

/// Branch, tokens, parents.
type Asked<'py> = (u64, Bound<'py, PyAny>, Option<Bound<'py, PyAny>>);

#[derive(IntoPyObject)]
enum Started<'py> {
    Grow(usize),
    Open(Opened<'py>),
}

#[pymethods]
impl PyTree {
    #[new]
    #[pyo3(signature = (num_planes, slabs_per_chunk, page_tokens, head_dim, dtype, max_chunks=None))]
    fn new(
        py: Python<'_>,
        num_planes: usize,
        slabs_per_chunk: usize,
        page_tokens: usize,
        head_dim: usize,
        dtype: &str,
        max_chunks: Option<usize>,
    ) -> PyResult<Self> {
        let dtype = match dtype {
            "float32" => Dtype::F32,
            "bfloat16" => Dtype::Bf16,
            "float16" => Dtype::F16,
            other => return Err(to_py(py, Error::value("dtype", other, "float32, bfloat16 or float16"))),
        };
        let layout = PageLayout { num_planes, slabs_per_chunk, page_tokens, head_dim, dtype };
        let tree = Tree::new(layout, max_chunks.unwrap_or(usize::MAX)).or_raise(py)?;
        Ok(Self { tree: Mutex::new(tree), dropped: Mutex::default() })
    }

    /// Opens an empty branch.
    fn branch(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |tree| Ok(tree.branch().into()))
    }

    /// A second branch with the same tokens.
    fn fork(&self, py: Python<'_>, branch: u64) -> PyResult<u64> {
        self.with(py, |tree| tree.fork(branch.into())).map(u64::from)
    }

    /// Closes a branch.
    fn release(&self, py: Python<'_>, branch: u64, keep: bool) -> PyResult<()> {
        self.with(py, |tree| tree.release(branch.into(), keep))
    }

    /// Closes a branch at the next call of any method; for finalisers, which may run anywhere.
    fn drop_branch(&self, branch: u64) {
        lock_whole(&self.dropped).push(branch.into());
    }

    /// Whether a branch is open.
    fn is_open(&self, py: Python<'_>, branch: u64) -> PyResult<bool> {
        self.with(py, |tree| Ok(tree.is_open(branch.into())))
    }

    /// Tokens of a branch.
    fn length(&self, py: Python<'_>, branch: u64) -> PyResult<usize> {
        self.with(py, |tree| tree.length(branch.into()))
    }

    /// The tokens of a branch: int64 as bytes.
    fn token_ids<'py>(&self, py: Python<'py>, branch: u64) -> PyResult<Bound<'py, PyByteArray>> {
        let tokens = self.with(py, |tree| tree.token_ids(branch.into()))?;
        Ok(int64_bytes(py, tokens.into_iter().map(i64::from)))
    }

    /// The keys that a plane of a branch shows: int32 `[num_keys, 4]` of (1 by head or 0, page or
    /// slab, slot, position).
    fn keys<'py>(&self, py: Python<'py>, branch: u64, plane: usize) -> PyResult<Bound<'py, PyAny>> {
        let keys = self.with(py, |tree| {
            let planes = tree.layout().num_planes;
            if plane >= planes {
                return Err(Error::value("plane", plane, format!("less than {planes}")));
            }
            tree.keys(branch.into(), plane)
        })?;
        let words =
            keys.into_iter().flat_map(|(h, page, slot, at)| [i32::from(h), page as i32, slot as i32, at]);
        int32s(py, words, Some(4))
    }

    /// The nodes of a branch: (id, start, num_tokens, num_keys, digest) from the root.
    fn path_nodes(&self, py: Python<'_>, branch: u64) -> PyResult<Vec<PathNode>> {
        let nodes = self.with(py, |tree| tree.path_nodes(branch.into()))?;
        Ok(nodes.into_iter().map(|n| (n.id.into(), n.start, n.num_tokens, n.num_keys, n.digest)).collect())
    }

    /// Pins the node that a branch stands on; returns it.
    fn pin(&self, py: Python<'_>, branch: u64) -> PyResult<u64> {
        self.with(py, |tree| tree.pin(branch.into())).map(u64::from)
    }

    /// Undoes a pin.
    fn unpin(&self, py: Python<'_>, node: u64) -> PyResult<()> {
        self.with(py, |tree| tree.unpin(NodeId::from(node)))
    }

    /// A branch at the longest exact prefix held of the first `max_tokens` tokens.
    #[pyo3(signature = (tokens, max_tokens=None))]
    fn matching(
        &self,
        py: Python<'_>,
        tokens: &Bound<'_, PyAny>,
        max_tokens: Option<usize>,
    ) -> PyResult<u64> {
        let tokens = token_ids(tokens)?;
        let limit = max_tokens.unwrap_or(tokens.len()).min(tokens.len());
        self.with(py, |tree| Ok(tree.matching(&tokens[..limit]).into()))
    }

    /// Opens a step over (branch, tokens, parents or None); or says how many chunks to add first.
    fn begin<'py>(&self, py: Python<'py>, requests: Vec<Asked<'py>>) -> PyResult<Started<'py>> {
        type Parsed = (BranchId, Vec<u32>, Option<Vec<i32>>);
        let parsed: Vec<Parsed> = requests
            .iter()
            .map(|(branch, tokens, parents)| {
                let parents = match parents {
                    Some(parents) => {
                        Some(narrow(py, parents, "parents", "-1 or the index of an earlier token")?)
                    }
                    None => None,
                };
                Ok(((*branch).into(), token_ids(tokens)?, parents))
            })
            .collect::<PyResult<_>>()?;
        let requests: Vec<Request<'_>> = parsed
            .iter()
            .map(|(branch, tokens, parents)| Request { branch: *branch, tokens, parents: parents.as_deref() })
            .collect();
        let opened = self.with(py, |tree| {
            Ok(match tree.begin(&requests)? {
                Begin::Grow(chunks) => Err(chunks),
                Begin::Open => {
                    Ok((tree.plan().cloned().unwrap_or_default(), tree.row_tokens().to_vec(), tree.rows()))
                }
            })
        })?;
        let (plan, tokens, rows) = match opened {
            Ok(opened) => opened,
            Err(chunks) => return Ok(Started::Grow(chunks)),
        };
        let positions = int64_bytes(py, plan.row_positions.iter().map(|&p| i64::from(p)));
        let tokens = int64_bytes(py, tokens.into_iter().map(i64::from));
        let rows = rows.into_iter().map(|rows| int64_bytes(py, rows.into_iter().map(i64::from))).collect();
        Ok(Started::Open((Bound::new(py, PyPlan::of(plan))?, tokens, positions, rows)))
    }

    /// Ends the open step; `accepted` names the tokens that stay, a path a request.
    fn commit(&self, py: Python<'_>, accepted: &Bound<'_, PySequence>) -> PyResult<()> {
        let accepted = accepted
            .try_iter()?
            .map(|path| narrow::<u32>(py, &path?, "accepted", "an index within the request"))
            .collect::<PyResult<Vec<_>>>()?;
        let paths: Vec<&[u32]> = accepted.iter().map(Vec::as_slice).collect();
        self.with(py, |tree| tree.commit(&paths))
    }

    /// Ends the open step and keeps nothing of it.
    fn rollback(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |tree| {
            tree.rollback();
            Ok(())
        })
    }

    /// The copies to make, in order: (`rows`, `pages` or `at_once`, int32 `[M, 4]`, the number of the
    /// format to encode them in, or 0). Those `at_once` with a format go together with the next one
    /// without.
    fn take_moves<'py>(&self, py: Python<'py>) -> PyResult<Vec<(&'static str, Bound<'py, PyAny>, u8)>> {
        let moves = self.with(py, |tree| Ok(tree.take_moves()))?;
        let pages = |kind, moves: Vec<PageMove>, format| {
            let words = moves.iter().flat_map(|m| [m.from[0], m.from[1], m.to[0], m.to[1]]);
            Ok((kind, int32s(py, words.map(|w| w as i32), Some(4))?, format))
        };
        let array = |batch: Moves| match batch {
            Moves::AtOnce { moves, codes } => {
                let coded = codes.into_iter().map(|(format, moves)| pages("at_once", moves, format));
                coded.chain([pages("at_once", moves, 0)]).collect()
            }
            Moves::Rows(moves) => {
                let words = moves.iter().flat_map(|m| [m.from.slab, m.from.slot, m.to.slab, m.to.slot]);
                Ok(vec![("rows", int32s(py, words.map(|w| w as i32), Some(4))?, 0)])
            }
            Moves::Pages(moves) => Ok(vec![pages("pages", moves, 0)?]),
            Moves::Codes { format, by_page, moves } => {
                Ok(vec![pages(if by_page { "pages" } else { "rows" }, moves, format)?])
            }
        };
        Ok(moves.into_iter().map(array).collect::<PyResult<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Gives a branch a version of a node that keeps only some keys: one list of indices, or one a
    /// plane; or says how many chunks to add first.
    #[pyo3(signature = (branch, node, keep, digest, by_head))]
    fn compact(
        &self,
        py: Python<'_>,
        branch: u64,
        node: u64,
        keep: Vec<Bound<'_, PyAny>>,
        digest: u64,
        by_head: bool,
    ) -> PyResult<usize> {
        let lists = indices(py, &keep)?;
        let lists: Vec<&[u32]> = lists.iter().map(Vec::as_slice).collect();
        let keep = keep_of(py, &lists, by_head)?;
        self.with(py, |tree| tree.compact(branch.into(), node.into(), keep, digest)).map(chunks_to_add)
    }

    /// Gives a branch a version of a node in pages of codes: the number of a format for each key, or a
    /// list a plane; or says how many chunks to add first.
    #[pyo3(signature = (branch, node, codes, partial, digest, by_head))]
    fn quantise(
        &self,
        py: Python<'_>,
        branch: u64,
        node: u64,
        codes: Vec<Bound<'_, PyAny>>,
        partial: bool,
        digest: u64,
        by_head: bool,
    ) -> PyResult<usize> {
        let lists = formats(py, &codes)?;
        let lists: Vec<&[u8]> = lists.iter().map(Vec::as_slice).collect();
        let codes = codes_of(py, &lists, by_head)?;
        self.with(py, |tree| tree.quantise(branch.into(), node.into(), codes, partial, digest))
            .map(chunks_to_add)
    }

    /// Gives a branch one node that shows only some of its keys: one list of indices, or one a plane, and
    /// with `codes` the number of the format that each shall have; or says how many chunks to add first.
    #[pyo3(signature = (branch, keep, codes, digest, by_head))]
    fn condense(
        &self,
        py: Python<'_>,
        branch: u64,
        keep: Vec<Bound<'_, PyAny>>,
        codes: Option<Vec<Bound<'_, PyAny>>>,
        digest: u64,
        by_head: bool,
    ) -> PyResult<usize> {
        let lists = indices(py, &keep)?;
        let lists: Vec<&[u32]> = lists.iter().map(Vec::as_slice).collect();
        let keep = keep_of(py, &lists, by_head)?;
        let numbers = codes.map(|codes| formats(py, &codes)).transpose()?;
        let numbers: Option<Vec<&[u8]>> = numbers.as_ref().map(|n| n.iter().map(Vec::as_slice).collect());
        let codes = numbers.as_ref().map(|numbers| codes_of(py, numbers, by_head)).transpose()?;
        self.with(py, |tree| tree.condense(branch.into(), keep, codes, digest)).map(chunks_to_add)
    }

    /// The keys that the planes of a branch show, with `in_step` those of its rows in the open step too:
    /// int32 `[num_planes]` counts, and int32 `[num_keys, 3]` of (page, slot, position) plane by plane, in
    /// order of position. Above the twelve bits of the slot lies the number of the page's format.
    fn held<'py>(
        &self,
        py: Python<'py>,
        branch: u64,
        in_step: bool,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let held = self.with(py, |tree| match in_step {
            true => tree.held_in_step(branch.into()),
            false => tree.held(branch.into()),
        })?;
        let counts = int32s(py, held.iter().map(|keys| keys.len() as i32), None)?;
        let words = held.iter().flatten().flat_map(|key| [key.0 as i32, key.1 as i32, key.2]);
        Ok((counts, int32s(py, words, Some(3))?))
    }

    /// Pages of each plane of which a branch shows a slot.
    fn pages_by_plane(&self, py: Python<'_>, branch: u64) -> PyResult<Vec<usize>> {
        self.with(py, |tree| tree.pages_by_plane(branch.into()))
    }

    /// The caller has allocated one more chunk, the last.
    fn add_chunk(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, Tree::add_chunk)
    }

    /// Gives back the empty chunks at the end; returns how many the caller shall drop.
    fn trim(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |tree| Ok(tree.trim()))
    }

    /// Releases every node that no branch and no pin needs.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |tree| {
            tree.clear();
            Ok(())
        })
    }

    /// Counts of nodes, branches, tokens and slabs.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.with(py, |tree| Ok(tree.stats()))?;
        let counts = PyDict::new(py);
        counts.set_item("nodes", stats.nodes)?;
        counts.set_item("branches", stats.branches)?;
        counts.set_item("tokens", stats.tokens)?;
        counts.set_item("slabs", stats.slabs)?;
        counts.set_item("free_slabs", stats.free_slabs)?;
        counts.set_item("provisional_slabs", stats.provisional_slabs)?;
        counts.set_item("cached_slabs", stats.cached_slabs)?;
        counts.set_item("broken_slabs", stats.broken_slabs)?;
        Ok(counts)
    }

    /// Raises AssertionError with the first invariant that does not hold.
    fn debug_check(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |tree| Ok(tree.debug_check()))?.map_err(pyo3::exceptions::PyAssertionError::new_err)
    }

    /// Registers a column of scope `slot`, `page` or `node`.
    fn add_column(&self, py: Python<'_>, name: &str, scope: &str, element_bytes: usize) -> PyResult<()> {
        let scope = match scope {
            "slot" => Scope::Slot,
            "page" => Scope::Page,
            "node" => Scope::Node,
            other => return Err(to_py(py, Error::value("scope", other, "slot, page or node"))),
        };
        self.with(py, |tree| tree.add_column(name, scope, element_bytes).map(drop))
    }

    /// A copy of one chunk's part of a column (of the whole column, for nodes).
    fn column<'py>(&self, py: Python<'py>, name: &str, part: usize) -> PyResult<Bound<'py, PyByteArray>> {
        let bytes = self.with(py, |tree| {
            let column = tree.columns().find(name).ok_or_else(|| unknown_column(name))?;
            Ok(tree.columns().part(column, part).to_vec())
        })?;
        Ok(PyByteArray::new(py, &bytes))
    }

    /// Writes one chunk's part of a column.
    fn set_column(
        &self,
        py: Python<'_>,
        name: &str,
        part: usize,
        bytes: &Bound<'_, PyBytes>,
    ) -> PyResult<()> {
        let bytes = bytes.as_bytes();
        self.with(py, |tree| {
            let column = tree.columns().find(name).ok_or_else(|| unknown_column(name))?;
            let target = tree.columns_mut().part_mut(column, part);
            if target.len() != bytes.len() {
                return Err(Error::shape("column bytes", bytes.len(), target.len()));
            }
            target.copy_from_slice(bytes);
            Ok(())
        })
    }
}

/// 0 when it is done, else how many chunks to add first.
fn chunks_to_add(begin: Begin) -> usize {
    match begin {
        Begin::Open => 0,
        Begin::Grow(chunks) => chunks,
    }
}

fn indices(py: Python<'_>, keep: &[Bound<'_, PyAny>]) -> PyResult<Vec<Vec<u32>>> {
    keep.iter().map(|keys| narrow::<u32>(py, keys, "keep", "an index of a key")).collect()
}

fn formats(py: Python<'_>, codes: &[Bound<'_, PyAny>]) -> PyResult<Vec<Vec<u8>>> {
    codes.iter().map(|numbers| narrow::<u8>(py, numbers, "codes", "the number of a format")).collect()
}

fn codes_of<'a>(py: Python<'_>, lists: &'a [&'a [u8]], by_head: bool) -> PyResult<Codes<'a>> {
    match (by_head, lists) {
        (true, lists) => Ok(Codes::ByHead(lists)),
        (false, [numbers]) => Ok(Codes::Uniform(numbers)),
        (false, lists) => Err(to_py(py, Error::shape("codes", lists.len(), "one list"))),
    }
}

fn keep_of<'a>(py: Python<'_>, lists: &'a [&'a [u32]], by_head: bool) -> PyResult<Keep<'a>> {
    match (by_head, lists) {
        (true, lists) => Ok(Keep::ByHead(lists)),
        (false, [keys]) => Ok(Keep::Uniform(keys)),
        (false, lists) => Err(to_py(py, Error::shape("keep", lists.len(), "one list"))),
    }
}

fn unknown_column(name: &str) -> Error {
    Error::value("column name", name, "a registered column")
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyTree>()
}
