//! The whole product as its users run it: separate processes, a real Redis, real SMTP clients.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test ends with a panic, shows the logs of its processes, and has no runtime to block"
)]

mod failure_policy;
mod mail;
mod mutual_tls;
mod outage;
mod policies;
mod send;
mod tracing;

use tdc_tests::stage;
