//! The crate from outside: definitions, documents from files, reloading, compiling.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails; clippy knows tests, not their helpers"
)]

mod compile;
mod definitions;
mod documents;
mod namespaces;
mod reload;
mod support;
