//! Condensing: everything that a branch shows, replaced for it by a selection, as one node.
//!
//! Where nobody else reads what the branch shows, the old pages are given up first and the kept keys
//! move among them ([`super::place`]): no memory is needed for the copy.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::evict::Room;
use super::node::{Node, ROOT};
use super::place::{Kept, Run, place};
use super::table::Table;
use super::version::{Keep, check_kept};
use super::{Begin, BranchId, Codes, Moves, Tree};
use crate::error::{Error, Result};
use crate::format::page::CodedPage;
use crate::format::slot::{Entry, PageMove};

/// A key that a plane of a branch shows: page id, slot and format as [`Entry::first`] has them, logical
/// position.
pub type Held = (u32, u32, i32);

impl Tree {
    /// The keys that each plane of a branch shows, in order of position, by page id.
    pub fn held(&self, branch: BranchId) -> Result<Vec<Vec<Held>>> {
        let path = self.path(self.branch_at(branch)?.node);
        Ok((0..self.layout().num_planes).map(|plane| self.held_by(&path, plane)).collect())
    }

    /// As [`Tree::held`] while a step is open, with the branch's rows in it, which must be a chain.
    pub fn held_in_step(&self, branch: BranchId) -> Result<Vec<Vec<Held>>> {
        let mut held = self.held(branch)?;
        let (layout, end) = (*self.layout(), self.length(branch)? as i32);
        let slots = self.open.as_ref().and_then(|open| open.slots_of(branch, layout.page_tokens as u32));
        let slots = slots.ok_or_else(|| Error::State {
            what: format!("branch {}", branch.index),
            state: "has no rows in an open step",
        })?;
        for (plane, held) in held.iter_mut().enumerate() {
            let rows = slots.iter().zip(end..);
            held.extend(rows.map(|(slot, at)| (layout.page_id(slot.slab, plane), slot.slot, at)));
        }
        Ok(held)
    }

    /// Pages of each plane of which a branch shows a slot.
    pub fn pages_by_plane(&self, branch: BranchId) -> Result<Vec<usize>> {
        let held = self.held(branch)?;
        Ok(held.iter().map(|keys| keys.iter().map(|key| key.0).collect::<HashSet<_>>().len()).collect())
    }

    fn held_by(&self, path: &[u32], plane: usize) -> Vec<Held> {
        let layout = self.layout();
        self.shown_by(
            path,
            plane,
            |table, page| {
                if table.is_by_head() { page } else { layout.page_id(page, plane) }
            },
        )
    }

    /// As [`Tree::held_by`], with pages as `id` names them.
    fn shown_by(&self, path: &[u32], plane: usize, id: impl Fn(&Table, u32) -> u32) -> Vec<Held> {
        let mut keys = Vec::new();
        for &index in path {
            let table = &self.nodes[index].table;
            let formats = table
                .plane(plane)
                .iter()
                .flat_map(|e| std::iter::repeat_n(u32::from(Entry::first_of(0, e.format())), e.count.into()));
            keys.extend(
                table
                    .keys(plane)
                    .zip(formats)
                    .map(|((p, slot, at), format)| (id(table, p), slot | format, at)),
            );
        }
        if !keys.is_sorted_by_key(|key| key.2) {
            keys.sort_by_key(|key| key.2);
        }
        keys
    }

    /// Gives `branch` one node in place of its path, which shows only the keys in `keep`, as indices
    /// into what [`Tree::held`] says now. One list for all planes needs them to show the same positions
    /// there. `codes` has the format that each kept key shall have, where it is plain so far and a whole
    /// page comes together; `None` encodes nothing. `digest` is not 0 and says what made it inexact. The
    /// copies are appended to [`Tree::take_moves`]. Not while a step is open. On an error nothing has
    /// changed; `Grow` asks for chunks first, which a branch that shares nothing seldom needs.
    ///
    /// `check` is given the slots that would be encoded, by page id; its error is returned.
    pub fn condense(
        &mut self,
        branch: BranchId,
        keep: Keep<'_>,
        codes: Option<Codes<'_>>,
        digest: u64,
        check: impl FnOnce(&[[u32; 2]]) -> Result<()>,
    ) -> Result<Begin> {
        self.no_open_step()?;
        let leaf = self.branch_at(branch)?.node;
        let path = self.path(leaf);
        if digest == 0 {
            return Err(Error::value("digest", 0, "a number that is not 0"));
        }
        check_kept(keep, false, self.layout().num_planes, |plane| {
            path.iter().map(|&index| self.nodes[index].table.num_keys(plane)).sum()
        })?;
        check_codes(keep, codes)?;
        if path.is_empty() {
            return Ok(Begin::Open);
        }
        let layout = *self.layout();
        let old: Vec<Vec<Held>> = (0..layout.num_planes).map(|plane| self.held_by(&path, plane)).collect();
        let kept_on = |plane: usize| match keep {
            Keep::Uniform(keys) => keys,
            Keep::ByHead(planes) => planes[plane],
        };
        if matches!(keep, Keep::Uniform(_)) {
            let shown = |plane: &[Held]| {
                kept_on(0).iter().map(|&key| plane.get(key as usize).map(|k| k.2)).collect::<Vec<_>>()
            };
            if old.iter().any(|plane| shown(plane) != shown(&old[0])) {
                return Err(Error::value("keep", "one list", "one list a plane: positions differ by plane"));
            }
        }
        let by_head = matches!(keep, Keep::ByHead(_));
        // Pages of single heads that come free make no slab where others hold pages of it.
        let makes_room = by_head || path.iter().all(|&index| !self.nodes[index].table.is_by_head());
        let alone = makes_room && self.is_alone(&path) && never_grows(codes, &layout)?;
        let runs = self.place_kept(&path, &old, keep, codes, alone)?;
        check(&sources(&runs, &old, by_head))?;
        let new = runs.iter().flatten().filter(|run| run.page.is_none()).count();
        let mut pages = Vec::new();
        if !alone {
            match self.make_room(Room::of(new, by_head))? {
                0 => {}
                chunks => return Ok(Begin::Grow(chunks)),
            }
            pages = self.take(new, by_head)?;
        }
        let tokens = path.iter().flat_map(|&index| self.nodes[index].tokens.iter().copied()).collect();
        self.clock += 1;
        // Columns move before a page of the old version may be taken again.
        let saved: Vec<Vec<Vec<u8>>> = if self.columns.is_empty() {
            Vec::new()
        } else {
            let slot = |key: Held| self.columns.read_slot((key.0, key.1 & SLOT));
            old.iter()
                .enumerate()
                .map(|(p, old)| kept_on(p).iter().map(|&k| slot(old[k as usize])).collect())
                .collect()
        };
        let node_columns = self.columns.read_node(leaf);
        for page in runs.iter().flatten().filter_map(|run| run.page) {
            if by_head { self.slabs.retain_page(page) } else { self.slabs.retain(page) }
        }
        let stale = path.iter().any(|&index| self.nodes[index].stale);
        if alone {
            self.let_go(branch, leaf);
            // What was given up holds as much as what is taken.
            pages = self.take(new, by_head)?;
        }
        let table = lay_down(runs, &old, pages, by_head);
        let node = Node {
            parent: ROOT,
            children: Vec::new(),
            tokens,
            start: 0,
            table,
            handles: 1,
            pins: 0,
            kept: false,
            digest,
            stale,
            used: self.clock,
        };
        let node = self.insert_node(node, None);
        self.columns.write_node(node, &node_columns);
        self.branches[branch.index].node = node;
        if !alone {
            self.leave(leaf, false);
        }
        let (mut moves, mut codes): (_, BTreeMap<u8, Vec<PageMove>>) = (Vec::new(), BTreeMap::new());
        for (plane, old) in old.iter().enumerate() {
            let new = self.held_by(&[node], plane);
            for (i, (&key, to)) in kept_on(plane).iter().zip(new).enumerate() {
                let from = old[key as usize];
                let format = (to.1 >> Entry::SLOT_BITS) as u8;
                let copy = PageMove { from: [from.0, from.1], to: [to.0, to.1 & SLOT] };
                if (from.0, from.1) == (to.0, to.1) {
                } else if format == 0 {
                    moves.push(copy);
                } else {
                    codes.entry(format).or_default().push(copy);
                }
                if format == 0
                    && let Some(bytes) = saved.get(plane)
                {
                    self.columns.write_slot((to.0, to.1), &bytes[i]);
                }
            }
        }
        codes.values_mut().for_each(|moves| moves.sort_unstable_by_key(|m| m.to));
        self.push_moves(Moves::AtOnce { moves, codes: codes.into_iter().collect() });
        Ok(Begin::Open)
    }

    /// The runs of the new table: one list for all planes, or one a plane.
    fn place_kept(
        &self,
        path: &[u32],
        old: &[Vec<Held>],
        keep: Keep<'_>,
        codes: Option<Codes<'_>>,
        alone: bool,
    ) -> Result<Vec<Vec<Run>>> {
        let by_head = matches!(keep, Keep::ByHead(_));
        let mut pages: HashSet<u32> = HashSet::new();
        for table in path.iter().map(|&index| &self.nodes[index].table) {
            if table.is_by_head() == by_head {
                pages.extend(table.entries.iter().map(|e| e.page));
            } else if table.entries.iter().any(|e| e.format() != 0) {
                let (got, want) = if by_head {
                    ("one list a plane", "one list: the branch has slabs in codes")
                } else {
                    ("one list", "one list a plane: the branch has pages in codes")
                };
                return Err(Error::value("keep", got, want));
            }
        }
        let stays = |page: u32| alone && pages.contains(&page);
        match keep {
            Keep::Uniform(keys) => {
                let codes = match codes {
                    Some(Codes::Uniform(codes)) => codes,
                    _ => &[],
                };
                let all = path.iter().all(|&index| !self.nodes[index].table.is_by_head());
                let slabs = self.shown_by(path, 0, |_, slab| slab);
                // Pages of single heads are no slabs: all keys move then.
                let runs = place(Kept { old: &slabs, keys, codes }, self.layout(), |p| all && stays(p))?;
                Ok(vec![runs])
            }
            Keep::ByHead(planes) => {
                let codes_on = |plane: usize| match codes {
                    Some(Codes::ByHead(lists)) => lists[plane],
                    _ => &[],
                };
                let one = |(plane, keys): (usize, &&[u32])| {
                    place(Kept { old: &old[plane], keys, codes: codes_on(plane) }, self.layout(), stays)
                };
                planes.iter().enumerate().map(one).collect()
            }
        }
    }

    /// The branch leaves a path that only it reads, which frees it.
    fn let_go(&mut self, branch: BranchId, leaf: u32) {
        self.nodes[ROOT].handles += 1;
        self.branches[branch.index].node = ROOT;
        self.leave(leaf, false);
        self.nodes[ROOT].handles -= 1;
    }

    /// Whether nobody but the one branch at its end needs the path or a page of it.
    fn is_alone(&self, path: &[u32]) -> bool {
        let (mut slabs, mut pages): (HashMap<u32, u32>, HashMap<u32, u32>) = Default::default();
        for (depth, &index) in path.iter().enumerate() {
            let node = &self.nodes[index];
            let last = depth + 1 == path.len();
            let (handles, children) = if last { (1, 0) } else { (0, 1) };
            if node.handles != handles || node.children.len() != children || node.pins > 0 || node.kept {
                return false;
            }
            let counts = if node.table.is_by_head() { &mut pages } else { &mut slabs };
            node.table.entries.iter().for_each(|e| *counts.entry(e.page).or_default() += 1);
        }
        slabs.iter().all(|(&slab, &n)| self.slabs.references(slab) == n)
            && pages.iter().all(|(&page, &n)| self.slabs.page_references(page) == n)
    }
}

/// The table of the runs, on the pages that stay and on new ones.
fn lay_down(runs: Vec<Vec<Run>>, old: &[Vec<Held>], pages: Vec<u32>, by_head: bool) -> Table {
    let (mut pages, mut table) = (pages.into_iter(), Table::default());
    for (runs, old) in runs.iter().zip(old) {
        let begin = table.entries.len() as u32;
        for run in runs {
            let Some(page) = run.page.or_else(|| pages.next()) else { break };
            let positions_at = table.positions.len() as i32;
            table.positions.extend(run.keys.iter().map(|&key| old[key as usize].2));
            let position = table.positions[positions_at as usize];
            let count = run.keys.len() as u16;
            table.entries.push(Entry { page, first: run.first, count, position, positions_at });
        }
        if by_head {
            table.head_ranges.push([begin, table.entries.len() as u32]);
        }
    }
    debug_assert!(pages.next().is_none());
    table
}

/// The slots that the runs encode, by page id.
fn sources(runs: &[Vec<Run>], old: &[Vec<Held>], by_head: bool) -> Vec<[u32; 2]> {
    let new = |runs: &[Run]| -> Vec<u32> {
        let coded = runs.iter().filter(|run| run.page.is_none() && run.first >> Entry::SLOT_BITS != 0);
        coded.flat_map(|run| run.keys.iter().copied()).collect()
    };
    let on = |old: &[Held], keys: Vec<u32>| -> Vec<[u32; 2]> {
        keys.into_iter().map(|key| old[key as usize]).map(|(page, slot, _)| [page, slot]).collect()
    };
    if by_head {
        runs.iter().zip(old).flat_map(|(runs, old)| on(old, new(runs))).collect()
    } else {
        old.iter().flat_map(|old| on(old, runs.first().map_or(Vec::new(), |runs| new(runs)))).collect()
    }
}

/// The slot of a [`Held`] without its format.
const SLOT: u32 = (1 << Entry::SLOT_BITS) - 1;

/// Codes name a format for each kept key.
fn check_codes(keep: Keep<'_>, codes: Option<Codes<'_>>) -> Result<()> {
    let agree = match (keep, codes) {
        (_, None) => true,
        (Keep::Uniform(keys), Some(Codes::Uniform(codes))) => keys.len() == codes.len(),
        (Keep::ByHead(keys), Some(Codes::ByHead(codes))) => {
            keys.len() == codes.len() && keys.iter().zip(codes).all(|(keys, codes)| keys.len() == codes.len())
        }
        _ => false,
    };
    if agree { Ok(()) } else { Err(Error::shape("codes", "other lists", "a format for each kept key")) }
}

/// Whether pages in the formats asked for hold as much as plain ones at least.
fn never_grows(codes: Option<Codes<'_>>, layout: &crate::format::PageLayout) -> Result<bool> {
    let lists: Vec<&[u8]> = match codes {
        None => return Ok(true),
        Some(Codes::Uniform(codes)) => vec![codes],
        Some(Codes::ByHead(lists)) => lists.to_vec(),
    };
    let numbers: HashSet<u8> = lists.into_iter().flatten().copied().filter(|number| *number != 0).collect();
    let mut tokens = numbers.into_iter().map(|number| CodedPage::new(number, layout).map(|page| page.tokens));
    tokens.try_fold(true, |enough, tokens| Ok(enough && tokens? >= layout.page_tokens))
}
