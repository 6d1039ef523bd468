//! Pages of codes, and rows out of pages and into them.

use super::{Address, AddressMut, CodedPage, Held, Move, Pages};

/// Threads of a block that encodes a page.
pub const ENCODE_THREADS: i32 = 256;

/// `hornbeam_encode_pages`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct EncodePages {
    /// Addresses of the chunks, on the device.
    pub chunks: Address<u64>,
    /// Those of the chunks that pages are written to.
    pub to: Address<u64>,
    /// Page by page, to slots 0, 1, ... of each.
    pub moves: Address<Move>,
    /// Where each page's moves begin, `[num_runs + 1]`.
    pub runs: Address<i32>,
    /// The format.
    pub format: Address<CodedPage>,
    /// Takes 1 where an element is no number that f16 holds; such a page is not written.
    pub fault: AddressMut<i32>,
    /// All planes.
    pub pages: Pages,
    /// Pages to write (of each plane).
    pub num_runs: i32,
    /// 1 where ids are those of pages, 0 of slabs.
    pub by_page: i32,
}

/// `hornbeam_gather_rows`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct GatherRows {
    /// Addresses of the chunks, on the device.
    pub chunks: Address<u64>,
    /// `[num_rows]`.
    pub held: Address<Held>,
    /// By number less one; or 0 where all slots are plain.
    pub formats: Address<CodedPage>,
    /// Takes `[num_rows, head_dim]` floats.
    pub keys: AddressMut<f32>,
    /// Likewise.
    pub values: AddressMut<f32>,
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
    pub chunks: Address<u64>,
    /// `[num_rows]`, plain slots.
    pub held: Address<Held>,
    /// `[num_rows, head_dim]` floats.
    pub keys: Address<f32>,
    /// Likewise.
    pub values: Address<f32>,
    /// Where to.
    pub pages: Pages,
    /// Slots.
    pub num_rows: i32,
    /// Zero.
    pub reserved: i32,
}
