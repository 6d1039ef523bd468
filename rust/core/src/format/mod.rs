//! How numbers lie in memory: element types, the geometry of pages, slots, the plan of a step, and what of it
//! is read.
//!
//! ```
//! use hornbeam_core::format::{Dtype, PageLayout};
//!
//! // Thirty layers of three key-value heads.
//! let layout =
//!     PageLayout { num_planes: 90, slabs_per_chunk: 32, page_tokens: 16, head_dim: 64, dtype: Dtype::Bf16 };
//! assert_eq!(layout.page_bytes(), 4096);
//! assert_eq!(layout.slab_bytes(), 90 * 4096); // what 16 tokens take in all layers
//! ```

pub mod key_table;
pub mod page;
pub mod page_runs;
pub mod plan;
pub mod plan_words;
pub mod selection;
pub mod slot;

use half::{bf16, f16};

use crate::error::{Error, Result};

/// Element type of a tensor or of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
}

impl Dtype {
    /// The element type that torch gives this name.
    ///
    /// # Errors
    /// [`Error::Value`] for any other.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "float32" => Ok(Self::F32),
            "bfloat16" => Ok(Self::Bf16),
            "float16" => Ok(Self::F16),
            _ => Err(Error::value("dtype", name, "float32, bfloat16 or float16")),
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

/// A floating-point element that widens to f32 exactly and narrows with round-to-nearest-even.
pub trait Element: Copy + Send + Sync + Default + 'static {
    /// The tag of this type.
    const DTYPE: Dtype;
    /// Widens exactly.
    fn to_f32(self) -> f32;
    /// Narrows, ties to even.
    fn from_f32(x: f32) -> Self;
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }
}

impl Element for bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        bf16::from_f32(x)
    }
}

impl Element for f16 {
    const DTYPE: Dtype = Dtype::F16;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        f16::from_f32(x)
    }
}

/// Geometry of the page pool.
///
/// The pool is a list of *chunks*, each one tensor `[num_planes, slabs_per_chunk, 2, page_tokens,
/// head_dim]`, contiguous. A *plane* is one (physical layer, kv head), `layer * num_kv_heads +
/// head`. A page is `chunk[plane, slab]`: first the keys of `page_tokens` slots, then their values.
/// A *slab* is the set of pages, one a plane, that hold the same tokens; slab `s` lies in chunk
/// `s / slabs_per_chunk`. Consecutive slabs of one plane are consecutive in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLayout {
    /// Physical layers times kv heads.
    pub num_planes: usize,
    /// Slabs in one chunk.
    pub slabs_per_chunk: usize,
    /// Slots of one page.
    pub page_tokens: usize,
    /// Elements of one key, and of one value.
    pub head_dim: usize,
    /// Element type of keys and values.
    pub dtype: Dtype,
}

impl PageLayout {
    /// Elements of one page, keys and values.
    pub fn page_elements(&self) -> usize {
        2 * self.page_tokens * self.head_dim
    }

    /// Bytes of one page.
    pub fn page_bytes(&self) -> usize {
        self.page_elements() * self.dtype.size()
    }

    /// Bytes of one slab: one page a plane.
    pub fn slab_bytes(&self) -> usize {
        self.page_bytes() * self.num_planes
    }

    /// The planes of a layer; `None` where the pool has fewer.
    pub fn planes_of(&self, layer: usize, num_kv_heads: usize) -> Option<std::ops::Range<usize>> {
        let begin = layer.checked_mul(num_kv_heads)?;
        let end = begin.checked_add(num_kv_heads)?;
        (end <= self.num_planes).then_some(begin..end)
    }

    /// Elements of one chunk.
    pub fn chunk_elements(&self) -> usize {
        self.page_elements() * self.num_planes * self.slabs_per_chunk
    }

    /// Chunk of a slab, and the element at which its page of `plane` begins there.
    #[inline(always)]
    pub fn slab_page(&self, slab: u32, plane: usize) -> (usize, usize) {
        let (chunk, index) = (slab as usize / self.slabs_per_chunk, slab as usize % self.slabs_per_chunk);
        (chunk, (plane * self.slabs_per_chunk + index) * self.page_elements())
    }

    /// Chunk of a slab, and which of the chunk's pages is its page of `plane`.
    #[inline(always)]
    pub fn slab_place(&self, slab: u32, plane: usize) -> (usize, usize) {
        let (chunk, index) = (slab as usize / self.slabs_per_chunk, slab as usize % self.slabs_per_chunk);
        (chunk, plane * self.slabs_per_chunk + index)
    }

    /// Chunk of a page id, and which of the chunk's pages it is.
    #[inline(always)]
    pub fn page_place(&self, id: u32) -> (usize, usize) {
        let pages = self.num_planes * self.slabs_per_chunk;
        (id as usize / pages, id as usize % pages)
    }

    /// The page id of a slab's page of `plane`: pages are numbered chunk by chunk in memory order.
    #[inline(always)]
    pub fn page_id(&self, slab: u32, plane: usize) -> u32 {
        let (chunk, index) = (slab as usize / self.slabs_per_chunk, slab as usize % self.slabs_per_chunk);
        ((chunk * self.num_planes + plane) * self.slabs_per_chunk + index) as u32
    }

    /// Chunk of a page id, and the element at which the page begins there.
    #[inline(always)]
    pub fn page(&self, id: u32) -> (usize, usize) {
        let pages = self.num_planes * self.slabs_per_chunk;
        (id as usize / pages, id as usize % pages * self.page_elements())
    }
}
