//! What a score, a split or a reduction declares, once, in its own file.

use super::Params;
use crate::error::{Error, Result};

/// How a method is called, and how it is made. `T` is the family's trait.
pub(super) struct Method<T: ?Sized> {
    /// The name that Python and files say.
    pub name: &'static str,
    /// Takes the parameters that it knows, each within its range.
    pub build: fn(&mut Params) -> Result<Box<T>>,
}

/// The method of a name among `all`, with its parameters.
///
/// # Errors
/// [`Error::Value`] if the name or a parameter is unknown, or a parameter lies outside of its range.
pub(super) fn build<T: ?Sized>(
    family: &'static str,
    all: &[Method<T>],
    name: &str,
    mut params: Params,
) -> Result<Box<T>> {
    let Some(method) = all.iter().find(|method| method.name == name) else {
        return Err(Error::value(family, name, format!("one of {}", names(all).join(", "))));
    };
    let built = (method.build)(&mut params)?;
    params.finish()?;
    Ok(built)
}

/// The names of all methods.
pub(super) fn names<T: ?Sized>(all: &[Method<T>]) -> Vec<&'static str> {
    all.iter().map(|method| method.name).collect()
}
