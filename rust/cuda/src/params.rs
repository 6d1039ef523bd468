//! Parameter structs, as the kernels declare them (cuda/include/*.cuh asserts the same sizes).

use hornbeam_core::format::{Dtype, PageLayout};

/// The number of an element type in a parameter struct.
pub fn dtype_code(dtype: Dtype) -> i32 {
    match dtype {
        Dtype::F32 => 0,
        Dtype::Bf16 => 1,
        Dtype::F16 => 2,
    }
}

/// Where pages lie.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pages {
    /// Physical layers times kv heads.
    pub num_planes: i32,
    /// Slabs in one chunk.
    pub slabs_per_chunk: i32,
    /// Slots of one page.
    pub page_tokens: i32,
    /// Elements of one key.
    pub head_dim: i32,
    /// Element type.
    pub dtype: i32,
    /// First plane of the layer.
    pub plane_begin: i32,
    /// Planes of the layer.
    pub num_kv_heads: i32,
    /// Zero.
    pub reserved: i32,
}

impl Pages {
    /// The pages of one layer.
    pub fn new(layout: &PageLayout, layer: usize, num_kv_heads: usize) -> Self {
        Self {
            num_planes: layout.num_planes as i32,
            slabs_per_chunk: layout.slabs_per_chunk as i32,
            page_tokens: layout.page_tokens as i32,
            head_dim: layout.head_dim as i32,
            dtype: dtype_code(layout.dtype),
            plane_begin: (layer * num_kv_heads) as i32,
            num_kv_heads: num_kv_heads as i32,
            reserved: 0,
        }
    }
}

/// `hornbeam_write_rows`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct WriteRows {
    /// Keys `[num_rows, num_kv_heads, head_dim]`, unit last stride.
    pub k: u64,
    /// Values, likewise.
    pub v: u64,
    /// The packed plan.
    pub plan: u64,
    /// Strides of `k`, rows then heads, then of `v`; in elements.
    pub strides: [i64; 4],
    /// Where to.
    pub pages: Pages,
    /// Element type of `k` and `v`.
    pub dtype: i32,
    /// Rows of `k` and `v`; the plan may have fewer.
    pub num_rows: i32,
}

/// `hornbeam_move_rows`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct MoveRows {
    /// Addresses of the chunks, on the device.
    pub chunks: u64,
    /// `[num_moves, 4]` 32-bit: from slab, from slot, to slab, to slot.
    pub moves: u64,
    /// All planes.
    pub pages: Pages,
    /// Moves.
    pub num_moves: i32,
    /// Zero.
    pub reserved: i32,
}

/// `hornbeam_attention_*`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct TreeAttention {
    /// Queries `[num_rows, num_heads, head_dim]`, unit last stride.
    pub q: u64,
    /// Output, as `q`.
    pub out: u64,
    /// Log-sum-exp `[num_rows, num_heads]`, or 0.
    pub lse: u64,
    /// The packed plan.
    pub plan: u64,
    /// A logit a head that takes part in the softmax and has no value, or 0.
    pub sinks: u64,
    /// Partial sums `[partial rows, num_heads, head_dim]`.
    pub partials: u64,
    /// Maximum and sum of weights of each partial `[partial rows, num_heads, 2]`.
    pub partial_stats: u64,
    /// Strides of `q`, rows then heads, in elements.
    pub q_strides: [i64; 2],
    /// Strides of `out`.
    pub out_strides: [i64; 2],
    /// What is read.
    pub pages: Pages,
    /// Multiplies the scores.
    pub scale: f32,
    /// `cap * tanh(score / cap)`, or 0.
    pub soft_cap: f32,
    /// A key is seen iff it lies fewer positions back than this; `i32::MAX` for all.
    pub window: i32,
    /// Rows of `q`; the plan may have fewer.
    pub num_rows: i32,
    /// Query heads.
    pub num_heads: i32,
    /// Element type of `q`.
    pub dtype: i32,
    /// Element type of `out`.
    pub out_dtype: i32,
    /// Zero.
    pub reserved: i32,
}

/// How logits become a law; 0 switches top-k, top-p and min-p off.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Law {
    /// 1 / temperature.
    pub scale: f32,
    /// 1 for argmax.
    pub greedy: i32,
    /// Tokens kept.
    pub top_k: i32,
    /// Zero.
    pub reserved: i32,
    /// Mass kept.
    pub top_p: f64,
    /// Least probability kept, relative to the likeliest.
    pub min_p: f64,
}

/// `hornbeam_sample`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Raw logits `[num_rows, vocabulary]`.
    pub logits: u64,
    /// Parents of draft tokens, or 0.
    pub parents: u64,
    /// Where each sequence's tree begins, or 0.
    pub offsets: u64,
    /// Random sequence of each sequence, int64, or 0.
    pub sequences: u64,
    /// Position of the token sampled at each root, int64, or 0.
    pub positions: u64,
    /// One [`Law`] a sequence, or 0.
    pub laws: u64,
    /// Low word and high word of the seed on the device, or 0.
    pub seeds: u64,
    /// Takes the token of each row.
    pub tokens: u64,
    /// Takes 0, or why a row has no law.
    pub faults: u64,
    /// Elements between rows.
    pub row_stride: i64,
    /// The law of all, without `laws`.
    pub law: Law,
    /// Low word, high word.
    pub seed: [u32; 2],
    /// Rows.
    pub num_rows: i32,
    /// Sequences.
    pub num_sequences: i32,
    /// Columns.
    pub vocabulary: i32,
    /// Element type of the logits.
    pub dtype: i32,
}

/// `hornbeam_follow`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Follow {
    /// Draft tokens, int64.
    pub draft_tokens: u64,
    /// Their parents.
    pub parents: u64,
    /// Where each sequence's tree begins.
    pub offsets: u64,
    /// Tokens of all rows.
    pub tokens: u64,
    /// Faults of all rows.
    pub faults: u64,
    /// Takes `[num_sequences, max_depth]` rows.
    pub accepted: u64,
    /// Takes their number.
    pub num_accepted: u64,
    /// Takes the token after them, int64.
    pub next_token: u64,
    /// Takes 0, or 4 * row + fault.
    pub fault_rows: u64,
    /// Sequences.
    pub num_sequences: i32,
    /// Columns of `accepted`.
    pub max_depth: i32,
}

/// `hornbeam_count`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Count {
    /// Tokens of all histories, int64: prompt, output, prompt, output, ...
    pub tokens: u64,
    /// Where each begins, `[2 * num_sequences + 1]`.
    pub begins: u64,
    /// `[num_sequences, vocabulary]`, zeros before.
    pub marks: u64,
    /// Sequences.
    pub num_sequences: i32,
    /// Ids that are counted.
    pub vocabulary: i32,
}

/// `hornbeam_adjust`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Adjust {
    /// Raw logits `[num_rows, vocabulary]`.
    pub logits: u64,
    /// Takes f32 logits.
    pub out: u64,
    /// Draft tokens, int64.
    pub draft_tokens: u64,
    /// Their parents.
    pub parents: u64,
    /// Where each sequence's tree begins.
    pub offsets: u64,
    /// What `hornbeam_count` left, or 0.
    pub marks: u64,
    /// 24 bytes a sequence: repetition, frequency, presence, begin and end of its biases, zero.
    pub penalties: u64,
    /// 8 bytes each: token, value.
    pub bias: u64,
    /// Elements between rows of `logits`.
    pub row_stride: i64,
    /// Rows.
    pub num_rows: i32,
    /// Sequences.
    pub num_sequences: i32,
    /// Columns.
    pub vocabulary: i32,
    /// Element type of the logits.
    pub dtype: i32,
    /// Columns of `marks`.
    pub marked: i32,
    /// 1 where `penalties` is one for all.
    pub is_shared: i32,
}

/// `hornbeam_laws`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Laws {
    /// Logits `[num_rows, vocabulary]`.
    pub logits: u64,
    /// Where each sequence's tree begins.
    pub offsets: u64,
    /// One [`Law`] a sequence.
    pub laws: u64,
    /// Takes [`ROW_LAW_BYTES`] a row.
    pub out: u64,
    /// Elements between rows.
    pub row_stride: i64,
    /// Rows.
    pub num_rows: i32,
    /// Sequences.
    pub num_sequences: i32,
    /// Columns.
    pub vocabulary: i32,
    /// Element type of the logits.
    pub dtype: i32,
}

/// Bytes of what `hornbeam_laws` leaves of a row.
pub const ROW_LAW_BYTES: usize = 40;

/// `hornbeam_ratio`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Ratio {
    /// Draft tokens, int64.
    pub draft_tokens: u64,
    /// Their parents.
    pub parents: u64,
    /// Where each sequence's tree begins.
    pub offsets: u64,
    /// Random sequence of each sequence, int64, or 0.
    pub sequences: u64,
    /// Position of the token sampled at each root, int64, or 0.
    pub positions: u64,
    /// Logits of the target, and of the draft or 0.
    pub logits: [u64; 2],
    /// What `hornbeam_laws` left of both.
    pub row_laws: [u64; 2],
    /// One [`Law`] a sequence, of both.
    pub laws: [u64; 2],
    /// Scratch for `typical`: a double a row.
    pub likelihoods: u64,
    /// Likewise, an int32 a row.
    pub depths: u64,
    /// Takes `[num_sequences, max_depth]` rows.
    pub accepted: u64,
    /// Takes their number.
    pub num_accepted: u64,
    /// Takes the token after them, int64.
    pub next_token: u64,
    /// Takes 0, or 4 * row + fault.
    pub fault_rows: u64,
    /// Elements between rows of both logits.
    pub strides: [i64; 2],
    /// See `typical`.
    pub epsilon: f64,
    /// See `typical`.
    pub alpha: f64,
    /// Low word, high word.
    pub seed: [u32; 2],
    /// `Rule` of ratio.cuh.
    pub rule: i32,
    /// Sequences.
    pub num_sequences: i32,
    /// Columns of `accepted`.
    pub max_depth: i32,
    /// Columns of both logits.
    pub vocabularies: [i32; 2],
    /// Element types of both.
    pub dtypes: [i32; 2],
    /// Zero.
    pub reserved: i32,
}

/// `hornbeam_commit_rows`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct CommitRows {
    /// The packed plan.
    pub plan: u64,
    /// Rows of the step, a sequence's root first, then its draft.
    pub order: u64,
    /// Where each sequence's tree begins.
    pub offsets: u64,
    /// Accepted rows `[num_sequences, max_depth]`.
    pub accepted: u64,
    /// Their number.
    pub num_accepted: u64,
    /// All planes.
    pub pages: Pages,
    /// Sequences.
    pub num_sequences: i32,
    /// Columns of `accepted`.
    pub max_depth: i32,
}

/// `hornbeam_key_mass`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct KeyMass {
    /// Queries of `rows`, `[num_rows, num_heads, head_dim]`, unit last stride.
    pub q: u64,
    /// The packed plan.
    pub plan: u64,
    /// Ascending rows of the plan, int32.
    pub rows: u64,
    /// What [`crate::mass::segments`] gives.
    pub segments: u64,
    /// As for [`TreeAttention`].
    pub sinks: u64,
    /// Zeros, [`QUERY_STATS_BYTES`] a query.
    pub stats: u64,
    /// `[num_kv_heads, num_columns]` int64, added to.
    pub mass: u64,
    /// Likewise int32, or 0.
    pub seen: u64,
    /// Takes `[num_rows, num_heads]` floats, or 0.
    pub lse: u64,
    /// Strides of `q`, rows then heads, in elements.
    pub q_strides: [i64; 2],
    /// What is read.
    pub pages: Pages,
    /// Multiplies the scores.
    pub scale: f32,
    /// As for [`TreeAttention`].
    pub soft_cap: f32,
    /// As for [`TreeAttention`].
    pub window: i32,
    /// Rows.
    pub num_rows: i32,
    /// Query heads.
    pub num_heads: i32,
    /// Element type of `q`.
    pub dtype: i32,
    /// Segments.
    pub num_segments: i32,
    /// Columns.
    pub num_columns: i32,
    /// Which of the three passes.
    pub phase: i32,
    /// Zero.
    pub reserved: i32,
}

/// Bytes of what the first passes of key mass leave of a query.
pub const QUERY_STATS_BYTES: usize = 16;

/// `hornbeam_encode_pages`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct EncodePages {
    /// Addresses of the chunks, on the device.
    pub chunks: u64,
    /// Those of the chunks that pages are written to.
    pub to: u64,
    /// `[num_moves, 4]` 32-bit: from page, from slot, to page, to slot; page by page.
    pub moves: u64,
    /// Where each page's moves begin, `[num_runs + 1]`.
    pub runs: u64,
    /// [`crate::codes::format_words`] of the format.
    pub format: u64,
    /// Takes 1 where an element cannot be encoded.
    pub fault: u64,
    /// All planes.
    pub pages: Pages,
    /// Pages to write (of each plane).
    pub num_runs: i32,
    /// 1 where ids are those of pages, 0 of slabs.
    pub by_page: i32,
}

/// `hornbeam_copy_rows`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct CopyRows {
    /// Addresses of the chunks that are read, on the device.
    pub from: u64,
    /// Those of the chunks that are written.
    pub to: u64,
    /// `[num_moves, 4]` 32-bit: from page, from slot, to page, to slot.
    pub moves: u64,
    /// Of both.
    pub pages: Pages,
    /// Moves.
    pub num_moves: i32,
    /// Zero.
    pub reserved: i32,
}

/// `hornbeam_gather_rows`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct GatherRows {
    /// Addresses of the chunks, on the device.
    pub chunks: u64,
    /// `[num_rows, 3]` 32-bit: page, slot with its format, position.
    pub held: u64,
    /// [`crate::codes::format_words`] of every format, or 0.
    pub formats: u64,
    /// Takes `[num_rows, head_dim]` floats.
    pub keys: u64,
    /// Likewise.
    pub values: u64,
    /// What is read.
    pub pages: Pages,
    /// Slots.
    pub num_rows: i32,
    /// Zero.
    pub reserved: i32,
}

/// `hornbeam_put_rows`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct PutRows {
    /// Addresses of the chunks, on the device.
    pub chunks: u64,
    /// As for [`GatherRows`], plain slots.
    pub held: u64,
    /// `[num_rows, head_dim]` floats.
    pub keys: u64,
    /// Likewise.
    pub values: u64,
    /// Where to.
    pub pages: Pages,
    /// Slots.
    pub num_rows: i32,
    /// Zero.
    pub reserved: i32,
}

/// `hornbeam_merge_*`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct MergeRows {
    /// Rows `[rows, head_dim]`.
    pub keys: u64,
    /// Likewise.
    pub values: u64,
    /// Rows that stay, plane after plane, `[num_kept]` int32.
    pub kept: u64,
    /// Rows that may join one of them, likewise, ascending in a plane.
    pub asked: u64,
    /// Where planes begin in `kept`, `[num_planes + 1]`.
    pub kept_begin: u64,
    /// Likewise in `asked`.
    pub asked_begin: u64,
    /// Their scores.
    pub kept_scores: u64,
    /// Their scores.
    pub asked_scores: u64,
    /// Scratch, `[num_kept, head_dim]` floats.
    pub kept_directions: u64,
    /// Likewise, `[num_asked, head_dim]`.
    pub asked_directions: u64,
    /// Scratch, `[num_kept]` doubles.
    pub kept_sizes: u64,
    /// Likewise, `[num_asked]`.
    pub asked_sizes: u64,
    /// Scratch, `[num_asked]` floats.
    pub cosines: u64,
    /// Scratch, `[num_asked]` doubles.
    pub raw: u64,
    /// Scratch, `[num_planes]` int32.
    pub merged: u64,
    /// Takes a slot among the plane's kept, or -1, `[num_asked]`.
    pub targets: u64,
    /// Takes the weights there; zeros before.
    pub weights: u64,
    /// Takes the weights of the kept ones.
    pub own: u64,
    /// Takes `[num_kept, head_dim]` floats.
    pub out_keys: u64,
    /// Likewise.
    pub out_values: u64,
    /// The rule's; nothing to the rule of similarity.
    pub threshold: f64,
    /// Planes.
    pub num_planes: i32,
    /// Rows that stay.
    pub num_kept: i32,
    /// Rows that may join one.
    pub num_asked: i32,
    /// Elements of a row.
    pub head_dim: i32,
    /// `MergeRule` of merge.cuh.
    pub rule: i32,
    /// Zero.
    pub reserved: i32,
}

/// `hornbeam_select_keys`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SelectKeys {
    /// Floats, plane after plane, `[T]`.
    pub scores: u64,
    /// Where planes begin, `[num_planes + 1]`.
    pub begin: u64,
    /// Keys that each plane may keep.
    pub budgets: u64,
    /// Planes whose scores decide, `[num_planes]`, or 0: each its own.
    pub leaders: u64,
    /// Positions of keys, `[T]`, with leaders.
    pub positions: u64,
    /// Takes bytes, `[T]`.
    pub kept: u64,
    /// Planes.
    pub num_planes: i32,
    /// Keys that are kept or dropped together.
    pub unit: i32,
    /// Keys of the start that are protected.
    pub sinks: i32,
    /// Keys of the end.
    pub recent: i32,
    /// Likewise, in percent of a plane's budget.
    pub recent_percent: i32,
    /// Zero.
    pub reserved: i32,
}

/// `hornbeam_compete_heads`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct CompeteHeads {
    /// As for [`SelectKeys`].
    pub scores: u64,
    /// As for [`SelectKeys`].
    pub begin: u64,
    /// What each head holds of its own, `[num_layers * num_heads]`.
    pub reserved: u64,
    /// Keys for the best of the rest, `[num_layers]`.
    pub rooms: u64,
    /// Takes how many each head holds.
    pub counts: u64,
    /// Layers.
    pub num_layers: i32,
    /// Kv heads.
    pub num_heads: i32,
    /// As for [`SelectKeys`].
    pub sinks: i32,
    /// As for [`SelectKeys`].
    pub recent: i32,
    /// As for [`SelectKeys`].
    pub recent_percent: i32,
    /// Zero.
    pub reserved_word: i32,
}

/// `hornbeam_column_sums`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ColumnSums {
    /// As for [`SelectKeys`].
    pub scores: u64,
    /// As for [`SelectKeys`].
    pub begin: u64,
    /// Takes `[num_layers, width]` int64.
    pub sums: u64,
    /// Layers.
    pub num_layers: i32,
    /// Kv heads.
    pub num_heads: i32,
    /// Columns of the widest layer.
    pub width: i32,
    /// Zero.
    pub reserved: i32,
}

/// `hornbeam_score_rows`, `hornbeam_key_anchors`, `hornbeam_key_differences`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ScoreRows {
    /// Floats `[num_rows, head_dim]`.
    pub rows: u64,
    /// Where planes begin, `[num_planes + 1]`.
    pub begin: u64,
    /// Scratch, `[num_rows]` doubles.
    pub lengths: u64,
    /// Scratch, `[num_planes, head_dim + 1]` doubles.
    pub anchors: u64,
    /// Takes floats, `[num_rows]`.
    pub scores: u64,
    /// Planes.
    pub num_planes: i32,
    /// Rows.
    pub num_rows: i32,
    /// Elements of a row.
    pub head_dim: i32,
    /// `RowRule` of score.cuh.
    pub rule: i32,
}

/// `hornbeam_expected_*`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ExpectedScores {
    /// Floats `[num_rows, head_dim]`.
    pub keys: u64,
    /// Likewise.
    pub values: u64,
    /// Where planes begin, `[num_planes + 1]`.
    pub begin: u64,
    /// Keys from the start of each plane that take no part.
    pub sinks: u64,
    /// Doubles `[num_planes, group, head_dim]`.
    pub means: u64,
    /// Doubles `[num_planes, group, head_dim, head_dim]`, column after column.
    pub covariances: u64,
    /// Scratch, `[group, num_rows]` doubles.
    pub weights: u64,
    /// Scratch, `[num_planes, group]` doubles.
    pub totals: u64,
    /// Takes floats, `[num_rows]`.
    pub scores: u64,
    /// Multiplies logits.
    pub scale: f64,
    /// Added to probabilities.
    pub epsilon: f64,
    /// Planes.
    pub num_planes: i32,
    /// Rows.
    pub num_rows: i32,
    /// Elements of a row.
    pub head_dim: i32,
    /// Query heads of a plane.
    pub group: i32,
}

/// `hornbeam_plane_sums`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct PlaneSums {
    /// Doubles, plane after plane.
    pub values: u64,
    /// Where planes begin, `[num_planes + 1]`.
    pub begin: u64,
    /// Takes doubles, `[num_planes]`.
    pub sums: u64,
    /// Planes.
    pub num_planes: i32,
    /// Zero.
    pub reserved: i32,
}

/// `hornbeam_move_page_rows` takes the same struct as `hornbeam_move_rows`, with page ids for slabs.
pub type MovePageRows = MoveRows;

const _: () = assert!(size_of::<Pages>() == 32);
const _: () = assert!(size_of::<WriteRows>() == 96);
const _: () = assert!(size_of::<MoveRows>() == 56);
const _: () = assert!(size_of::<TreeAttention>() == 152);
const _: () = assert!(size_of::<Law>() == 32);
const _: () = assert!(size_of::<Sample>() == 136);
const _: () = assert!(size_of::<Follow>() == 80);
const _: () = assert!(size_of::<Count>() == 32);
const _: () = assert!(size_of::<Adjust>() == 96);
const _: () = assert!(size_of::<Laws>() == 56);
const _: () = assert!(size_of::<Ratio>() == 208);
const _: () = assert!(size_of::<CommitRows>() == 80);
const _: () = assert!(size_of::<KeyMass>() == 160);
const _: () = assert!(size_of::<EncodePages>() == 88);
const _: () = assert!(size_of::<CopyRows>() == 64);
const _: () = assert!(size_of::<GatherRows>() == 80);
const _: () = assert!(size_of::<PutRows>() == 72);
const _: () = assert!(size_of::<MergeRows>() == 192);
const _: () = assert!(size_of::<SelectKeys>() == 72);
const _: () = assert!(size_of::<CompeteHeads>() == 64);
const _: () = assert!(size_of::<ColumnSums>() == 40);
const _: () = assert!(size_of::<ScoreRows>() == 56);
const _: () = assert!(size_of::<ExpectedScores>() == 104);
const _: () = assert!(size_of::<PlaneSums>() == 32);
