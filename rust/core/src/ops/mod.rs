//! Stateless operations on flat arrays.

pub mod attention;
pub mod draw;
pub mod gather;
pub mod key_mass;
pub mod law_weights;
pub mod linear;
pub mod logits;
pub mod page_summary;
pub mod pages;
pub mod quantise;
pub mod rows;
pub mod sample;
pub mod topk;
pub mod verify;
pub mod warp;
