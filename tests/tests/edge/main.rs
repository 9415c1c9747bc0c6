//! The edge as the Internet sees it: listeners, TLS, bytes, limits, bad clients, shedding and the mail log, against the
//! program itself as a process.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test ends with a panic, shows the logs of its processes, and has no runtime to block"
)]

mod bad_clients;
mod bytes;
mod certificates;
mod client;
mod limits;
mod mail_log;
mod proxies;
mod rig;
mod shedding;
