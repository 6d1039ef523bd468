//! Stateless operations on flat arrays.

pub mod rows;
