//! The prefix tree: nodes, branches, steps.
