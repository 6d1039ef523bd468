//! Exact. Block verification of a chain (Sun et al. 2024, "Block verification accelerates speculative decoding").
//!
//! `P_0 = 1`, `P_i = min(1, P_{i-1} p_i(x_i) / q_i(x_i))`, and with
//! `R_i = sum over v of max(P_i p_{i+1}(v) - q_{i+1}(v), 0)` the prefix of length i passes with
//! probability `h_i = R_i / (R_i + 1 - P_i)` for i < K, and `h_K = P_K`. The *longest* prefix that
//! passes is accepted, so the walk goes on after one fails. Then the next token comes from
//! `max(P_i p_{i+1} - q_{i+1}, 0)`, or from the target's law at the leaf.

use super::rule::Method;
use super::walk::{Accepted, Walk};
use crate::error::Result;
use crate::rng::Domain;

pub(super) const METHOD: Method = Method {
    name: "block",
    compares: true,
    only_chains: true,
    walk: |walk, accepted, _| self::walk(walk, accepted),
};

fn walk(walk: &mut Walk<'_>, accepted: &mut Accepted<'_>) -> Result<u32> {
    let length = walk.len();
    let (mut longest, mut factor, mut factor_of_longest) = (0, 1.0f64, 1.0f64);
    for row in 0..=length {
        walk.read_target(row)?;
        if row == length {
            if factor > 0.0 && walk.uniform(Domain::Accept, row) < factor {
                (1..=length).for_each(|row| accepted.push(row));
                return Ok(walk.draw_target(Domain::Bonus, row));
            }
            break;
        }
        walk.read_draft(row)?;
        let rest = if row == 0 { 1.0 } else { walk.excess(factor, 1.0) };
        let passes = row == 0 || walk.uniform(Domain::Accept, row) * (rest + (1.0 - factor)) < rest;
        let token = walk.token(row + 1);
        let (p, q) = (walk.workspace.p.probability(token), walk.workspace.q.probability(token));
        if passes {
            (longest, factor_of_longest) = (row, factor);
            walk.keep_laws();
        }
        factor = if q == 0.0 { 0.0 } else { (factor * p / q).min(1.0) };
        if factor == 0.0 {
            break;
        }
        walk.descend(row + 1);
    }
    walk.restore_laws();
    (1..=longest).for_each(|row| accepted.push(row));
    Ok(walk.draw_excess(factor_of_longest, 1.0, longest))
}
