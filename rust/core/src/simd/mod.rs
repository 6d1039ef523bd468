//! Run-time choice of instruction sets, and the vector primitives that operations share.

pub(crate) mod blocks;
pub(crate) mod dot;
