//! Exact. Chain: speculative sampling as in Leviathan et al. 2023 (algorithm 1) and Chen et al. 2023.
//!
//! A draft token x is accepted iff `u q(x) < p(x)`, u uniform in (0, 1); the first refusal draws
//! from `max(p - q, 0)`. The inequality is strict, so a token that the target rules out never passes.
//! A token that the draft's law cannot have drawn is refused.

use super::rule::Method;
use super::walk::{Accepted, Walk};
use crate::error::Result;
use crate::rng::Domain;

pub(super) const METHOD: Method = Method {
    name: "chain",
    compares: true,
    only_chains: true,
    walk: |walk, accepted, _| self::walk(walk, accepted),
};

fn walk(walk: &mut Walk<'_>, accepted: &mut Accepted<'_>) -> Result<u32> {
    for row in 0..walk.len() {
        walk.read_target(row)?;
        walk.read_draft(row)?;
        let child = row + 1;
        let token = walk.token(child);
        let (p, q) = (walk.workspace.p.probability(token), walk.workspace.q.probability(token));
        if q == 0.0 || walk.uniform(Domain::Accept, child) * q >= p {
            return Ok(walk.draw_excess(1.0, 1.0, row));
        }
        accepted.push(child);
        walk.descend(child);
    }
    let leaf = walk.len();
    walk.read_target(leaf)?;
    Ok(walk.draw_target(Domain::Bonus, leaf))
}
