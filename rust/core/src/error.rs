//! The one error type of the crate.

use thiserror::Error;

/// What any operation of the crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation refused to run. An operation that returns one has changed nothing.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum Error {
    /// A shape, length or stride differs from what the operation needs.
    #[error("{what} is {got}, expected {expected}")]
    Shape {
        /// The argument and the property, for example `q.shape`.
        what: &'static str,
        /// The offending value.
        got: String,
        /// What would have been accepted.
        expected: String,
    },
    /// A value lies outside of its range.
    #[error("{what} is {got}, expected {expected}")]
    Value {
        /// The argument.
        what: &'static str,
        /// The offending value.
        got: String,
        /// What would have been accepted.
        expected: String,
    },
    /// The page budget does not hold what was asked for.
    #[error("out of pages: {needed} more slabs are needed, {free} are free within the budget of {budget}")]
    OutOfPages {
        /// Slabs that the call needs.
        needed: usize,
        /// Slabs that could be had.
        free: usize,
        /// The hard limit.
        budget: usize,
    },
    /// A handle was used after it was released, or in a state that forbids the call.
    #[error("{what} {state}")]
    State {
        /// The handle, for example `branch 3`.
        what: String,
        /// Its state, for example `is closed`.
        state: &'static str,
    },
    /// A row of logits is not a distribution.
    #[error("logits of sequence {sequence}, row {row} contain {got}, expected finite values or -inf")]
    Logits {
        /// Index of the sequence in the batch.
        sequence: usize,
        /// Row within the sequence, 0 at the root.
        row: usize,
        /// `NaN`, `+inf` or `-inf only`.
        got: &'static str,
    },
}

impl Error {
    /// A [`Error::Shape`] from anything that prints.
    pub fn shape(what: &'static str, got: impl std::fmt::Debug, expected: impl std::fmt::Display) -> Self {
        Self::Shape { what, got: format!("{got:?}"), expected: expected.to_string() }
    }

    /// A [`Error::Value`] from anything that prints.
    pub fn value(what: &'static str, got: impl std::fmt::Display, expected: impl std::fmt::Display) -> Self {
        Self::Value { what, got: got.to_string(), expected: expected.to_string() }
    }
}
