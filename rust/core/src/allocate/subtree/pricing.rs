//! The bound: clusters are priced, and the best subtree at these prices is one pass from the leaves up.

use super::tree::{Fixed, NONE, Part};

/// Whether a cluster is covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cover {
    Open,
    Sure,
    Lost,
}

/// What a choice loses that cannot be made.
const NEVER: i64 = i64::MAX / 4;

/// The best subtree at some prices, and what the bound loses by other choices.
#[derive(Debug)]
pub(super) struct Pricing {
    /// Of each cluster, what a leaf is paid that covers it.
    pub(super) prices: Vec<i64>,
    pub(super) covers: Vec<Cover>,
    /// Leaves taken of each cluster, less one: the slope of the bound along its price.
    slopes: Vec<i64>,
    /// Of each node: its worth with the best below it.
    pub(super) worth: Vec<i64>,
    pub(super) taken: Vec<bool>,
    /// What the bound loses if the node has to be in, or out.
    pub(super) loss_in: Vec<i64>,
    pub(super) loss_out: Vec<i64>,
}

impl Pricing {
    /// Of a tree of `n` nodes, to begin with at these prices.
    pub(super) fn new(n: usize, prices: Vec<i64>) -> Self {
        let clusters = prices.len();
        Self {
            prices,
            covers: vec![Cover::Open; clusters],
            slopes: vec![0; clusters],
            worth: vec![0; n],
            taken: vec![false; n],
            loss_in: vec![0; n],
            loss_out: vec![0; n],
        }
    }

    /// The best subtree within `fixed` at these prices, from the leaves up; a bound on all of them.
    pub(super) fn pass(&mut self, part: &Part<'_>, fixed: &[Fixed]) -> i64 {
        let Part { tree, is_leaf, needs_leaf } = *part;
        let n = fixed.len();
        self.covers.fill(Cover::Lost);
        for node in 0..n {
            if tree.clusters[node] != NONE && fixed[node] != Fixed::Out {
                let cover = &mut self.covers[tree.clusters[node] as usize];
                if fixed[node] == Fixed::In {
                    *cover = Cover::Sure;
                } else if *cover == Cover::Lost {
                    *cover = Cover::Open;
                }
            }
        }
        let mut bound = 0;
        for (cluster, price) in self.prices.iter_mut().enumerate() {
            if self.covers[cluster] != Cover::Open {
                *price = 0;
            }
            if self.covers[cluster] != Cover::Lost {
                bound += tree.bonuses[cluster] - *price;
            }
        }
        self.worth.copy_from_slice(tree.gains);
        for node in (1..n).rev() {
            if tree.clusters[node] != NONE {
                self.worth[node] += self.prices[tree.clusters[node] as usize];
            }
            let worth = match fixed[node] {
                Fixed::Free => self.worth[node].max(0),
                Fixed::In => self.worth[node],
                Fixed::Out => 0,
            };
            self.worth[tree.parents[node] as usize] += worth;
        }
        bound += self.worth[0];
        (self.taken[0], self.loss_in[0], self.loss_out[0]) = (true, 0, NEVER);
        let mut cheapest = (NEVER, 0);
        let mut is_empty = needs_leaf;
        for node in 1..n {
            let (parent, worth) = (tree.parents[node] as usize, self.worth[node]);
            let is_in;
            (is_in, self.loss_in[node], self.loss_out[node]) = match fixed[node] {
                Fixed::In => (true, 0, NEVER),
                Fixed::Out => (false, NEVER, NEVER),
                Fixed::Free => (
                    worth > 0,
                    (self.loss_in[parent] + (-worth).max(0)).min(NEVER),
                    worth.min(self.loss_out[parent]).max(0),
                ),
            };
            self.taken[node] = self.taken[parent] && is_in;
            if is_leaf[node] {
                is_empty &= !self.taken[node];
                if self.loss_in[node] < cheapest.0 {
                    cheapest = (self.loss_in[node], node);
                }
            }
        }
        if is_empty {
            // There is at least one leaf: the one by which the least is lost, and what is of worth beside it.
            let (loss, leaf) = cheapest;
            if leaf == 0 {
                return i64::MIN;
            }
            bound -= loss;
            let mut at = leaf;
            while !self.taken[at] {
                self.taken[at] = true;
                at = tree.parents[at] as usize;
            }
            for node in 1..n {
                let is_worth_it = fixed[node] == Fixed::Free && self.worth[node] > 0;
                self.taken[node] |= is_worth_it && self.taken[tree.parents[node] as usize];
            }
            self.loss_in.iter_mut().for_each(|other| *other = (*other - loss).max(0));
            self.loss_out.fill(0);
        }
        self.slopes.fill(-1);
        for node in 0..n {
            if self.taken[node] && tree.clusters[node] != NONE {
                self.slopes[tree.clusters[node] as usize] += 1;
            }
        }
        bound
    }

    /// Moves prices against the slope, as far as would close a `share` of the `gap` if the bound fell evenly; says
    /// whether there was any.
    pub(super) fn step(&mut self, bonuses: &[i64], share: f64, gap: i64) -> bool {
        let mut norm = 0;
        for (cluster, slope) in self.slopes.iter_mut().enumerate() {
            let price = self.prices[cluster];
            let is_at_its_end = (*slope > 0 && price == 0) || (*slope < 0 && price == bonuses[cluster]);
            if is_at_its_end || self.covers[cluster] != Cover::Open {
                *slope = 0;
            }
            norm += *slope * *slope;
        }
        let length = share * gap as f64 / norm.max(1) as f64;
        for (cluster, &slope) in self.slopes.iter().enumerate() {
            let price = self.prices[cluster].saturating_sub((length * slope as f64) as i64);
            self.prices[cluster] = price.clamp(0, bonuses[cluster]);
        }
        norm > 0
    }
}
