//! Stateless operations on flat arrays.

pub mod key_mass;
pub mod quantise;
pub mod rows;
