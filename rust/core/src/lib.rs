//! The algorithms of hornbeam, on slices, ids and views: no Python, no torch, no CUDA.
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
