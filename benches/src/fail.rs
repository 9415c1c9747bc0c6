//! Why the benchmark ends without figures.

use std::fmt::Display;

/// A sentence for whoever runs it: nothing here decides on it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Fail(pub(crate) String);

pub(crate) type Outcome<T> = Result<T, Fail>;

impl Fail {
    /// Says what was tried when it failed.
    pub(crate) fn of<E: Display>(what: impl Display) -> impl FnOnce(E) -> Self {
        move |error| Self(format!("{what}: {error}"))
    }
}
