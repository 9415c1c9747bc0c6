//! The templates of the chart, without a cluster: what `helm template` makes of tables of values.
//!
//! Needs `helm` (3 or 4) and `promtool` on the PATH, and is run by `make chart-lint`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test ends with a panic"
)]

mod access;
mod alerts;
mod drift;
mod helm;
mod pods;
mod refusals;
mod resources;
mod values;
