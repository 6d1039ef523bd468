//! What is left undecided falls apart into parts that no cluster links.

use super::pricing::{Cover, Pricing};
use super::tree::{Fixed, NONE, Part, Tree};

/// Parts that can be solved by themselves, and whether one of them needs a leaf; nothing if there is but one that is
/// not much smaller than the whole. The last pass of `pricing` was over `fixed`.
pub(super) fn split(part: &Part<'_>, fixed: &[Fixed], pricing: &Pricing) -> Option<(Vec<Owned>, bool)> {
    let Part { tree, is_leaf, needs_leaf } = *part;
    let n = fixed.len();
    let needs_leaf = needs_leaf && !(0..n).any(|node| is_leaf[node] && fixed[node] == Fixed::In);
    // Nodes are linked by an edge, or by a cluster that is not covered in any case.
    let mut links: Vec<u32> = (0..n as u32).collect();
    let mut first_of = vec![NONE; tree.bonuses.len()];
    for node in (1..n).filter(|&node| fixed[node] == Fixed::Free) {
        let parent = tree.parents[node] as usize;
        if fixed[parent] == Fixed::Free {
            link(&mut links, node as u32, parent as u32);
        }
        let cluster = tree.clusters[node] as usize;
        if pricing.covers.get(cluster) == Some(&Cover::Open) {
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
        return None;
    }
    Some((groups.iter().map(|group| owned(part, fixed, pricing, group)).collect(), needs_leaf))
}

/// A part of its own: the nodes of a group, below a root that stands for all that is in.
fn owned(part: &Part<'_>, fixed: &[Fixed], pricing: &Pricing, group: &[(u32, u32)]) -> Owned {
    let (whole, tree) = (part, &part.tree);
    let mut part = Owned {
        nodes: group.iter().map(|&(_, node)| node).collect(),
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
        part.bound += if is_top { pricing.worth[node].max(0) } else { 0 };
        part.gains.push(tree.gains[node]);
        part.is_leaf.push(whole.is_leaf[node]);
        let cluster = tree.clusters[node] as usize;
        let mut own = NONE;
        if pricing.covers.get(cluster) == Some(&Cover::Open) {
            own = *numbers.entry(cluster).or_insert(part.bonuses.len() as u32);
            if own as usize == part.bonuses.len() {
                part.bonuses.push(tree.bonuses[cluster]);
                part.prices.push(pricing.prices[cluster]);
                part.bound += tree.bonuses[cluster] - pricing.prices[cluster];
            }
        }
        part.clusters.push(own);
    }
    part
}

/// A part with memory of its own.
#[derive(Debug, Default)]
pub(super) struct Owned {
    /// The numbers of its nodes, but for its root, in the whole.
    pub(super) nodes: Vec<u32>,
    parents: Vec<u32>,
    gains: Vec<i64>,
    clusters: Vec<u32>,
    is_leaf: Vec<bool>,
    bonuses: Vec<i64>,
    pub(super) prices: Vec<i64>,
    /// It is worth at most this.
    pub(super) bound: i64,
}

impl Owned {
    /// As a tree to be solved.
    pub(super) fn part(&self, needs_leaf: bool) -> Part<'_> {
        let Self { parents, gains, clusters, bonuses, .. } = self;
        let tree = Tree { parents, gains, clusters, bonuses };
        Part { tree, is_leaf: &self.is_leaf, needs_leaf }
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
