//! `--config DIR`: the same YAML that kubectl applies, from files.
//!
//! What always holds:
//! - A directory is one namespace: the one that its objects state, else `default`.
//! - All or nothing: [`load_dir`] returns every object, or every error with file, line and field. A half-read
//!   directory never becomes a table.
//! - [`ConfigWatcher`] keeps the last good objects until a good change is complete.
//! - What is read is bounded in size, count and depth before it is stored.
//!
//! Files are `*.yaml` and `*.yml` directly in the directory, in the order of their names; names that begin with a dot
//! are left out, symbolic links are followed (a mounted ConfigMap consists of them), sub-directories are not.

mod directory;
mod load;
mod schema;
mod watch;

pub use directory::{MAX_FILE_BYTES, MAX_FILES, MAX_TOTAL_BYTES};
pub use load::{MAX_ERRORS, load_dir};
pub use tdc_yaml::{FileError, FileErrors};
pub use watch::{ConfigWatcher, Loaded};
