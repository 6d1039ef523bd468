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

use std::collections::HashMap;

use hornbeam_core::Error;
use hornbeam_core::format::{Dtype, PageLayout};
use hornbeam_core::plan::step_plan;
use hornbeam_core::tree::{Begin, BranchId, Codes, Condensed, Keep, Moves, NodeId, Request, Stats, Tree};

/// SplitMix64, so that a failure is reproduced by its seed on any machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

fn stamp(prefix: u64, token: u32) -> u64 {
    (prefix ^ u64::from(token).wrapping_add(0x51ed)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) | 1
}

#[derive(Clone)]
struct ModelBranch {
    id: BranchId,
    tokens: Vec<u32>,
    /// Positions whose keys are shown, a plane; `None` while all are.
    kept: Option<Vec<Vec<usize>>>,
    /// How often the model had changed when the first token was computed: the stamp of the empty prefix.
    epoch: u64,
    /// Of each token, 0 where its keys are those of the whole model.
    salts: Vec<u64>,
}

impl ModelBranch {
    fn stamps(&self) -> Vec<u64> {
        let mut at = self.epoch;
        self.tokens
            .iter()
            .zip(&self.salts)
            .map(|(&t, salt)| {
                at = stamp(at ^ salt, t);
                at
            })
            .collect()
    }

    fn positions(&self, plane: usize) -> Vec<usize> {
        self.kept.as_ref().map_or_else(|| (0..self.tokens.len()).collect(), |kept| kept[plane].clone())
    }
}

struct World {
    tree: Tree,
    /// By page id and slot.
    memory: HashMap<(u32, u32), u64>,
    branches: Vec<ModelBranch>,
    pins: Vec<NodeId>,
    random: Random,
    limited: bool,
    epoch: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let layout = PageLayout {
            num_planes: 1 + random.below(2),
            slabs_per_chunk: 1 + random.below(9),
            page_tokens: 1 + random.below(6),
            head_dim: 8,
            dtype: Dtype::F32,
        };
        let limited = random.one_in(2);
        let max_chunks = if limited { 1 + random.below(60 / layout.slabs_per_chunk + 1) } else { usize::MAX };
        Self {
            tree: Tree::new(layout, max_chunks).unwrap(),
            memory: HashMap::new(),
            branches: Vec::new(),
            pins: Vec::new(),
            random,
            limited,
            epoch: 0,
        }
    }

    fn make_moves(&mut self) {
        let layout = *self.tree.layout();
        while let Some(batch) = self.tree.next_moves().cloned() {
            self.tree.confirm_moves();
            match batch {
                Moves::Rows(moves) => {
                    for m in moves {
                        for plane in 0..layout.num_planes {
                            let from = (layout.page_id(m.from.slab, plane), m.from.slot);
                            self.copy(from, (layout.page_id(m.to.slab, plane), m.to.slot));
                        }
                    }
                }
                Moves::Pages(moves) => {
                    moves.iter().for_each(|m| self.copy((m.from[0], m.from[1]), (m.to[0], m.to[1])));
                }
                Moves::Codes { .. } => panic!("the model asks for codes in condense alone"),
                Moves::AtOnce { moves, codes } => {
                    let moves: Vec<_> = codes.into_iter().flat_map(|(_, moves)| moves).chain(moves).collect();
                    let at = |page: [u32; 2]| (page[0], page[1]);
                    let read: Vec<_> =
                        moves.iter().map(|m| self.memory.get(&at(m.from)).copied().unwrap_or(0)).collect();
                    self.memory.extend(moves.iter().map(|m| at(m.to)).zip(read));
                }
            }
        }
    }

    fn copy(&mut self, from: (u32, u32), to: (u32, u32)) {
        let stamp = self.memory.get(&from).copied().unwrap_or(0);
        self.memory.insert(to, stamp);
    }

    fn check_branch(&self, branch: &ModelBranch) {
        let layout = *self.tree.layout();
        assert_eq!(self.tree.token_ids(branch.id).unwrap(), branch.tokens);
        assert_eq!(self.tree.length(branch.id).unwrap(), branch.tokens.len());
        let stamps = branch.stamps();
        for plane in 0..layout.num_planes {
            let keys = self.tree.keys(branch.id, plane).unwrap();
            let mut positions: Vec<usize> = keys.iter().map(|k| k.3 as usize).collect();
            // What was condensed lies in any order.
            if branch.kept.is_some() {
                positions.sort_unstable();
            }
            assert_eq!(positions, branch.positions(plane), "positions of plane {plane}");
            for (by_head, page, slot, position) in keys {
                let page = if by_head { page } else { layout.page_id(page, plane) };
                assert_eq!(
                    self.memory.get(&(page, slot)),
                    Some(&stamps[position as usize]),
                    "key at {position}"
                );
            }
        }
    }

    fn check(&self) {
        self.branches.iter().for_each(|b| self.check_branch(b));
        self.tree.debug_check().unwrap();
    }

    fn tokens(&mut self, most: usize) -> Vec<u32> {
        let count = 1 + self.random.below(most);
        (0..count).map(|_| self.random.below(3) as u32).collect()
    }

    fn grow(&mut self, chunks: usize) {
        (0..chunks).for_each(|_| self.tree.add_chunk().unwrap());
    }

    fn step(&mut self) {
        let mut picked: Vec<usize> = Vec::new();
        for i in 0..self.branches.len() {
            if picked.len() < 4 && self.random.one_in(2) {
                picked.push(i);
            }
        }
        if picked.is_empty() {
            return;
        }
        let drafts: Vec<(Vec<u32>, Option<Vec<i32>>)> = picked
            .iter()
            .map(|_| {
                let tokens = self.tokens(9);
                let tree = self.random.one_in(2);
                let parents =
                    tree.then(|| (0..tokens.len()).map(|i| self.random.below(i + 1) as i32 - 1).collect());
                (tokens, parents)
            })
            .collect();
        let requests: Vec<Request<'_>> = picked
            .iter()
            .zip(&drafts)
            .map(|(&i, (tokens, parents))| Request {
                branch: self.branches[i].id,
                tokens,
                parents: parents.as_deref(),
            })
            .collect();
        loop {
            match self.tree.begin(&requests) {
                Ok(Begin::Open) => break,
                Ok(Begin::Grow(chunks)) => self.grow(chunks),
                Err(Error::OutOfPages { .. }) if self.limited => {
                    self.make_moves();
                    self.check();
                    // Give the pool a chance.
                    let victim = self.random.below(self.branches.len());
                    let branch = self.branches.swap_remove(victim);
                    self.tree.release(branch.id, false).unwrap();
                    return;
                }
                Err(other) => panic!("{other}"),
            }
        }
        let salt = if self.random.one_in(10) { self.random.next() } else { 0 };
        if salt != 0 {
            self.tree.mark_inexact();
        }
        self.make_moves();
        let stamps = self.write_rows(&picked, &drafts, salt);
        if self.random.one_in(4) {
            self.during_step(&picked);
        }
        if self.random.one_in(8) {
            self.tree.rollback();
        } else {
            let paths: Vec<Vec<u32>> = drafts.iter().map(|(t, p)| self.path(t.len(), p.as_deref())).collect();
            let slices: Vec<&[u32]> = paths.iter().map(Vec::as_slice).collect();
            self.tree.commit(&slices).unwrap();
            self.make_moves();
            for ((&i, (tokens, _)), path) in picked.iter().zip(&drafts).zip(&paths) {
                let branch = &mut self.branches[i];
                for &t in path {
                    if let Some(kept) = &mut branch.kept {
                        kept.iter_mut().for_each(|plane| plane.push(branch.tokens.len()));
                    }
                    branch.tokens.push(tokens[t as usize]);
                    branch.salts.push(salt);
                }
            }
        }
        drop(stamps);
        for i in picked {
            self.settle(i);
            self.check_branch(&self.branches[i]);
        }
    }

    /// Checks the plan against the model, row by row, and writes the rows' stamps.
    fn write_rows(
        &mut self,
        picked: &[usize],
        drafts: &[(Vec<u32>, Option<Vec<i32>>)],
        salt: u64,
    ) -> Vec<u64> {
        let layout = *self.tree.layout();
        let plan = step_plan(&self.tree);
        let rows = self.tree.rows();
        let row_tokens = self.tree.row_tokens().to_vec();
        let mut stamps = vec![0; plan.num_rows()];
        // For each row, the stamps that it must see: its branch's, then its ancestors' in the draft.
        let mut sees: Vec<(usize, Vec<u64>)> = vec![(0, Vec::new()); plan.num_rows()];
        for ((&i, (tokens, parents)), rows) in picked.iter().zip(drafts).zip(&rows) {
            let base = self.branches[i].stamps();
            for (t, &token) in tokens.iter().enumerate() {
                let row = rows[t] as usize;
                let parent = parents.as_ref().map_or(t as i32 - 1, |p| p[t]);
                let (above, depth, mut own) = match usize::try_from(parent) {
                    Ok(parent) => {
                        let above = rows[parent] as usize;
                        (stamps[above], plan.row_positions[above] + 1, sees[above].1.clone())
                    }
                    Err(_) => {
                        let above = base.last().copied().unwrap_or(self.branches[i].epoch);
                        (above, base.len() as i32, Vec::new())
                    }
                };
                stamps[row] = stamp(above ^ salt, token);
                own.push(stamps[row]);
                sees[row] = (i, own);
                assert_eq!((row_tokens[row], plan.row_positions[row]), (token, depth));
            }
        }
        for (row, slot) in plan.row_slots.iter().enumerate() {
            for plane in 0..layout.num_planes {
                self.memory.insert((layout.page_id(slot.slab, plane), slot.slot), stamps[row]);
            }
        }
        for (row, (branch, own)) in sees.iter().enumerate() {
            let plane = self.random.below(layout.num_planes);
            let branch = &self.branches[*branch];
            let base = branch.stamps();
            let mut expected: Vec<u64> = branch.positions(plane).iter().map(|&p| base[p]).collect();
            expected.extend(own);
            let mut seen = Vec::new();
            for read in plan.reads.iter().filter(|r| (r.row_begin..r.row_end).contains(&(row as u32))) {
                let entries = if read.is_by_head() {
                    let range = plan.head_ranges[read.entry_begin as usize + plane];
                    &plan.entries[range[0] as usize..range[1] as usize]
                } else {
                    &plan.entries[read.entry_begin as usize..read.entry_end as usize]
                };
                let mut key = 0;
                for entry in entries {
                    let page = if read.is_by_head() { entry.page } else { layout.page_id(entry.page, plane) };
                    for i in 0..u32::from(entry.count) {
                        let writer = read.row_begin + key;
                        let own = writer <= row as u32
                            && (row as u32) < plan.row_end[writer.min(plan.num_rows() as u32 - 1) as usize];
                        if !read.is_own() || own {
                            let position = if entry.positions_at < 0 {
                                entry.position + i as i32
                            } else {
                                plan.positions[entry.positions_at as usize + i as usize]
                            };
                            seen.push((position, self.memory[&(page, entry.slot() + i)]));
                        }
                        key += 1;
                    }
                }
                assert!(!read.is_own() || key == read.num_keys);
            }
            if branch.kept.is_some() {
                seen.sort_unstable();
            }
            assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "positions ascend: {seen:?}");
            assert_eq!(seen.iter().map(|s| s.1).collect::<Vec<_>>(), expected, "what row {row} sees");
        }
        stamps
    }

    /// Forks, matches and releases are allowed while a step is open.
    fn during_step(&mut self, picked: &[usize]) {
        match self.random.below(4) {
            3 => self.tree_changes(picked),
            0 => {
                let i = picked[self.random.below(picked.len())];
                self.fork(i);
            }
            1 => self.matching(),
            _ => {
                assert!(self.tree.release(self.branches[picked[0]].id, true).is_err());
                self.tree.clear();
            }
        }
        self.tree.debug_check().unwrap();
    }

    fn path(&mut self, count: usize, parents: Option<&[i32]>) -> Vec<u32> {
        let mut path = Vec::new();
        let mut above = -1;
        while !self.random.one_in(5) {
            let children: Vec<u32> = (0..count)
                .filter(|&i| parents.map_or(i as i32 - 1, |p| p[i]) == above)
                .map(|i| i as u32)
                .collect();
            if children.is_empty() {
                break;
            }
            let child = children[self.random.below(children.len())];
            path.push(child);
            above = child as i32;
        }
        path
    }

    fn fork(&mut self, i: usize) {
        let mut branch = self.branches[i].clone();
        branch.id = self.tree.fork(branch.id).unwrap();
        self.branches.push(branch);
        self.settle(self.branches.len() - 1);
    }

    /// A branch without a token will be computed by the model as it is now.
    fn settle(&mut self, i: usize) {
        if self.branches[i].tokens.is_empty() {
            self.branches[i].epoch = self.epoch;
        }
    }

    /// The model changes: what it computed before is of the old epoch, that of the open step included.
    fn tree_changes(&mut self, stepping: &[usize]) {
        self.tree.invalidate();
        self.epoch += 1;
        (0..self.branches.len()).filter(|i| !stepping.contains(i)).for_each(|i| self.settle(i));
    }

    fn open(&mut self) {
        let id = self.tree.branch();
        self.branches.push(ModelBranch {
            id,
            tokens: Vec::new(),
            kept: None,
            epoch: self.epoch,
            salts: Vec::new(),
        });
    }

    fn matching(&mut self) {
        let mut tokens = match self.branches.len() {
            0 => Vec::new(),
            n => self.branches[self.random.below(n)].tokens.clone(),
        };
        let cut = self.random.below(tokens.len() + 1);
        tokens.truncate(cut);
        let more = self.tokens(3);
        tokens.extend(more);
        let id = self.tree.matching(&tokens);
        let length = self.tree.length(id).unwrap();
        // At least what the longest open exact branch shares.
        let shared = |b: &ModelBranch| b.tokens.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
        let exact = self
            .branches
            .iter()
            .filter(|b| b.kept.is_none() && b.epoch == self.epoch && b.salts.iter().all(|&salt| salt == 0));
        let least = exact.map(shared).max().unwrap_or(0);
        assert!(length >= least, "matched {length}, an open branch shares {least}");
        let branch = ModelBranch {
            id,
            tokens: tokens[..length].to_vec(),
            kept: None,
            epoch: self.epoch,
            salts: vec![0; length],
        };
        self.check_branch(&branch);
        self.branches.push(branch);
    }

    fn compact(&mut self) {
        let i = self.random.below(self.branches.len());
        let branch = self.branches[i].clone();
        let nodes = self.tree.path_nodes(branch.id).unwrap();
        if nodes.is_empty() {
            return;
        }
        let node = nodes[self.random.below(nodes.len())];
        let planes = self.tree.layout().num_planes;
        let range = node.start..node.start + node.num_tokens;
        let shown: Vec<Vec<usize>> = (0..planes)
            .map(|plane| {
                let keys = self.tree.keys(branch.id, plane).unwrap();
                keys.iter().map(|k| k.3 as usize).filter(|p| range.contains(p)).collect()
            })
            .collect();
        let (by_head, lists) = self.choose_keys(&shown);
        let slices: Vec<&[u32]> = lists.iter().map(Vec::as_slice).collect();
        loop {
            let stats = self.tree.stats();
            let keep = if by_head { Keep::ByHead(&slices) } else { Keep::Uniform(slices[0]) };
            match self.tree.compact(branch.id, node.id, keep, 7) {
                Ok(Begin::Open) => break,
                Ok(Begin::Grow(chunks)) => self.grow(chunks),
                Err(Error::OutOfPages { .. }) if self.limited => return self.is_unchanged(&branch, stats),
                // A node that was once cut by head stays by head even when its planes agree.
                Err(Error::Value { .. }) if !by_head => return,
                Err(Error::State { what, .. }) if what.starts_with("node") => return,
                Err(other) => panic!("{other}"),
            }
        }
        self.make_moves();
        let kept = (0..planes).map(|plane| {
            let chosen: Vec<usize> = lists[plane].iter().map(|&k| shown[plane][k as usize]).collect();
            let outside = branch.positions(plane).into_iter().filter(|p| !range.contains(p));
            let mut all: Vec<usize> = outside.chain(chosen).collect();
            all.sort_unstable();
            all
        });
        self.branches[i].kept = Some(kept.collect());
        self.check_branch(&self.branches[i]);
    }

    /// What was refused has changed nothing.
    fn is_unchanged(&self, branch: &ModelBranch, stats: Stats) {
        assert_eq!((self.tree.stats(), self.tree.has_moves()), (stats, false));
        self.check_branch(branch);
    }

    /// Random indices into the keys that each plane shows, and whether they may differ by plane.
    fn choose_keys(&mut self, shown: &[Vec<usize>]) -> (bool, Vec<Vec<u32>>) {
        let pick =
            |random: &mut Random, n: usize| (0..n as u32).filter(|_| random.one_in(2)).collect::<Vec<u32>>();
        let by_head = self.random.one_in(2) || shown.len() == 1 || shown[0] != shown[1];
        let lists = if by_head {
            shown.iter().map(|s| pick(&mut self.random, s.len())).collect()
        } else {
            vec![pick(&mut self.random, shown[0].len()); shown.len()]
        };
        (by_head, lists)
    }

    fn condense(&mut self) {
        let i = self.random.below(self.branches.len());
        let branch = self.branches[i].clone();
        let planes = self.tree.layout().num_planes;
        let shown: Vec<Vec<usize>> = (0..planes).map(|plane| branch.positions(plane)).collect();
        let (by_head, lists) = self.choose_keys(&shown);
        let slices: Vec<&[u32]> = lists.iter().map(Vec::as_slice).collect();
        let formats: Vec<Vec<u8>> =
            lists.iter().map(|keys| keys.iter().map(|_| self.random.below(3) as u8).collect()).collect();
        let formats: Vec<&[u8]> = formats.iter().map(Vec::as_slice).collect();
        let codes = (by_head && self.random.one_in(3)).then_some(Codes::ByHead(&formats));
        let is_refused = self.random.one_in(5);
        let table = self.tree.key_table(branch.id).unwrap();
        let now = loop {
            let stats = self.tree.stats();
            let keep = if by_head { Keep::ByHead(&slices) } else { Keep::Uniform(slices[0]) };
            let check = |slots: &[[u32; 2]]| match is_refused {
                true if !slots.is_empty() => Err(Error::value("element", "inf", "less")),
                _ => Ok(()),
            };
            match self.tree.condense(branch.id, &table, keep, codes, 7, check) {
                Ok(Condensed::Done(now)) => break now,
                Ok(Condensed::Grow(chunks)) => self.grow(chunks),
                Err(Error::OutOfPages { .. }) if self.limited => return self.is_unchanged(&branch, stats),
                Err(Error::Value { what: "element", .. }) => return self.is_unchanged(&branch, stats),
                Err(Error::Value { .. }) if !by_head => return,
                Err(other) => panic!("{other}"),
            }
        };
        assert_eq!(now, self.tree.key_table(branch.id).unwrap());
        self.make_moves();
        let nodes = self.tree.path_nodes(branch.id).unwrap();
        assert!(nodes.len() == usize::from(!branch.tokens.is_empty()), "{nodes:?}");
        let kept = |plane: usize| lists[plane].iter().map(|&k| shown[plane][k as usize]).collect();
        self.branches[i].kept = Some((0..planes).map(kept).collect());
        self.check_branch(&self.branches[i]);
    }

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
