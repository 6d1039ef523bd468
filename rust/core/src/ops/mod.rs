//! Stateless operations on flat arrays.

pub mod linear;
