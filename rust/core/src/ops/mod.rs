//! Stateless operations on flat arrays.
//!
//! Each takes what it needs and nothing of a tree, so that another program can take one and leave the rest:
//! [`attention`] over pages, [`linear`] layers of few rows, [`topk`], the laws of [`mod@warp`] with [`sample`]
//! and [`mod@draw`], [`mod@verify`] for drafts, what is written into pages ([`rows`], [`pages`], [`quantise`]),
//! and what eviction and sparse attention stand on ([`key_mass`], [`page_summary`], [`gather`]).

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
