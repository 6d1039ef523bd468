//! ETS (Hooper et al. 2025, "ETS: efficient tree search for inference-time scaling", arXiv 2502.13575): REBASE over
//! the leaves of a subtree that is worth what it costs to hold, and that still says different things.

use super::{Round, Share};
use crate::allocate::{NO_CLUSTER, Scratch, Tree, best_subtree, by_ceiling, softmax_weights};
use crate::search::feature::{Feature, clusters};

/// Keeps the subtree of greatest `sum of REBASE's shares - cost weight * its cost / the cost of all + coverage weight *
/// the clusters that it covers / all clusters`, and shares the width out over its leaves as REBASE does.
#[derive(Debug)]
pub struct Ets {
    settings: EtsSettings,
    ended: u64,
    weights: Vec<u64>,
    scratch: Scratch,
}

/// The parameters of ETS.
#[derive(Debug, Clone, Copy)]
pub struct EtsSettings {
    /// The temperature of REBASE's softmax, above 0.
    pub temperature: f64,
    /// Of what the subtree costs, 0 or more.
    pub cost: f64,
    /// Of the clusters that it covers, 0 or more.
    pub coverage: f64,
    /// How far apart clusters may be that are one.
    pub distance: f64,
}

/// One, as a worth: sums of some thousands fit by far.
const ONE: f64 = (1u64 << 44) as f64;

impl Ets {
    /// With these parameters.
    pub fn new(settings: EtsSettings) -> Self {
        Self { settings, ended: 0, weights: Vec::new(), scratch: Scratch::default() }
    }

    /// Marks the leaves that are kept, by what REBASE would give them.
    fn kept(&self, round: &Round<'_>, shares: &[u64]) -> Vec<bool> {
        let mut numbers: Vec<u32> = Vec::new();
        for &leaf in round.leaves {
            let mut at = leaf;
            loop {
                numbers.push(at);
                if at == crate::search::ROOT {
                    break;
                }
                at = round.nodes[at as usize].parent;
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        let place = |number: u32| numbers.partition_point(|&other| other < number);
        let all: f64 = numbers.iter().map(|&number| round.nodes[number as usize].cost as f64).sum();
        let mut gains: Vec<i64> = numbers
            .iter()
            .map(|&number| {
                let part = round.nodes[number as usize].cost as f64 / all.max(1.0);
                -(self.settings.cost * part * ONE).round() as i64
            })
            .collect();
        let features: Vec<&Feature> =
            round.leaves.iter().map(|&leaf| &round.features[leaf as usize]).collect();
        let (found, count) = clusters(&features, self.settings.distance);
        let mut of_nodes = vec![NO_CLUSTER; numbers.len()];
        let total = shares.iter().sum::<u64>().max(1) as f64;
        for ((&leaf, &share), cluster) in round.leaves.iter().zip(shares).zip(found) {
            gains[place(leaf)] += (share as f64 / total * ONE).round() as i64;
            of_nodes[place(leaf)] = cluster;
        }
        let parents: Vec<u32> =
            numbers.iter().map(|&number| place(round.nodes[number as usize].parent) as u32).collect();
        let bonus = (self.settings.coverage / f64::from(count.max(1)) * ONE).round() as i64;
        let (_, chosen) = best_subtree(&Tree {
            parents: &parents,
            gains: &gains,
            clusters: &of_nodes,
            bonuses: &vec![bonus; count as usize],
        });
        round.leaves.iter().map(|&leaf| chosen[place(leaf)]).collect()
    }
}

impl Share for Ets {
    fn counts(&mut self, round: &Round<'_>, out: &mut [u64]) {
        self.ended += round.ended.len() as u64;
        let room = round.width.saturating_sub(self.ended).min(round.most);
        if room == 0 {
            return;
        }
        let values: Vec<f64> = round.leaves.iter().map(|&leaf| round.value(leaf)).collect();
        softmax_weights(&values, self.settings.temperature, &mut self.weights);
        by_ceiling(room, &self.weights, &mut self.scratch, out);
        let kept = self.kept(round, out);
        let places: Vec<usize> = (0..out.len()).filter(|&place| kept[place]).collect();
        let values: Vec<f64> = places.iter().map(|&place| values[place]).collect();
        softmax_weights(&values, self.settings.temperature, &mut self.weights);
        let mut counts = vec![0; places.len()];
        by_ceiling(room, &self.weights, &mut self.scratch, &mut counts);
        out.fill(0);
        places.iter().zip(counts).for_each(|(&place, count)| out[place] = count);
    }
}
