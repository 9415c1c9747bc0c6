//! Why a command failed, for the person who typed it.

use std::fmt;

/// What was being done, and what went wrong.
#[derive(Debug)]
pub(crate) struct CliError(String);

impl CliError {
    /// `what` says what was being done, `why` what went wrong.
    pub(crate) fn new(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self(format!("{what}: {why}"))
    }

    /// One text.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
