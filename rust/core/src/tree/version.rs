//! Versions: a node's keys replaced, for one branch, by a selection of them.
//!
//! Committed slots are immutable and may be read by others, so dropping keys *is* compaction: what
//! is kept is copied to fresh pages under a new node with the same parent and tokens, and the
//! branch that asked is re-parented under it. The old version goes with its last reader.

use super::evict::Room;
use super::node::Node;
use super::table::Table;
use super::{Begin, BranchId, NodeId, Tree};
use crate::error::{Error, Result};
use crate::format::slot::{Entry, RowSlot};

/// Which keys of a node a new version keeps: indices into the keys that the node shows now (on
/// that plane), ascending.
#[derive(Debug, Clone, Copy)]
pub enum Keep<'a> {
    /// The same keys on all planes; the node must not be by head.
    Uniform(&'a [u32]),
    /// The keys of each plane.
    ByHead(&'a [&'a [u32]]),
}

/// A node on a branch's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its id.
    pub id: NodeId,
    /// Position of its first token.
    pub start: usize,
    /// Tokens.
    pub num_tokens: usize,
    /// The most keys that any plane still shows.
    pub num_keys: usize,
    /// 0 where its keys are exact.
    pub digest: u64,
}

impl Tree {
    /// The nodes of a branch, from the root.
    pub fn path_nodes(&self, branch: BranchId) -> Result<Vec<NodeInfo>> {
        let planes = self.layout().num_planes;
        let path = self.path(self.branch_at(branch)?.node);
        Ok(path
            .into_iter()
            .map(|index| {
                let node = &self.nodes[index];
                let planes = if node.table.is_by_head() { planes } else { 1 };
                NodeInfo {
                    id: self.nodes.id(index),
                    start: node.start,
                    num_tokens: node.tokens.len(),
                    num_keys: (0..planes).map(|plane| node.table.num_keys(plane)).max().unwrap_or(0),
                    digest: node.digest,
                }
            })
            .collect())
    }

    /// Gives `branch` a version of `node`, on its path, that shows only the keys in `keep`. `digest`
    /// is not 0 and says what made it inexact. The copies are appended to [`Tree::take_moves`].
    /// Not while a step is open. On an error nothing has changed; `Grow` asks for chunks first.
    ///
    /// The first plane keeps other keys than the second:
    ///
    /// ```
    /// # use hornbeam_core::format::{Dtype, PageLayout};
    /// # use hornbeam_core::tree::{Begin, Keep, Moves, Request, Tree};
    /// # let (num_planes, slabs_per_chunk, page_tokens, head_dim) = (2, 8, 4, 16);
    /// # let dtype = Dtype::F32;
    /// # let layout = PageLayout { num_planes, slabs_per_chunk, page_tokens, head_dim, dtype };
    /// # let mut tree = Tree::new(layout, usize::MAX)?;
    /// # let branch = tree.branch();
    /// # while let Begin::Grow(chunks) =
    /// #     tree.begin(&[Request { branch, tokens: &[11, 12, 13, 14, 15, 16], parents: None }])?
    /// # {
    /// #     (0..chunks).try_for_each(|_| tree.add_chunk())?;
    /// # }
    /// # tree.commit(&[&[0, 1, 2, 3, 4, 5]])?;
    /// let node = tree.path_nodes(branch)?[0].id;
    /// while let Begin::Grow(chunks) =
    ///     tree.compact(branch, node, Keep::ByHead(&[&[0, 1, 5], &[0, 5]]), 1)?
    /// {
    ///     (0..chunks).try_for_each(|_| tree.add_chunk())?;
    /// }
    /// // The owner of the pages copies five slots, each on one page.
    /// let moves = tree.take_moves();
    /// assert!(matches!(&moves[..], [Moves::Pages(slots)] if slots.len() == 5));
    ///
    /// assert_eq!((tree.keys(branch, 0)?.len(), tree.keys(branch, 1)?.len()), (3, 2));
    /// assert_eq!(tree.length(branch)?, 6); // the next token keeps its position
    /// # Ok::<(), hornbeam_core::Error>(())
    /// ```
    pub fn compact(&mut self, branch: BranchId, node: NodeId, keep: Keep<'_>, digest: u64) -> Result<Begin> {
        self.no_open_step()?;
        let leaf = self.branch_at(branch)?.node;
        let path = self.path(leaf);
        let Some(depth) = path.iter().position(|&i| self.nodes.id(i) == node) else {
            return Err(Error::State { what: format!("node {}", node.index), state: "is not on the branch" });
        };
        if digest == 0 {
            return Err(Error::value("digest", 0, "a number that is not 0"));
        }
        self.refuse_codes(node.index)?;
        let table = &self.nodes[node.index].table;
        check_kept(keep, table.is_by_head(), self.layout().num_planes, |plane| table.num_keys(plane))?;
        let page_tokens = self.layout().page_tokens;
        let (count, by_head) = match keep {
            Keep::Uniform(keys) => (keys.len().div_ceil(page_tokens), false),
            Keep::ByHead(planes) => (planes.iter().map(|keys| keys.len().div_ceil(page_tokens)).sum(), true),
        };
        match self.make_room(Room::of(count, by_head))? {
            0 => {}
            chunks => return Ok(Begin::Grow(chunks)),
        }
        let pages = self.take(count, by_head)?;
        let table = match keep {
            Keep::Uniform(keys) => self.compact_uniform(node.index, keys, pages),
            Keep::ByHead(planes) => self.compact_by_head(node.index, planes, pages),
        };
        self.replace(branch, &path[depth..], table, digest);
        Ok(Begin::Open)
    }

    /// Keys in codes do not move.
    fn refuse_codes(&self, node: u32) -> Result<()> {
        match self.nodes[node].table.entries.iter().any(|entry| entry.format() != 0) {
            true => Err(Error::State {
                what: format!("node {node}"),
                state: "has keys in codes, which do not move",
            }),
            false => Ok(()),
        }
    }

    /// Puts `branch` on a copy of the end of its path, `old`, whose first node shows `table` instead.
    pub(super) fn replace(&mut self, branch: BranchId, old: &[u32], table: Table, digest: u64) {
        self.clock += 1;
        let leaf = self.branches[branch.index].node;
        let mut above = self.nodes[old[0]].parent;
        let mut table = Some(table);
        for &index in old {
            let (table, digest) = match table.take() {
                Some(table) => (table, digest),
                // Keys below were computed over the exact ones and are shared as they are.
                None => {
                    let table = self.nodes[index].table.clone();
                    self.retain_table(&table);
                    (table, self.nodes[index].digest)
                }
            };
            let old = &self.nodes[index];
            let copy = Node {
                parent: above,
                children: Vec::new(),
                tokens: old.tokens.clone(),
                start: old.start,
                table,
                handles: 0,
                pins: 0,
                kept: false,
                digest,
                stale: old.stale,
                used: self.clock,
            };
            above = self.insert_node(copy, Some(index));
        }
        self.nodes[above].handles += 1;
        self.branches[branch.index].node = above;
        self.leave(leaf, false);
    }

    fn compact_uniform(&mut self, node: u32, keys: &[u32], slabs: Vec<u32>) -> Table {
        let old: Vec<_> = self.nodes[node].table.keys(0).collect();
        let page_tokens = self.layout().page_tokens;
        let mut table = Table::default();
        for (group, slab) in keys.chunks(page_tokens).zip(slabs) {
            push_entry(&mut table, slab, group, &old);
            for (to, &key) in group.iter().enumerate() {
                let (from, slot, _) = old[key as usize];
                self.push_move(RowSlot { slab: from, slot }, RowSlot { slab, slot: to as u32 });
            }
        }
        table
    }

    fn compact_by_head(&mut self, node: u32, planes: &[&[u32]], pages: Vec<u32>) -> Table {
        let by_head = self.nodes[node].table.is_by_head();
        let layout = *self.layout();
        let mut table = Table::default();
        let mut pages = pages.into_iter();
        for (plane, keys) in planes.iter().enumerate() {
            let old: Vec<_> = self.nodes[node].table.keys(plane).collect();
            let begin = table.entries.len() as u32;
            // The keys come first: a page of the next plane is not taken in vain.
            for (group, page) in keys.chunks(layout.page_tokens).zip(pages.by_ref()) {
                push_entry(&mut table, page, group, &old);
                for (to, &key) in group.iter().enumerate() {
                    let (from, slot, _) = old[key as usize];
                    let from = if by_head { from } else { layout.page_id(from, plane) };
                    self.push_page_move([from, slot], [page, to as u32]);
                }
            }
            table.head_ranges.push([begin, table.entries.len() as u32]);
        }
        table
    }
}

/// Checks that `keep` names ascending indices into the keys that each plane shows.
pub(super) fn check_kept(
    keep: Keep<'_>,
    is_by_head: bool,
    num_planes: usize,
    num_keys: impl Fn(usize) -> usize,
) -> Result<()> {
    let (planes, by_head): (Vec<&[u32]>, bool) = match keep {
        Keep::Uniform(keys) => (vec![keys], false),
        Keep::ByHead(planes) => (planes.to_vec(), true),
    };
    if by_head && planes.len() != num_planes {
        return Err(Error::shape("keep", planes.len(), format!("{num_planes}, one list a plane")));
    }
    if !by_head && is_by_head {
        return Err(Error::value("keep", "one list", "one list a plane: the node is by head"));
    }
    for (plane, keys) in planes.iter().enumerate() {
        let limit = num_keys(plane);
        let ascending = keys.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || keys.last().is_some_and(|&last| last as usize >= limit) {
            return Err(Error::value(
                "keep",
                format!("{keys:?}"),
                format!("ascending indices below {limit}"),
            ));
        }
    }
    Ok(())
}

fn push_entry(table: &mut Table, page: u32, keys: &[u32], old: &[(u32, u32, i32)]) {
    let positions_at = table.positions.len() as i32;
    table.positions.extend(keys.iter().map(|&key| old[key as usize].2));
    let position = table.positions[positions_at as usize];
    table.entries.push(Entry { page, first: 0, count: keys.len() as u16, position, positions_at });
}
