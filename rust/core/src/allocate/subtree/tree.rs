//! Trees to choose from, and what is decided of their nodes.

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

/// What is decided of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fixed {
    Free,
    In,
    Out,
}

/// A tree that is solved by itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) tree: Tree<'a>,
    pub(super) is_leaf: &'a [bool],
    /// Whether at least one leaf has to be chosen; if not, the root alone will do.
    pub(super) needs_leaf: bool,
}

/// What is in brings in what is above it, what is out keeps out what is below it.
pub(super) fn close(tree: &Tree<'_>, fixed: &mut [Fixed]) {
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
