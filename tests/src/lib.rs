//! What the test targets share: the program itself as processes, with real Redis and real SMTP clients.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test ends with a panic, shows the logs of its processes, and has no runtime to block"
)]

pub mod process;
pub mod stage;
