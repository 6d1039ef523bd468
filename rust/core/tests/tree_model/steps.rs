//! Steps: their plans and what their rows see, and what may happen while one is open.

use hornbeam_core::Error;
use hornbeam_core::plan::step_plan;
use hornbeam_core::tree::{Begin, Request};

use crate::model::stamp;
use crate::world::World;

impl World {
    pub(crate) fn step(&mut self) {
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
        let salts: Vec<u64> =
            picked.iter().map(|_| if self.random.one_in(10) { self.random.next() } else { 0 }).collect();
        for (request, _) in salts.iter().enumerate().filter(|(_, salt)| **salt != 0) {
            self.tree.mark_request_inexact(request);
        }
        self.make_moves();
        let stamps = self.write_rows(&picked, &drafts, &salts);
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
            for (((&i, (tokens, _)), path), &salt) in picked.iter().zip(&drafts).zip(&paths).zip(&salts) {
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
        salts: &[u64],
    ) -> Vec<u64> {
        let layout = *self.tree.layout();
        let plan = step_plan(&self.tree);
        let rows = self.tree.rows();
        let row_tokens = self.tree.row_tokens().to_vec();
        let mut stamps = vec![0; plan.num_rows()];
        // For each row, the stamps that it must see: its branch's, then its ancestors' in the draft.
        let mut sees: Vec<(usize, Vec<u64>)> = vec![(0, Vec::new()); plan.num_rows()];
        for (((&i, (tokens, parents)), rows), &salt) in picked.iter().zip(drafts).zip(&rows).zip(salts) {
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
}
