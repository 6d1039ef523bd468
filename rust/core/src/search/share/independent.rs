//! Best of n: every path goes on by itself.

use super::{Round, Share};

/// One child a leaf.
#[derive(Debug, Clone, Copy)]
pub struct Independent;

impl Share for Independent {
    fn counts(&mut self, round: &Round<'_>, out: &mut [u64]) {
        for place in round.ranked().into_iter().take(round.most.min(out.len() as u64) as usize) {
            out[place] = 1;
        }
    }
}
