//! A tree, the memory of its pages, and the model of its branches.

use std::collections::HashMap;

use hornbeam_core::format::{Dtype, PageLayout};
use hornbeam_core::tree::{Moves, NodeId, Tree};

use crate::model::{ModelBranch, Random};

pub(crate) struct World {
    pub(crate) tree: Tree,
    /// By page id and slot.
    pub(crate) memory: HashMap<(u32, u32), u64>,
    pub(crate) branches: Vec<ModelBranch>,
    pub(crate) pins: Vec<NodeId>,
    pub(crate) random: Random,
    pub(crate) limited: bool,
    pub(crate) epoch: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let layout = PageLayout {
            num_planes: 1 + random.below(2),
            slabs_per_chunk: 1 + random.below(9),
            page_tokens: 1 + random.below(6),
            head_dim: 8,
            dtype: Dtype::F32,
        };
        let limited = random.one_in(2);
        let max_chunks = if limited { 1 + random.below(60 / layout.slabs_per_chunk + 1) } else { usize::MAX };
        Self {
            tree: Tree::new(layout, max_chunks).unwrap(),
            memory: HashMap::new(),
            branches: Vec::new(),
            pins: Vec::new(),
            random,
            limited,
            epoch: 0,
        }
    }

    pub(crate) fn make_moves(&mut self) {
        let layout = *self.tree.layout();
        while let Some(batch) = self.tree.next_moves().cloned() {
            self.tree.confirm_moves();
            match batch {
                Moves::Rows(moves) => {
                    for m in moves {
                        for plane in 0..layout.num_planes {
                            let from = (layout.page_id(m.from.slab, plane), m.from.slot);
                            self.copy(from, (layout.page_id(m.to.slab, plane), m.to.slot));
                        }
                    }
                }
                Moves::Pages(moves) => {
                    moves.iter().for_each(|m| self.copy((m.from[0], m.from[1]), (m.to[0], m.to[1])));
                }
                Moves::Codes { .. } => panic!("the model asks for codes in condense alone"),
                Moves::AtOnce { moves, codes } => {
                    let moves: Vec<_> = codes.into_iter().flat_map(|(_, moves)| moves).chain(moves).collect();
                    let at = |page: [u32; 2]| (page[0], page[1]);
                    let read: Vec<_> =
                        moves.iter().map(|m| self.memory.get(&at(m.from)).copied().unwrap_or(0)).collect();
                    self.memory.extend(moves.iter().map(|m| at(m.to)).zip(read));
                }
            }
        }
    }

    pub(crate) fn copy(&mut self, from: (u32, u32), to: (u32, u32)) {
        let stamp = self.memory.get(&from).copied().unwrap_or(0);
        self.memory.insert(to, stamp);
    }

    pub(crate) fn check_branch(&self, branch: &ModelBranch) {
        let layout = *self.tree.layout();
        assert_eq!(self.tree.token_ids(branch.id).unwrap(), branch.tokens);
        assert_eq!(self.tree.length(branch.id).unwrap(), branch.tokens.len());
        let stamps = branch.stamps();
        for plane in 0..layout.num_planes {
            let keys = self.tree.keys(branch.id, plane).unwrap();
            let mut positions: Vec<usize> = keys.iter().map(|k| k.3 as usize).collect();
            // What was condensed lies in any order.
            if branch.kept.is_some() {
                positions.sort_unstable();
            }
            assert_eq!(positions, branch.positions(plane), "positions of plane {plane}");
            for (by_head, page, slot, position) in keys {
                let page = if by_head { page } else { layout.page_id(page, plane) };
                assert_eq!(
                    self.memory.get(&(page, slot)),
                    Some(&stamps[position as usize]),
                    "key at {position}"
                );
            }
        }
    }

    pub(crate) fn check(&self) {
        self.branches.iter().for_each(|b| self.check_branch(b));
        self.tree.debug_check().unwrap();
    }

    pub(crate) fn tokens(&mut self, most: usize) -> Vec<u32> {
        let count = 1 + self.random.below(most);
        (0..count).map(|_| self.random.below(3) as u32).collect()
    }

    pub(crate) fn grow(&mut self, chunks: usize) {
        (0..chunks).for_each(|_| self.tree.add_chunk().unwrap());
    }
}
