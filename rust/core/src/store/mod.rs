//! Slabs, pages and columns.
