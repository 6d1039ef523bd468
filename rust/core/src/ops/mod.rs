//! Stateless operations on flat arrays.
