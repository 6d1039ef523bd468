//! Random operations on a tree against a naive model.
//!
//! The model stores whole token sequences. Page memory is a map from (page, slot) to a *stamp*, the
//! hash of the token prefix up to that key: a key depends on every token before it, so a branch is
//! right exactly if each of its keys carries the stamp of its own prefix, on every plane. Stamps are
//! written where plans say and moved as the tree says, so a wrong slot, a lost move, an early free
//! or a false match shows as a wrong stamp.
//!
//! `HORNBEAM_MODEL_OPS` sets the number of operations (default one million), `HORNBEAM_MODEL_SEED`
//! the seed.
#![allow(clippy::unwrap_used)]

mod changes;
mod model;
mod steps;
mod world;

use world::World;

impl World {
    fn operate(&mut self) {
        let n = self.branches.len();
        match self.random.below(100) {
            _ if n == 0 => self.open(),
            0..45 => self.step(),
            45..58 if n < 12 => {
                let i = self.random.below(n);
                self.fork(i);
            }
            58..66 if n < 12 => self.matching(),
            45..88 => {
                let keep = self.random.one_in(2);
                let i = self.random.below(n);
                // Long branches go first, so that sequences stay short enough to check.
                let i = if self.branches[i].tokens.len() > 60 { i } else { self.random.below(n) };
                let branch = self.branches.swap_remove(i);
                self.tree.release(branch.id, keep).unwrap();
                assert!(self.tree.length(branch.id).is_err());
            }
            88..90 => self.compact(),
            90..92 => self.condense(),
            92..94 => {
                let i = self.random.below(n);
                let pin = self.tree.pin(self.branches[i].id).unwrap();
                self.pins.push(pin);
            }
            94..97 if !self.pins.is_empty() => {
                let at = self.random.below(self.pins.len());
                let pin = self.pins.swap_remove(at);
                self.tree.unpin(pin).unwrap();
            }
            97 if self.random.one_in(2) => self.tree_changes(&[]),
            97 => self.tree.clear(),
            98 => {
                self.tree.trim();
            }
            _ => self.open(),
        }
    }

    /// Everything is released: nothing may be left.
    fn finish(mut self) {
        self.check();
        self.branches.drain(..).for_each(|b| self.tree.release(b.id, true).unwrap());
        self.pins.drain(..).for_each(|p| self.tree.unpin(p).unwrap());
        self.tree.debug_check().unwrap();
        let stats = self.tree.stats();
        assert_eq!(stats.cached_slabs + stats.free_slabs, stats.slabs);
        self.tree.clear();
        let stats = self.tree.stats();
        assert_eq!((stats.free_slabs, stats.nodes, stats.branches), (stats.slabs, 0, 0));
        self.tree.trim();
        assert_eq!(self.tree.num_chunks(), 0);
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

#[test]
fn random_operations_agree_with_the_model() {
    const OPS_PER_WORLD: u64 = 2000;
    let ops = setting("HORNBEAM_MODEL_OPS", 1_000_000);
    let seed = setting("HORNBEAM_MODEL_SEED", 1);
    for world in 0..ops.div_ceil(OPS_PER_WORLD) {
        let seed = seed.wrapping_mul(1_000_003).wrapping_add(world);
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for op in 0..OPS_PER_WORLD {
                world.operate();
                if op % 32 == 0 {
                    world.check();
                }
            }
            world.finish();
        });
        if let Err(panic) = outcome {
            eprintln!("world {world}, seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
