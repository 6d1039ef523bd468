//! What changes branches between steps: forks, matches, and reductions by node and by branch.

use hornbeam_core::Error;
use hornbeam_core::tree::{Begin, Codes, Condensed, Keep, Stats};

use crate::model::{ModelBranch, Random};
use crate::world::World;

impl World {
    pub(crate) fn fork(&mut self, i: usize) {
        let mut branch = self.branches[i].clone();
        branch.id = self.tree.fork(branch.id).unwrap();
        self.branches.push(branch);
        self.settle(self.branches.len() - 1);
    }

    /// A branch without a token will be computed by the model as it is now.
    pub(crate) fn settle(&mut self, i: usize) {
        if self.branches[i].tokens.is_empty() {
            self.branches[i].epoch = self.epoch;
        }
    }

    /// The model changes: what it computed before is of the old epoch, that of the open step included.
    pub(crate) fn tree_changes(&mut self, stepping: &[usize]) {
        self.tree.invalidate();
        self.epoch += 1;
        (0..self.branches.len()).filter(|i| !stepping.contains(i)).for_each(|i| self.settle(i));
    }

    pub(crate) fn open(&mut self) {
        let id = self.tree.branch();
        self.branches.push(ModelBranch {
            id,
            tokens: Vec::new(),
            kept: None,
            epoch: self.epoch,
            salts: Vec::new(),
        });
    }

    pub(crate) fn matching(&mut self) {
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

    pub(crate) fn compact(&mut self) {
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

    pub(crate) fn condense(&mut self) {
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
}
