//! A tree of guesses from counts: the tree mode of SuffixDecoding (Oliaro et al. 2024, section 3.2).
//!
//! From the longest match down, the continuation of highest estimated probability is added next,
//! wherever in the tree it hangs: a heap over the product of count ratios along the path. So an
//! even choice of two gives both, and a sure one a chain. Below [`SuffixDraft::propose_tree`]'s
//! `min_probability` nothing is added. The paper also scores every shorter suffix and takes the best
//! of all trees; we take the longest match alone, as for chains ([`super::suffix`]).

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::TreeProposal;
use super::corpus::SEPARATOR;
use super::index::Index;
use super::suffix::{Match, SuffixDraft, confidence_of};

/// Successors of a context that are looked at, besides its likeliest and its latest. A context with
/// more is a common word, and none of its other successors is likely.
const SUCCESSORS: usize = 64;

/// A token that may be added.
struct Candidate {
    probability: f32,
    /// Earlier ones first among equals.
    order: usize,
    parent: i32,
    depth: usize,
    token: u32,
    /// Of its own context, the token excluded.
    signals: (u32, u32, f32),
    follow: Follow,
}

/// Where a path goes on.
#[derive(Clone, Copy)]
enum Follow {
    /// At a context of the index.
    At(Match),
    /// Through text that occurred once: its next index, and the length of the match.
    Slice(usize, u32),
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.probability.total_cmp(&other.probability).then(other.order.cmp(&self.order))
    }
}

struct Grower<'a, I> {
    index: &'a I,
    pending: Option<&'a [u32]>,
    min_probability: f32,
    heap: BinaryHeap<Candidate>,
    offered: usize,
    tree: TreeProposal,
}

impl SuffixDraft {
    /// Guesses a tree of up to `max_tokens` tokens and `max_depth` levels after the committed text and
    /// `pending`. Parents come before children, siblings in order of probability; no path is less
    /// probable than `min_probability`. Changes nothing.
    #[must_use]
    pub fn propose_tree(
        &self,
        pending: &[u32],
        max_tokens: usize,
        max_depth: usize,
        min_probability: f32,
    ) -> TreeProposal {
        let grown = |limits| match self.longest(pending) {
            Some((Some(corpus), matched)) => grow(corpus, matched, None, limits),
            Some((None, matched)) => grow(self.automaton(), matched, Some(pending), limits),
            None => TreeProposal::default(),
        };
        grown((max_tokens, max_depth, min_probability))
    }
}

fn grow<I: Index>(
    index: &I,
    at: Match,
    pending: Option<&[u32]>,
    (max_tokens, max_depth, min_probability): (usize, usize, f32),
) -> TreeProposal {
    let tree = TreeProposal::default();
    let mut grower = Grower { index, pending, min_probability, heap: BinaryHeap::new(), offered: 0, tree };
    if max_depth > 0 {
        grower.offer(Follow::At(at), 1.0, -1, 0);
    }
    while grower.tree.tokens.len() < max_tokens
        && let Some(next) = grower.heap.pop()
    {
        let node = grower.tree.tokens.len() as i32;
        grower.tree.tokens.push(next.token);
        grower.tree.parents.push(next.parent);
        let (length, count, confidence) = next.signals;
        grower.tree.signals.push(length, count, confidence);
        if next.depth + 1 < max_depth {
            grower.offer(next.follow, next.probability, node, next.depth + 1);
        }
    }
    grower.tree
}

impl<I: Index> Grower<'_, I> {
    /// Offers what may come after a node, which is `parent` itself.
    fn offer(&mut self, follow: Follow, probability: f32, parent: i32, depth: usize) {
        let matched = match follow {
            Follow::Slice(index, length) => {
                return self.offer_slice(index, length, probability, parent, depth);
            }
            Follow::At(matched) => matched,
        };
        let latest = self.index.latest_end(matched.state).saturating_add(1);
        let count = self.index.count(matched.state);
        if count <= 1 {
            return self.offer_slice(latest, matched.length, probability, parent, depth);
        }
        let mut successors: Vec<(u32, u32)> = Vec::with_capacity(8);
        if let Some(token) = self.index.token(latest)
            && let Some(state) = self.index.step(matched.state, token)
        {
            successors.push((token, state));
        }
        self.index.for_each_successor(matched.state, SUCCESSORS, &mut |token, state| {
            if successors.first().is_none_or(|&(latest, _)| latest != token) {
                successors.push((token, state));
            }
        });
        for (token, state) in successors {
            let followed = self.index.count(state).clamp(1, count);
            let candidate = Candidate {
                probability: probability * followed as f32 / count as f32,
                order: self.offered,
                parent,
                depth,
                token,
                signals: (matched.length, count, confidence_of(followed, count)),
                follow: Follow::At(Match { state, length: matched.length.saturating_add(1) }),
            };
            self.push(candidate);
        }
    }

    fn offer_slice(&mut self, index: usize, length: u32, probability: f32, parent: i32, depth: usize) {
        if let Some(token) = self.read(index, parent) {
            let signals = (length, 1, confidence_of(1, 1));
            let follow = Follow::Slice(index.saturating_add(1), length.saturating_add(1));
            let order = self.offered;
            self.push(Candidate { probability, order, parent, depth, token, signals, follow });
        }
    }

    fn push(&mut self, candidate: Candidate) {
        if candidate.token != SEPARATOR && candidate.probability >= self.min_probability {
            self.offered += 1;
            self.heap.push(candidate);
        }
    }

    /// The token at `index` of text, pending tokens and the path to `node` laid end to end.
    fn read(&self, index: usize, node: i32) -> Option<u32> {
        if let Some(token) = self.index.token(index) {
            return Some(token);
        }
        let pending = self.pending?;
        let beyond = index - self.index.num_tokens();
        if let Some(&token) = pending.get(beyond) {
            return Some(token);
        }
        let mut path = Vec::new();
        let mut at = node;
        while let Ok(token) = usize::try_from(at) {
            path.push(self.tree.tokens[token]);
            at = self.tree.parents[token];
        }
        let from_root = beyond - pending.len();
        path.len().checked_sub(from_root + 1).map(|at| path[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::corpus::Corpus;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn draft(text: &[u32]) -> SuffixDraft {
        let mut draft = SuffixDraft::new(None, 1).unwrap();
        draft.extend(text).unwrap();
        draft
    }

    #[test]
    fn an_even_choice_gives_both_and_a_sure_one_a_chain() {
        let text = [9, 1, 9, 2, 8, 9, 1, 7, 9, 2, 4, 9];
        let tree = draft(&text).propose_tree(&[], 5, 10, 0.1);
        // 1 and 2 followed 9 twice each, 2 last.
        assert_eq!(tree.tokens[0], 2);
        assert_eq!(tree.parents.iter().filter(|&&parent| parent == -1).count(), 2);
        let chain = draft(&[1, 2, 3, 4, 1]).propose_tree(&[2], 6, 10, 0.1);
        assert_eq!((chain.tokens, chain.parents), (vec![3, 4, 1, 2, 3, 4], vec![-1, 0, 1, 2, 3, 4]));
    }

    #[test]
    fn stops_at_the_depth_the_size_and_the_probability() {
        let text = [7, 1, 7, 1, 7, 1, 7, 2, 7];
        let tree = |size, depth, least| draft(&text).propose_tree(&[], size, depth, least);
        assert_eq!(tree(9, 1, 0.1).tokens, [1, 2]);
        assert_eq!(tree(9, 1, 0.5).tokens, [1]);
        assert_eq!(tree(1, 9, 0.1).tokens.len(), 1);
        assert!(tree(0, 9, 0.1).tokens.is_empty() && tree(9, 0, 0.1).tokens.is_empty());
    }

    proptest! {
        #[test]
        fn every_path_is_text_that_occurred(
            text in prop::collection::vec(0u32..4, 1..60),
            max_tokens in 0usize..20,
            max_depth in 0usize..6,
            in_corpus: bool,
        ) {
            let draft = if in_corpus {
                let corpus = Arc::new(Corpus::new([&text]).unwrap());
                let mut draft = SuffixDraft::new(Some(corpus), 1).unwrap();
                draft.extend(&text[text.len() - 1..]).unwrap();
                draft
            } else {
                draft(&text)
            };
            let tree = draft.propose_tree(&[], max_tokens, max_depth, 0.05);
            prop_assert!(tree.tokens.len() <= max_tokens);
            prop_assert_eq!((tree.parents.len(), tree.signals.len()), (tree.tokens.len(), tree.tokens.len()));
            let mut paths: Vec<Vec<u32>> = Vec::new();
            for (node, (&token, &parent)) in tree.tokens.iter().zip(&tree.parents).enumerate() {
                prop_assert!(parent < node as i32);
                let mut path = if parent < 0 { vec![] } else { paths[parent as usize].clone() };
                path.push(token);
                prop_assert!(path.len() <= max_depth);
                prop_assert!(!paths.contains(&path), "siblings differ");
                let length = tree.signals.match_lengths[node] as usize;
                // The context before the token, and the token, stand together in the text, or the text
                // with the path after it where it is read beyond its end.
                let mut whole = text.clone();
                whole.extend(&path);
                let context = &whole[whole.len() - 1 - length..];
                let seen = if in_corpus { &text[..] } else { &whole[..whole.len() - 1] };
                prop_assert!(seen.windows(length + 1).any(|window| window == context));
                paths.push(path);
            }
        }
    }
}
