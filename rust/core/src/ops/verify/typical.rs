//! LOSSY: typical acceptance (Cai et al. 2024, "Medusa", section 2.3.1). The text does not follow the target's law.
//!
//! A token x passes if `p(x) > min(epsilon, alpha exp(-H(p)))`, p being the target's law at its parent
//! and H its entropy. The deepest node that is reached by passing tokens alone wins, of equally deep
//! ones the likeliest, then the first. The next token is drawn from the target's law there.

use smallvec::SmallVec;

use super::rule::{Method, Parameters};
use super::walk::{Accepted, Walk};
use crate::error::Result;
use crate::rng::Domain;
use crate::simd::math;

pub(super) const METHOD: Method = Method { name: "typical", compares: false, only_chains: false, walk };

/// A row reached by passing tokens.
#[derive(Clone, Copy)]
struct Reached {
    parent: usize,
    depth: usize,
    likelihood: f64,
}

fn walk(walk: &mut Walk<'_>, accepted: &mut Accepted<'_>, parameters: &Parameters) -> Result<u32> {
    let Parameters { epsilon, alpha } = *parameters;
    let mut reached: SmallVec<[Option<Reached>; 64]> = SmallVec::from_elem(None, walk.len() + 1);
    reached[0] = Some(Reached { parent: 0, depth: 0, likelihood: 1.0 });
    let mut best: Option<(usize, Reached)> = None;
    let mut path: SmallVec<[usize; 32]> = SmallVec::new();
    for row in 0..=walk.len() {
        let Some(here) = reached[row] else { continue };
        go_to(walk, &reached, &mut path, row);
        walk.read_target(row)?;
        let entropy = walk.workspace.p.entropy(walk.isa);
        let bound = epsilon.min(alpha * f64::from(math::exp_scalar(-entropy as f32)));
        let mut next = walk.child_after(row, row);
        while let Some(child) = next {
            let p = walk.workspace.p.probability(walk.token(child));
            if p > bound {
                let likelihood = here.likelihood * p;
                reached[child] = Some(Reached { parent: row, depth: here.depth + 1, likelihood });
            }
            next = walk.child_after(row, child);
        }
        let is_better =
            best.is_none_or(|(_, best)| (here.depth, here.likelihood) > (best.depth, best.likelihood));
        if is_better {
            best = Some((row, here));
            walk.keep_laws();
        }
    }
    walk.restore_laws();
    let leaf = best.map_or(0, |(row, _)| row);
    go_to(walk, &reached, &mut path, leaf);
    path.iter().for_each(|&row| accepted.push(row));
    Ok(walk.draw_target(Domain::Bonus, leaf))
}

/// Makes the walk follow the path to `row`, whatever path it was on.
fn go_to(walk: &mut Walk<'_>, reached: &[Option<Reached>], path: &mut SmallVec<[usize; 32]>, row: usize) {
    while let Some(last) = path.pop() {
        walk.ascend(last);
    }
    let mut at = row;
    while at > 0 {
        path.push(at);
        at = reached[at].map_or(0, |reached| reached.parent);
    }
    path.reverse();
    path.iter().for_each(|&row| walk.descend(row));
}
