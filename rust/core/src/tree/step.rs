//! A step: rows that are written past the committed length, until a commit says which of them stay.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::evict::Room;
use super::node::{Node, ROOT, append_run};
use super::order::Order;
use super::table::Table;
use super::{BranchId, Tree};
use crate::error::{Error, Result};
use crate::format::slot::{Entry, RowSlot};

/// New tokens of one branch.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The branch that they extend.
    pub branch: BranchId,
    /// At least one token.
    pub tokens: &'a [u32],
    /// A draft tree: index within `tokens` of each token's parent, before it, or -1 for a child of
    /// the branch's end. `None` is a chain.
    pub parents: Option<&'a [i32]>,
}

/// What [`Tree::begin`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// The step is open.
    Open,
    /// Nothing happened yet: add this many chunks, then begin again.
    Grow(usize),
}

/// One event of the walk over a step.
#[derive(Debug, Clone, Copy)]
pub(super) enum Visit {
    Enter(u32),
    Rows(u32),
    Leave,
}

#[derive(Debug)]
pub(super) struct OpenStep {
    pub(super) requests: Vec<OpenRequest>,
    pub(super) visits: Vec<Visit>,
    tokens: Vec<u32>,
}

#[derive(Debug)]
pub(super) struct OpenRequest {
    pub(super) branch: BranchId,
    pub(super) tokens: Vec<u32>,
    parents: Option<Vec<i32>>,
    pub(super) order: Order,
    pub(super) first_row: u32,
    /// Slab, first slot and number of slots behind the branch's end; the slab is held once more.
    tail: Option<(u32, u32, u32)>,
    fresh: SmallVec<[u32; 2]>,
    /// What is committed of it is never matched.
    stale: bool,
}

impl OpenRequest {
    /// The slots in row order, as runs of (slab, first, count).
    pub(super) fn runs(&self, page_tokens: usize) -> impl Iterator<Item = (u32, u32, u32)> + '_ {
        self.tail.into_iter().chain(self.fresh.iter().map(move |&slab| (slab, 0, page_tokens as u32)))
    }

    fn slot(&self, row: u32, page_tokens: u32) -> RowSlot {
        match self.tail {
            Some((slab, first, count)) if row < count => RowSlot { slab, slot: first + row },
            _ => {
                let row = row - self.tail.map_or(0, |t| t.2);
                RowSlot { slab: self.fresh[(row / page_tokens) as usize], slot: row % page_tokens }
            }
        }
    }
}

impl OpenStep {
    /// Slabs that only this step holds.
    pub(super) fn num_fresh(&self) -> usize {
        self.requests.iter().map(|r| r.fresh.len()).sum()
    }

    pub(super) fn make_stale(&mut self) {
        self.requests.iter_mut().for_each(|request| request.stale = true);
    }

    /// Where the rows are written.
    pub(super) fn row_slots(&self, page_tokens: u32) -> impl Iterator<Item = RowSlot> + '_ {
        let slots = move |r: &'_ OpenRequest| -> Vec<RowSlot> {
            (0..r.tokens.len() as u32).map(|row| r.slot(row, page_tokens)).collect()
        };
        self.requests.iter().flat_map(slots)
    }

    /// The slots of a branch's rows, where they are a chain.
    pub(super) fn slots_of(&self, branch: BranchId, page_tokens: u32) -> Option<Vec<RowSlot>> {
        let request = self.requests.iter().find(|r| r.branch == branch && r.parents.is_none())?;
        Some((0..request.tokens.len() as u32).map(|row| request.slot(row, page_tokens)).collect())
    }

    /// Every reference that the step holds.
    pub(super) fn held(&self) -> impl Iterator<Item = u32> + '_ {
        self.requests.iter().flat_map(|r| r.tail.map(|t| t.0).into_iter().chain(r.fresh.iter().copied()))
    }
}

impl Tree {
    /// Opens a step over `requests`, at most one a branch. Errors leave the tree as it was.
    pub fn begin(&mut self, requests: &[Request<'_>]) -> Result<Begin> {
        self.no_open_step()?;
        let orders = self.check_requests(requests)?;
        self.merge_singles();
        match self.make_room(Room::Rows(requests))? {
            0 => {}
            chunks => return Ok(Begin::Grow(chunks)),
        }
        let mut slabs = self.take_slabs(self.slabs_needed(requests, &HashMap::new()))?.into_iter();
        let page_tokens = self.layout().page_tokens;
        let mut open = Vec::with_capacity(requests.len());
        for (request, order) in requests.iter().zip(orders) {
            let node = self.branches[request.branch.index].node;
            self.branches[request.branch.index].stepping = true;
            let wanted = request.tokens.len();
            // Claiming a tail is one more reference, so that no second request finds it.
            let tail = self.tail(node).map(|(slab, first)| {
                self.slabs.retain(slab);
                self.columns.write_slab(slab);
                (slab, first, (page_tokens - first as usize).min(wanted) as u32)
            });
            let rest = wanted - tail.map_or(0, |t| t.2 as usize);
            let fresh = slabs.by_ref().take(rest.div_ceil(page_tokens)).collect();
            open.push(OpenRequest {
                branch: request.branch,
                tokens: request.tokens.to_vec(),
                parents: request.parents.map(<[i32]>::to_vec),
                order,
                first_row: 0,
                tail,
                fresh,
                stale: false,
            });
        }
        self.clock += 1;
        let (visits, tokens) = self.lay_out(&mut open);
        debug_assert!(slabs.next().is_none());
        self.open = Some(OpenStep { requests: open, visits, tokens });
        Ok(Begin::Open)
    }

    fn check_requests(&self, requests: &[Request<'_>]) -> Result<Vec<Order>> {
        if requests.is_empty() {
            return Err(Error::value("requests", "empty", "at least one"));
        }
        let mut seen = std::collections::HashSet::with_capacity(requests.len());
        requests
            .iter()
            .map(|request| {
                let node = self.branch_at(request.branch)?.node;
                if !seen.insert(request.branch) {
                    return Err(Error::State {
                        what: format!("branch {}", request.branch.index),
                        state: "has two requests in one step",
                    });
                }
                if request.tokens.is_empty() {
                    return Err(Error::value("tokens", "empty", "at least one token a request"));
                }
                if self.nodes[node].end() + request.tokens.len() > i32::MAX as usize {
                    return Err(Error::value("tokens", request.tokens.len(), "positions below 2^31"));
                }
                Order::new(request.tokens.len(), request.parents)
            })
            .collect()
    }

    /// The slabs that rows take beside the rest of their branches' last ones, once there are so many
    /// references less to some slabs.
    pub(super) fn slabs_needed(&self, requests: &[Request<'_>], less: &HashMap<u32, u32>) -> usize {
        let page_tokens = self.layout().page_tokens;
        let mut claimed = std::collections::HashSet::new();
        requests
            .iter()
            .map(|request| {
                let tail = self.tail_without(self.branches[request.branch.index].node, less);
                let room = match tail {
                    Some((slab, first)) if claimed.insert(slab) => page_tokens - first as usize,
                    _ => 0,
                };
                request.tokens.len().saturating_sub(room).div_ceil(page_tokens)
            })
            .sum()
    }

    /// What the open step commits shall never be matched: its keys are not those of the whole model.
    pub fn mark_inexact(&mut self) {
        if let Some(open) = &mut self.open {
            open.make_stale();
        }
    }

    /// The same of one request of the open step, by its index there; others are as exact as they were.
    pub fn mark_request_inexact(&mut self, request: usize) {
        if let Some(request) = self.open.as_mut().and_then(|open| open.requests.get_mut(request)) {
            request.stale = true;
        }
    }

    /// Whether a step is open.
    pub fn has_open_step(&self) -> bool {
        self.open.is_some()
    }

    /// The tokens of the open step's rows, in row order.
    pub fn row_tokens(&self) -> &[u32] {
        self.open.as_ref().map_or(&[], |open| &open.tokens)
    }

    /// For each request of the open step, the row of each of its tokens.
    pub fn rows(&self) -> Vec<Vec<u32>> {
        let requests = self.open.iter().flat_map(|open| &open.requests);
        requests.map(|r| r.order.row_of.iter().map(|&row| r.first_row + row).collect()).collect()
    }

    /// Ends the step: `accepted[r]` names the tokens of request `r` that stay, as indices within
    /// the request along a path from the branch's end; empty accepts nothing. The rest is freed. On
    /// an error the step is still open.
    pub fn commit(&mut self, accepted: &[&[u32]]) -> Result<()> {
        let Some(open) = &self.open else {
            return Err(Error::State { what: "the tree".to_owned(), state: "has no open step" });
        };
        if accepted.len() != open.requests.len() {
            return Err(Error::shape(
                "accepted",
                accepted.len(),
                format!("{}, one path a request", open.requests.len()),
            ));
        }
        for (request, path) in open.requests.iter().zip(accepted) {
            let mut above = -1;
            for &index in *path {
                let parent = match &request.parents {
                    _ if index as usize >= request.tokens.len() => None,
                    Some(parents) => Some(parents[index as usize]),
                    None => Some(index as i32 - 1),
                };
                if parent != Some(above) {
                    let below =
                        if above < 0 { "the branch's end".to_owned() } else { format!("token {above}") };
                    return Err(Error::value("accepted", index, format!("a token whose parent is {below}")));
                }
                above = index as i32;
            }
        }
        let Some(open) = self.open.take() else { return Ok(()) };
        self.clock += 1;
        for (request, path) in open.requests.into_iter().zip(accepted) {
            self.commit_request(request, path);
        }
        Ok(())
    }

    fn commit_request(&mut self, request: OpenRequest, path: &[u32]) {
        let stale = request.stale;
        let page_tokens = self.layout().page_tokens;
        // Depth-first rows along a path ascend, so each row moves left or stays.
        for (to, &index) in path.iter().enumerate() {
            let from = request.order.row_of[index as usize];
            let [from, to] = [from, to as u32].map(|row| request.slot(row, page_tokens as u32));
            self.push_move(from, to);
        }
        let branch = request.branch.index;
        self.branches[branch].stepping = false;
        let node = self.branches[branch].node;
        let mut position = self.nodes[node].end() as i32;
        let mut left = path.len() as u32;
        let mut runs: SmallVec<[Entry; 4]> = SmallVec::new();
        for (slab, first, count) in request.runs(page_tokens) {
            let count = count.min(left);
            if count == 0 {
                self.slabs.release(slab);
                continue;
            }
            let (first, run) = (first as u16, count as u16);
            runs.push(Entry { page: slab, first, count: run, position, positions_at: -1 });
            position += count as i32;
            left -= count;
        }
        if runs.is_empty() {
            return;
        }
        let tokens = path.iter().map(|&index| request.tokens[index as usize]);
        let at = &mut self.nodes[node];
        let alone = at.handles == 1 && at.pins == 0 && !at.kept && at.children.is_empty();
        if alone && node != ROOT && at.is_plain() && (at.stale || !stale) {
            at.tokens.extend(tokens);
            at.used = self.clock;
            for run in runs {
                if append_run(&mut at.table.entries, run) {
                    self.slabs.release(run.page);
                }
            }
            return;
        }
        let (start, tokens) = (at.end(), tokens.collect());
        let child = Node {
            parent: node,
            children: Vec::new(),
            tokens,
            start,
            table: Table { entries: runs.to_vec(), ..Table::default() },
            handles: 1,
            pins: 0,
            kept: false,
            digest: 0,
            stale,
            used: self.clock,
        };
        let child = self.insert_node(child, None);
        self.branches[branch].node = child;
        let at = &mut self.nodes[node];
        at.handles -= 1;
        if at.handles == 0 && at.children.len() == 1 {
            self.singles.push(self.nodes.id(node));
        }
    }

    /// Ends the step and keeps nothing of it. Without an open step, does nothing.
    pub fn rollback(&mut self) {
        let Some(open) = self.open.take() else { return };
        for slab in open.held() {
            self.slabs.release(slab);
        }
        for request in &open.requests {
            self.branches[request.branch.index].stepping = false;
        }
    }
}
