//! Where pages lie, and slots of them.

use hornbeam_core::format::PageLayout;

/// An element type.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floats.
    F32 = 0,
    /// bfloat16.
    Bf16 = 1,
    /// IEEE half precision.
    F16 = 2,
}

impl From<hornbeam_core::format::Dtype> for Dtype {
    fn from(dtype: hornbeam_core::format::Dtype) -> Self {
        use hornbeam_core::format::Dtype::{Bf16, F16, F32};
        match dtype {
            F32 => Self::F32,
            Bf16 => Self::Bf16,
            F16 => Self::F16,
        }
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
    pub dtype: Dtype,
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
            dtype: layout.dtype.into(),
            plane_begin: (layer * num_kv_heads) as i32,
            num_kv_heads: num_kv_heads as i32,
            reserved: 0,
        }
    }
}

/// One move: slot to slot, in every plane.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Slab that is read, or page.
    pub from_slab: u32,
    /// Slot that is read.
    pub from_slot: u32,
    /// Slab that is written, or page.
    pub to_slab: u32,
    /// Slot that is written.
    pub to_slot: u32,
}

/// A slot of a page, as a branch holds it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Page id.
    pub page: u32,
    /// The slot; above its bits the number of the page's format, as in an entry of a plan.
    pub slot: u32,
    /// Logical position.
    pub position: i32,
}

/// Where the parts of a page in codes lie, in bytes from its start; those of keys are at 0.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CodedPage {
    /// Bits of a code.
    pub bits: i32,
    /// Tokens of the page.
    pub tokens: i32,
    /// Bytes of the codes of one key, and of one value.
    pub row_bytes: i32,
    /// Codes of values.
    pub value_codes: i32,
    /// Offsets and steps of keys.
    pub key_params: i32,
    /// Tokens of a block of keys by channel; 0: by token.
    pub key_group: i32,
    /// Offsets and steps of values.
    pub value_params: i32,
    /// Channels of a block of values.
    pub value_channels: i32,
    /// Factors of channels of values; 0: none.
    pub factors: i32,
    /// Elements of one key.
    pub head_dim: i32,
    /// Zero.
    pub reserved: [i32; 2],
}
