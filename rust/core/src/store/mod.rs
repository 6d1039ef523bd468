//! Slabs, pages and columns: who holds what, never the bytes of a page.
//!
//! Page memory belongs to the caller (torch tensors, one a chunk); the store only counts. Columns
//! are small and are kept here.
//!
//! ```
//! use hornbeam_core::format::{Dtype, PageLayout};
//! use hornbeam_core::store::Slabs;
//!
//! let layout =
//!     PageLayout { num_planes: 2, slabs_per_chunk: 4, page_tokens: 16, head_dim: 64, dtype: Dtype::F32 };
//! let mut slabs = Slabs::new(layout, 1);
//! slabs.add_chunk()?;
//! assert!(slabs.add_chunk().is_err()); // the limit was one chunk
//!
//! let shared = slabs.take_slabs(1)?[0];
//! slabs.retain(shared); // a second holder
//! slabs.release(shared);
//! assert_eq!(slabs.num_free(), 3);
//! slabs.release(shared);
//! assert_eq!(slabs.num_free(), 4);
//! # Ok::<(), hornbeam_core::Error>(())
//! ```

mod columns;
mod line_bytes;
mod slabs;

pub use columns::{ColumnId, Columns, Scope};
pub use slabs::Slabs;
