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

mod branching;
mod mended;
mod parts;
mod pricing;
mod tree;

pub use tree::{NONE, Tree};

use branching::Branching;
use tree::Part;

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
