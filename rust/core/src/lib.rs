//! The algorithms of hornbeam, on slices, ids and views: no Python, no torch, no CUDA.
//!
//! A program that runs a language model takes from here what it lacks: a prefix tree over paged keys and
//! values with forks, commits and rollbacks; attention over such pages; linear layers for few rows; top-k,
//! sampling and the verification of drafts; rules of what to draft, what to keep, what to read and where to
//! search. Each can be taken alone. The model, its weights and the memory of the pages stay the program's.
//!
//! | for | begin with |
//! |---|---|
//! | pages that branches share | [`tree::Tree`], [`plan::step_plan`] |
//! | attention over pages | [`ops::attention::tree_attention`] |
//! | keys and values into pages | [`ops::rows::write_rows`] |
//! | a linear layer for few rows | [`ops::linear::linear`] |
//! | the greatest of many numbers | [`ops::topk::top_k`] |
//! | temperature, top-p, penalties, and a draw | [`ops::warp`], [`ops::sample::coupled`] |
//! | drafts, and how many of their tokens to verify | [`spec::suffix::SuffixDraft`], [`spec::gain::Gain`] |
//! | how much of a draft stays | [`ops::verify::verify`] |
//! | which keys and values stay | [`keep`], [`tree::Tree::compact`] |
//! | which pages are read | [`attend::select`] |
//! | which of many texts are gone on with | [`search::Policy`] |
//! | what all that may cost | [`ledger::Ledger`], [`allocate`] |
//!
//! # A step
//!
//! A forward pass is a step: new tokens of any number of branches, a row each. The tree says where the rows
//! are written and what they read; the program computes queries, keys and values, and calls attention once a
//! layer; then it says which rows stay.
//!
//! ```
//! use hornbeam_core::format::{Dtype, PageLayout};
//! use hornbeam_core::ops::attention::{
//!     AttentionParams, Floats, FloatsMut, Output, Pages, Queries, tree_attention,
//! };
//! use hornbeam_core::ops::rows::{LayerPages, RowVectors, copy_rows};
//! use hornbeam_core::parallel::Rayon;
//! use hornbeam_core::plan::step_plan;
//! use hornbeam_core::simd::Isa;
//! use hornbeam_core::tree::{Begin, Request, Tree};
//!
//! // One layer with one key-value head of two elements, pages of four tokens.
//! let layout =
//!     PageLayout { num_planes: 1, slabs_per_chunk: 8, page_tokens: 4, head_dim: 2, dtype: Dtype::F32 };
//! let mut chunks: Vec<Vec<f32>> = Vec::new(); // the memory of the pages
//! let mut tree = Tree::new(layout, usize::MAX)?;
//! let branch = tree.branch();
//!
//! // Open a step of three tokens. The tree asks for memory first.
//! let request = Request { branch, tokens: &[5, 6, 7], parents: None };
//! while let Begin::Grow(count) = tree.begin(&[request])? {
//!     for _ in 0..count {
//!         chunks.push(vec![0.0; layout.chunk_elements()]);
//!         tree.add_chunk()?;
//!     }
//! }
//! let plan = step_plan(&tree);
//! assert_eq!(plan.row_positions, [0, 1, 2]);
//!
//! // What a model gives for these rows. In one of several layers this is done once a layer.
//! let (queries, keys) = ([0.5, 1.0, -1.0, 2.0, 0.0, 1.0], [0.0; 6]);
//! let values = [3.0, 0.0, 5.0, 0.0, 7.0, 9.0];
//! let rows = |data| RowVectors { data, row_stride: 2, head_stride: 2 };
//! let mut written: Vec<&mut [f32]> = chunks.iter_mut().map(Vec::as_mut_slice).collect();
//! let pages = LayerPages { chunks: &mut written, layout: &layout, layer: 0, num_kv_heads: 1 };
//! copy_rows(rows(&keys), rows(&values), &plan.row_slots, pages, &Rayon)?;
//!
//! let mut out = [0.0; 6];
//! let read: Vec<&[f32]> = chunks.iter().map(Vec::as_slice).collect();
//! tree_attention(
//!     Isa::detected(),
//!     &Rayon,
//!     Queries { data: Floats::F32(&queries), row_stride: 2, head_stride: 2 },
//!     Pages::F32(&read),
//!     &layout,
//!     &plan,
//!     &AttentionParams::new(1, 1, 0, 2, None),
//!     None,
//!     Output { data: FloatsMut::F32(&mut out), row_stride: 2, head_stride: 2, lse: None },
//! )?;
//! // All keys are equal, so that a row's result is the mean of the values that it sees.
//! let expected = [3.0, 0.0, 4.0, 0.0, 5.0, 3.0];
//! assert!(out.iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-5));
//!
//! // All three rows stay. Of a draft fewer do, and what stays may have to move to the left.
//! tree.commit(&[&[0, 1, 2]])?;
//! assert!(tree.take_moves().is_empty());
//! assert_eq!(tree.token_ids(branch)?, [5, 6, 7]);
//! # Ok::<(), hornbeam_core::Error>(())
//! ```
//!
//! # What holds everywhere
//!
//! - **Memory.** Pages, inputs and outputs are slices of the caller's. The tree moves no bytes:
//!   [`tree::Tree::take_moves`] says which slots are to be copied, [`ops::rows::move_rows`] and its like copy
//!   them.
//! - **Threads.** Whoever calls gives the pool: [`parallel::Serial`], [`parallel::Rayon`], or a
//!   [`parallel::Parallel`] of the program's. Short work runs on the calling thread.
//! - **Bits.** A result depends neither on the pool nor on the instruction set ([`simd::Isa`]). Equal numbers
//!   are told apart by their index, the lowest first. Draws depend on seed, sequence and position ([`rng`]).
//! - **Errors.** An [`Error`] names the argument, what it was, and what was expected. An operation that
//!   returns one has changed nothing, unless its own page says otherwise.
//!
//! # Layers
//!
//! Layers, lowest first; each knows only those above it in this list, and no two modules need each other
//! (`tests/test_core_layers.py` reads the paths):
//! 1. [`error`], [`rng`], [`simd`], [`mod@format`], [`ledger`], [`parallel`]: slots and their moves, pages, and the words of a plan
//! 2. [`store`]: slabs, pages, columns
//! 3. [`tree`]: nodes and their tables, versions, branches, steps, prefix match
//! 4. [`mod@plan`]: from an open step of a tree to its plan
//! 5. [`ops`]: attention, verification, warping: stateless, on flat arrays; they know layer 1 alone
//! 6. [`allocate`]: how much each candidate gets, on flat arrays; it stands on operations alone
//! 7. [`spec`], [`keep`], [`attend`], [`search`]: policies of drafting, of eviction, of sparse reads and of search; they know layers 1, 5 and 6
#![deny(unsafe_code)]

/// The modules of a family, a method a file, and `ALL`: what each declares as `METHOD`. A method is added by
/// adding its file and its name to the family's list.
macro_rules! methods {
    ($method:ty: $($module:ident),+ $(,)?) => {
        $(mod $module;)+

        /// Every method of the family.
        const ALL: &[$method] = &[$($module::METHOD),+];
    };
}

pub mod allocate;
pub mod attend;
pub mod error;
pub mod format;
pub mod keep;
pub mod ledger;
pub mod ops;
pub mod parallel;
pub mod plan;
pub mod rng;
pub mod search;
#[allow(unsafe_code)]
pub mod simd;
pub mod spec;
pub mod store;
pub mod tree;

pub use error::{Error, Result};

/// The examples of the page for Rust users, so that they are compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/rust.md")]
struct Page;
