//! Drafting policies.
