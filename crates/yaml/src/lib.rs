//! YAML files as people write them for us: resources in a `--config` folder, scripts of the simulators.
//!
//! This crate exists so that every error in such a file names its line and its field. What always holds: reading is
//! bounded (depth, nodes, what aliases add) and never panics; a file means the same here as to kubectl.

mod file;
mod node;
mod path;

pub use file::{FileError, FileErrors, read_text};
pub use node::{Data, Entry, Fault, Node, documents};
pub use path::{FieldPath, Step};
