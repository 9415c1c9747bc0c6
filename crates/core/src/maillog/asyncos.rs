//! The lines of AsyncOS.
//!
//! The words, their order, the quotes and the spaces are those of the original wherever a sample of it is public; the
//! rest (what is said of a message that is not journaled, and of one that only some recipients' policy took) is our
//! own, in its manner.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use super::{MailEvent, clean};
use crate::journal::civil;

/// The pseudo-destination of all copies.
const QUEUE: &str = "the.tdc.queue";
/// The service, as the original's lines call it.
const SERVICE: &str = "Cisco Secure Email Threat Defense";

impl MailEvent {
    /// What AsyncOS writes, without time and level: one or more lines, with `\n` between them.
    pub fn asyncos(&self) -> String {
        let mut lines = String::with_capacity(160);
        // Writing to a String cannot fail. Each event is known to exactly one of the three.
        let _ = self
            .connection(&mut lines)
            .and_then(|()| self.message(&mut lines))
            .and_then(|()| self.copy(&mut lines));
        lines
    }

    fn connection(&self, w: &mut String) -> fmt::Result {
        match self {
            Self::Connected {
                icid,
                local,
                peer,
                host,
            } => {
                let (ip, from) = (local.ip().to_canonical(), peer.ip().to_canonical());
                write!(
                    w,
                    "New SMTP ICID {icid} interface {ip} ({ip}) address {from} reverse dns host "
                )?;
                match host {
                    Some(host) => write!(w, "{} verified yes", clean(host)),
                    None => w.write_str("unknown verified no"),
                }
            }
            Self::Accepted { icid } => {
                write!(
                    w,
                    "ICID {icid} ACCEPT SG None match ALL SBRS not enabled country not enabled"
                )
            }
            Self::Refused { icid, reason } => {
                write!(
                    w,
                    "ICID {icid} REJECT SG None match {reason} SBRS not enabled country not enabled"
                )
            }
            Self::TlsAccepted {
                icid,
                protocol,
                cipher,
            } => tls(w, "ICID", *icid, protocol, cipher),
            Self::TlsRefused { icid, reason } => write!(w, "ICID {icid} TLS failed: {}", clean(reason)),
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
            } => tls(w, "DCID", *dcid, protocol, cipher),
            Self::IntakeConnectionError { dcid, peer, details } => {
                let (ip, port, interface) = endpoint(peer);
                write!(
                    w,
                    "TDC: Connection Error: DCID {dcid} domain: {QUEUE} IP: {ip} port: {port} details: {} \
                     interface: {interface} reason: network error",
                    clean(details)
                )
            }
            Self::IntakeClosed { dcid } => write!(w, "DCID {dcid} close"),
            _ => Ok(()),
        }
    }

    fn message(&self, w: &mut String) -> fmt::Result {
        match self {
            Self::Started { mid, icid, sender } => {
                writeln!(w, "Start MID {mid} ICID {icid}")?;
                write!(w, "MID {mid} ICID {icid} From: <{}>", clean(sender))
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
                let (recipient, reply) = (clean(recipient), clean(reply));
                write!(
                    w,
                    "MID {mid} ICID {icid} To: <{recipient}> Rejected by next hop: {reply}"
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
                write!(w, "MID {mid} matched ")?;
                match (all, recipients) {
                    (true, _) => w.push_str("all recipients"),
                    (false, 1) => w.push_str("1 recipient"),
                    (false, n) => write!(w, "{n} recipients")?,
                }
                write!(
                    w,
                    " for per-recipient policy {} in the inbound table",
                    clean(policy)
                )
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
                "TDC: MID {mid} with Message-ID '{}' enqueued for transfer to {SERVICE} with message intake address {}",
                clean(message_id),
                clean(intake)
            ),
            Self::Relayed { mid, .. } => write!(w, "MID {mid} queued for delivery"),
            Self::Aborted { mid, reason } => write!(w, "Message aborted MID {mid} {}", clean(reason)),
            _ => Ok(()),
        }
    }

    fn copy(&self, w: &mut String) -> fmt::Result {
        match self {
            Self::DeliveryStarted { mid, dcid } => write!(w, "TDC: Delivery start DCID {dcid} MID {mid}"),
            Self::Delivered { mid, .. } => {
                writeln!(
                    w,
                    "TDC: MID {mid} successfully delivered for scanning with {SERVICE}."
                )?;
                write!(w, "Message finished MID {mid} done")
            }
            Self::IntakeTlsFailed { mid, dcid, reason } => {
                writeln!(w, "DCID {dcid} TLS failed: {}", clean(reason))?;
                write!(w, "TDC: MID {mid} delivery failed to {SERVICE}:TLS Error.")
            }
            Self::SoftBounced {
                mid,
                dcid,
                code,
                status,
                text,
                detail,
            } => {
                let detail = clean(detail);
                write!(
                    w,
                    "Delayed: DCID {dcid} MID {mid} to RID 0 - {status} - {text} ('{code:03}', ['{detail}']) []"
                )
            }
            Self::HardBounced {
                mid,
                dcid,
                code,
                status,
                text,
                detail,
            } => {
                let detail = clean(detail);
                writeln!(
                    w,
                    "TDC: Hard bounced - {status} - {text} ('{code:03}', '{detail}')"
                )?;
                writeln!(w, "TDC: MID {mid} delivery failed to {SERVICE}: Hard Bounced.")?;
                write!(
                    w,
                    "Bounced: DCID {dcid} MID {mid} to RID 0 - Bounced by destination server with response: \
                     {status} - {text} ('{code:03}', ['{detail}'])"
                )
            }
            Self::Expired {
                mid, dcid, detail, ..
            } => write!(
                w,
                "Bounced: DCID {dcid} MID {mid} to RID 0 - 5.4.7 - Delivery expired (message too old) ('000', ['{}'])",
                clean(detail)
            ),
            Self::PossibleDelivery { mid, dcid, .. } => {
                write!(w, "Possible Delivery: DCID: {dcid} MID {mid} to [0]")
            }
            _ => Ok(()),
        }
    }
}

fn tls(w: &mut String, series: &str, id: u64, protocol: &str, cipher: &str) -> fmt::Result {
    write!(
        w,
        "{series} {id} TLS success protocol {} cipher {}",
        clean(protocol),
        clean(cipher)
    )
}

/// The address and port of a peer, and the interface that a connection to it that was never made left from: none in
/// particular.
fn endpoint(peer: &str) -> (String, u16, &'static str) {
    match peer.parse() {
        Ok(SocketAddr::V4(peer)) => (peer.ip().to_string(), peer.port(), "0.0.0.0"),
        Ok(SocketAddr::V6(peer)) => (peer.ip().to_string(), peer.port(), "::"),
        Err(_) => (clean(peer).into_owned(), 25, "0.0.0.0"),
    }
}

/// A time in the form of RFC 3339, in UTC: `2004-01-06T15:03:18.042Z`. `unix_ms` is milliseconds since 1970.
pub fn rfc3339(unix_ms: u64) -> String {
    let (days, millis) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        month + 1,
        millis / 3_600_000,
        millis / 60_000 % 60,
        millis / 1000 % 60,
        millis % 1000
    )
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
