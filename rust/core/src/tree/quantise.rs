//! Quantised versions: a node's keys in pages of codes, for one branch.
//!
//! A page in codes is written once, whole, from plain slots: what does not fill one stays plain, and
//! keys that are in codes already stay on their pages. So history is never quantised twice.

use super::evict::Room;
use super::table::Table;
use super::{Begin, BranchId, Moves, NodeId, Tree};
use crate::error::{Error, Result};
use crate::format::page::CodedPage;
use crate::format::slot::{Entry, PageMove, RowSlot};

/// The number of the format that each key of a node shall have, see [`crate::format::page::FORMATS`]; 0
/// for plain. In the order in which the node shows them (on that plane).
#[derive(Debug, Clone, Copy)]
pub enum Codes<'a> {
    /// The same on all planes; the node must not be by head.
    Uniform(&'a [u8]),
    /// Those of each plane.
    ByHead(&'a [&'a [u8]]),
}

/// What becomes of the keys of one plane.
#[derive(Debug, Default)]
struct NewPages {
    /// Entries in codes that stay.
    held: Vec<Entry>,
    /// New pages in codes: format, and the keys, as indices.
    coded: Vec<(u8, Vec<u32>)>,
    /// Keys of new plain pages, a page each.
    plain: Vec<Vec<u32>>,
}

impl NewPages {
    fn new_pages(&self) -> usize {
        self.coded.len() + self.plain.len()
    }
}

impl Tree {
    /// Gives `branch` a version of `node`, on its path, with keys in the formats that `codes` asks for.
    /// Of each format whole pages are filled, in order; with `partial` the last may be short, else what
    /// is left stays plain. `digest` is not 0 and says what made the version inexact. The copies are
    /// appended to [`Tree::take_moves`]. Not while a step is open. On an error nothing has changed;
    /// `Grow` asks for chunks first.
    ///
    /// `check` is given the slots that would be encoded, by page id; its error is returned.
    pub fn quantise(
        &mut self,
        branch: BranchId,
        node: NodeId,
        codes: Codes<'_>,
        partial: bool,
        digest: u64,
        check: impl FnOnce(&[[u32; 2]]) -> Result<()>,
    ) -> Result<Begin> {
        self.no_open_step()?;
        let path = self.path(self.branch_at(branch)?.node);
        let Some(depth) = path.iter().position(|&i| self.nodes.id(i) == node) else {
            return Err(Error::State { what: format!("node {}", node.index), state: "is not on the branch" });
        };
        if digest == 0 {
            return Err(Error::value("digest", 0, "a number that is not 0"));
        }
        let layouts = self.lay_out_codes(node.index, codes, partial)?;
        let by_head = matches!(codes, Codes::ByHead(_));
        check(&self.sources(node.index, &layouts, by_head))?;
        let count = layouts.iter().map(NewPages::new_pages).sum();
        match self.make_room(Room::of(count, by_head))? {
            0 => {}
            chunks => return Ok(Begin::Grow(chunks)),
        }
        let pages = self.take(count, by_head)?;
        let table = self.write_codes(node.index, &layouts, pages, by_head);
        self.replace(branch, &path[depth..], table, digest);
        Ok(Begin::Open)
    }

    fn lay_out_codes(&self, node: u32, codes: Codes<'_>, partial: bool) -> Result<Vec<NewPages>> {
        let (table, planes) = (&self.nodes[node].table, self.layout().num_planes);
        let lists: Vec<&[u8]> = match codes {
            Codes::Uniform(_) if table.is_by_head() => {
                return Err(Error::value("codes", "one list", "one list a plane: the node is by head"));
            }
            Codes::Uniform(numbers) => vec![numbers],
            Codes::ByHead(lists) if lists.len() != planes => {
                return Err(Error::shape("codes", lists.len(), format!("{planes}, one list a plane")));
            }
            Codes::ByHead(lists) => lists.to_vec(),
        };
        let by_page = matches!(codes, Codes::ByHead(_));
        let lay_out = |(plane, numbers): (usize, &&[u8])| {
            let keys = table.num_keys(plane);
            if numbers.len() != keys {
                return Err(Error::shape("codes", numbers.len(), format!("{keys}, one number a key")));
            }
            if by_page && !table.is_by_head() && table.plane(plane).iter().any(|e| e.format() != 0) {
                let want = "one list: the node has slabs in codes";
                return Err(Error::value("codes", "one list a plane", want));
            }
            let mut layout = NewPages::default();
            let (mut plain, mut key) = (Vec::new(), 0u32);
            let mut wanted: Vec<(u8, CodedPage, Vec<u32>)> = Vec::new();
            for entry in table.plane(plane) {
                let run = key..key + u32::from(entry.count);
                key = run.end;
                if entry.format() != 0 {
                    layout.held.push(*entry);
                    continue;
                }
                for key in run {
                    let number = numbers[key as usize];
                    if number == 0 {
                        plain.push(key);
                        continue;
                    }
                    match wanted.iter_mut().find(|(of, ..)| *of == number) {
                        Some((.., keys)) => keys.push(key),
                        None => wanted.push((number, CodedPage::new(number, self.layout())?, vec![key])),
                    }
                }
            }
            wanted.sort_unstable_by_key(|(number, ..)| *number);
            for (number, page, keys) in wanted {
                let whole = if partial { keys.len() } else { keys.len() / page.tokens * page.tokens };
                layout.coded.extend(keys[..whole].chunks(page.tokens).map(|keys| (number, keys.to_vec())));
                plain.extend_from_slice(&keys[whole..]);
            }
            plain.sort_unstable();
            layout.plain = plain.chunks(self.layout().page_tokens).map(<[u32]>::to_vec).collect();
            Ok(layout)
        };
        lists.iter().enumerate().map(lay_out).collect()
    }

    /// The slots that the layouts encode, by page id.
    fn sources(&self, node: u32, layouts: &[NewPages], by_head: bool) -> Vec<[u32; 2]> {
        let (table, layout) = (&self.nodes[node].table, self.layout());
        let mut sources = Vec::new();
        for (plane, new) in layouts.iter().enumerate().filter(|(_, new)| !new.coded.is_empty()) {
            let old: Vec<(u32, u32, i32)> = table.keys(plane).collect();
            let planes = if by_head { plane..plane + 1 } else { 0..layout.num_planes };
            for &key in new.coded.iter().flat_map(|(_, keys)| keys) {
                let (page, slot, _) = old[key as usize];
                let id = |plane| if table.is_by_head() { page } else { layout.page_id(page, plane) };
                sources.extend(planes.clone().map(|plane| [id(plane), slot]));
            }
        }
        sources
    }

    fn write_codes(&mut self, node: u32, layouts: &[NewPages], pages: Vec<u32>, by_head: bool) -> Table {
        let layout = *self.layout();
        let mut pages = pages.into_iter();
        let from_pages = self.nodes[node].table.is_by_head();
        let mut table = Table::default();
        for (plane, new) in layouts.iter().enumerate() {
            let old: Vec<(u32, u32, i32)> = self.nodes[node].table.keys(plane).collect();
            let begin = table.entries.len() as u32;
            for entry in &new.held {
                let mut entry = *entry;
                if let Ok(at) = usize::try_from(entry.positions_at) {
                    entry.positions_at = table.positions.len() as i32;
                    let positions = &self.nodes[node].table.positions;
                    table.positions.extend_from_slice(&positions[at..at + usize::from(entry.count)]);
                }
                table.entries.push(entry);
                if from_pages {
                    self.slabs.retain_page(entry.page);
                } else {
                    self.slabs.retain(entry.page);
                }
            }
            let plain = new.plain.iter().map(|keys| (0, keys));
            let coded = new.coded.iter().map(|(format, keys)| (*format, keys));
            // The keys come first: a page of the next plane is not taken in vain.
            for ((format, keys), page) in coded.chain(plain).zip(pages.by_ref()) {
                let positions_at = table.positions.len() as i32;
                table.positions.extend(keys.iter().map(|&key| old[key as usize].2));
                let position = table.positions[positions_at as usize];
                let first = Entry::first_of(0, format);
                table.entries.push(Entry { page, first, count: keys.len() as u16, position, positions_at });
                let mut moves = Vec::with_capacity(keys.len());
                for (slot, &key) in keys.iter().enumerate() {
                    let (from, from_slot, _) = old[key as usize];
                    let from = if by_head && !from_pages { layout.page_id(from, plane) } else { from };
                    let m = PageMove { from: [from, from_slot], to: [page, slot as u32] };
                    match (format, by_head) {
                        (0, true) => self.push_page_move(m.from, m.to),
                        (0, false) => self.push_move(
                            RowSlot { slab: m.from[0], slot: m.from[1] },
                            RowSlot { slab: m.to[0], slot: m.to[1] },
                        ),
                        _ => moves.push(m),
                    }
                }
                if format != 0 {
                    self.push_codes(format, by_head, moves);
                }
            }
            if by_head {
                table.head_ranges.push([begin, table.entries.len() as u32]);
            }
        }
        table
    }

    fn push_codes(&mut self, format: u8, by_page: bool, moves: Vec<PageMove>) {
        match self.last_moves() {
            Some(Moves::Codes { format: last, by_page: pages, moves: list })
                if *last == format && *pages == by_page =>
            {
                list.extend(moves);
            }
            _ => self.push_moves(Moves::Codes { format, by_page, moves }),
        }
    }
}
