//! The edges of an automaton that its states do not hold themselves: one array under one hash table.

use std::ops::Index;

/// No state, edge or slot.
pub(super) const NONE: u32 = u32::MAX;
/// Words of an edge in [`Edges::into_words`].
pub(super) const EDGE_WORDS: usize = 4;

/// From one state to another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edge {
    pub(super) source: u32,
    pub(super) token: u32,
    pub(super) target: u32,
    /// The next edge of the same source, or [`NONE`].
    pub(super) next: u32,
}

/// Edges by number, and by source and token.
#[derive(Debug, Clone)]
pub(super) struct Edges {
    items: Vec<Edge>,
    /// Edge numbers by (source, token); linear probing, a power of two of slots, at most 5/8 full.
    slots: Vec<u32>,
}

impl Index<u32> for Edges {
    type Output = Edge;

    fn index(&self, edge: u32) -> &Edge {
        &self.items[edge as usize]
    }
}

impl Edges {
    pub(super) fn new() -> Self {
        Self { items: Vec::new(), slots: vec![NONE; 16] }
    }

    /// The number of edges.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn num_slots(&self) -> usize {
        self.slots.len()
    }

    /// Bytes held, spare capacity included.
    pub(super) fn num_bytes(&self) -> usize {
        self.items.capacity() * size_of::<Edge>() + self.slots.capacity() * size_of::<u32>()
    }

    /// What [`Self::into_words`] appends.
    pub(super) fn num_words(&self) -> usize {
        EDGE_WORDS * self.items.len() + self.slots.len()
    }

    /// Appends edges and slots to `words`.
    pub(super) fn into_words(self, words: &mut Vec<u32>) {
        for Edge { source, token, target, next } in self.items {
            words.extend([source, token, target, next]);
        }
        words.extend(self.slots);
    }

    /// All edges, in the order in which they were added.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Edge> {
        self.items.iter()
    }

    /// The edge of a number, if there is one.
    pub(super) fn get(&self, edge: u32) -> Option<&Edge> {
        self.items.get(edge as usize)
    }

    /// The edge in a slot that [`Self::find`] gave.
    pub(super) fn at(&self, slot: usize) -> &Edge {
        &self.items[self.slots[slot] as usize]
    }

    /// The same, to give it another target.
    pub(super) fn at_mut(&mut self, slot: usize) -> &mut Edge {
        &mut self.items[self.slots[slot] as usize]
    }

    /// The slot of the edge from `source` by `token`.
    pub(super) fn find(&self, source: u32, token: u32) -> Option<usize> {
        let mut slot = home(source, token, self.slots.len());
        while self.slots[slot] != NONE {
            let edge = self.at(slot);
            if edge.source == source && edge.token == token {
                return Some(slot);
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        None
    }

    /// Adds an edge, and returns its number.
    pub(super) fn push(&mut self, item: Edge) -> u32 {
        push_tight(&mut self.items, item);
        let edge = (self.items.len() - 1) as u32;
        if self.items.len() * 8 > self.slots.len() * 5 {
            self.slots = vec![NONE; self.slots.len() * 2];
            for edge in 0..self.items.len() as u32 {
                self.insert_slot(edge);
            }
        } else {
            self.insert_slot(edge);
        }
        edge
    }

    /// Swaps token and target of the edge in a slot for those given; its number stays.
    pub(super) fn swap(&mut self, slot: usize, token: &mut u32, target: &mut u32) {
        let edge = self.slots[slot];
        self.remove_slot(slot);
        let item = &mut self.items[edge as usize];
        std::mem::swap(token, &mut item.token);
        std::mem::swap(target, &mut item.target);
        self.insert_slot(edge);
    }

    fn insert_slot(&mut self, edge: u32) {
        let Edge { source, token, .. } = self[edge];
        let mut slot = home(source, token, self.slots.len());
        while self.slots[slot] != NONE {
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        self.slots[slot] = edge;
    }

    /// Empties a slot and moves later entries of its run back, so that no probe ends early
    /// (Knuth, volume 3, section 6.4, algorithm R).
    fn remove_slot(&mut self, mut hole: usize) {
        let mask = self.slots.len() - 1;
        let mut slot = hole;
        loop {
            slot = (slot + 1) & mask;
            if self.slots[slot] == NONE {
                break;
            }
            let Edge { source, token, .. } = *self.at(slot);
            let home = home(source, token, self.slots.len());
            if (slot.wrapping_sub(home) & mask) >= (slot.wrapping_sub(hole) & mask) {
                self.slots[hole] = self.slots[slot];
                hole = slot;
            }
        }
        self.slots[hole] = NONE;
    }
}

/// The slot at which the search for an edge begins, of `num_slots`, a power of two. Part of the corpus
/// format.
pub(super) fn home(source: u32, token: u32, num_slots: usize) -> usize {
    let key = (u64::from(source) << 32) | u64::from(token);
    let mixed = (key ^ (key >> 29)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    // A shift by 64 bits, for one slot, is no shift in hardware.
    mixed.checked_shr(64 - num_slots.trailing_zeros()).unwrap_or(0) as usize
}

/// Pushes with growth by an eighth, not by two: the arrays are the memory of a request.
pub(super) fn push_tight<T>(items: &mut Vec<T>, item: T) {
    if items.len() == items.capacity() {
        items.reserve_exact(items.len() / 8 + 64);
    }
    items.push(item);
}
