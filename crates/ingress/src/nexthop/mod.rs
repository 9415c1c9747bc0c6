//! The mailbox server behind this gateway.
//!
//! [`connection`] speaks SMTP with it; [`pool`] keeps open connections and remembers what it offers. What always
//! holds: a connection goes back into the pool only when the server has just said that no transaction is open;
//! in every other case it is closed, which ends whatever was begun without delivering it.

pub(crate) mod connection;
pub(crate) mod pool;
mod write;

use std::time::Duration;

use tdc_smtp::{ClientError, Reply};
use thiserror::Error;

/// How to reach the next hop.
#[derive(Clone, Debug)]
pub struct NextHopConfig {
    /// `HOST:PORT`; all addresses of the name are tried in order.
    pub address: String,
    /// The name that this gateway gives in EHLO.
    pub helo: String,
    /// How long a TCP connection may take.
    pub connect_timeout: Duration,
    /// How long one reply may take, and how long a write may make no progress.
    pub timeout: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
    /// How many unused connections are kept.
    pub max_idle: usize,
}

/// Why the next hop gave no reply that could be passed on.
#[derive(Debug, Error)]
pub enum NextHopError {
    /// No address accepted a connection.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// The configured next hop.
        address: String,
        /// The last address's answer.
        reason: String,
    },
    /// It greeted with a refusal.
    #[error("refused the session: {0}")]
    Refused(Reply),
    /// It said something that is no SMTP, or not what was due.
    #[error("broke the protocol: {0}")]
    Protocol(#[from] ClientError),
    /// It closed the connection.
    #[error("closed the connection")]
    Closed,
    /// It did not answer in time.
    #[error("did not answer within {0:?}")]
    Timeout(Duration),
    /// The connection broke.
    #[error("connection lost: {0}")]
    Io(#[from] std::io::Error),
}
