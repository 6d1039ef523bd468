//! Named parameters of a factor, as they arrive from Python or from a file.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// One parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Param {
    /// A number.
    Number(f64),
    /// A list of numbers.
    Numbers(Vec<f64>),
    /// A word.
    Text(String),
    /// Another factor, by name and parameters.
    Factor(String, Params),
}

/// The parameters of one factor. A constructor takes what it knows, then calls
/// [`Params::finish`], so that a misspelt name is an error.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Params(BTreeMap<String, Param>);

impl FromIterator<(String, Param)> for Params {
    fn from_iter<T: IntoIterator<Item = (String, Param)>>(items: T) -> Self {
        Self(items.into_iter().collect())
    }
}

impl Params {
    /// A whole number of at least `least`; `default` where the parameter is absent.
    ///
    /// # Errors
    /// [`Error::Value`] for anything else.
    pub fn count(&mut self, name: &'static str, default: usize, least: usize) -> Result<usize> {
        let expected = || format!("a whole number of at least {least}");
        match self.0.remove(name) {
            None => Ok(default),
            Some(Param::Number(x)) if x.fract() == 0.0 && x >= least as f64 && x < 4e9 => Ok(x as usize),
            Some(other) => Err(Error::value(name, format!("{other:?}"), expected())),
        }
    }

    /// A number within `[low, high]`; `default` where the parameter is absent.
    ///
    /// # Errors
    /// [`Error::Value`] for anything else.
    pub fn number(&mut self, name: &'static str, default: f64, low: f64, high: f64) -> Result<f64> {
        match self.0.remove(name) {
            None => Ok(default),
            Some(Param::Number(x)) if (low..=high).contains(&x) => Ok(x),
            Some(other) => {
                Err(Error::value(name, format!("{other:?}"), format!("a number from {low} to {high}")))
            }
        }
    }

    /// A list of finite numbers that are not negative, or `None` where the parameter is absent.
    ///
    /// # Errors
    /// [`Error::Value`] for anything else.
    pub fn weights(&mut self, name: &'static str) -> Result<Option<Vec<f64>>> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Param::Numbers(list)) if list.iter().all(|x| x.is_finite() && *x >= 0.0) => Ok(Some(list)),
            Some(other) => {
                Err(Error::value(name, format!("{other:?}"), "finite numbers that are not negative"))
            }
        }
    }

    /// One of `words`, as its index; 0 where the parameter is absent.
    ///
    /// # Errors
    /// [`Error::Value`] for anything else.
    pub fn word(&mut self, name: &'static str, words: &[&str]) -> Result<usize> {
        let expected = || format!("one of {}", words.join(", "));
        match self.0.remove(name) {
            None => Ok(0),
            Some(Param::Text(word)) => words
                .iter()
                .position(|w| *w == word)
                .ok_or_else(|| Error::value(name, format!("{word:?}"), expected())),
            Some(other) => Err(Error::value(name, format!("{other:?}"), expected())),
        }
    }

    /// Another factor.
    ///
    /// # Errors
    /// [`Error::Value`] if it is absent or something else.
    pub fn factor(&mut self, name: &'static str) -> Result<(String, Self)> {
        match self.0.remove(name) {
            Some(Param::Factor(factor, params)) => Ok((factor, params)),
            other => Err(Error::value(name, format!("{other:?}"), "a factor")),
        }
    }

    /// Everything was taken.
    ///
    /// # Errors
    /// [`Error::Value`] naming a parameter that nothing took.
    pub fn finish(self) -> Result<()> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(Error::value("parameter", name, "a parameter that the factor knows")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        let mut params: Params = [
            ("window".to_owned(), Param::Number(2.5)),
            ("alpha".to_owned(), Param::Number(0.2)),
            ("mode".to_owned(), Param::Text("max".into())),
            ("odd".to_owned(), Param::Numbers(vec![-1.0])),
            ("misspelt".to_owned(), Param::Number(1.0)),
        ]
        .into_iter()
        .collect();
        let message = params.count("window", 64, 1).unwrap_err().to_string();
        assert_eq!(message, "window is Number(2.5), expected a whole number of at least 1");
        assert_eq!(params.number("alpha", 0.5, 0.0, 1.0), Ok(0.2));
        assert_eq!(params.word("mode", &["mean", "max"]), Ok(1));
        assert!(params.weights("odd").is_err());
        assert_eq!(params.count("absent", 7, 1), Ok(7));
        assert!(params.finish().unwrap_err().to_string().contains("misspelt"));
    }
}
