//! Beam search over steps (Snell et al. 2024, arXiv 2408.03314, section 5.2): the best leaves get all children.

use super::{Round, Share};

/// Each of the best leaves gets `children`; what is left of the width goes to the next one. A path that ended takes
/// its place with it.
#[derive(Debug, Clone, Copy)]
pub struct Beam {
    children: u64,
    ended: u64,
}

impl Beam {
    /// With so many children of a leaf.
    pub fn new(children: u64) -> Self {
        Self { children, ended: 0 }
    }
}

impl Share for Beam {
    fn counts(&mut self, round: &Round<'_>, out: &mut [u64]) {
        self.ended += round.ended.len() as u64;
        let mut room = round.width.saturating_sub(self.ended).min(round.most);
        for place in round.ranked() {
            out[place] = self.children.min(room);
            room -= out[place];
        }
    }
}
