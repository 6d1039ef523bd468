//! Slabs, pages and columns: who holds what, never the bytes of a page.
//!
//! Page memory belongs to the caller (torch tensors, one a chunk); the store only counts. Columns
//! are small and are kept here.

mod columns;
mod line_bytes;
mod slabs;

pub use columns::{ColumnId, Columns, Scope};
pub use slabs::Slabs;
