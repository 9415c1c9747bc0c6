//! The ingress between a client and next hops that fail in every way, and a queue that does.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod chunks;
mod failover;
mod faults;
mod journal;
mod offers;
mod rig;
mod server;
