//! Condensing: everything that a branch shows, replaced for it by a selection, as one node.
//!
//! Where nobody else reads what the branch shows, the old pages are given up first and the kept keys
//! move among them ([`super::place`]): no memory is needed for the copy.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::evict::Room;
use super::node::{Node, ROOT};
use super::place::{Kept, PlacedRun, place};
use super::table::Table;
use super::version::{Keep, check_kept};
use super::{BranchId, Codes, Moves, Tree};
use crate::error::{Error, Result};
use crate::format::key_table::{KeyTable, ResidentKey};
use crate::format::page::CodedPage;
use crate::format::slot::{Entry, PageMove};

/// What [`Tree::condense`] came to.
#[derive(Debug)]
pub enum Condensed {
    /// The branch shows the selection: its key table now.
    Done(KeyTable),
    /// Nothing happened yet: add this many chunks, then condense again.
    Grow(usize),
}

impl Tree {
    /// Gives `branch` one node in place of its path, which shows only the keys in `keep`, as indices
    /// into `table`, which [`Tree::key_table`] gave and which is still what the branch shows. One list for all planes needs them to show the same positions
    /// there. `codes` has the format that each kept key shall have, where it is plain so far and a whole
    /// page comes together; `None` encodes nothing. `digest` is not 0 and says what made it inexact. The
    /// copies are appended to [`Tree::take_moves`]. Not while a step is open. On an error nothing has
    /// changed; `Grow` asks for chunks first, which a branch that shares nothing seldom needs.
    ///
    /// `check` is given the slots that would be encoded, by page id; its error is returned.
    pub fn condense(
        &mut self,
        branch: BranchId,
        table: &KeyTable,
        keep: Keep<'_>,
        codes: Option<Codes<'_>>,
        digest: u64,
        check: impl FnOnce(&[[u32; 2]]) -> Result<()>,
    ) -> Result<Condensed> {
        self.no_open_step()?;
        let leaf = self.branch_at(branch)?.node;
        if table.origin() != Some(self.origin(leaf)) {
            let what = format!("the key table of branch {}", branch.index);
            return Err(Error::State { what, state: "is not what the branch shows now" });
        }
        let path = self.path(leaf);
        if digest == 0 {
            return Err(Error::value("digest", 0, "a number that is not 0"));
        }
        check_kept(keep, false, self.layout().num_planes, |plane| table.plane(plane).len())?;
        check_codes(keep, codes)?;
        if path.is_empty() {
            return Ok(Condensed::Done(self.key_table(branch)?));
        }
        let layout = *self.layout();
        let old: Vec<&[ResidentKey]> = table.planes().collect();
        let kept_on = |plane: usize| match keep {
            Keep::Uniform(keys) => keys,
            Keep::ByHead(planes) => planes[plane],
        };
        if matches!(keep, Keep::Uniform(_)) {
            let shown = |plane: &[ResidentKey]| {
                kept_on(0).iter().map(|&key| plane.get(key as usize).map(|k| k.position)).collect::<Vec<_>>()
            };
            let first = shown(old[0]);
            if old.iter().any(|plane| shown(plane) != first) {
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
                chunks => return Ok(Condensed::Grow(chunks)),
            }
            pages = self.take(new, by_head)?;
        }
        let tokens = path.iter().flat_map(|&index| self.nodes[index].tokens.iter().copied()).collect();
        self.clock += 1;
        // Columns move before a page of the old version may be taken again.
        let saved: Vec<Vec<Vec<u8>>> = if self.columns.is_empty() {
            Vec::new()
        } else {
            let slot = |key: ResidentKey| self.columns.read_slot((key.page, key.slot_on_page()));
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
        let new = self.key_table(branch)?;
        for (plane, (old, new)) in old.iter().zip(new.planes()).enumerate() {
            for (i, (&key, to)) in kept_on(plane).iter().zip(new).enumerate() {
                let (from, format) = (old[key as usize], to.format());
                let copy = PageMove { from: [from.page, from.slot], to: [to.page, to.slot_on_page()] };
                if (from.page, from.slot) == (to.page, to.slot) {
                } else if format == 0 {
                    self.columns.write_page(to.page);
                    moves.push(copy);
                } else {
                    codes.entry(format).or_default().push(copy);
                }
                if format == 0
                    && let Some(bytes) = saved.get(plane)
                {
                    self.columns.write_slot((to.page, to.slot), &bytes[i]);
                }
            }
        }
        codes.values_mut().for_each(|moves| moves.sort_unstable_by_key(|m| m.to));
        self.push_moves(Moves::AtOnce { moves, codes: codes.into_iter().collect() });
        Ok(Condensed::Done(new))
    }

    /// The runs of the new table: one list for all planes, or one a plane.
    fn place_kept(
        &self,
        path: &[u32],
        old: &[&[ResidentKey]],
        keep: Keep<'_>,
        codes: Option<Codes<'_>>,
        alone: bool,
    ) -> Result<Vec<Vec<PlacedRun>>> {
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
                let slab =
                    |key: &ResidentKey| ResidentKey { page: self.slabs.slab_of_page(key.page).0, ..*key };
                let slabs: Vec<ResidentKey> = old[0].iter().map(slab).collect();
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
                    place(Kept { old: old[plane], keys, codes: codes_on(plane) }, self.layout(), stays)
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
fn lay_down(runs: Vec<Vec<PlacedRun>>, old: &[&[ResidentKey]], pages: Vec<u32>, by_head: bool) -> Table {
    let (mut pages, mut table) = (pages.into_iter(), Table::default());
    for (runs, old) in runs.iter().zip(old) {
        let begin = table.entries.len() as u32;
        for run in runs {
            let Some(page) = run.page.or_else(|| pages.next()) else { break };
            let positions_at = table.positions.len() as i32;
            table.positions.extend(run.keys.iter().map(|&key| old[key as usize].position));
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
fn sources(runs: &[Vec<PlacedRun>], old: &[&[ResidentKey]], by_head: bool) -> Vec<[u32; 2]> {
    let new = |runs: &[PlacedRun]| -> Vec<u32> {
        let coded = runs.iter().filter(|run| run.page.is_none() && run.first >> Entry::SLOT_BITS != 0);
        coded.flat_map(|run| run.keys.iter().copied()).collect()
    };
    let on = |old: &[ResidentKey], keys: Vec<u32>| -> Vec<[u32; 2]> {
        keys.into_iter().map(|key| old[key as usize]).map(|key| [key.page, key.slot]).collect()
    };
    if by_head {
        runs.iter().zip(old).flat_map(|(runs, old)| on(old, new(runs))).collect()
    } else {
        old.iter().flat_map(|old| on(old, runs.first().map_or(Vec::new(), |runs| new(runs)))).collect()
    }
}

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
