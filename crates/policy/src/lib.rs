//! The policy service: evaluates envelopes for ingress, and streams whole snapshots to ingress and worker.
//!
//! What always holds: a decision comes from exactly one snapshot, and says so; a client that watches has the newest
//! snapshot soon, however slow it is, and never half of one; who has which version is known ([`Store::peers`]).

mod feed;
mod metrics;
mod server;
mod service;
mod store;
mod tls;

pub use feed::Feed;
pub use metrics::PolicyMetrics;
pub use server::PolicyServer;
pub use store::Store;
