//! Large heads, long contexts, and plans that are refused.

use super::*;

#[test]
fn large_heads_agree_with_dense_attention() {
    for seed in 0..4 {
        for dim in [128, 192, 256] {
            hold::<f32>(seed, dim);
            hold::<bf16>(seed + 10, dim);
        }
    }
}

/// Long enough for several pieces of one block and for threads.
#[test]
fn long_contexts_are_cut_and_merged() {
    let mut case = case(1, 64);
    let slabs = (case.layout.slabs_per_chunk * 2) as u32;
    let rows = case.plan.num_rows() as u32;
    let entry_begin = case.plan.entries.len() as u32;
    let mut r = Random(5);
    for i in 0..6000u32 {
        let entry = Entry {
            page: r.below(slabs as usize) as u32,
            first: 0,
            count: 4,
            position: i as i32,
            positions_at: -1,
        };
        case.plan.entries.push(entry);
    }
    let read = Read {
        entry_begin,
        entry_end: entry_begin + 6000,
        row_begin: 0,
        row_end: rows,
        num_keys: 24000,
        flags: 0,
        mask: -1,
        rotary_offset: 0,
    };
    case.plan.reads.insert(0, read);
    case.window = None;
    let (out, lse) = case.expected::<f32>();
    let serial = case.run::<f32>(Isa::detected(), &Serial);
    close(&serial.0, &out);
    close(&serial.1, &lse);
    assert_eq!(serial, case.run::<f32>(Isa::detected(), &Rayon));
}

#[test]
fn a_bad_plan_is_refused() {
    let good = case(3, 64);
    let run = |change: &dyn Fn(&mut Case)| {
        let mut bad = case(3, 64);
        change(&mut bad);
        let params = AttentionParams {
            num_heads: bad.heads,
            num_kv_heads: bad.kv_heads,
            layer: bad.layer,
            scale: 1.0,
            window: bad.window,
            soft_cap: bad.soft_cap,
            sinks: None,
            stream_queries: STREAM_QUERIES,
            batch_invariant: false,
        };
        let views: Vec<&[f32]> = bad.chunks.iter().map(Vec::as_slice).collect();
        let mut out = vec![0.0; bad.q.len()];
        let strides = (bad.heads * bad.layout.head_dim, bad.layout.head_dim);
        tree_attention(
            Isa::detected(),
            &Serial,
            Queries { data: Floats::F32(&bad.q), row_stride: strides.0, head_stride: strides.1 },
            Pages::F32(&views),
            &bad.layout,
            &bad.plan,
            &params,
            None,
            Output {
                data: FloatsMut::F32(&mut out),
                row_stride: strides.0,
                head_stride: strides.1,
                lse: None,
            },
        )
    };
    assert_eq!(run(&|_| {}), Ok(()));
    assert!(!good.plan.entries.is_empty());
    let refused = |change: &dyn Fn(&mut Case), word: &str| {
        let message = run(change).unwrap_err().to_string();
        assert!(message.contains(word), "{message} does not name {word}");
    };
    refused(&|c| c.plan.entries[0].page = 1 << 30, "entry");
    refused(&|c| c.plan.entries[0].count = 17, "entry");
    refused(&|c| c.plan.row_slots[0].slab = 80, "row_slots");
    refused(&|c| c.plan.reads[0].row_end = 1000, "read");
    refused(&|c| c.plan.reads[0].mask = 0, "mask");
    refused(&|c| c.plan.reads[0].rotary_offset = 3, "rotary_offset");
    refused(&|c| c.layer = 9, "layer");
    refused(&|c| c.soft_cap = Some(-1.0), "soft_cap");
    refused(&|c| c.window = Some(0), "window");
    refused(&|c| c.layout.head_dim = 513, "head_dim");
    refused(&|c| c.layout.head_dim = 0, "head_dim");
    refused(&|c| c.q.truncate(9), "q.len");
    refused(&|c| c.chunks.truncate(0), "expected");
}
