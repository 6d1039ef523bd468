//! Random tables of blocks against dense attention in f64, on every instruction set.

use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::parallel::Rayon;

/// A call, in numbers that are exact in all element types.
#[derive(Debug, Clone)]
struct Case {
    heads: usize,
    kv_heads: usize,
    rows: usize,
    keys: usize,
    dim: usize,
    block_rows: usize,
    block_keys: usize,
    blocks: Vec<bool>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 57) as f32 - 63.5) / 32.0
    };
    (0..count).map(|_| next()).collect()
}

prop_compose! {
    fn cases()(
        kv_heads in 1usize..3, group in 1usize..4, rows in 0usize..90, before in 0usize..150,
        dim in 1usize..70, block_rows in 1usize..50, block_keys in 1usize..50, seed in 0u64..1_000_000,
        share in 0u32..=4,
    ) -> Case {
        let (heads, keys) = (kv_heads * group, rows + before);
        let count = heads * rows.div_ceil(block_rows) * keys.div_ceil(block_keys);
        let chosen = numbers(count, seed + 3);
        Case {
            heads, kv_heads, rows, keys, dim, block_rows, block_keys,
            blocks: chosen.iter().map(|x| *x < share as f32 - 2.0).collect(),
            q: numbers(heads * rows * dim, seed),
            k: numbers(kv_heads * keys * dim, seed + 1),
            v: numbers(kv_heads * keys * dim, seed + 2),
        }
    }
}

impl Case {
    fn sparse(&self) -> BlockSparse<'_> {
        BlockSparse {
            num_heads: self.heads,
            num_kv_heads: self.kv_heads,
            num_rows: self.rows,
            num_keys: self.keys,
            head_dim: self.dim,
            scale: 0.3,
            block_rows: self.block_rows,
            block_keys: self.block_keys,
            blocks: &self.blocks,
        }
    }

    fn queries<'a>(&self, data: &'a [f32], rows: usize) -> Queries<'a> {
        Queries { data: Floats::F32(data), row_stride: self.dim, head_stride: rows * self.dim }
    }

    fn run(&self, isa: Isa, pool: &dyn Parallel) -> (Vec<f32>, Vec<f32>) {
        let mut out = vec![f32::NAN; self.rows * self.heads * self.dim];
        let mut lse = vec![f32::NAN; self.rows * self.heads];
        let output = Output {
            data: FloatsMut::F32(&mut out),
            row_stride: self.heads * self.dim,
            head_stride: self.dim,
            lse: Some(&mut lse),
        };
        let (q, k, v) = (
            self.queries(&self.q, self.rows),
            self.queries(&self.k, self.keys),
            self.queries(&self.v, self.keys),
        );
        block_sparse_attention(isa, pool, q, k, v, &self.sparse(), output).unwrap();
        (out, lse)
    }

    /// The keys that a row of a head sees.
    fn seen(&self, head: usize, row: usize) -> impl Iterator<Item = usize> {
        let (row_blocks, key_blocks) =
            (self.rows.div_ceil(self.block_rows), self.keys.div_ceil(self.block_keys));
        let first = (head * row_blocks + row / self.block_rows) * key_blocks;
        (0..=self.keys - self.rows + row).filter(move |key| self.blocks[first + key / self.block_keys])
    }

    /// Output and log-sum-exp of a row of a head.
    fn expected(&self, head: usize, row: usize) -> (Vec<f64>, f64) {
        let kv_head = head / (self.heads / self.kv_heads);
        let vector = |data: &[f32], at: usize| -> Vec<f64> {
            data[at * self.dim..(at + 1) * self.dim].iter().map(|x| f64::from(*x)).collect()
        };
        let q = vector(&self.q, head * self.rows + row);
        let (mut sum, mut values) = (0.0f64, vec![0.0; self.dim]);
        for key in self.seen(head, row) {
            let k = vector(&self.k, kv_head * self.keys + key);
            let score: f64 = q.iter().zip(&k).map(|(q, k)| q * k).sum::<f64>() * f64::from(0.3f32);
            let weight = score.exp();
            sum += weight;
            for (to, v) in values.iter_mut().zip(vector(&self.v, kv_head * self.keys + key)) {
                // A hidden infinity is never reached here.
                *to += weight * v;
            }
        }
        let share = if sum == 0.0 { 0.0 } else { 1.0 / sum };
        (values.iter().map(|x| x * share).collect(), sum.ln())
    }

    fn check(&self, (out, lse): &(Vec<f32>, Vec<f32>)) {
        for row in 0..self.rows {
            for head in 0..self.heads {
                let (want, log) = self.expected(head, row);
                let got = &out[(row * self.heads + head) * self.dim..][..self.dim];
                for (got, want) in got.iter().zip(&want) {
                    let same = f64::from(*got) == *want || (got.is_nan() && want.is_nan());
                    assert!(same || (f64::from(*got) - want).abs() < 2e-5, "{row} {head}: {got} {want}");
                }
                let got = f64::from(lse[row * self.heads + head]);
                assert!(got == log || (got - log).abs() < 2e-5, "{row} {head}: {got} {log}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_table_gives_the_attention_over_its_keys(case in cases()) {
        let result = case.run(Isa::detected(), &Serial);
        case.check(&result);
        for isa in Isa::available() {
            prop_assert_eq!(&case.run(isa, &Rayon), &result);
        }
    }

    /// What a row does not see may be anything.
    #[test]
    fn hidden_keys_change_nothing(case in cases(), place in 0usize..10_000) {
        prop_assume!(case.rows > 0);
        let place = place % (case.kv_heads * case.keys);
        let mut broken = case.clone();
        broken.k[place * case.dim] = f32::NAN;
        broken.v[place * case.dim..(place + 1) * case.dim].fill(f32::INFINITY);
        let (out, _) = case.run(Isa::detected(), &Serial);
        let (changed, _) = broken.run(Isa::detected(), &Serial);
        let (kv_head, key) = (place / case.keys, place % case.keys);
        for row in 0..case.rows {
            for head in 0..case.heads {
                let reads = head / (case.heads / case.kv_heads) == kv_head;
                if !(reads && case.seen(head, row).any(|seen| seen == key)) {
                    let at = (row * case.heads + head) * case.dim;
                    for (a, b) in out[at..at + case.dim].iter().zip(&changed[at..at + case.dim]) {
                        prop_assert!((a - b).abs() < 2e-5, "row {row} of head {head}: {a} {b}");
                    }
                }
            }
        }
    }
}

#[test]
fn narrow_types_and_strides_are_read_as_they_are() {
    let case = Case {
        heads: 4,
        kv_heads: 2,
        rows: 37,
        keys: 61,
        dim: 24,
        block_rows: 16,
        block_keys: 7,
        blocks: (0..4 * 3 * 9).map(|i| i % 3 != 0).collect(),
        q: numbers(4 * 37 * 24, 1),
        k: numbers(2 * 61 * 24, 2),
        v: numbers(2 * 61 * 24, 3),
    };
    let (want, _) = case.run(Isa::detected(), &Serial);
    // Queries as [rows, heads, dim], keys and values in bf16.
    let mut q = vec![f16::ZERO; case.q.len()];
    for (at, x) in case.q.iter().enumerate() {
        let (head, row, d) = (at / (37 * 24), at / 24 % 37, at % 24);
        q[(row * 4 + head) * 24 + d] = f16::from_f32(*x);
    }
    let narrow = |data: &[f32]| data.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>();
    let (k, v) = (narrow(&case.k), narrow(&case.v));
    let mut out = vec![0.0; want.len()];
    let plane = |data| Queries { data: Floats::Bf16(data), row_stride: 24, head_stride: 61 * 24 };
    block_sparse_attention(
        Isa::detected(),
        &Serial,
        Queries { data: Floats::F16(&q), row_stride: 4 * 24, head_stride: 24 },
        plane(&k),
        plane(&v),
        &case.sparse(),
        Output { data: FloatsMut::F32(&mut out), row_stride: 4 * 24, head_stride: 24, lse: None },
    )
    .unwrap();
    assert_eq!(out, want);
}

#[test]
fn wrong_sizes_are_told() {
    let case = |change: &dyn Fn(&mut BlockSparse<'_>)| {
        let (q, mut out) = (numbers(2 * 8 * 4, 1), vec![0.0; 64]);
        let blocks = [true; 2 * 2 * 3];
        let mut sparse = BlockSparse {
            num_heads: 2,
            num_kv_heads: 2,
            num_rows: 8,
            num_keys: 8,
            head_dim: 4,
            scale: 1.0,
            block_rows: 4,
            block_keys: 3,
            blocks: &blocks,
        };
        change(&mut sparse);
        let given = Queries { data: Floats::F32(&q), row_stride: 4, head_stride: 32 };
        let out = Output { data: FloatsMut::F32(&mut out), row_stride: 8, head_stride: 4, lse: None };
        block_sparse_attention(Isa::detected(), &Serial, given, given, given, &sparse, out)
    };
    assert_eq!(case(&|_| ()), Ok(()));
    let message = |change: &dyn Fn(&mut BlockSparse<'_>)| case(change).unwrap_err().to_string();
    assert_eq!(message(&|s| s.head_dim = 0), "head_dim is 0, expected 1 to 512");
    assert_eq!(message(&|s| s.num_kv_heads = 3), "num_heads is 2, expected a multiple of num_kv_heads, 3");
    assert_eq!(message(&|s| s.num_keys = 7), "num_keys is 7, expected at least the number of rows, 8");
    assert_eq!(message(&|s| s.block_rows = 0), "block_rows is 0, expected 1 to 1024");
    assert_eq!(message(&|s| s.block_keys = 0), "block_keys is 0, expected at least 1");
    assert_eq!(message(&|s| s.block_keys = 2), "blocks.len is 12, expected 16");
    assert_eq!(message(&|s| s.head_dim = 5), "q.len is 64, expected at least 65");
}
