//! The counts of a server, and the file they are written to.
//!
//! What always holds: a message is counted before its sender hears 250; at an intake `messages` is the sum of
//! `journal_reports`, `raw` and `malformed`, and `duplicates` are among them. Memory is bounded: at most
//! [`MAX_ADDRESSES`] addresses and [`MAX_IDS`] delivery ids are told apart.

mod counts;
mod latency;
mod seen;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::inspect::Fault;

pub(crate) use counts::OpenConnection;
pub use counts::ReportHandle;
pub use latency::Latency;
pub use seen::MAX_IDS;

/// Recipient addresses that are counted by name; later ones share [`OTHERS`].
pub const MAX_ADDRESSES: usize = 1000;
/// The name that later addresses share.
pub const OTHERS: &str = "(others)";
/// Messages whose answers are listed one by one.
pub const MAX_ANSWERS: usize = 100_000;
/// The counts of one server since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// `mailbox` or `intake`.
    pub server: String,
    /// When the server started: RFC 3339, UTC.
    pub started: String,
    /// When something last changed.
    pub updated: String,
    /// Connections accepted.
    pub connections: u64,
    /// Connections that reached TLS.
    pub tls_connections: u64,
    /// TLS handshakes that failed.
    pub tls_failures: u64,
    /// Connections turned away because there were too many.
    pub connections_refused: u64,
    /// The most connections that were open at the same time.
    pub max_concurrent_connections: u64,
    /// Messages taken.
    pub messages: u64,
    /// Their octets.
    pub bytes: u64,
    /// Commands and messages that a rule, a limit or a fault of the store turned away.
    pub refused: u64,
    /// Messages taken, by recipient address as spelt.
    pub by_recipient: BTreeMap<String, u64>,
    /// At an intake: what the copies said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies: Option<CopyCounts>,
    /// With a script: what it did, and what became of each message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<ScriptCounts>,
}

/// What a script did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptCounts {
    /// The seed of the odds; a script with `seed:` and this number does the same again.
    pub seed: u64,
    /// How often each rule struck, by its name.
    pub injected: BTreeMap<String, u64>,
    /// Messages that came to their end although the server had already answered them with 2xx: duplicates that no
    /// fault excuses.
    pub repeated: u64,
    /// Messages by `X-TDC-Delivery-Id`, else `Message-ID`; at most [`MAX_ANSWERS`].
    pub messages: BTreeMap<String, Answers>,
    /// Ends of messages that are not among them.
    pub others: u64,
}

/// What the sender of one message heard after the final dot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// 2xx was written to the connection.
    pub accepted: u64,
    /// Another reply was.
    pub refused: u64,
    /// The final dot came, and no reply (yet).
    pub unanswered: u64,
    /// It was counted and, with a store, kept.
    pub kept: u64,
    /// It came again after 2xx.
    pub repeated: u64,
}

/// What the copies said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyCounts {
    /// Sound journal reports.
    pub journal_reports: u64,
    /// Sound raw copies.
    pub raw: u64,
    /// Copies that break a rule.
    pub malformed: u64,
    /// How often each rule was broken.
    pub faults: BTreeMap<Fault, u64>,
    /// Copies whose delivery id had come before.
    pub duplicates: u64,
    /// Copies of messages that may not have been accepted.
    pub in_doubt: u64,
    /// From the making of the delivery id to the arrival; None as long as no copy told.
    pub latency: Option<Latency>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            server,
            messages,
            bytes,
            connections,
            tls_connections,
            refused,
            ..
        } = self;
        write!(
            f,
            "{server}: {messages} messages, {bytes} bytes, {refused} refused; "
        )?;
        if let Some(copies) = &self.copies {
            let CopyCounts {
                journal_reports,
                raw,
                malformed,
                duplicates,
                ..
            } = copies;
            write!(
                f,
                "{journal_reports} journal reports, {raw} raw, {malformed} malformed, {duplicates} duplicates; "
            )?;
        }
        if let Some(script) = &self.script {
            let faults: u64 = script.injected.values().sum();
            write!(f, "{faults} faults injected, {} repeated; ", script.repeated)?;
        }
        let most = self.max_concurrent_connections;
        write!(
            f,
            "{connections} connections ({tls_connections} with TLS, at most {most} at once)"
        )?;
        if let Some(latency) = self.copies.as_ref().and_then(|copies| copies.latency) {
            write!(
                f,
                "; latency {} ms median, {} ms longest",
                latency.p50_ms, latency.max_ms
            )?;
        }
        Ok(())
    }
}
