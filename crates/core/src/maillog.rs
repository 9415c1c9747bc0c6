//! Mail-log events: what an operator of the original finds in `mail_logs`, as one enum with two renderings.
//!
//! [`MailEvent::asyncos`] is the line of AsyncOS (docs/operations.md lists the sources); [`MailEvent::fields`] is the
//! same event as names and values, for JSON. Text that comes from mail loses its control characters and is cut, so
//! that no client can write a log line of its own.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::journal::civil;

/// Characters of one value that are logged.
const MAX_VALUE: usize = 320;

/// A value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number.
    Number(u64),
    /// A text, already cleaned.
    Text(Cow<'a, str>),
}

/// One event. `icid`, `mid` and `dcid` are the ids of the injection connection, the message and the delivery
/// connection; `rid` counts the recipients of a message from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are named by the ids and values that the lines show"
)]
pub enum MailEvent {
    /// A client connected.
    Connected {
        icid: u64,
        local: SocketAddr,
        peer: SocketAddr,
    },
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
        status: &'static str,
        text: &'static str,
        detail: String,
    },
    /// A copy will not be delivered.
    HardBounced {
        mid: u64,
        dcid: u64,
        status: &'static str,
        text: &'static str,
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

/// Without control characters, cut.
fn clean(value: &str) -> Cow<'_, str> {
    if value.len() <= MAX_VALUE && !value.chars().any(char::is_control) {
        return Cow::Borrowed(value);
    }
    let mut text: String = value
        .chars()
        .take(MAX_VALUE)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.len() < value.len() {
        text.push('…');
    }
    Cow::Owned(text)
}

impl MailEvent {
    /// The event's name in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connected { .. } => "connected",
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
            Self::Delivered { .. } => "delivered",
            Self::IntakeTlsFailed { .. } => "intake_tls_failed",
            Self::IntakeConnectionError { .. } => "intake_connection_error",
            Self::SoftBounced { .. } => "soft_bounced",
            Self::HardBounced { .. } => "hard_bounced",
            Self::PossibleDelivery { .. } => "possible_delivery",
            Self::IntakeClosed { .. } => "intake_closed",
        }
    }

    /// The level word of AsyncOS.
    pub fn level(&self) -> &'static str {
        match self {
            Self::HardBounced { .. } | Self::PossibleDelivery { .. } | Self::NotJournaled { .. } => "Warning",
            _ => "Info",
        }
    }

    /// The text of the line, without time and level.
    pub fn asyncos(&self) -> String {
        let mut line = String::with_capacity(160);
        // Writing to a String cannot fail.
        let _ = self.write(&mut line);
        line
    }

    fn write(&self, w: &mut String) -> std::fmt::Result {
        match self {
            Self::Connected { icid, local, peer } => write!(
                w,
                "New SMTP ICID {icid} interface {ip} ({ip}) address {} reverse dns host unknown verified no",
                peer.ip(),
                ip = local.ip()
            ),
            Self::Refused { icid, reason } => {
                write!(w, "ICID {icid} REJECT SG None match {reason} SBRS not enabled")
            }
            Self::TlsAccepted {
                icid,
                protocol,
                cipher,
            } => {
                write!(w, "ICID {icid} TLS success protocol {protocol} cipher {cipher}")
            }
            Self::TlsRefused { icid, reason } => write!(w, "ICID {icid} TLS failed: {}", clean(reason)),
            Self::Started { mid, icid, sender } => {
                write!(w, "Start MID {mid} ICID {icid} From: <{}>", clean(sender))
            }
            Self::Recipient {
                mid,
                icid,
                rid,
                recipient,
            } => {
                write!(w, "MID {mid} ICID {icid} RID {rid} To: <{}>", clean(recipient))
            }
            Self::RecipientRefused {
                mid,
                icid,
                recipient,
                reply,
            } => {
                write!(
                    w,
                    "MID {mid} ICID {icid} To: <{}> Rejected by next hop: {}",
                    clean(recipient),
                    clean(reply)
                )
            }
            Self::MessageId { mid, message_id } => write!(w, "MID {mid} Message-ID '{}'", clean(message_id)),
            Self::Ready { mid, size, sender } => {
                write!(w, "MID {mid} ready {size} bytes from <{}>", clean(sender))
            }
            Self::Matched {
                mid,
                policy,
                recipients,
                all,
            } => {
                let policy = clean(policy);
                if *all {
                    write!(
                        w,
                        "MID {mid} matched all recipients for per-recipient policy {policy} in the inbound table"
                    )
                } else {
                    write!(
                        w,
                        "MID {mid} matched {recipients} recipients for per-recipient policy {policy} in the inbound table"
                    )
                }
            }
            Self::NotJournaled { mid, reason } => {
                write!(w, "TDC: MID {mid} not journaled: {}", clean(reason))
            }
            Self::Enqueued {
                mid,
                message_id,
                intake,
                ..
            } => write!(
                w,
                "TDC: MID {mid} with Message-ID '{}' enqueued for transfer to Cisco Secure Email Threat Defense \
                 with message intake address {}",
                clean(message_id),
                clean(intake)
            ),
            Self::Relayed { mid, .. } => write!(w, "MID {mid} queued for delivery"),
            Self::Aborted { mid, reason } => write!(w, "Message aborted MID {mid} {}", clean(reason)),
            Self::Closed { icid } => write!(w, "ICID {icid} close"),
            Self::Lost { icid } => write!(w, "ICID {icid} lost"),
            Self::IntakeConnected { dcid, local, peer } => write!(
                w,
                "TDC: New SMTP DCID {dcid} interface {} address {} port {}",
                local.ip(),
                peer.ip(),
                peer.port()
            ),
            Self::IntakeTls {
                dcid,
                protocol,
                cipher,
            } => {
                write!(w, "DCID {dcid} TLS success protocol {protocol} cipher {cipher}")
            }
            Self::Delivered { mid, .. } => write!(
                w,
                "TDC: MID {mid} successfully delivered for scanning with Cisco Secure Email Threat Defense."
            ),
            Self::IntakeTlsFailed { mid, .. } => {
                write!(
                    w,
                    "TDC: MID {mid} delivery failed to Cisco Secure Email Threat Defense:TLS Error."
                )
            }
            Self::IntakeConnectionError { dcid, peer, details } => {
                let (ip, port) = peer.rsplit_once(':').unwrap_or((peer, "25"));
                write!(
                    w,
                    "TDC: Connection Error: DCID {dcid} domain: the.tdc.queue IP: {ip} port: {port} details: {} \
                     interface: 0.0.0.0 reason: network error",
                    clean(details)
                )
            }
            Self::SoftBounced {
                mid,
                dcid,
                status,
                text,
                detail,
            } => {
                write!(
                    w,
                    "Delayed: DCID {dcid} MID {mid} to RID 0 - {status} - {text} ('000', ['{}']) []",
                    clean(detail)
                )
            }
            Self::HardBounced {
                mid,
                dcid,
                status,
                text,
                detail,
            } => write!(
                w,
                "Bounced: DCID {dcid} MID {mid} to RID 0 - Bounced by destination server with response: \
                 {status} - {text} ('000', ['{}'])",
                clean(detail)
            ),
            Self::PossibleDelivery { mid, dcid, .. } => {
                write!(w, "Possible Delivery: DCID: {dcid} MID {mid} to [0]")
            }
            Self::IntakeClosed { dcid } => write!(w, "DCID {dcid} close"),
        }
    }

    /// Names and values, without the event's name.
    pub fn fields(&self) -> Vec<(&'static str, Value<'_>)> {
        let number = Value::Number;
        let text = |value| Value::Text(clean(value));
        let shown = |value: &dyn std::fmt::Display| Value::Text(Cow::Owned(value.to_string()));
        match self {
            Self::Connected { icid, local, peer } => {
                vec![
                    ("icid", number(*icid)),
                    ("local", shown(local)),
                    ("peer", shown(peer)),
                ]
            }
            Self::Refused { icid, reason } => vec![("icid", number(*icid)), ("reason", text(reason))],
            Self::TlsAccepted {
                icid,
                protocol,
                cipher,
            } => {
                vec![
                    ("icid", number(*icid)),
                    ("protocol", text(protocol)),
                    ("cipher", text(cipher)),
                ]
            }
            Self::TlsRefused { icid, reason } => vec![("icid", number(*icid)), ("reason", text(reason))],
            Self::Started { mid, icid, sender } => {
                vec![
                    ("mid", number(*mid)),
                    ("icid", number(*icid)),
                    ("from", text(sender)),
                ]
            }
            Self::Recipient {
                mid,
                icid,
                rid,
                recipient,
            } => vec![
                ("mid", number(*mid)),
                ("icid", number(*icid)),
                ("rid", number(*rid as u64)),
                ("to", text(recipient)),
            ],
            Self::RecipientRefused {
                mid,
                icid,
                recipient,
                reply,
            } => vec![
                ("mid", number(*mid)),
                ("icid", number(*icid)),
                ("to", text(recipient)),
                ("reply", text(reply)),
            ],
            Self::MessageId { mid, message_id } => {
                vec![("mid", number(*mid)), ("message_id", text(message_id))]
            }
            Self::Ready { mid, size, sender } => {
                vec![
                    ("mid", number(*mid)),
                    ("bytes", number(*size)),
                    ("from", text(sender)),
                ]
            }
            Self::Matched {
                mid,
                policy,
                recipients,
                ..
            } => {
                vec![
                    ("mid", number(*mid)),
                    ("policy", text(policy)),
                    ("recipients", number(*recipients as u64)),
                ]
            }
            Self::NotJournaled { mid, reason } => vec![("mid", number(*mid)), ("reason", text(reason))],
            Self::Enqueued {
                mid,
                message_id,
                intake,
                delivery_id,
            } => vec![
                ("mid", number(*mid)),
                ("message_id", text(message_id)),
                ("intake", text(intake)),
                ("delivery_id", text(delivery_id)),
            ],
            Self::Relayed { mid, reply } => vec![("mid", number(*mid)), ("reply", text(reply))],
            Self::Aborted { mid, reason } => vec![("mid", number(*mid)), ("reason", text(reason))],
            Self::Closed { icid } | Self::Lost { icid } => vec![("icid", number(*icid))],
            Self::IntakeConnected { dcid, local, peer } => {
                vec![
                    ("dcid", number(*dcid)),
                    ("local", shown(local)),
                    ("peer", shown(peer)),
                ]
            }
            Self::IntakeTls {
                dcid,
                protocol,
                cipher,
            } => {
                vec![
                    ("dcid", number(*dcid)),
                    ("protocol", text(protocol)),
                    ("cipher", text(cipher)),
                ]
            }
            Self::Delivered {
                mid,
                dcid,
                delivery_id,
                reply,
            } => vec![
                ("mid", number(*mid)),
                ("dcid", number(*dcid)),
                ("delivery_id", text(delivery_id)),
                ("reply", text(reply)),
            ],
            Self::IntakeTlsFailed { mid, dcid, reason } => {
                vec![
                    ("mid", number(*mid)),
                    ("dcid", number(*dcid)),
                    ("reason", text(reason)),
                ]
            }
            Self::IntakeConnectionError { dcid, peer, details } => {
                vec![
                    ("dcid", number(*dcid)),
                    ("peer", text(peer)),
                    ("details", text(details)),
                ]
            }
            Self::SoftBounced {
                mid,
                dcid,
                status,
                detail,
                ..
            }
            | Self::HardBounced {
                mid,
                dcid,
                status,
                detail,
                ..
            } => vec![
                ("mid", number(*mid)),
                ("dcid", number(*dcid)),
                ("status", text(status)),
                ("detail", text(detail)),
            ],
            Self::PossibleDelivery {
                mid,
                dcid,
                delivery_id,
            } => {
                vec![
                    ("mid", number(*mid)),
                    ("dcid", number(*dcid)),
                    ("delivery_id", text(delivery_id)),
                ]
            }
            Self::IntakeClosed { dcid } => vec![("dcid", number(*dcid))],
        }
    }
}

/// The time of a line in UTC: `Tue Jan  6 15:03:18 2004`. `unix` is seconds since 1970.
pub fn asyncos_time(unix: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{} {} {day:2} {:02}:{:02}:{:02} {year}",
        DAYS[(days % 7) as usize],
        MONTHS[month],
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::{MailEvent, asyncos_time};

    #[test]
    fn lines_of_the_original() {
        let address = |text: &str| text.parse().unwrap();
        let cases = [
            (
                MailEvent::IntakeConnected {
                    dcid: 30,
                    local: address("10.13.102.10:4711"),
                    peer: address("10.13.101.31:25"),
                },
                "TDC: New SMTP DCID 30 interface 10.13.102.10 address 10.13.101.31 port 25",
            ),
            (
                MailEvent::Recipient {
                    mid: 64855,
                    icid: 3160,
                    rid: 0,
                    recipient: "matthew@cisco.com".into(),
                },
                "MID 64855 ICID 3160 RID 0 To: <matthew@cisco.com>",
            ),
            (
                MailEvent::MessageId {
                    mid: 64855,
                    message_id: "<op.1@mathew.cisco.com>".into(),
                },
                "MID 64855 Message-ID '<op.1@mathew.cisco.com>'",
            ),
            (
                MailEvent::Ready {
                    mid: 64855,
                    size: 494,
                    sender: "matt@abc.com".into(),
                },
                "MID 64855 ready 494 bytes from <matt@abc.com>",
            ),
            (
                MailEvent::Matched {
                    mid: 64855,
                    policy: "mail_policy_one".into(),
                    recipients: 1,
                    all: true,
                },
                "MID 64855 matched all recipients for per-recipient policy mail_policy_one in the inbound table",
            ),
            (
                MailEvent::Delivered {
                    mid: 171,
                    dcid: 1,
                    delivery_id: String::new(),
                    reply: String::new(),
                },
                "TDC: MID 171 successfully delivered for scanning with Cisco Secure Email Threat Defense.",
            ),
            (
                MailEvent::PossibleDelivery {
                    mid: 8956463,
                    dcid: 4641294,
                    delivery_id: String::new(),
                },
                "Possible Delivery: DCID: 4641294 MID 8956463 to [0]",
            ),
            (MailEvent::Closed { icid: 3160 }, "ICID 3160 close"),
        ];
        for (event, line) in cases {
            assert_eq!(event.asyncos(), line);
            assert!(!event.fields().is_empty());
        }
        assert_eq!(asyncos_time(1_073_401_398), "Tue Jan  6 15:03:18 2004");
    }

    #[test]
    fn no_client_writes_a_line_of_its_own() {
        let event = MailEvent::MessageId {
            mid: 1,
            message_id: "x\r\nInfo: MID 2 forged".into(),
        };
        assert!(!event.asyncos().contains(['\r', '\n']));
    }
}
