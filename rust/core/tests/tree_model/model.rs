//! What the tree is held to: whole token sequences, and the stamps of their keys.

use hornbeam_core::tree::BranchId;

/// SplitMix64, so that a failure is reproduced by its seed on any machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

pub(crate) fn stamp(prefix: u64, token: u32) -> u64 {
    (prefix ^ u64::from(token).wrapping_add(0x51ed)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) | 1
}

#[derive(Clone)]
pub(crate) struct ModelBranch {
    pub(crate) id: BranchId,
    pub(crate) tokens: Vec<u32>,
    /// Positions whose keys are shown, a plane; `None` while all are.
    pub(crate) kept: Option<Vec<Vec<usize>>>,
    /// How often the model had changed when the first token was computed: the stamp of the empty prefix.
    pub(crate) epoch: u64,
    /// Of each token, 0 where its keys are those of the whole model.
    pub(crate) salts: Vec<u64>,
}

impl ModelBranch {
    pub(crate) fn stamps(&self) -> Vec<u64> {
        let mut at = self.epoch;
        self.tokens
            .iter()
            .zip(&self.salts)
            .map(|(&t, salt)| {
                at = stamp(at ^ salt, t);
                at
            })
            .collect()
    }

    pub(crate) fn positions(&self, plane: usize) -> Vec<usize> {
        self.kept.as_ref().map_or_else(|| (0..self.tokens.len()).collect(), |kept| kept[plane].clone())
    }
}
