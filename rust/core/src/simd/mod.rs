//! Run-time choice of instruction sets, and the vector primitives that operations share.
