//! What a call of attention is given: queries, pages, plan and parameters, and how its tasks are run.

use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::format::PageLayout;
use crate::format::page::Formats;
use crate::format::plan::Plan;
use crate::format::selection::{Selection, Unit};
use crate::simd::MOST_HEAD_DIM;

/// Multiply-adds below which the calling thread does everything: about 50 µs of one core.
pub(in crate::ops) const SERIAL_WORK: u64 = 1 << 21;

/// Numbers of one of the three element types.
#[derive(Debug, Clone, Copy)]
pub enum Floats<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// bfloat16.
    Bf16(&'a [bf16]),
    /// IEEE halves.
    F16(&'a [f16]),
}

/// Numbers of one of the three element types, to be written.
#[derive(Debug)]
pub enum FloatsMut<'a> {
    /// 32-bit floats.
    F32(&'a mut [f32]),
    /// bfloat16.
    Bf16(&'a mut [bf16]),
    /// IEEE halves.
    F16(&'a mut [f16]),
}

/// The page pool: one slice a chunk, empty where the plan touches nothing.
#[derive(Debug, Clone, Copy)]
pub enum Pages<'a> {
    /// 32-bit floats.
    F32(&'a [&'a [f32]]),
    /// bfloat16.
    Bf16(&'a [&'a [bf16]]),
    /// IEEE halves.
    F16(&'a [&'a [f16]]),
}

/// Queries `[num_rows, num_heads, head_dim]` with a unit last stride.
#[derive(Debug, Clone, Copy)]
pub struct Queries<'a> {
    /// From the first element on.
    pub data: Floats<'a>,
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one head to the next.
    pub head_stride: usize,
}

/// Where results go: `[num_rows, num_heads, head_dim]` with a unit last stride, and rows that do
/// not overlap: the row stride is at least what one row spans.
#[derive(Debug)]
pub struct Output<'a> {
    /// From the first element on.
    pub data: FloatsMut<'a>,
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one head to the next.
    pub head_stride: usize,
    /// Where given, takes the logarithm of each softmax denominator, `[num_rows, num_heads]`;
    /// -inf for a row that sees nothing. Sinks are part of the denominator.
    pub lse: Option<&'a mut [f32]>,
}

/// What the scores are made of.
#[derive(Debug, Clone, Copy)]
pub struct AttentionParams<'a> {
    /// Query heads; a multiple of `num_kv_heads`.
    pub num_heads: usize,
    /// Key-value heads.
    pub num_kv_heads: usize,
    /// Physical layer.
    pub layer: usize,
    /// Factor of the scores, usually `head_dim ** -0.5`.
    pub scale: f32,
    /// A key is visible iff `row position - key position < window`.
    pub window: Option<u32>,
    /// Scores become `cap * tanh(score / cap)` (Gemma 2).
    pub soft_cap: Option<f32>,
    /// One learned logit a head that takes part in the denominator alone (gpt-oss), `[num_heads]`.
    pub sinks: Option<&'a [f32]>,
    /// Query rows, which are rows times query heads of a kv head, that read the keys which they see together
    /// directly; more of them read tiles. [`STREAM_QUERIES`] is the number up to which that was measured
    /// faster on one machine. It decides about rounding, and about nothing else.
    pub stream_queries: usize,
    /// Whether the bits of a row depend on its query and on the keys that it sees alone, whatever other rows
    /// the plan has: every row reads tiles (`stream_queries` is not looked at), and its keys are one sum.
    pub batch_invariant: bool,
}

impl AttentionParams<'_> {
    /// Without a window, a cap and sinks; the scale is `head_dim ** -0.5` if none is given.
    pub fn new(
        num_heads: usize,
        num_kv_heads: usize,
        layer: usize,
        head_dim: usize,
        scale: Option<f32>,
    ) -> Self {
        Self {
            num_heads,
            num_kv_heads,
            layer,
            scale: scale.unwrap_or_else(|| (head_dim as f32).powf(-0.5)),
            window: None,
            soft_cap: None,
            sinks: None,
            stream_queries: STREAM_QUERIES,
            batch_invariant: false,
        }
    }

    /// Query rows that read keys directly.
    pub(super) fn direct_queries(&self) -> usize {
        if self.batch_invariant { 0 } else { self.stream_queries }
    }
}

/// Query rows up to which keys are read directly, where nothing else was measured.
pub const STREAM_QUERIES: usize = 12;

impl Floats<'_> {
    pub(in crate::ops) fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::Bf16(data) => data.len(),
            Self::F16(data) => data.len(),
        }
    }
}

impl FloatsMut<'_> {
    pub(in crate::ops) fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::Bf16(data) => data.len(),
            Self::F16(data) => data.len(),
        }
    }
}

/// What all pieces of a call share.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Problem<'a> {
    pub(in crate::ops) plan: &'a Plan,
    pub(in crate::ops) layout: &'a PageLayout,
    pub(in crate::ops) params: &'a AttentionParams<'a>,
    pub(in crate::ops) queries: Queries<'a>,
    pub(in crate::ops) formats: &'a Formats,
    /// What of the prefix reads is read; `None` for all of it.
    pub(in crate::ops) selection: Option<&'a Selection>,
}

impl Problem<'_> {
    /// Query heads of one kv head.
    pub(in crate::ops) fn group(&self) -> usize {
        self.params.num_heads / self.params.num_kv_heads
    }

    /// Keys of the units `begin..end` of the selection.
    pub(super) fn unit_keys(&self, begin: u32, end: u32) -> u64 {
        let units = self.selection.map_or(&[] as &[Unit], |selection| selection.units(begin, end));
        units.iter().map(|unit| u64::from(self.plan.entries[unit.entry as usize].count)).sum()
    }
}

/// What does not depend on the queries and the results.
pub(in crate::ops) fn check_problem(
    layout: &PageLayout,
    plan: &Plan,
    params: &AttentionParams<'_>,
) -> Result<()> {
    let (heads, kv_heads, dim) = (params.num_heads, params.num_kv_heads, layout.head_dim);
    if !(1..=MOST_HEAD_DIM).contains(&dim) {
        return Err(Error::value("head_dim", dim, format!("1 to {MOST_HEAD_DIM}")));
    }
    if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(Error::value("num_heads", heads, format!("a multiple of num_kv_heads, {kv_heads}")));
    }
    if layout.planes_of(params.layer, kv_heads).is_none() {
        let layers = layout.num_planes / kv_heads;
        return Err(Error::value("layer", params.layer, format!("less than {layers}")));
    }
    if let Some(sinks) = params.sinks
        && sinks.len() != heads
    {
        return Err(Error::shape("sinks.len", sinks.len(), heads));
    }
    if params.soft_cap.is_some_and(|cap| !(cap > 0.0 && cap.is_finite())) {
        return Err(Error::value("soft_cap", format!("{:?}", params.soft_cap), "a positive number"));
    }
    if params.window == Some(0) {
        return Err(Error::value("window", 0, "at least 1"));
    }
    for read in &plan.reads {
        if read.mask != -1 {
            return Err(Error::value("mask of a read", read.mask, "-1: row masks are not supported yet"));
        }
        if read.rotary_offset != 0 {
            return Err(Error::value("rotary_offset of a read", read.rotary_offset, "0"));
        }
    }
    Ok(())
}
