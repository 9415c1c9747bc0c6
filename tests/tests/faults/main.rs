//! Faults of the intake under load, whole processes: what the queue counted is what the intake saw.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test ends with a panic, and has no runtime to block"
)]

mod counters;
mod odds;
mod sink;
