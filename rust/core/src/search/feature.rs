//! What a step says, so far as one step can be told from another by it.

/// What steps are compared by.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Feature {
    /// Nothing is known; like nothing else.
    #[default]
    Unknown,
    /// How often each run of tokens occurs, by its hash, ascending.
    Counts(Vec<(u64, f64)>),
    /// An embedding, or a hidden state.
    Dense(Vec<f32>),
}

impl Feature {
    /// Counts of all runs of 1 to `longest` tokens.
    pub fn ngrams(tokens: &[u32], longest: usize) -> Self {
        let mut hashes = Vec::with_capacity(tokens.len() * longest);
        for begin in 0..tokens.len() {
            let mut hash = 0xcbf2_9ce4_8422_2325u64;
            for token in tokens[begin..].iter().take(longest) {
                // FNV-1a over whole tokens, which are mixed so that runs of small numbers do not collide.
                hash = (hash ^ (u64::from(*token) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
                    .wrapping_mul(0x0000_0100_0000_01b3);
                hashes.push(hash);
            }
        }
        hashes.sort_unstable();
        Self::Counts(hashes.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as f64)).collect())
    }

    /// The cosine of the angle between the two; 0 with nothing, or with another kind of feature.
    pub fn similarity(&self, other: &Self) -> f64 {
        let (dot, own, others) = match (self, other) {
            (Self::Counts(a), Self::Counts(b)) => {
                let square =
                    |counts: &[(u64, f64)]| counts.iter().map(|(_, count)| count * count).sum::<f64>();
                let (mut dot, mut rest) = (0.0, &b[..]);
                for (hash, count) in a {
                    rest = &rest[rest.partition_point(|(other, _)| other < hash)..];
                    if let Some((_, found)) = rest.first().filter(|(other, _)| other == hash) {
                        dot += count * found;
                    }
                }
                (dot, square(a), square(b))
            }
            (Self::Dense(a), Self::Dense(b)) if a.len() == b.len() => {
                let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
                (dot(a, b), dot(a, a), dot(b, b))
            }
            _ => return 0.0,
        };
        let length = (own * others).sqrt();
        if length > 0.0 { dot / length } else { 0.0 }
    }
}

/// Puts steps that are alike into clusters: average linkage on 1 - [`Feature::similarity`], cut where two clusters are
/// further apart than `distance` (ETS, arXiv 2502.13575, section 4.2). Clusters are numbered in the order of their
/// first member: `[features]`, and how many there are.
pub fn clusters(features: &[&Feature], distance: f64) -> (Vec<u32>, u32) {
    let n = features.len();
    let mut apart = vec![0.0; n * n];
    for a in 0..n {
        for b in 0..a {
            let between = 1.0 - features[a].similarity(features[b]);
            (apart[a * n + b], apart[b * n + a]) = (between, between);
        }
    }
    // Chains of nearest neighbours end in pairs that average linkage merges too, in whatever order.
    let mut size = vec![1.0; n];
    let mut owner: Vec<usize> = (0..n).collect();
    let mut chain: Vec<usize> = Vec::new();
    let mut is_alone = vec![true; n]; // not merged into another
    let mut is_done = vec![false; n]; // further than `distance` from all others
    loop {
        let Some(&last) = chain.last() else {
            let Some(next) = (0..n).find(|&i| is_alone[i] && !is_done[i]) else { break };
            chain.push(next);
            continue;
        };
        let before = chain.len().checked_sub(2).map(|at| chain[at]);
        // The one before wins ties, so that chains end.
        let mut nearest = before.map(|at| (apart[last * n + at], at));
        for other in (0..n).filter(|&i| i != last && is_alone[i] && !is_done[i]) {
            let between = apart[last * n + other];
            if nearest.is_none_or(|(least, _)| between < least) {
                nearest = Some((between, other));
            }
        }
        match nearest {
            Some((between, other)) if between <= distance => {
                if before != Some(other) {
                    chain.push(other);
                    continue;
                }
                chain.truncate(chain.len() - 2);
                let (kept, gone) = (last.min(other), last.max(other));
                for third in 0..n {
                    let mean = (size[kept] * apart[kept * n + third] + size[gone] * apart[gone * n + third])
                        / (size[kept] + size[gone]);
                    (apart[kept * n + third], apart[third * n + kept]) = (mean, mean);
                }
                size[kept] += size[gone];
                is_alone[gone] = false;
                owner[gone] = kept;
            }
            _ => {
                // Merges bring no other cluster nearer than their nearer part was.
                is_done[last] = true;
                chain.pop();
            }
        }
    }
    let mut numbers = vec![u32::MAX; n];
    let mut count = 0;
    let mut found = vec![0; n];
    for leaf in 0..n {
        let mut at = leaf;
        while owner[at] != at {
            at = owner[at];
        }
        if numbers[at] == u32::MAX {
            numbers[at] = count;
            count += 1;
        }
        found[leaf] = numbers[at];
    }
    (found, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cosines_of_counts() {
        let [a, b, c] = [&[1, 2, 3][..], &[1, 2, 4], &[7]].map(|tokens| Feature::ngrams(tokens, 2));
        // Runs: 1 2 3 12 23 and 1 2 4 12 24, three of five are shared.
        assert!((a.similarity(&b) - 0.6).abs() < 1e-12);
        assert!((a.similarity(&a) - 1.0).abs() < 1e-12);
        assert_eq!(a.similarity(&c), 0.0);
        assert_eq!(a.similarity(&Feature::Unknown), 0.0);
        assert_eq!(Feature::ngrams(&[], 3).similarity(&a), 0.0);
        let (flat, steep) = (Feature::Dense(vec![1.0, 0.0]), Feature::Dense(vec![1.0, 1.0]));
        assert!((flat.similarity(&steep) - 0.5f64.sqrt()).abs() < 1e-9);
        assert_eq!(flat.similarity(&Feature::Dense(vec![1.0])), 0.0);
    }

    /// The definition: the two nearest clusters merge, as long as they are near enough.
    fn slow(features: &[&Feature], distance: f64) -> Vec<u32> {
        let mut groups: Vec<Vec<usize>> = (0..features.len()).map(|i| vec![i]).collect();
        loop {
            let mut nearest = (f64::INFINITY, 0, 0);
            for a in 0..groups.len() {
                for b in 0..a {
                    let pairs = groups[a].iter().flat_map(|&i| groups[b].iter().map(move |&j| (i, j)));
                    let sum: f64 = pairs.map(|(i, j)| 1.0 - features[i].similarity(features[j])).sum();
                    let mean = sum / (groups[a].len() * groups[b].len()) as f64;
                    if mean < nearest.0 {
                        nearest = (mean, a, b);
                    }
                }
            }
            if nearest.0 > distance {
                break;
            }
            let merged = groups.remove(nearest.1);
            groups[nearest.2].extend(merged);
        }
        groups.iter_mut().for_each(|group| group.sort_unstable());
        groups.sort();
        let mut found = vec![0; features.len()];
        for (number, group) in groups.iter().enumerate() {
            group.iter().for_each(|&i| found[i] = number as u32);
        }
        found
    }

    proptest! {
        #[test]
        fn are_those_of_average_linkage(
            rows in prop::collection::vec(prop::collection::vec(-1.0f32..1.0, 3), 0..14), distance in 0.0f64..1.2,
        ) {
            let features: Vec<Feature> = rows.into_iter().map(Feature::Dense).collect();
            let features: Vec<&Feature> = features.iter().collect();
            let (found, count) = clusters(&features, distance);
            prop_assert_eq!(&found, &slow(&features, distance));
            prop_assert_eq!(count, found.iter().max().map_or(0, |most| most + 1));
        }
    }
}
