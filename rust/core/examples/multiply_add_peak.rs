//! The most multiply-adds a second that this machine does: chains of fused multiply-adds that stay
//! in registers, on as many threads as the argument says, 1 by default. Prints the rate of all
//! threads together.
//!
//! Each thread takes the best of many short runs, so that other load shows little.

use std::hint::black_box;
use std::time::Instant;

use hornbeam_core::simd::{Isa, Kernel, Lanes, WIDTH};

/// Turns of one run: some tens of microseconds.
const TURNS: usize = 20_000;
const RUNS: usize = 2_000;

struct Chains;

impl Kernel for Chains {
    type Output = usize;

    /// Runs as many independent chains as a kernel has accumulators, and counts multiply-adds.
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> usize {
        let (factor, term) = (l.splat(black_box(0.999)), l.splat(black_box(0.001)));
        let mut sums = [l.splat(0.0); 8];
        for _ in 0..TURNS {
            for sum in &mut sums[..L::ACCUMULATORS] {
                *sum = l.fma(*sum, factor, term);
            }
        }
        let mut lanes = [[0.0; WIDTH]; 8];
        for (lanes, sum) in lanes.iter_mut().zip(sums) {
            l.store(sum, lanes);
        }
        black_box(lanes);
        TURNS * L::ACCUMULATORS * WIDTH
    }
}

fn best() -> f64 {
    let rate = |_| {
        let begin = Instant::now();
        let count = Isa::detected().run(Chains);
        count as f64 / begin.elapsed().as_secs_f64()
    };
    (0..RUNS).map(rate).fold(0.0, f64::max)
}

fn main() {
    let threads = std::env::args().nth(1).map_or(1, |n| n.parse().expect("a number of threads"));
    let rates: Vec<f64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(best)).collect();
        workers.into_iter().map(|worker| worker.join().expect("a thread that runs to its end")).collect()
    });
    println!("{}", rates.iter().sum::<f64>());
}
