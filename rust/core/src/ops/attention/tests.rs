//! Random plans against dense attention in f64, on every instruction set.

use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::format::Dtype;
use crate::format::plan::{Entry, Read, RowSlot};
use crate::parallel::Rayon;

/// A small generator, so that one seed names a case.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }
    /// In [-1, 1).
    fn float(&mut self) -> f32 {
        (self.next() & 0xffff) as f32 / 32768.0 - 1.0
    }
}

struct Case {
    layout: PageLayout,
    heads: usize,
    kv_heads: usize,
    layer: usize,
    plan: Plan,
    chunks: Vec<Vec<f32>>,
    q: Vec<f32>,
    window: Option<u32>,
    soft_cap: Option<f32>,
    sinks: Option<Vec<f32>>,
    stream_queries: usize,
    batch_invariant: bool,
}

/// Requests with shared and ragged prefixes, random trees of rows, some reads by head.
fn case(seed: u64, dim: usize) -> Case {
    let mut r = Random(seed ^ 0x9e37_79b9_7f4a_7c15);
    let [kv_heads, group, layers] = [3, 5, 2].map(|n| 1 + r.below(n));
    let page_tokens = [4, 16][r.below(2)];
    let (num_chunks, slabs_per_chunk) = (2, 40);
    let layout = PageLayout {
        num_planes: layers * kv_heads,
        slabs_per_chunk,
        page_tokens,
        head_dim: dim,
        dtype: Dtype::F32,
    };
    let layer = r.below(layers);
    let mut plan = Plan::default();
    let mut slabs: Vec<u32> = (0..(num_chunks * slabs_per_chunk) as u32).collect();
    for i in (1..slabs.len()).rev() {
        let j = r.below(i + 1);
        slabs.swap(i, j);
    }
    let mut own = Vec::new();
    for _ in 0..1 + r.below(3) {
        let first = plan.num_rows();
        let most = [12, 12, 12, 90][r.below(4)];
        let rows = 1 + r.below(most);
        // Depth-first: each row's parent is on the path to the row before it.
        let mut path: Vec<usize> = Vec::new();
        let mut parents = Vec::new();
        for i in 0..rows {
            if r.below(3) == 0 && !path.is_empty() {
                let kept = r.below(path.len() + 1);
                path.truncate(kept);
            }
            parents.push(path.last().copied());
            plan.row_positions.push(200 + path.len() as i32);
            path.push(first + i);
        }
        let mut ends: Vec<u32> = (first..first + rows).map(|i| i as u32 + 1).collect();
        for i in (0..rows).rev() {
            if let Some(parent) = parents[i] {
                ends[parent - first] = ends[parent - first].max(ends[i]);
            }
        }
        plan.row_end.extend(ends);
        let pages = rows.div_ceil(page_tokens);
        let Some(at) = slabs.len().checked_sub(pages + 2) else { panic!("the pool is too small") };
        let mine = slabs.split_off(at + 2);
        for i in 0..rows {
            plan.row_slots.push(RowSlot { slab: mine[i / page_tokens], slot: (i % page_tokens) as u32 });
        }
        own.push(Read {
            entry_begin: 0,
            entry_end: 0,
            row_begin: first as u32,
            row_end: (first + rows) as u32,
            num_keys: rows as u32,
            flags: Read::OWN,
            mask: -1,
            rotary_offset: 0,
        });
    }
    let rows = plan.num_rows();
    let pool = (num_chunks * slabs_per_chunk) as u32;
    for _ in 0..r.below(5) {
        let begin = r.below(rows);
        let end = begin + 1 + r.below(rows - begin);
        let by_head = r.below(3) == 0;
        let entry = |plan: &mut Plan, r: &mut Random, pages: u32| {
            let first = r.below(page_tokens);
            let count = 1 + r.below(page_tokens - first);
            let positions_at = if r.below(2) == 0 { plan.positions.len() as i32 } else { -1 };
            if positions_at >= 0 {
                let mut at = r.below(150) as i32;
                for _ in 0..count {
                    plan.positions.push(at);
                    at += 1 + r.below(3) as i32;
                }
            }
            plan.entries.push(Entry {
                page: r.below(pages as usize) as u32,
                first: first as u16,
                count: count as u16,
                position: r.below(190) as i32,
                positions_at,
            });
        };
        let (entry_begin, entry_end);
        let mut num_keys = 0;
        if by_head {
            entry_begin = plan.head_ranges.len() as u32;
            for _ in 0..layout.num_planes {
                let first = plan.entries.len() as u32;
                for _ in 0..r.below(12) {
                    entry(&mut plan, &mut r, pool * layout.num_planes as u32);
                }
                plan.head_ranges.push([first, plan.entries.len() as u32]);
            }
            entry_end = plan.head_ranges.len() as u32;
        } else {
            entry_begin = plan.entries.len() as u32;
            for _ in 0..1 + r.below(40) {
                entry(&mut plan, &mut r, pool);
            }
            entry_end = plan.entries.len() as u32;
            num_keys = plan.entries[entry_begin as usize..].iter().map(|e| u32::from(e.count)).sum();
        }
        plan.reads.push(Read {
            entry_begin,
            entry_end,
            row_begin: begin as u32,
            row_end: end as u32,
            num_keys,
            flags: if by_head { Read::BY_HEAD } else { 0 },
            mask: -1,
            rotary_offset: 0,
        });
    }
    plan.reads.extend(own);
    let chunks = (0..num_chunks).map(|_| (0..layout.chunk_elements()).map(|_| r.float()).collect()).collect();
    let heads = kv_heads * group;
    let q = (0..rows * heads * dim).map(|_| r.float()).collect();
    Case {
        layout,
        heads,
        kv_heads,
        layer,
        plan,
        chunks,
        q,
        window: (r.below(3) == 0).then(|| 1 + r.below(150) as u32),
        soft_cap: (r.below(3) == 0).then_some(5.0),
        stream_queries: [STREAM_QUERIES, 0, 256][seed as usize % 3],
        batch_invariant: seed % 4 == 3,
        sinks: (r.below(3) == 0).then(|| (0..heads).map(|_| r.float() * 3.0).collect()),
    }
}

impl Case {
    fn run<E: Element>(&self, isa: Isa, pool: &dyn Parallel) -> (Vec<f32>, Vec<f32>) {
        let chunks: Vec<Vec<E>> =
            self.chunks.iter().map(|c| c.iter().map(|&x| E::from_f32(x)).collect()).collect();
        let views: Vec<&[E]> = chunks.iter().map(Vec::as_slice).collect();
        let dim = self.layout.head_dim;
        let mut out = vec![7.0; self.q.len()];
        let mut lse = vec![7.0; self.plan.num_rows() * self.heads];
        let params = AttentionParams {
            num_heads: self.heads,
            num_kv_heads: self.kv_heads,
            layer: self.layer,
            scale: 0.3,
            window: self.window,
            soft_cap: self.soft_cap,
            sinks: self.sinks.as_deref(),
            stream_queries: self.stream_queries,
            batch_invariant: self.batch_invariant,
        };
        let layout = PageLayout { dtype: E::DTYPE, ..self.layout };
        let formats = Formats::of(&self.plan.entries, &layout).unwrap();
        let problem = Problem {
            plan: &self.plan,
            layout: &layout,
            params: &params,
            queries: Queries { data: Floats::F32(&self.q), row_stride: self.heads * dim, head_stride: dim },
            formats: &formats,
            selection: None,
        };
        let mut space = Workspace::default();
        let output = Output {
            data: FloatsMut::F32(&mut out),
            row_stride: self.heads * dim,
            head_stride: dim,
            lse: Some(&mut lse),
        };
        check(&problem.queries, &layout, &self.plan, &params, &output).unwrap();
        attend(isa, pool, &problem, &views, &mut space, output).unwrap();
        (out, lse)
    }

    /// Dense attention in f64, from the definition of the plan.
    fn expected<E: Element>(&self) -> (Vec<f64>, Vec<f64>) {
        let (plan, layout, dim) = (&self.plan, &self.layout, self.layout.head_dim);
        let group = self.heads / self.kv_heads;
        let (mut out, mut lse) = (Vec::new(), Vec::new());
        for row in 0..plan.num_rows() {
            for head in 0..self.heads {
                let plane = self.layer * self.kv_heads + head / group;
                // Chunk, first element of the key, position.
                let mut keys: Vec<(usize, usize, i32)> = Vec::new();
                for read in &plan.reads {
                    if !(read.row_begin as usize..read.row_end as usize).contains(&row) {
                        continue;
                    }
                    if read.is_own() {
                        for key in read.row_begin as usize..=row {
                            if row < plan.row_end[key] as usize {
                                let slot = plan.row_slots[key];
                                let (chunk, at) = layout.slab_page(slot.slab, plane);
                                keys.push((chunk, at + slot.slot as usize * dim, plan.row_positions[key]));
                            }
                        }
                        continue;
                    }
                    let mut range = [read.entry_begin, read.entry_end];
                    if read.is_by_head() {
                        range = plan.head_ranges[read.entry_begin as usize + plane];
                    }
                    for entry in &plan.entries[range[0] as usize..range[1] as usize] {
                        let (chunk, at) = match read.is_by_head() {
                            true => layout.page(entry.page),
                            false => layout.slab_page(entry.page, plane),
                        };
                        for i in 0..entry.count {
                            let position = match entry.positions_at {
                                -1 => entry.position + i32::from(i),
                                first => plan.positions[first as usize + usize::from(i)],
                            };
                            keys.push((chunk, at + usize::from(entry.first + i) * dim, position));
                        }
                    }
                }
                let now = plan.row_positions[row];
                keys.retain(|key| {
                    self.window.is_none_or(|w| i64::from(now) - i64::from(key.2) < i64::from(w))
                });
                let wide = |chunk: usize, at: usize| f64::from(E::from_f32(self.chunks[chunk][at]).to_f32());
                let q = &self.q[(row * self.heads + head) * dim..][..dim];
                let scores: Vec<f64> = keys
                    .iter()
                    .map(|&(chunk, at, _)| {
                        let dot: f64 = (0..dim).map(|d| f64::from(q[d]) * wide(chunk, at + d)).sum();
                        let score = dot * f64::from(0.3f32);
                        self.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                    })
                    .collect();
                let sink = self.sinks.as_ref().map_or(f64::NEG_INFINITY, |s| f64::from(s[head]));
                let max = scores.iter().copied().fold(sink, f64::max);
                let shift = if max > f64::NEG_INFINITY { max } else { 0.0 };
                let weights: Vec<f64> = scores.iter().map(|s| (s - shift).exp()).collect();
                let sum = weights.iter().sum::<f64>() + (sink - shift).exp();
                lse.push(if sum > 0.0 { sum.ln() + shift } else { f64::NEG_INFINITY });
                let half = layout.page_tokens * dim;
                for d in 0..dim {
                    let value: f64 = keys
                        .iter()
                        .zip(&weights)
                        .map(|(&(chunk, at, _), w)| w * wide(chunk, at + half + d))
                        .sum();
                    out.push(if sum > 0.0 { value / sum } else { 0.0 });
                }
            }
        }
        (out, lse)
    }
}

/// Values lie in [-1, 1], so do results: an absolute bound is a relative one to the values.
fn close(got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let equal = g == f32::NEG_INFINITY && w == f64::NEG_INFINITY;
        assert!(
            equal || (f64::from(g) - w).abs() <= 1e-5 * w.abs().max(1.0),
            "element {i} is {g}, expected {w}"
        );
    }
}

fn hold<E: Element>(seed: u64, dim: usize) {
    let case = case(seed, dim);
    let (out, lse) = case.expected::<E>();
    let first = case.run::<E>(Isa::detected(), &Serial);
    close(&first.0, &out);
    close(&first.1, &lse);
    let bits =
        |v: &(Vec<f32>, Vec<f32>)| -> Vec<u32> { v.0.iter().chain(&v.1).map(|x| x.to_bits()).collect() };
    assert_eq!(bits(&case.run::<E>(Isa::detected(), &Rayon)), bits(&first));
    for isa in Isa::available() {
        assert_eq!(bits(&case.run::<E>(isa, &Serial)), bits(&first), "{isa:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn random_plans_agree_with_dense_attention(seed: u64, dim in prop::sample::select(vec![32, 40, 48, 64, 80, 96, 120])) {
        hold::<f32>(seed, dim);
        hold::<bf16>(seed, dim);
        hold::<f16>(seed, dim);
    }
}

#[path = "limit_tests.rs"]
mod limits;
