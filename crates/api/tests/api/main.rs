//! The crate from outside: definitions, documents from files, reloading, compiling.

mod compile;
mod definitions;
mod documents;
mod reload;
mod support;
