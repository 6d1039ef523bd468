//! Branch and bound.

use super::mended::Mended;
use super::parts::split;
use super::pricing::{Cover, Pricing};
use super::tree::{Fixed, NONE, Part, close};

/// Passes before the first branching, and after it.
const PASSES: [u32; 2] = [20, 15];

/// Branch and bound on a part.
#[derive(Debug)]
pub(super) struct Branching<'a> {
    part: Part<'a>,
    pricing: Pricing,
    best_prices: Vec<i64>,
    /// How often each node was taken, lately.
    shares: Vec<f32>,
    mended: Mended,
    best: Vec<bool>,
    best_worth: i64,
    has_found: bool,
}

impl<'a> Branching<'a> {
    /// Looks for something that is worth more than `cutoff`.
    pub(super) fn new(part: Part<'a>, prices: Vec<i64>, cutoff: i64) -> Self {
        let n = part.tree.parents.len();
        Self {
            part,
            best_prices: prices.clone(),
            pricing: Pricing::new(n, prices),
            shares: vec![0.5; n],
            mended: Mended::default(),
            best: vec![false; n],
            best_worth: cutoff,
            has_found: false,
        }
    }

    /// The best that was looked for, and which nodes are in it; nothing if there is none.
    pub(super) fn solve(mut self) -> Option<(i64, Vec<bool>)> {
        let n = self.best.len();
        let mut fixed = vec![Fixed::Free; n];
        fixed[0] = Fixed::In;
        self.drop_dominated(&mut fixed);
        let prices = std::mem::take(&mut self.pricing.prices);
        let mut stack = vec![(fixed, prices, i64::MAX)];
        let mut passes = PASSES[0];
        while let Some((mut fixed, prices, bound)) = stack.pop() {
            if bound <= self.best_worth {
                continue;
            }
            self.pricing.prices = prices;
            let bound = self.bound(&mut fixed, passes);
            passes = PASSES[1];
            if bound <= self.best_worth || self.take_apart(&fixed) {
                continue;
            }
            let undecided = |share: f32| share.min(1.0 - share);
            let free = (1..n).filter(|&node| fixed[node] == Fixed::Free);
            let Some(node) = free.max_by(|&a, &b| {
                undecided(self.shares[a]).total_cmp(&undecided(self.shares[b])).then(b.cmp(&a))
            }) else {
                continue; // one subtree is left, and was looked at
            };
            let (mut with, mut without) = (fixed.clone(), fixed);
            (with[node], without[node]) = (Fixed::In, Fixed::Out);
            let mut both = [with, without];
            if self.shares[node] > 0.5 {
                both.swap(0, 1); // the last is looked at first
            }
            stack.extend(both.map(|fixed| (fixed, self.best_prices.clone(), bound)));
        }
        self.has_found.then_some((self.best_worth, self.best))
    }

    /// Of leaves of one parent and one cluster that are worth nothing by themselves, one can be of use.
    fn drop_dominated(&self, fixed: &mut [Fixed]) {
        let tree = &self.part.tree;
        let mut leaves: Vec<u32> = (0..fixed.len() as u32)
            .filter(|&leaf| tree.gains[leaf as usize] <= 0 && tree.clusters[leaf as usize] != NONE)
            .collect();
        let kind = |leaf: u32| (tree.parents[leaf as usize], tree.clusters[leaf as usize]);
        leaves.sort_by_key(|&leaf| (kind(leaf), -tree.gains[leaf as usize], leaf));
        for pair in leaves.windows(2) {
            if kind(pair[0]) == kind(pair[1]) {
                fixed[pair[1] as usize] = Fixed::Out;
            }
        }
    }

    /// Bounds what the subtrees within `fixed` are worth, and fixes what can be.
    fn bound(&mut self, fixed: &mut [Fixed], passes: u32) -> i64 {
        close(&self.part.tree, fixed);
        self.shares.fill(0.5);
        let mut least = i64::MAX;
        let (mut theta, mut idle) = (1.0, 0);
        for pass in 0..passes {
            let bound = self.pricing.pass(&self.part, fixed);
            idle += 1;
            if bound < least {
                (least, idle) = (bound, 0);
                self.best_prices.clone_from(&self.pricing.prices);
            }
            if pass % 8 == 0 {
                self.mend();
            }
            if least <= self.best_worth {
                return least;
            }
            for (share, taken) in self.shares.iter_mut().zip(&self.pricing.taken) {
                *share += 0.1 * (f32::from(u8::from(*taken)) - *share);
            }
            if idle >= 6 {
                (idle, theta) = (0, theta * 0.6);
                if theta < 0.02 {
                    break;
                }
            }
            if !self.pricing.step(self.part.tree.bonuses, theta, bound.saturating_sub(self.best_worth)) {
                break; // what was taken is worth the bound
            }
        }
        self.pricing.prices.clone_from(&self.best_prices);
        let bound = self.pricing.pass(&self.part, fixed);
        self.mend();
        let room = bound.saturating_sub(self.best_worth);
        for (node, fixed) in fixed.iter_mut().enumerate().skip(1) {
            if *fixed == Fixed::Free {
                if self.pricing.loss_in[node] >= room {
                    *fixed = Fixed::Out;
                } else if self.pricing.loss_out[node] >= room && self.pricing.taken[node] {
                    *fixed = Fixed::In;
                }
            }
        }
        close(&self.part.tree, fixed);
        bound
    }

    /// Solves what is free part by part, if it falls apart or has become much smaller; says whether it did.
    fn take_apart(&mut self, fixed: &[Fixed]) -> bool {
        let tree = self.part.tree;
        self.pricing.pass(&self.part, fixed);
        let Some((parts, needs_leaf)) = split(&self.part, fixed, &self.pricing) else { return false };
        let mut chosen: Vec<bool> = fixed.iter().map(|fixed| *fixed == Fixed::In).collect();
        let mut sure: i64 =
            tree.gains.iter().zip(&chosen).filter(|(_, is_in)| **is_in).map(|(gain, _)| gain).sum();
        let covers = self.pricing.covers.iter().zip(tree.bonuses).filter(|(cover, _)| **cover == Cover::Sure);
        sure += covers.map(|(_, bonus)| bonus).sum::<i64>();
        let mut bounds: i64 = parts.iter().map(|part| part.bound).sum();
        for part in &parts {
            bounds -= part.bound;
            // What is worth no more than this cannot become better than the best, whatever the other parts give.
            let cutoff = self.best_worth.saturating_sub(sure + bounds);
            let branching = Branching::new(part.part(needs_leaf), part.prices.clone(), cutoff);
            let Some((worth, found)) = branching.solve() else { return true };
            sure += worth;
            for (node, found) in part.nodes.iter().zip(&found[1..]) {
                chosen[*node as usize] = *found;
            }
        }
        if sure > self.best_worth {
            (self.best_worth, self.best, self.has_found) = (sure, chosen, true);
        }
        true
    }

    /// Improves what was taken leaf by leaf, and keeps it if it is the best so far.
    fn mend(&mut self) {
        let Part { tree, is_leaf, needs_leaf } = self.part;
        let Some(worth) = self.mended.improve(&tree, is_leaf, needs_leaf, &self.pricing.taken) else {
            return;
        };
        if worth > self.best_worth {
            (self.best_worth, self.has_found) = (worth, true);
            for (chosen, below) in self.best.iter_mut().zip(&self.mended.below) {
                *chosen = *below > 0;
            }
            self.best[0] = true;
        }
    }
}
