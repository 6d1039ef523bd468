//! Columns: numbers that policies keep beside slots, pages and nodes. The store moves them with
//! what they describe and never interprets them.

use super::line_bytes::LineBytes;
use crate::error::{Error, Result};
use crate::format::PageLayout;

/// What one element of a column describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One slot of one page: a chunk's part is `[num_planes, slabs_per_chunk, page_tokens, bytes]`.
    Slot,
    /// One page: a chunk's part is `[num_planes, slabs_per_chunk, bytes]`. An element says something of what
    /// its page holds, so it is zero again as soon as a slot of the page is written.
    Page,
    /// One node, by its index.
    Node,
}

impl Scope {
    /// The scope of a name.
    ///
    /// # Errors
    /// [`Error::Value`] for any other than `slot`, `page` and `node`.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "slot" => Ok(Self::Slot),
            "page" => Ok(Self::Page),
            "node" => Ok(Self::Node),
            _ => Err(Error::value("scope", name, "slot, page or node")),
        }
    }
}

/// Names a column of one tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ColumnId(usize);

#[derive(Debug)]
struct Column {
    name: String,
    scope: Scope,
    element_bytes: usize,
    /// One part a chunk; for the node scope one part in all.
    parts: Vec<LineBytes>,
}

/// All columns of a tree. New elements are zero.
#[derive(Debug)]
pub struct Columns {
    layout: PageLayout,
    columns: Vec<Column>,
    num_chunks: usize,
}

impl Columns {
    /// No columns yet.
    pub fn new(layout: PageLayout) -> Self {
        Self { layout, columns: Vec::new(), num_chunks: 0 }
    }

    /// Registers a column. Errors when the name is taken or an element has no bytes.
    pub fn add(&mut self, name: &str, scope: Scope, element_bytes: usize) -> Result<ColumnId> {
        if element_bytes == 0 {
            return Err(Error::value("element_bytes", 0, "at least 1"));
        }
        if self.find(name).is_ok() {
            return Err(Error::value("column name", name, "a name that is not taken"));
        }
        let mut column = Column { name: name.to_owned(), scope, element_bytes, parts: Vec::new() };
        let parts = if scope == Scope::Node { 1 } else { self.num_chunks };
        let bytes = self.part_bytes(&column);
        column.parts.resize_with(parts, || LineBytes::new(bytes));
        self.columns.push(column);
        Ok(ColumnId(self.columns.len() - 1))
    }

    /// The column of that name.
    ///
    /// # Errors
    /// [`Error::Value`] if there is none.
    pub fn find(&self, name: &str) -> Result<ColumnId> {
        let place = self.columns.iter().position(|c| c.name == name).map(ColumnId);
        place.ok_or_else(|| Error::value("column name", name, "a registered column"))
    }

    /// Scope and bytes of an element.
    pub fn shape(&self, column: ColumnId) -> (Scope, usize) {
        let column = &self.columns[column.0];
        (column.scope, column.element_bytes)
    }

    /// The bytes of chunk `part`; of the node scope, part 0.
    pub fn part(&self, column: ColumnId, part: usize) -> &[u8] {
        self.columns[column.0].parts.get(part).map_or(&[], |part| part)
    }

    /// As [`Columns::part`], to be written.
    pub fn part_mut(&mut self, column: ColumnId, part: usize) -> &mut [u8] {
        self.columns[column.0].parts.get_mut(part).map_or(&mut [], |part| part)
    }

    /// All parts of some columns, each named once, to be written. A part begins on a cache line.
    pub fn parts_mut(&mut self, columns: &[ColumnId]) -> Vec<Vec<&mut [u8]>> {
        let mut found: Vec<Vec<&mut [u8]>> = columns.iter().map(|_| Vec::new()).collect();
        for (index, column) in self.columns.iter_mut().enumerate() {
            if let Some(at) = columns.iter().position(|id| id.0 == index) {
                found[at] = column.parts.iter_mut().map(|part| &mut **part).collect();
            }
        }
        found
    }

    /// Writes all of a part.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of bytes.
    pub fn write(&mut self, column: ColumnId, part: usize, bytes: &[u8]) -> Result<()> {
        let target = self.part_mut(column, part);
        if target.len() != bytes.len() {
            return Err(Error::shape("column bytes", bytes.len(), target.len()));
        }
        target.copy_from_slice(bytes);
        Ok(())
    }

    fn part_bytes(&self, column: &Column) -> usize {
        let pages = self.layout.num_planes * self.layout.slabs_per_chunk;
        match column.scope {
            Scope::Slot => pages * self.layout.page_tokens * column.element_bytes,
            Scope::Page => pages * column.element_bytes,
            Scope::Node => 0,
        }
    }

    pub(crate) fn set_chunks(&mut self, num_chunks: usize) {
        self.num_chunks = num_chunks;
        for i in 0..self.columns.len() {
            let bytes = self.part_bytes(&self.columns[i]);
            if self.columns[i].scope != Scope::Node {
                self.columns[i].parts.resize_with(num_chunks, || LineBytes::new(bytes));
            }
        }
    }

    /// Bytes of one page in a column of pages, or of one slot of it.
    fn element(&self, column: &Column, page: u32, slot: usize) -> Option<(usize, usize)> {
        let pages = (self.layout.num_planes * self.layout.slabs_per_chunk) as u32;
        let (part, page) = ((page / pages) as usize, (page % pages) as usize);
        match column.scope {
            Scope::Slot => Some((part, (page * self.layout.page_tokens + slot) * column.element_bytes)),
            Scope::Page => Some((part, page * column.element_bytes)),
            Scope::Node => None,
        }
    }

    /// A slot of a page takes the elements of another's.
    pub(crate) fn move_slot(&mut self, from: (u32, u32), to: (u32, u32)) {
        for i in 0..self.columns.len() {
            if self.columns[i].scope == Scope::Slot {
                let column = &self.columns[i];
                let (Some(source), Some(target)) = (
                    self.element(column, from.0, from.1 as usize),
                    self.element(column, to.0, to.1 as usize),
                ) else {
                    continue;
                };
                copy(&mut self.columns[i], source, target);
            }
        }
    }

    /// What the columns of slots hold of one slot.
    pub(crate) fn read_slot(&self, at: (u32, u32)) -> Vec<u8> {
        let mut bytes = Vec::new();
        for column in self.columns.iter().filter(|c| c.scope == Scope::Slot) {
            if let Some((part, from)) = self.element(column, at.0, at.1 as usize) {
                bytes.extend_from_slice(&column.parts[part][from..from + column.element_bytes]);
            }
        }
        bytes
    }

    /// Writes what [`Columns::read_slot`] gave.
    pub(crate) fn write_slot(&mut self, at: (u32, u32), mut bytes: &[u8]) {
        for i in 0..self.columns.len() {
            let column = &self.columns[i];
            if column.scope != Scope::Slot {
                continue;
            }
            if let Some((part, to)) = self.element(column, at.0, at.1 as usize) {
                let (own, rest) = bytes.split_at(column.element_bytes);
                self.columns[i].parts[part][to..to + own.len()].copy_from_slice(own);
                bytes = rest;
            }
        }
    }

    /// A slot of a slab is written: what was said of its pages is said no more.
    pub(crate) fn write_slab(&mut self, slab: u32) {
        if self.columns.iter().any(|column| column.scope == Scope::Page) {
            let layout = self.layout;
            (0..layout.num_planes).for_each(|plane| self.write_page(layout.page_id(slab, plane)));
        }
    }

    /// A slot of a page is written; as [`Columns::write_slab`].
    pub(crate) fn write_page(&mut self, page: u32) {
        for i in 0..self.columns.len() {
            let column = &self.columns[i];
            if column.scope == Scope::Page
                && let Some((part, at)) = self.element(column, page, 0)
            {
                let bytes = column.element_bytes;
                self.columns[i].parts[part][at..at + bytes].fill(0);
            }
        }
    }

    /// A page was taken: its elements are zero again.
    pub(crate) fn reset_page(&mut self, page: u32) {
        for i in 0..self.columns.len() {
            let column = &self.columns[i];
            let Some((part, at)) = self.element(column, page, 0) else { continue };
            let slots = if column.scope == Scope::Slot { self.layout.page_tokens } else { 1 };
            let bytes = slots * column.element_bytes;
            self.columns[i].parts[part][at..at + bytes].fill(0);
        }
    }

    /// A slab was taken: as [`Columns::reset_page`] for each of its pages.
    pub(crate) fn reset_slab(&mut self, slab: u32) {
        if self.columns.is_empty() {
            return;
        }
        let layout = self.layout;
        (0..layout.num_planes).for_each(|plane| self.reset_page(layout.page_id(slab, plane)));
    }

    /// Node `to` takes the elements of node `from`, or zero.
    pub(crate) fn set_node(&mut self, to: u32, from: Option<u32>) {
        for column in self.columns.iter_mut().filter(|c| c.scope == Scope::Node) {
            let bytes = column.element_bytes;
            let last = to.max(from.unwrap_or(0)) as usize + 1;
            if column.parts[0].len() < last * bytes {
                column.parts[0].grow(last * bytes);
            }
            let at = to as usize * bytes;
            match from {
                Some(from) => {
                    column.parts[0].copy_within(from as usize * bytes..(from as usize + 1) * bytes, at);
                }
                None => column.parts[0][at..at + bytes].fill(0),
            }
        }
    }

    /// What the columns of nodes hold of one node.
    pub(crate) fn read_node(&self, node: u32) -> Vec<u8> {
        let nodes = self.columns.iter().filter(|c| c.scope == Scope::Node);
        nodes
            .flat_map(|c| &c.parts[0][node as usize * c.element_bytes..][..c.element_bytes])
            .copied()
            .collect()
    }

    /// Writes what [`Columns::read_node`] gave.
    pub(crate) fn write_node(&mut self, node: u32, mut bytes: &[u8]) {
        for column in self.columns.iter_mut().filter(|c| c.scope == Scope::Node) {
            let (own, rest) = bytes.split_at(column.element_bytes);
            column.parts[0][node as usize * own.len()..][..own.len()].copy_from_slice(own);
            bytes = rest;
        }
    }

    /// Whether there is no column.
    pub(crate) fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }
}

fn copy(column: &mut Column, from: (usize, usize), to: (usize, usize)) {
    let bytes = column.element_bytes;
    if from.0 == to.0 {
        column.parts[from.0].copy_within(from.1..from.1 + bytes, to.1);
    } else if let Ok([source, target]) = column.parts.get_disjoint_mut([from.0, to.0]) {
        target[to.1..to.1 + bytes].copy_from_slice(&source[from.1..from.1 + bytes]);
    }
}
