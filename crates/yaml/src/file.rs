//! What is wrong in a file, at its place; and reading one without believing its size.

use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use thiserror::Error;

/// One thing that is wrong: `FILE:LINE: FIELD: what is wrong; what to do`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct FileError {
    /// The file's name; the directory when it is about that.
    pub file: String,
    /// From 1; `None` when it is about the file as a whole.
    pub line: Option<usize>,
    /// The field, as `spec.users[0].senders.anyOf[1]`; empty when it is about more than a field.
    pub field: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

impl FileError {
    /// About the file as a whole.
    pub fn of_file(file: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: None,
            field: String::new(),
            problem: problem.into(),
        }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            field,
            problem,
        } = self;
        write!(f, "{file}:")?;
        if let Some(line) = line {
            write!(f, "{line}:")?;
        }
        if !field.is_empty() {
            write!(f, " {field}:")?;
        }
        write!(f, " {problem}")
    }
}

/// Everything that is wrong, one a line; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", .0.iter().map(FileError::to_string).collect::<Vec<_>>().join("\n"))]
pub struct FileErrors(pub Vec<FileError>);

/// Reads a text file of at most `max` MiB, whatever its size was when somebody looked.
///
/// # Errors
/// What the system says; a file that is larger, or not UTF-8.
pub fn read_text(path: &Path, max: u64) -> io::Result<String> {
    let max_bytes = max << 20;
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(max_bytes + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        let message = format!("it is larger than {max} MiB; make it smaller");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("line {line} is not UTF-8; save the file as UTF-8"),
        )
    })
}
