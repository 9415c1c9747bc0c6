//! The mailbox servers behind this gateway.
//!
//! [`connection`] speaks SMTP with one, [`dial`] opens a connection (every address of a host, TLS), [`hosts`] says
//! which host comes first, [`pool`] keeps open connections and remembers what each host offers. What always holds: a
//! connection goes back into the pool only when the server has just said that no transaction is open; in every other
//! case it is closed, which ends whatever was begun without delivering it. Every wait has a deadline ([`Deadlines`]).

pub(crate) mod connection;
mod dial;
mod hosts;
mod metrics;
pub(crate) mod pool;
mod stream;
mod tls;
mod write;

use std::time::Duration;

use tdc_smtp::{ClientError, Reply};
use thiserror::Error;

pub use hosts::{HostPort, HostPortError};
pub(crate) use metrics::NextHopMetrics;
pub use tls::{NextHopTls, NextHopTlsError};

/// How to reach the next hop.
#[derive(Clone, Debug)]
pub struct NextHopConfig {
    /// The hosts, the preferred one first; never empty. All addresses of a name are tried in order.
    pub hosts: Vec<HostPort>,
    /// The name that this gateway gives in EHLO.
    pub helo: String,
    /// What is asked of TLS.
    pub tls: NextHopTls,
    /// How long each step may take.
    pub deadlines: Deadlines,
    /// How long an unused connection is kept.
    pub max_idle: Duration,
    /// How long a connection is used at all, so that a server that comes back gets its share again.
    pub max_age: Duration,
    /// How many unused connections are kept for each host.
    pub keep: usize,
    /// How often each host is asked anew what it offers, and whether it is there.
    pub refresh: Duration,
}

impl NextHopConfig {
    /// These hosts, in the clear, with the usual times.
    pub fn new(hosts: Vec<HostPort>, helo: impl Into<String>) -> Self {
        Self {
            hosts,
            helo: helo.into(),
            tls: NextHopTls::Off,
            deadlines: Deadlines::default(),
            max_idle: Duration::from_secs(30),
            max_age: Duration::from_secs(300),
            keep: 100,
            refresh: Duration::from_secs(60),
        }
    }
}

/// How long each step with the next hop may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// Looking up a name; a TCP connection to one address; the TLS handshake.
    pub connect: Duration,
    /// The greeting, and the answers to EHLO and STARTTLS.
    pub greeting: Duration,
    /// The answer to MAIL, RCPT, DATA, RSET.
    pub command: Duration,
    /// Writing a block of the body.
    pub block: Duration,
    /// The answer to the final dot.
    pub dot: Duration,
}

impl Default for Deadlines {
    /// 100 s for an answer, as Postfix's `smtpd_proxy_timeout`: clients wait for minutes (RFC 5321 section 4.5.3.2).
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            greeting: Duration::from_secs(30),
            command: Duration::from_secs(100),
            block: Duration::from_secs(60),
            dot: Duration::from_secs(100),
        }
    }
}

/// Why the next hop gave no reply that could be passed on.
#[derive(Debug, Error)]
pub enum NextHopError {
    /// No address accepted a connection.
    #[error("cannot connect to {host}: {reason}")]
    Connect {
        /// The configured host.
        host: HostPort,
        /// The last address's answer.
        reason: String,
    },
    /// TLS is required, and could not be had.
    #[error("no TLS with {host}: {reason}")]
    Tls {
        /// The configured host.
        host: HostPort,
        /// What went wrong.
        reason: String,
    },
    /// It greeted with a refusal.
    #[error("refused the session: {0}")]
    Refused(Reply),
    /// It broke off a message that was under way, and said this.
    #[error("broke off the message: {0}")]
    BrokeOff(Reply),
    /// It said something that is no SMTP, or not what was due.
    #[error("broke the protocol: {0}")]
    Protocol(#[from] ClientError),
    /// It closed the connection.
    #[error("closed the connection")]
    Closed,
    /// It did not answer in time.
    #[error("{step}: not done within {limit:?}")]
    Timeout {
        /// Which step.
        step: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The connection broke.
    #[error("connection lost: {0}")]
    Io(#[from] std::io::Error),
}
