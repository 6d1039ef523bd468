//! What summaries are, and what the parts of a call on them share.

use crate::error::{Error, Result};
use crate::format::Element;
use crate::ops::attention::Problem;
use crate::parallel::Parallel;
use crate::simd::Isa;

/// What a summary holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Summary {
    /// The greatest and then the least element of each channel: `[2, head_dim]`.
    Bounds,
    /// The mean of each channel: `[head_dim]`.
    Mean,
}

impl Summary {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Bounds, Self::Mean];

    /// What Python calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bounds => "bounds",
            Self::Mean => "mean",
        }
    }

    /// Elements of one page's summary.
    pub fn elements(self, head_dim: usize) -> usize {
        match self {
            Self::Bounds => 2 * head_dim,
            Self::Mean => head_dim,
        }
    }
}

/// Bytes that say which slots of a page its summary is of: first and count, 16 bits each; zeros for none.
pub const SPAN_BYTES: usize = 4;

/// The summaries of all pages of a pool, chunk by chunk.
#[derive(Debug)]
pub struct Summaries<'a, 'b> {
    /// What they hold.
    pub summary: Summary,
    /// `[num_planes, slabs_per_chunk]` summaries of a chunk, in the element type of its pages.
    pub values: &'a mut [&'b mut [u8]],
    /// `[num_planes, slabs_per_chunk]` times [`SPAN_BYTES`] of a chunk.
    pub spans: &'a mut [&'b mut [u8]],
}

/// What the parts of one call share.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) isa: Isa,
    pub(super) pool: &'a dyn Parallel,
    pub(super) problem: &'a Problem<'a>,
    pub(super) rows: &'a [u32],
    /// Of each of the rows.
    pub(super) slacks: &'a [f32],
    pub(super) summary: Summary,
}

impl Call<'_> {
    /// Elements of one summary.
    pub(super) fn elements(&self) -> usize {
        self.summary.elements(self.problem.layout.head_dim)
    }

    /// Summaries of every chunk that is there.
    pub(super) fn check<E: Element>(
        &self,
        chunks: &[&[E]],
        values: &[&mut [u8]],
        spans: &[&mut [u8]],
    ) -> Result<()> {
        let layout = self.problem.layout;
        let pages = layout.num_planes * layout.slabs_per_chunk;
        let sizes = [(values, self.elements() * size_of::<E>()), (spans, SPAN_BYTES)];
        for (chunk, _) in chunks.iter().enumerate().filter(|(_, chunk)| !chunk.is_empty()) {
            for (parts, bytes) in sizes {
                let got = parts.get(chunk).map_or(0, |part| part.len());
                if got != pages * bytes {
                    return Err(Error::shape("bytes of the summaries of a chunk", got, pages * bytes));
                }
            }
        }
        Ok(())
    }
}
