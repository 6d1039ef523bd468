//! Exact. Target-only: draw from the target at a node, descend if a child holds the token.
//!
//! The verification of EAGLE-2 and of any tree whose tokens were chosen rather than drawn. It reads
//! no law of the draft, so the tree may be pruned in any way.

use super::rule::Method;
use super::walk::{Accepted, Walk};
use crate::error::Result;
use crate::rng::Domain;

pub(super) const METHOD: Method = Method {
    name: "target_only",
    compares: false,
    only_chains: false,
    walk: |walk, accepted, _| self::walk(walk, accepted),
};

fn walk(walk: &mut Walk<'_>, accepted: &mut Accepted<'_>) -> Result<u32> {
    let mut row = 0;
    loop {
        walk.read_target(row)?;
        let token = walk.draw_target(Domain::Bonus, row);
        let Some(child) = walk.child_with(row, token) else { return Ok(token) };
        accepted.push(child);
        walk.descend(child);
        row = child;
    }
}
