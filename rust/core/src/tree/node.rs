//! A node: a run of tokens and the slots that show their keys.

use super::table::Table;
use crate::format::slot::Entry;

/// Index of the root, which holds no token.
pub(super) const ROOT: u32 = 0;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) parent: u32,
    pub(super) children: Vec<u32>,
    pub(super) tokens: Vec<u32>,
    /// Tokens before the first of this node: its logical position.
    pub(super) start: usize,
    pub(super) table: Table,
    /// Branches that stand at the end of this node.
    pub(super) handles: u32,
    pub(super) pins: u32,
    /// Somebody released a branch here and asked to keep it: it stays until there is pressure.
    pub(super) kept: bool,
    /// What made the keys inexact; 0 where they are exact.
    pub(super) digest: u64,
    /// The keys are not those of the whole model as it is now.
    pub(super) stale: bool,
    /// The tree's clock when it was last read.
    pub(super) used: u64,
}

impl Node {
    pub(super) fn end(&self) -> usize {
        self.start + self.tokens.len()
    }

    /// Exact keys, one a token, at consecutive positions: what can be split, merged and extended.
    pub(super) fn is_plain(&self) -> bool {
        self.digest == 0 && !self.table.is_by_head() && self.table.positions.is_empty()
    }

    /// Whether it may be part of what a prefix match gives.
    pub(super) fn is_matchable(&self) -> bool {
        self.digest == 0 && !self.stale
    }

    /// Nobody stands here, has pinned it, or continues it.
    pub(super) fn is_idle_leaf(&self) -> bool {
        self.handles == 0 && self.pins == 0 && self.children.is_empty()
    }
}

/// Appends a run to a plain table: as a longer last entry where the slots follow on. Returns
/// whether they did, in which case the run's slab is referenced twice by the caller's count.
pub(super) fn append_run(entries: &mut Vec<Entry>, run: Entry) -> bool {
    if let Some(last) = entries.last_mut()
        && last.page == run.page
        && u32::from(last.first) + u32::from(last.count) == u32::from(run.first)
    {
        last.count += run.count;
        return true;
    }
    entries.push(run);
    false
}
