//! Stateless operations on flat arrays.

pub mod attention;
pub mod rows;
pub mod logits;
pub mod sample;
pub mod verify;
pub mod warp;
