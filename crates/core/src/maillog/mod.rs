//! Mail-log events: what an operator of the original finds in `mail_logs`, as one enum with two renderings.
//!
//! [`MailEvent::asyncos`] is what AsyncOS writes (docs/operations.md lists the sources); [`MailEvent::fields`] is the
//! same event as names and values, for JSON. Values that come from mail or from a peer are cut to [`MAX_VALUE`] and
//! lose every character that could end a line or turn the order of reading, in both renderings: nobody outside can
//! write a log line of their own.

mod asyncos;
mod fields;
#[cfg(test)]
mod tests;

pub use asyncos::{asyncos_time, rfc3339};
pub use fields::Value;

use std::borrow::Cow;
use std::net::SocketAddr;

/// Bytes of one value that are logged. A line of a header section has at most 998 (RFC 5322 section 2.1.1), so that a
/// Message-ID is logged whole.
pub const MAX_VALUE: usize = 1024;

/// One event. `icid`, `mid` and `dcid` are the ids of the injection connection, the message and the delivery
/// connection; `rid` counts the recipients of a message from 0; `code` is that of the reply, 0 without one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are named by the ids and values that the lines show"
)]
pub enum MailEvent {
    /// A client connected; `host` is its name where a trusted proxy has verified one.
    Connected {
        icid: u64,
        local: SocketAddr,
        peer: SocketAddr,
        host: Option<String>,
    },
    /// It may send here.
    Accepted { icid: u64 },
    /// It may not send here.
    Refused { icid: u64, reason: &'static str },
    /// STARTTLS succeeded.
    TlsAccepted {
        icid: u64,
        protocol: String,
        cipher: String,
    },
    /// STARTTLS failed.
    TlsRefused { icid: u64, reason: String },
    /// `MAIL` was accepted.
    Started { mid: u64, icid: u64, sender: String },
    /// `RCPT` was accepted.
    Recipient {
        mid: u64,
        icid: u64,
        rid: usize,
        recipient: String,
    },
    /// `RCPT` was refused, with the next hop's reply.
    RecipientRefused {
        mid: u64,
        icid: u64,
        recipient: String,
        reply: String,
    },
    /// The header section has a Message-ID.
    MessageId { mid: u64, message_id: String },
    /// The message is complete.
    Ready { mid: u64, size: u64, sender: String },
    /// A policy took recipients.
    Matched {
        mid: u64,
        policy: String,
        recipients: usize,
        all: bool,
    },
    /// The message is not journaled although a policy asks for it.
    NotJournaled { mid: u64, reason: String },
    /// A copy is in the queue.
    Enqueued {
        mid: u64,
        message_id: String,
        intake: String,
        delivery_id: String,
    },
    /// The next hop took the message.
    Relayed { mid: u64, reply: String },
    /// The message ended without being relayed.
    Aborted { mid: u64, reason: String },
    /// The client's connection ended in order.
    Closed { icid: u64 },
    /// The client's connection broke.
    Lost { icid: u64 },
    /// A worker connected to an intake.
    IntakeConnected {
        dcid: u64,
        local: SocketAddr,
        peer: SocketAddr,
    },
    /// TLS to an intake.
    IntakeTls {
        dcid: u64,
        protocol: String,
        cipher: String,
    },
    /// A worker begins to send a copy.
    DeliveryStarted { mid: u64, dcid: u64 },
    /// A copy arrived.
    Delivered {
        mid: u64,
        dcid: u64,
        delivery_id: String,
        reply: String,
    },
    /// TLS to an intake failed.
    IntakeTlsFailed { mid: u64, dcid: u64, reason: String },
    /// A connection to an intake failed.
    IntakeConnectionError {
        dcid: u64,
        peer: String,
        details: String,
    },
    /// An attempt failed and is repeated.
    SoftBounced {
        mid: u64,
        dcid: u64,
        code: u16,
        status: &'static str,
        text: &'static str,
        detail: String,
    },
    /// A copy will not be delivered.
    HardBounced {
        mid: u64,
        dcid: u64,
        code: u16,
        status: &'static str,
        text: &'static str,
        detail: String,
    },
    /// The lifetime of a copy is over.
    Expired {
        mid: u64,
        dcid: u64,
        delivery_id: String,
        detail: String,
    },
    /// A copy may have arrived.
    PossibleDelivery {
        mid: u64,
        dcid: u64,
        delivery_id: String,
    },
    /// A worker's connection ended.
    IntakeClosed { dcid: u64 },
}

impl MailEvent {
    /// The event's name in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connected { .. } => "connected",
            Self::Accepted { .. } => "accepted",
            Self::Refused { .. } => "refused",
            Self::TlsAccepted { .. } => "tls_accepted",
            Self::TlsRefused { .. } => "tls_failed",
            Self::Started { .. } => "started",
            Self::Recipient { .. } => "recipient",
            Self::RecipientRefused { .. } => "recipient_refused",
            Self::MessageId { .. } => "message_id",
            Self::Ready { .. } => "ready",
            Self::Matched { .. } => "matched",
            Self::NotJournaled { .. } => "not_journaled",
            Self::Enqueued { .. } => "enqueued",
            Self::Relayed { .. } => "relayed",
            Self::Aborted { .. } => "aborted",
            Self::Closed { .. } => "closed",
            Self::Lost { .. } => "lost",
            Self::IntakeConnected { .. } => "intake_connected",
            Self::IntakeTls { .. } => "intake_tls",
            Self::DeliveryStarted { .. } => "delivery_started",
            Self::Delivered { .. } => "delivered",
            Self::IntakeTlsFailed { .. } => "intake_tls_failed",
            Self::IntakeConnectionError { .. } => "intake_connection_error",
            Self::SoftBounced { .. } => "soft_bounced",
            Self::HardBounced { .. } => "hard_bounced",
            Self::Expired { .. } => "expired",
            Self::PossibleDelivery { .. } => "possible_delivery",
            Self::IntakeClosed { .. } => "intake_closed",
        }
    }

    /// `Warning` when somebody should look: a copy did not arrive, may not have arrived, or was never made; else `Info`.
    pub fn level(&self) -> &'static str {
        match self {
            Self::NotJournaled { .. }
            | Self::IntakeTlsFailed { .. }
            | Self::HardBounced { .. }
            | Self::Expired { .. }
            | Self::PossibleDelivery { .. } => "Warning",
            _ => "Info",
        }
    }
}

/// What a value may show: no more than [`MAX_VALUE`] bytes, and `?` (as Postfix writes it) for each character that is
/// not to be shown.
fn clean(value: &str) -> Cow<'_, str> {
    if value.len() <= MAX_VALUE && !value.contains(is_hidden) {
        return Cow::Borrowed(value);
    }
    let shown = &value[..value.floor_char_boundary(MAX_VALUE)];
    let mut text = shown.replace(is_hidden, "?");
    if shown.len() < value.len() {
        text.push('…');
    }
    Cow::Owned(text)
}

/// Control characters, line and paragraph separators, and what overrides the direction of text.
fn is_hidden(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
