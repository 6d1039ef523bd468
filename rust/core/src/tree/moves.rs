//! Copies that the tree decides on, and that the owner of the pages makes.

use super::Tree;
use crate::format::slot::{Move, PageMove, RowSlot};

/// Copies of slots that the tree has decided on and that the owner of the pages has to make.
#[derive(Debug, Clone, PartialEq)]
pub enum Moves {
    /// On all planes.
    Rows(Vec<Move>),
    /// On single pages.
    Pages(Vec<PageMove>),
    /// Into new pages of a format in codes, see [`crate::ops::pages::write_coded_pages`]; ids of slabs,
    /// on all planes, or of single pages.
    Codes {
        /// Number of the format.
        format: u8,
        /// Whether ids are those of pages.
        by_page: bool,
        /// Page by page, slots ascending from 0.
        moves: Vec<PageMove>,
    },
    /// On single pages, all at once: every slot is read before any is written. See
    /// [`crate::ops::pages::condense_pages`].
    AtOnce {
        /// To plain slots.
        moves: Vec<PageMove>,
        /// Into new pages of formats in codes, as in [`Moves::Codes`], with the ids of pages.
        codes: Vec<(u8, Vec<PageMove>)>,
    },
}

impl Moves {
    /// The slabs or, by page, the pages that are read and written.
    pub fn ids(&self) -> Vec<u32> {
        let of = |moves: &[PageMove]| moves.iter().flat_map(|m| [m.from[0], m.to[0]]).collect::<Vec<u32>>();
        match self {
            Self::Rows(moves) => moves.iter().flat_map(|m| [m.from.slab, m.to.slab]).collect(),
            Self::Pages(moves) | Self::Codes { moves, .. } => of(moves),
            Self::AtOnce { moves, codes } => {
                of(moves).into_iter().chain(codes.iter().flat_map(|(_, moves)| of(moves))).collect()
            }
        }
    }

    /// Whether ids are those of pages.
    pub fn is_by_page(&self) -> bool {
        match self {
            Self::Rows(_) => false,
            Self::Codes { by_page, .. } => *by_page,
            Self::Pages(_) | Self::AtOnce { .. } => true,
        }
    }
}

impl Tree {
    /// The copies decided on since the last call, in the order in which they have to be made, before
    /// any page is read or written.
    pub fn take_moves(&mut self) -> Vec<Moves> {
        std::mem::take(&mut self.moves).into()
    }

    /// The copies to make first; [`Tree::confirm_moves`] says that they were made. Nothing is added to them.
    pub fn next_moves(&mut self) -> Option<&Moves> {
        self.sealed |= self.moves.len() == 1;
        self.moves.front()
    }

    /// The copies of [`Tree::next_moves`] were made.
    pub fn confirm_moves(&mut self) {
        self.moves.pop_front();
    }

    /// Whether copies are still to be made.
    pub fn has_moves(&self) -> bool {
        !self.moves.is_empty()
    }

    /// The batch that more copies may be added to.
    pub(super) fn last_moves(&mut self) -> Option<&mut Moves> {
        self.moves.back_mut().filter(|_| !self.sealed)
    }

    pub(super) fn push_moves(&mut self, moves: Moves) {
        self.moves.push_back(moves);
        self.sealed = false;
    }

    pub(super) fn push_move(&mut self, from: RowSlot, to: RowSlot) {
        if from == to {
            return;
        }
        if !self.columns.is_empty() {
            let layout = *self.layout();
            for plane in 0..layout.num_planes {
                let from = (layout.page_id(from.slab, plane), from.slot);
                self.columns.move_slot(from, (layout.page_id(to.slab, plane), to.slot));
            }
            self.columns.write_slab(to.slab);
        }
        if let Some(Moves::Rows(moves)) = self.last_moves() {
            moves.push(Move { from, to });
        } else {
            self.push_moves(Moves::Rows(vec![Move { from, to }]));
        }
    }

    pub(super) fn push_page_move(&mut self, from: [u32; 2], to: [u32; 2]) {
        self.columns.move_slot((from[0], from[1]), (to[0], to[1]));
        self.columns.write_page(to[0]);
        if let Some(Moves::Pages(moves)) = self.last_moves() {
            moves.push(PageMove { from, to });
        } else {
            self.push_moves(Moves::Pages(vec![PageMove { from, to }]));
        }
    }
}
