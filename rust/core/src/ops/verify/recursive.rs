//! Exact. Recursive rejection over siblings: several draws of the draft at one node, tried in their order.
//!
//! Independent siblings (SpecInfer, Miao et al. 2024, multi-step speculative sampling): a refusal
//! leaves the residual `norm(max(p - q, 0))` and the draft's law as it is. Distinct siblings, drawn
//! without replacement (Jeon et al. 2024, "Recursive speculative decoding"; Chen et al. 2024,
//! "Sequoia"): the draft's law also loses the refused token and is renormalised.
//!
//! The residual after any number of refusals is `max(p - beta q, 0)` for one number beta: with S the
//! sum of that and q' = c q the draft's law now, the next one is `max(p - (beta + S c) q, 0)`, since
//! a token below 0 once stays there. So a refusal costs one sum over the vocabulary, and nothing is
//! stored. We differ from Sequoia where the draft's law is used up: the residual is drawn from at
//! once, where the paper tries untried tokens uniformly. A sibling that the draft's law cannot have
//! drawn there is passed over.

use super::walk::{Accepted, Walk};
use crate::error::Result;
use crate::rng::Domain;

/// How the draft drew the children of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Siblings {
    /// Each from the draft's law.
    Independent,
    /// Without replacement, in this order.
    Distinct,
}

pub(super) fn walk(walk: &mut Walk<'_>, accepted: &mut Accepted<'_>, siblings: Siblings) -> Result<u32> {
    let mut row = 0;
    'node: loop {
        walk.read_target(row)?;
        let Some(first) = walk.child_after(row, row) else {
            return Ok(walk.draw_target(Domain::Bonus, row));
        };
        walk.read_draft(row)?;
        let total = walk.workspace.q.total();
        // Weight that the draft's law still has, and the residual's beta and sum.
        let (mut left, mut beta, mut sum) = (total, 0.0f64, 1.0f64);
        let mut next = Some(first);
        while let Some(child) = next {
            next = walk.child_after(row, child);
            let token = walk.token(child);
            let weight = walk.workspace.q.weight(token) as u64;
            let is_repeated = siblings == Siblings::Distinct && has_earlier_twin(walk, row, child);
            if weight == 0 || is_repeated {
                continue;
            }
            let scale = total as f64 / left as f64;
            let q = walk.workspace.q.probability(token) * scale;
            let p = walk.excess_at(token, 1.0, beta);
            if walk.uniform(Domain::Accept, child) * q * sum < p {
                accepted.push(child);
                walk.descend(child);
                row = child;
                continue 'node;
            }
            let refused = beta + sum * scale;
            let rest = walk.excess(1.0, refused);
            if rest == 0.0 {
                break;
            }
            (beta, sum) = (refused, rest);
            if siblings == Siblings::Distinct {
                left -= weight;
                if left == 0 {
                    break;
                }
            }
        }
        return Ok(walk.draw_excess(1.0, beta, row));
    }
}

fn has_earlier_twin(walk: &Walk<'_>, row: usize, child: usize) -> bool {
    let mut sibling = walk.child_after(row, row);
    while let Some(earlier) = sibling.filter(|earlier| *earlier < child) {
        if walk.token(earlier) == walk.token(child) {
            return true;
        }
        sibling = walk.child_after(row, earlier);
    }
    false
}
