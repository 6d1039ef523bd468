//! Stateless operations on flat arrays.

pub mod attention;
pub mod rows;
