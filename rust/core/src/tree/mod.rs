//! The prefix tree: nodes, versions, branches, steps.
//!
//! A node is a run of tokens whose keys lie in slabs; a [branch](Tree::branch) is a handle to the
//! end of a node. Slots that a node shows are never written again. What a step writes lies past
//! every node's end, on slabs that the step holds, until [`Tree::commit`] makes some of it nodes.
//!
//! Slots behind the end of a node's last slab may be written by whoever finds the slab referenced
//! only by the node and by those above it, which show lower slots: nobody can see what lies behind.
//!
//! Two continuations of one prompt share its slots:
//!
//! ```
//! use hornbeam_core::format::{Dtype, PageLayout};
//! use hornbeam_core::tree::{Begin, Request, Tree};
//!
//! let layout =
//!     PageLayout { num_planes: 2, slabs_per_chunk: 8, page_tokens: 4, head_dim: 16, dtype: Dtype::F32 };
//! let mut tree = Tree::new(layout, usize::MAX)?;
//! let chat = tree.branch();
//! let prompt = Request { branch: chat, tokens: &[11, 12, 13, 14, 15, 16], parents: None };
//! while let Begin::Grow(chunks) = tree.begin(&[prompt])? {
//!     // Here a program allocates as many chunks, of `layout.chunk_elements()` elements each.
//!     (0..chunks).try_for_each(|_| tree.add_chunk())?;
//! }
//! tree.commit(&[&[0, 1, 2, 3, 4, 5]])?;
//!
//! // Three tokens are drafted for one branch, of which two are accepted; the other branch gets one.
//! let other = tree.fork(chat)?;
//! tree.begin(&[
//!     Request { branch: chat, tokens: &[21, 22, 23], parents: None },
//!     Request { branch: other, tokens: &[31], parents: None },
//! ])?;
//! tree.commit(&[&[0, 1], &[0]])?;
//!
//! assert_eq!(tree.token_ids(chat)?, [11, 12, 13, 14, 15, 16, 21, 22]);
//! assert_eq!(tree.token_ids(other)?, [11, 12, 13, 14, 15, 16, 31]);
//! assert_eq!(tree.keys(chat, 0)?[..6], tree.keys(other, 0)?[..6]);
//!
//! // A later prompt goes on from what it has in common with an earlier one.
//! let later = tree.matching(&[11, 12, 13, 14, 15, 99]);
//! assert_eq!(tree.length(later)?, 5);
//! # Ok::<(), hornbeam_core::Error>(())
//! ```

mod arena;
mod branch;
mod check;
mod condense;
mod evict;
mod key_table;
mod matching;
mod merge;
mod moves;
mod node;
mod order;
mod place;
mod quantise;
mod step;
mod table;
mod version;
mod walk;

pub use arena::Id;
pub use condense::Condensed;
pub use moves::Moves;
pub use order::Order;
pub use quantise::Codes;
pub use step::{Begin, Request};
pub use table::Table;
pub use version::{Keep, NodeInfo};
pub use walk::Walk;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use arena::Arena;
use node::{Node, ROOT};
use step::OpenStep;

use crate::error::{Error, Result};
use crate::format::PageLayout;
use crate::format::slot::MOST_TOKENS;
use crate::store::{ColumnId, Columns, Scope, Slabs};

/// Names a node of one tree.
pub type NodeId = Id;
/// Names a branch of one tree.
pub type BranchId = Id;

#[derive(Debug)]
struct Branch {
    node: u32,
    /// It has a request in the open step.
    stepping: bool,
}

/// Counts, for people and for budgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Nodes, versions included.
    pub nodes: usize,
    /// Open branches.
    pub branches: usize,
    /// Tokens of all nodes.
    pub tokens: usize,
    /// Slabs of all chunks.
    pub slabs: usize,
    /// Slabs that nobody holds.
    pub free_slabs: usize,
    /// Slabs that only the open step holds.
    pub provisional_slabs: usize,
    /// Slabs that pressure would free: held by nodes that no branch or pin needs.
    pub cached_slabs: usize,
    /// Slabs broken into pages.
    pub broken_slabs: usize,
}

/// A prefix tree of KV pages. It decides where keys lie; the pages themselves belong to the caller.
#[derive(Debug)]
pub struct Tree {
    slabs: Slabs,
    columns: Columns,
    nodes: Arena<Node>,
    branches: Arena<Branch>,
    open: Option<OpenStep>,
    /// Nodes that may have been left with a single child.
    singles: Vec<NodeId>,
    moves: VecDeque<Moves>,
    /// The last of the moves may be on its way: nothing is added to it.
    sealed: bool,
    clock: u64,
    /// Tells trees apart.
    name: u64,
    /// Nodes that were merged so far.
    merges: u64,
}

/// Trees made so far.
static TREES: AtomicU64 = AtomicU64::new(0);

impl Tree {
    /// An empty tree over an empty pool that may grow to `max_chunks`.
    pub fn new(layout: PageLayout, max_chunks: usize) -> Result<Self> {
        let sizes = [layout.num_planes, layout.slabs_per_chunk, layout.page_tokens, layout.head_dim];
        if sizes.contains(&0) || layout.page_tokens > MOST_TOKENS {
            return Err(Error::value(
                "page layout",
                format!("{layout:?}"),
                "sizes of at least 1, page_tokens below 4096",
            ));
        }
        let mut nodes = Arena::new();
        nodes.insert(Node {
            parent: u32::MAX,
            children: Vec::new(),
            tokens: Vec::new(),
            start: 0,
            table: Table::default(),
            handles: 0,
            pins: 0,
            kept: false,
            digest: 0,
            stale: false,
            used: 0,
        });
        Ok(Self {
            slabs: Slabs::new(layout, max_chunks),
            columns: Columns::new(layout),
            nodes,
            branches: Arena::new(),
            open: None,
            singles: Vec::new(),
            moves: VecDeque::new(),
            sealed: false,
            clock: 0,
            name: TREES.fetch_add(1, Ordering::Relaxed),
            merges: 0,
        })
    }

    /// The geometry of a page.
    pub fn layout(&self) -> &PageLayout {
        self.slabs.layout()
    }

    /// Chunks that the caller has given.
    pub fn num_chunks(&self) -> usize {
        self.slabs.num_chunks()
    }

    /// The caller has allocated one more chunk, the last.
    pub fn add_chunk(&mut self) -> Result<()> {
        self.slabs.add_chunk()?;
        self.columns.set_chunks(self.slabs.num_chunks());
        Ok(())
    }

    /// Gives back the empty chunks at the end of the pool; returns how many the caller shall drop.
    pub fn trim(&mut self) -> usize {
        let dropped = self.slabs.trim();
        self.columns.set_chunks(self.slabs.num_chunks());
        dropped
    }

    /// Registers a column; see [`Scope`] for its shape.
    pub fn add_column(&mut self, name: &str, scope: Scope, element_bytes: usize) -> Result<ColumnId> {
        let column = self.columns.add(name, scope, element_bytes)?;
        if scope == Scope::Node {
            self.columns.set_node(self.nodes.capacity() as u32 - 1, None);
        }
        Ok(column)
    }

    /// The columns.
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// The columns, to be written.
    pub fn columns_mut(&mut self) -> &mut Columns {
        &mut self.columns
    }

    /// Counts everything; walks the nodes.
    pub fn stats(&self) -> Stats {
        Stats {
            nodes: self.nodes.len() - 1,
            branches: self.branches.len(),
            tokens: self.nodes.iter().map(|(_, n)| n.tokens.len()).sum(),
            slabs: self.slabs.len(),
            free_slabs: self.slabs.num_free(),
            provisional_slabs: self.open.as_ref().map_or(0, OpenStep::num_fresh),
            cached_slabs: self.reclaimable_slabs(),
            broken_slabs: self.slabs.num_broken(),
        }
    }

    fn branch_at(&self, branch: BranchId) -> Result<&Branch> {
        self.branches
            .get(branch)
            .ok_or_else(|| Error::State { what: format!("branch {}", branch.index), state: "is closed" })
    }

    fn no_open_step(&self) -> Result<()> {
        match self.open {
            Some(_) => Err(Error::State { what: "the tree".to_owned(), state: "has an open step" }),
            None => Ok(()),
        }
    }

    fn take_slabs(&mut self, count: usize) -> Result<Vec<u32>> {
        let slabs = self.slabs.take_slabs(count)?;
        slabs.iter().for_each(|slab| self.columns.reset_slab(*slab));
        Ok(slabs)
    }

    /// Single pages or, unless `by_head`, slabs.
    fn take(&mut self, count: usize, by_head: bool) -> Result<Vec<u32>> {
        if !by_head {
            return self.take_slabs(count);
        }
        let pages = self.slabs.take_pages(count)?;
        pages.iter().for_each(|page| self.columns.reset_page(*page));
        Ok(pages)
    }

    fn retain_table(&mut self, table: &Table) {
        for entry in &table.entries {
            if table.is_by_head() {
                self.slabs.retain_page(entry.page)
            } else {
                self.slabs.retain(entry.page)
            }
        }
    }

    fn release_table(&mut self, table: &Table) {
        for entry in &table.entries {
            if table.is_by_head() {
                self.slabs.release_page(entry.page)
            } else {
                self.slabs.release(entry.page)
            }
        }
    }

    fn insert_node(&mut self, node: Node, columns_of: Option<u32>) -> u32 {
        let parent = node.parent;
        let index = self.nodes.insert(node).index;
        self.columns.set_node(index, columns_of);
        self.nodes[parent].children.push(index);
        index
    }

    /// Removes an idle leaf and releases what it shows; returns its parent.
    fn delete_leaf(&mut self, index: u32) -> u32 {
        let Some(node) = self.nodes.remove(index) else { return ROOT };
        debug_assert!(node.is_idle_leaf());
        self.release_table(&node.table);
        let siblings = &mut self.nodes[node.parent].children;
        siblings.retain(|&child| child != index);
        if siblings.len() == 1 {
            self.singles.push(self.nodes.id(node.parent));
        }
        node.parent
    }

    /// Removes `index` and what above it was only there for it.
    fn delete_upward(&mut self, mut index: u32) {
        while index != ROOT && self.nodes[index].is_idle_leaf() && !self.nodes[index].kept {
            index = self.delete_leaf(index);
        }
    }

    /// Slab and first slot behind a plain node's end, where they may be written.
    fn tail(&self, index: u32) -> Option<(u32, u32)> {
        self.tail_without(index, &HashMap::new())
    }

    /// As [`Tree::tail`], once there are so many references less to some slabs.
    fn tail_without(&self, index: u32, less: &HashMap<u32, u32>) -> Option<(u32, u32)> {
        let node = &self.nodes[index];
        let last = node.table.entries.last().filter(|_| node.is_plain())?;
        let end = u32::from(last.first) + u32::from(last.count);
        let references = self.slabs.references(last.page) - less.get(&last.page).copied().unwrap_or(0);
        (end < self.layout().page_tokens as u32 && references == self.references_on_path(last.page, index))
            .then_some((last.page, end))
    }

    /// References of node `index` and those above it to its last slab.
    fn references_on_path(&self, slab: u32, mut index: u32) -> u32 {
        let mut own = 0;
        // A branch's runs on one slab are neighbours, so the count ends with the first other slab.
        // Pages of a table by head have ids of their own.
        while index != ROOT && !self.nodes[index].table.is_by_head() {
            let entries = &self.nodes[index].table.entries;
            let run = entries.iter().rev().take_while(|e| e.page == slab).count();
            own += run as u32;
            if run < entries.len() {
                break;
            }
            index = self.nodes[index].parent;
        }
        own
    }

    /// The nodes from below the root to `index`.
    fn path(&self, mut index: u32) -> Vec<u32> {
        let mut path = Vec::new();
        while index != ROOT {
            path.push(index);
            index = self.nodes[index].parent;
        }
        path.reverse();
        path
    }
}
