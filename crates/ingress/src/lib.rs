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
//! | `admission` | a new connection until it may speak: PROXY header, limits, networks, TLS |
//! | `session` | the driver of one connection |
//! | `client` | who sends: the connection, or whom a trusted proxy names |
//! | `gate`, `budget`, `memory`, `shedding` | what a client may take: places, time, octets; and when there is none |
//! | `tls`, `proxied` | the certificate, read again when it changes; the PROXY header |
//! | `transaction` | one message, and what a death at each of its steps means |
//! | `copies` | its copies on the way into the queue |
//! | [`evaluate`], `calls` | which copies are due: asked, or decided here |
//! | `nexthop` | the connections to the mailbox server |

mod admission;
mod budget;
mod calls;
mod client;
mod config;
mod copies;
pub mod evaluate;
mod gate;
mod listener;
mod memory;
mod metrics;
mod nexthop;
mod proxied;
mod session;
mod shedding;
mod tls;
mod transaction;

pub use config::{Deps, IngressConfig, Limits, ListenerConfig};
pub use listener::{BindError, Ingress};
pub use metrics::IngressMetrics;
pub use nexthop::{
    Deadlines, HostPort, HostPortError, NextHopConfig, NextHopError, NextHopTls, NextHopTlsError,
};
pub use tls::{TlsError, TlsFiles};
