//! The kernels that the sources declare, found when the crate is built.
//!
//! `HORNBEAM_KERNEL` in a file of `cuda/` is a kernel's only declaration: the build makes a constant of it here, with
//! the type of its parameters, and gives it a number. A launch of a kernel that is not there, or with another
//! struct, does not compile, and one that nobody launches is reported as unused.

use std::marker::PhantomData;

/// A kernel that takes a `P`.
pub(crate) struct Kernel<P> {
    /// Its place among [`ENTRIES`].
    number: usize,
    parameters: PhantomData<fn(P)>,
}

impl<P> Kernel<P> {
    const fn new(number: usize) -> Self {
        Self { number, parameters: PhantomData }
    }

    /// Its place among [`ENTRIES`].
    pub(crate) fn number(self) -> usize {
        self.number
    }
}

impl<P> Clone for Kernel<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Kernel<P> {}

/// Where a kernel is.
pub(crate) struct Entry {
    /// Index in [`IMAGES`](crate::IMAGES).
    pub(crate) image: usize,
    /// The symbol.
    pub(crate) name: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
