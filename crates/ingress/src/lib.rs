//! The SMTP edge: relays each message untouched to the next hop, and queues the copies that are due.
//!
//! What always holds:
//! - The client hears the next hop's own replies, for each recipient; nothing is ever bounced from here.
//! - A message that the client was told is accepted was accepted by the next hop, and every copy that was due is in
//!   the queue, or `failurePolicy` is Ignore and the skipped copy is counted and logged.
//! - The next hop and the copy get the same octets.
//! - There is no way to relay anywhere but to the next hop.
//!
//! | module | holds |
//! |---|---|
//! | `listener` | [`Ingress`]: accepting, and stopping in order |
//! | `session` | the driver of one connection |
//! | `transaction` | one message, and what a death at each of its steps means |
//! | `copies` | its copies on the way into the queue |
//! | [`evaluate`] | which copies are due: asked, or decided here |
//! | `nexthop` | the connections to the mailbox server |

mod config;
mod copies;
pub mod evaluate;
mod listener;
mod metrics;
mod nexthop;
mod session;
mod transaction;

pub use config::{Deps, IngressConfig, MAX_HOPS};
pub use listener::Ingress;
pub use metrics::IngressMetrics;
pub use nexthop::{
    Deadlines, HostPort, HostPortError, NextHopConfig, NextHopError, NextHopTls, NextHopTlsError,
};
