//! The best subtree of a tree whose nodes cost something and whose leaves cover something: ETS's choice of leaves
//! (Hooper et al. 2025, "ETS: efficient tree search for inference-time scaling", arXiv 2502.13575, section 4), exactly.
//!
//! Without coverage the best subtree is one pass from the leaves up. Coverage is priced: a leaf is paid `price` of its
//! cluster, each cluster pays its bonus less its price, and whatever the prices, that pass then gives a bound on the
//! best subtree (Lagrangian relaxation of "a cluster counts once"; its least bound is that of the linear programme,
//! since the pass solves a closure problem). Prices are improved by the subgradient method, the subtrees seen on the
//! way are mended into good ones, and nodes that no better subtree can have, or lack, are fixed by what the bound loses
//! by them. What is left undecided falls apart into parts that no cluster links; a part is solved by itself, and one
//! that does not fall apart is branched on.

/// No cluster.
pub const NONE: u32 = u32::MAX;

/// A tree to choose from. Node 0 is the root, which is always chosen; a parent has a lower number than its children.
#[derive(Debug, Clone, Copy)]
pub struct Tree<'a> {
    /// The parent of each node; the root is its own.
    pub parents: &'a [u32],
    /// What choosing the node is worth by itself, negative where it costs something, as all but leaves do: `[nodes]`.
    pub gains: &'a [i64],
    /// The cluster of each leaf, [`NONE`] elsewhere: `[nodes]`.
    pub clusters: &'a [u32],
    /// What a cluster is worth of which at least one leaf is chosen, 0 or more: `[clusters]`.
    pub bonuses: &'a [i64],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fixed {
    Free,
    In,
    Out,
}

/// Whether a cluster is covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cover {
    Open,
    Sure,
    Lost,
}

/// What a choice loses that cannot be made.
const NEVER: i64 = i64::MAX / 4;

/// Passes before the first branching, and after it.
const PASSES: [u32; 2] = [300, 40];

/// The subtree of greatest worth among those with at least one leaf: gains of its nodes and the bonuses of the clusters
/// that it covers. Its worth, and which nodes are in it; of several it is always the same one.
pub fn best_subtree(tree: &Tree<'_>) -> (i64, Vec<bool>) {
    let n = tree.parents.len();
    let mut is_leaf = vec![true; n];
    tree.parents[1..].iter().for_each(|&parent| is_leaf[parent as usize] = false);
    let prices = tree.bonuses.iter().map(|bonus| bonus / 2).collect();
    let part = Part { tree: *tree, is_leaf: &is_leaf, needs_leaf: n > 1 };
    Branching::new(part, prices, i64::MIN).solve().unwrap_or((i64::MIN, vec![false; n]))
}

/// A tree that is solved by itself.
#[derive(Debug, Clone, Copy)]
struct Part<'a> {
    tree: Tree<'a>,
    is_leaf: &'a [bool],
    /// Whether at least one leaf has to be chosen; if not, the root alone will do.
    needs_leaf: bool,
}

/// Branch and bound on a part.
#[derive(Debug)]
struct Branching<'a> {
    part: Part<'a>,
    /// Of each node in the last pass: its worth with the best below it.
    worth: Vec<i64>,
    taken: Vec<bool>,
    /// What the bound loses if the node has to be in, or out.
    loss_in: Vec<i64>,
    loss_out: Vec<i64>,
    prices: Vec<i64>,
    best_prices: Vec<i64>,
    covers: Vec<Cover>,
    /// Leaves taken of each cluster, less one: the slope of the bound along its price.
    slopes: Vec<i64>,
    /// How often each node was taken, lately.
    shares: Vec<f32>,
    mended: Mended,
    best: Vec<bool>,
    best_worth: i64,
    has_found: bool,
}

/// A subtree that is improved step by step.
#[derive(Debug, Default)]
struct Mended {
    /// Chosen leaves at or below each node.
    below: Vec<u32>,
    covered: Vec<u32>,
}

impl<'a> Branching<'a> {
    /// Looks for something that is worth more than `cutoff`.
    fn new(part: Part<'a>, prices: Vec<i64>, cutoff: i64) -> Self {
        let (n, clusters) = (part.tree.parents.len(), prices.len());
        Self {
            part,
            worth: vec![0; n],
            taken: vec![false; n],
            loss_in: vec![0; n],
            loss_out: vec![0; n],
            best_prices: prices.clone(),
            prices,
            covers: vec![Cover::Open; clusters],
            slopes: vec![0; clusters],
            shares: vec![0.5; n],
            mended: Mended::default(),
            best: vec![false; n],
            best_worth: cutoff,
            has_found: false,
        }
    }

    fn solve(mut self) -> Option<(i64, Vec<bool>)> {
        let n = self.worth.len();
        let mut fixed = vec![Fixed::Free; n];
        fixed[0] = Fixed::In;
        self.drop_dominated(&mut fixed);
        let prices = std::mem::take(&mut self.prices);
        let mut stack = vec![(fixed, prices, i64::MAX)];
        let mut passes = PASSES[0];
        while let Some((mut fixed, prices, bound)) = stack.pop() {
            if bound <= self.best_worth {
                continue;
            }
            self.prices = prices;
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
            let bound = self.pass(fixed);
            idle += 1;
            if bound < least {
                (least, idle) = (bound, 0);
                self.best_prices.clone_from(&self.prices);
            }
            if pass % 8 == 0 {
                self.mend();
            }
            if least <= self.best_worth {
                return least;
            }
            for (share, taken) in self.shares.iter_mut().zip(&self.taken) {
                *share += 0.1 * (f32::from(u8::from(*taken)) - *share);
            }
            if idle >= 6 {
                (idle, theta) = (0, theta * 0.6);
                if theta < 0.02 {
                    break;
                }
            }
            if !self.step(theta, bound) {
                break; // what was taken is worth the bound
            }
        }
        self.prices.clone_from(&self.best_prices);
        let bound = self.pass(fixed);
        self.mend();
        let room = bound.saturating_sub(self.best_worth);
        for (node, fixed) in fixed.iter_mut().enumerate().skip(1) {
            if *fixed == Fixed::Free {
                if self.loss_in[node] >= room {
                    *fixed = Fixed::Out;
                } else if self.loss_out[node] >= room && self.taken[node] {
                    *fixed = Fixed::In;
                }
            }
        }
        close(&self.part.tree, fixed);
        bound
    }

    /// Solves what is free part by part, if it falls apart or has become much smaller; says whether it did.
    fn take_apart(&mut self, fixed: &[Fixed]) -> bool {
        let Part { tree, is_leaf, needs_leaf } = self.part;
        let n = fixed.len();
        let needs_leaf = needs_leaf && !(0..n).any(|node| is_leaf[node] && fixed[node] == Fixed::In);
        // Nodes are linked by an edge, or by a cluster that is not covered in any case.
        let mut links: Vec<u32> = (0..n as u32).collect();
        let mut first_of = vec![NONE; tree.bonuses.len()];
        self.pass(fixed);
        for node in (1..n).filter(|&node| fixed[node] == Fixed::Free) {
            let parent = tree.parents[node] as usize;
            if fixed[parent] == Fixed::Free {
                link(&mut links, node as u32, parent as u32);
            }
            let cluster = tree.clusters[node] as usize;
            if self.covers.get(cluster) == Some(&Cover::Open) {
                match first_of[cluster] {
                    NONE => first_of[cluster] = node as u32,
                    first => link(&mut links, node as u32, first),
                }
            }
        }
        let free: Vec<u32> = (1..n as u32).filter(|&node| fixed[node as usize] == Fixed::Free).collect();
        let mut groups: Vec<(u32, u32)> =
            free.iter().map(|&node| (if needs_leaf { 0 } else { root_of(&mut links, node) }, node)).collect();
        groups.sort_unstable();
        let groups: Vec<&[(u32, u32)]> = groups.chunk_by(|a, b| a.0 == b.0).collect();
        // A part is always smaller than the whole, or there is no end to it.
        if groups.is_empty() || (groups.len() == 1 && (free.len() + 1) * 4 > n * 3) {
            return false;
        }
        let mut chosen: Vec<bool> = fixed.iter().map(|fixed| *fixed == Fixed::In).collect();
        let mut sure = (0..n).filter(|&node| chosen[node]).map(|node| tree.gains[node]).sum::<i64>();
        let covers = self.covers.iter().zip(tree.bonuses).filter(|(cover, _)| **cover == Cover::Sure);
        sure += covers.map(|(_, bonus)| bonus).sum::<i64>();
        let parts: Vec<Owned> = groups.iter().map(|group| self.owned(fixed, group)).collect();
        let mut bounds: i64 = parts.iter().map(|part| part.bound).sum();
        for (part, group) in parts.iter().zip(&groups) {
            bounds -= part.bound;
            // What is worth no more than this cannot become better than the best, whatever the other parts give.
            let cutoff = self.best_worth.saturating_sub(sure + bounds);
            let Some((worth, found)) = part.solve(needs_leaf, cutoff) else { return true };
            sure += worth;
            for ((_, node), found) in group.iter().zip(&found[1..]) {
                chosen[*node as usize] = *found;
            }
        }
        if sure > self.best_worth {
            (self.best_worth, self.best, self.has_found) = (sure, chosen, true);
        }
        true
    }

    /// A part of its own: the nodes of a group, below a root that stands for all that is in.
    fn owned(&self, fixed: &[Fixed], group: &[(u32, u32)]) -> Owned {
        let tree = &self.part.tree;
        let mut part = Owned {
            parents: vec![0],
            gains: vec![0],
            clusters: vec![NONE],
            is_leaf: vec![false],
            ..Owned::default()
        };
        let mut numbers = std::collections::BTreeMap::new();
        for &(_, node) in group {
            let node = node as usize;
            let parent = tree.parents[node];
            let place = group.partition_point(|&(_, other)| other < parent) as u32 + 1;
            let is_top = fixed[parent as usize] == Fixed::In;
            part.parents.push(if is_top { 0 } else { place });
            part.bound += if is_top { self.worth[node].max(0) } else { 0 };
            part.gains.push(tree.gains[node]);
            part.is_leaf.push(self.part.is_leaf[node]);
            let cluster = tree.clusters[node] as usize;
            let mut own = NONE;
            if self.covers.get(cluster) == Some(&Cover::Open) {
                own = *numbers.entry(cluster).or_insert(part.bonuses.len() as u32);
                if own as usize == part.bonuses.len() {
                    part.bonuses.push(tree.bonuses[cluster]);
                    part.prices.push(self.prices[cluster]);
                    part.bound += tree.bonuses[cluster] - self.prices[cluster];
                }
            }
            part.clusters.push(own);
        }
        part
    }

    /// The best subtree within `fixed` at these prices, from the leaves up; a bound on all of them.
    fn pass(&mut self, fixed: &[Fixed]) -> i64 {
        let Part { tree, is_leaf, needs_leaf } = self.part;
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

    /// Moves prices against the slope; says whether there was any.
    fn step(&mut self, theta: f64, bound: i64) -> bool {
        let bonuses = self.part.tree.bonuses;
        let mut norm = 0;
        for (cluster, slope) in self.slopes.iter_mut().enumerate() {
            let price = self.prices[cluster];
            let is_at_its_end = (*slope > 0 && price == 0) || (*slope < 0 && price == bonuses[cluster]);
            if is_at_its_end || self.covers[cluster] != Cover::Open {
                *slope = 0;
            }
            norm += *slope * *slope;
        }
        let length = theta * bound.saturating_sub(self.best_worth) as f64 / norm.max(1) as f64;
        for (cluster, &slope) in self.slopes.iter().enumerate() {
            let price = self.prices[cluster].saturating_sub((length * slope as f64) as i64);
            self.prices[cluster] = price.clamp(0, bonuses[cluster]);
        }
        norm > 0
    }

    /// Improves what was taken leaf by leaf, and keeps it if it is the best so far.
    fn mend(&mut self) {
        let Part { tree, is_leaf, needs_leaf } = self.part;
        let Some(worth) = self.mended.improve(&tree, is_leaf, needs_leaf, &self.taken) else { return };
        if worth > self.best_worth {
            (self.best_worth, self.has_found) = (worth, true);
            for (chosen, below) in self.best.iter_mut().zip(&self.mended.below) {
                *chosen = *below > 0;
            }
            self.best[0] = true;
        }
    }
}

/// A part with memory of its own.
#[derive(Debug, Default)]
struct Owned {
    parents: Vec<u32>,
    gains: Vec<i64>,
    clusters: Vec<u32>,
    is_leaf: Vec<bool>,
    bonuses: Vec<i64>,
    prices: Vec<i64>,
    /// It is worth at most this.
    bound: i64,
}

impl Owned {
    fn solve(&self, needs_leaf: bool, cutoff: i64) -> Option<(i64, Vec<bool>)> {
        let Self { parents, gains, clusters, bonuses, .. } = self;
        let tree = Tree { parents, gains, clusters, bonuses };
        Branching::new(Part { tree, is_leaf: &self.is_leaf, needs_leaf }, self.prices.clone(), cutoff).solve()
    }
}

fn root_of(links: &mut [u32], mut node: u32) -> u32 {
    while links[node as usize] != node {
        links[node as usize] = links[links[node as usize] as usize];
        node = links[node as usize];
    }
    node
}

fn link(links: &mut [u32], a: u32, b: u32) {
    let (a, b) = (root_of(links, a), root_of(links, b));
    links[a.max(b) as usize] = a.min(b);
}

/// What is in brings in what is above it, what is out keeps out what is below it.
fn close(tree: &Tree<'_>, fixed: &mut [Fixed]) {
    for node in (1..fixed.len()).rev() {
        if fixed[node] == Fixed::In {
            fixed[tree.parents[node] as usize] = Fixed::In;
        }
    }
    for node in 1..fixed.len() {
        if fixed[tree.parents[node] as usize] == Fixed::Out {
            fixed[node] = Fixed::Out;
        }
    }
}

impl Mended {
    /// Adds and removes leaves of what is `taken` as long as it gets better; its worth. [`Mended::below`] has it.
    fn improve(
        &mut self,
        tree: &Tree<'_>,
        is_leaf: &[bool],
        needs_leaf: bool,
        taken: &[bool],
    ) -> Option<i64> {
        let n = taken.len();
        self.below.clear();
        self.below.resize(n, 0);
        self.covered.clear();
        self.covered.resize(tree.bonuses.len(), 0);
        let mut leaves = 0;
        for node in (0..n).rev() {
            if is_leaf[node] && taken[node] {
                self.below[node] = 1;
                leaves += 1;
                if let Some(covered) = self.covered.get_mut(tree.clusters[node] as usize) {
                    *covered += 1;
                }
            }
            if node > 0 {
                self.below[tree.parents[node] as usize] += self.below[node];
            }
        }
        let mut has_changed = true;
        while has_changed {
            has_changed = false;
            for leaf in 1..n {
                if !is_leaf[leaf] {
                    continue;
                }
                let is_in = self.below[leaf] > 0;
                // What the leaf brings, or would bring, with all that is there for it alone.
                let alone = u32::from(is_in);
                let mut worth = 0;
                if tree.clusters[leaf] != NONE && self.covered[tree.clusters[leaf] as usize] == alone {
                    worth += tree.bonuses[tree.clusters[leaf] as usize];
                }
                let mut at = leaf;
                while at > 0 && self.below[at] == alone {
                    worth += tree.gains[at];
                    at = tree.parents[at] as usize;
                }
                if (is_in && worth < 0 && leaves > u32::from(needs_leaf)) || (!is_in && worth > 0) {
                    self.toggle(tree, leaf, is_in);
                    leaves = if is_in { leaves - 1 } else { leaves + 1 };
                    has_changed = true;
                }
            }
        }
        let gains = (0..n).filter(|&node| node == 0 || self.below[node] > 0).map(|node| tree.gains[node]);
        let bonuses = self.covered.iter().zip(tree.bonuses).filter(|(covered, _)| **covered > 0);
        let worth = gains.sum::<i64>() + bonuses.map(|(_, bonus)| bonus).sum::<i64>();
        (leaves > 0 || !needs_leaf).then_some(worth)
    }

    fn toggle(&mut self, tree: &Tree<'_>, leaf: usize, is_in: bool) {
        let change = |count: &mut u32| *count = if is_in { *count - 1 } else { *count + 1 };
        if let Some(covered) = self.covered.get_mut(tree.clusters[leaf] as usize) {
            change(covered);
        }
        let mut at = leaf;
        loop {
            change(&mut self.below[at]);
            if at == 0 {
                return;
            }
            at = tree.parents[at] as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A tree as the tests make it: parents, gains, clusters, bonuses.
    type Case = (Vec<u32>, Vec<i64>, Vec<u32>, Vec<i64>);

    fn solved(case: &Case) -> (i64, Vec<bool>) {
        best_subtree(&Tree { parents: &case.0, gains: &case.1, clusters: &case.2, bonuses: &case.3 })
    }

    fn is_leaf(parents: &[u32], node: usize) -> bool {
        !parents.iter().enumerate().any(|(child, &parent)| child > 0 && parent as usize == node)
    }

    /// What the subtree of these leaves is worth.
    fn worth(case: &Case, leaves: &[usize]) -> i64 {
        let (parents, gains, clusters, bonuses) = case;
        let mut is_in = vec![false; parents.len()];
        let mut is_covered = vec![false; bonuses.len()];
        for &leaf in leaves {
            let mut at = leaf;
            while !is_in[at] {
                is_in[at] = true;
                at = parents[at] as usize;
            }
            if clusters[leaf] != NONE {
                is_covered[clusters[leaf] as usize] = true;
            }
        }
        is_in[0] = true;
        let gains = gains.iter().zip(is_in).filter(|(_, is_in)| *is_in).map(|(gain, _)| gain);
        let bonuses = bonuses.iter().zip(is_covered).filter(|(_, is_in)| *is_in).map(|(bonus, _)| bonus);
        gains.sum::<i64>() + bonuses.sum::<i64>()
    }

    fn brute(case: &Case) -> i64 {
        let leaves: Vec<usize> = (0..case.0.len()).filter(|&node| is_leaf(&case.0, node)).collect();
        let subsets = 1u32..1 << leaves.len();
        subsets
            .map(|subset| {
                let chosen: Vec<usize> =
                    (0..leaves.len()).filter(|i| subset >> i & 1 == 1).map(|i| leaves[i]).collect();
                worth(case, &chosen)
            })
            .max()
            .unwrap_or(i64::MIN)
    }

    fn cases(max: usize) -> impl Strategy<Value = Case> {
        let node = (any::<u32>(), -9i64..5, 0u32..5);
        (prop::collection::vec(node, 1..max), prop::collection::vec(0i64..9, 5), any::<bool>()).prop_map(
            |(nodes, bonuses, are_few)| {
                let parents: Vec<u32> = (0..nodes.len())
                    .map(
                        |i| if i == 0 { 0 } else { nodes[i].0 % (if are_few { 3.min(i) } else { i }) as u32 },
                    )
                    .collect();
                let gains = (0..nodes.len())
                    .map(|i| if is_leaf(&parents, i) { nodes[i].1 } else { nodes[i].1.min(0) })
                    .collect();
                let clusters = (0..nodes.len())
                    .map(|i| if is_leaf(&parents, i) && nodes[i].2 < 4 { nodes[i].2 } else { NONE })
                    .collect();
                (parents, gains, clusters, bonuses)
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]
        #[test]
        fn is_the_best_of_all(case in cases(14)) {
            let (found, chosen) = solved(&case);
            prop_assert_eq!(found, brute(&case));
            let leaves: Vec<usize> =
                (0..chosen.len()).filter(|&node| chosen[node] && is_leaf(&case.0, node)).collect();
            prop_assert!(!leaves.is_empty());
            prop_assert_eq!(found, worth(&case, &leaves));
        }
    }

    #[test]
    fn a_leaf_is_kept_for_what_it_alone_covers() {
        // Two branches of two leaves; the second is worth its cost by the cluster that it alone covers.
        let parents = vec![0, 0, 0, 1, 1, 2, 2];
        let gains = vec![0, -2, -2, 4, 1, -1, -2];
        let clusters = vec![NONE, NONE, NONE, 0, 0, 1, 1];
        assert_eq!(
            solved(&(parents.clone(), gains.clone(), clusters.clone(), vec![1, 4])),
            (5, vec![true, true, true, true, true, true, false])
        );
        assert_eq!(
            solved(&(parents, gains, clusters, vec![1, 2])),
            (4, vec![true, true, false, true, true, false, false])
        );
    }
}
