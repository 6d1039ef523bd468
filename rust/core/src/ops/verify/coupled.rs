//! Exact. Coupled: the target draws with noise of its own, and the draft is followed while it says the same.
//!
//! The text is that of plain sampling with the same seed, whatever the draft. With temperature 0
//! this is greedy verification; with a draft that draws nothing it is the chain rule too, since
//! "accept x with p(x), else draw from p without x" is "draw from p, accept if it is x".

use super::rule::Method;
use super::walk::{Accepted, Walk};
use crate::error::Result;
use crate::ops::sample;

pub(super) const METHOD: Method = Method {
    name: "coupled",
    compares: false,
    only_chains: false,
    walk: |walk, accepted, _| self::walk(walk, accepted),
};

pub(super) fn walk(walk: &mut Walk<'_>, accepted: &mut Accepted<'_>) -> Result<u32> {
    let mut row = 0;
    loop {
        walk.read_target(row)?;
        let position = walk.position.wrapping_add(accepted.count as u32);
        let token = sample::coupled(walk.isa, &walk.workspace.p, &walk.stream, position);
        let Some(child) = walk.child_with(row, token) else { return Ok(token) };
        accepted.push(child);
        walk.descend(child);
        row = child;
    }
}
