//! How much each candidate gets: children of a leaf, samples of a problem, keys of a head. One rule a file.
//!
//! All decisions are on integers or on comparisons of floats that were computed elsewhere, ties go to the lowest
//! index, and what a rule needs beside its output lies in a [`Scratch`] that the caller keeps: no call allocates
//! once that has grown, but for those of [`best_subtree`], which branches.
//!
//! ```
//! use hornbeam_core::allocate::{apportion, by_marginal_gain};
//!
//! // Ten units in the proportion 5 : 3 : 1, none of them more than 5.
//! assert_eq!(apportion(10, &[5, 3, 1], &[0; 3], &[5; 3]), [5, 4, 1]);
//!
//! // Four units, each where it brings most: the k-th of a candidate brings 1 / k.
//! let mut units = [0; 3];
//! by_marginal_gain(4, &[9; 3], |_, k| 1.0 / (k + 1) as f64, &mut Vec::new(), &mut units);
//! assert_eq!(units, [2, 1, 1]);
//! ```

mod apportion;
mod bisect;
mod ceiling;
mod knapsack;
mod level;
mod marginal;
mod mass;
mod rate;
mod scratch;
mod subtree;
mod threshold;

pub use apportion::apportion;
pub use bisect::common_threshold;
pub use ceiling::by_ceiling;
pub use knapsack::knapsack;
pub use level::by_common_level;
pub use marginal::by_marginal_gain;
pub use mass::smallest_mass;
pub use rate::by_rate;
pub use scratch::Scratch;
pub use subtree::{NONE as NO_CLUSTER, Tree, best_subtree};
pub use threshold::at_least;

/// One, as a weight: fixed-point weights are relative to the greatest.
pub const WEIGHT_ONE: u64 = 1 << 40;

/// `exp((value - greatest) / temperature)` of each value as an integer, the greatest being [`WEIGHT_ONE`]. Values
/// are finite, `temperature` is above 0.
pub fn softmax_weights(values: &[f64], temperature: f64, out: &mut Vec<u64>) {
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    out.clear();
    out.extend(values.iter().map(|value| {
        let exponent = ((value - greatest) / temperature).max(-700.0);
        (exponent.exp() * WEIGHT_ONE as f64) as u64
    }));
}
