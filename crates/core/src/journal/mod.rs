//! The formats in which a copy travels.
//!
//! `JournalReport` is a multipart/mixed message as Exchange writes its journal reports: a text part with the
//! envelope, and the original as message/rfc822. `Raw` is the original behind a block of `X-CSE-*` headers. Both
//! carry `X-TDC-Delivery-Id`, which stays the same through all attempts, and both hold the original byte for byte:
//! [`unwrap`] gives back exactly what went into [`wrap`].
//!
//! No value can add a header or a part: control characters become spaces, long values are cut, and the boundary is
//! one that does not occur in the original.
//!
//! Text that is not ASCII: a report's own header section is ASCII (the subject as encoded words, RFC 2047; the intake's
//! domain as A-labels), and the envelope stands in its UTF-8 text part, so that a report of a message in UTF-8 (RFC
//! 6532) needs no more than 8BITMIME. A raw copy has the envelope and the original's fields in its header section, as
//! they are: it needs SMTPUTF8 (RFC 6531) when they are not ASCII. [`Wrapped::smtputf8`] says which it is.

mod text;
mod unwrap;

use bytes::Bytes;
use memchr::memmem;

use crate::headers::{DELIVERY_ID, HeaderScanner};
use crate::policy::Format;
pub(crate) use text::civil;
pub use text::{ascii_address, rfc5322_date};
pub use unwrap::{Report, UnwrapError, unwrap};

/// Last header of the block before a raw copy.
const RAW_END: &str = "X-CSE-MsgDirection: Incoming\r\n";
/// Says that the original has no header section: a blank line that is not its own stands before it.
const HEADERLESS: &str = "X-TDC-Headerless";
/// Says that it is not known whether the original was accepted.
pub const IN_DOUBT: &str = "X-TDC-In-Doubt";

/// What a copy says about its message.
#[derive(Clone, Debug, Default)]
pub struct CopyMeta {
    /// Stays the same through all attempts.
    pub delivery_id: String,
    /// The Message Intake Address.
    pub intake_address: String,
    /// The name of the host that makes the copy; the domain of its From and Message-ID.
    pub host: String,
    /// `MAIL FROM` of the original; empty for the null sender.
    pub sender: String,
    /// The recipients that this copy lists.
    pub recipients: Vec<String>,
    /// The original's unfolded `Subject`.
    pub subject: String,
    /// The original's `Message-ID` with brackets.
    pub message_id: String,
    /// The host that sent the original.
    pub client_ip: String,
    /// The header that tells the intake `client_ip`; empty: none.
    pub sender_ip_header: String,
    /// When the copy was made; see [`rfc5322_date`].
    pub date: String,
    /// See [`IN_DOUBT`].
    pub in_doubt: bool,
    /// The original came with SMTPUTF8: what is not ASCII in its header section is UTF-8 (RFC 6532), and not some
    /// older practice that every server passes on.
    pub smtputf8: bool,
}

/// A copy, ready to be sent: the pieces in order, the original's among them as they were.
#[derive(Clone, Debug)]
pub struct Wrapped {
    /// The whole message, un-stuffed.
    pub parts: Vec<Bytes>,
    /// Sum of the parts' lengths.
    pub size: u64,
    /// Some octet is above 127: 8BITMIME is needed.
    pub eight_bit: bool,
    /// The header section holds UTF-8: SMTPUTF8 is needed.
    pub smtputf8: bool,
}

impl Wrapped {
    /// Whether the last line has its end (an empty message needs none).
    pub fn ends_in_crlf(&self) -> bool {
        let mut last = self.parts.iter().rev().flat_map(|part| part.iter().rev());
        match (last.next(), last.next()) {
            (None, _) => true,
            (Some(last), before) => *last == b'\n' && before == Some(&b'\r'),
        }
    }
}

/// Makes the copy of an original.
pub fn wrap(format: Format, meta: &CopyMeta, original: &[Bytes]) -> Wrapped {
    let (head, tail, smtputf8) = match format {
        Format::JournalReport => {
            let (head, tail) = report(meta, original);
            (head, tail, !text::ascii_address(&meta.intake_address).is_ascii())
        }
        Format::Raw => {
            let head = raw(meta, original);
            let smtputf8 = !head.is_ascii() || (meta.smtputf8 && !has_ascii_headers(original));
            (head, String::new(), smtputf8)
        }
    };
    let mut parts = Vec::with_capacity(original.len() + 2);
    parts.push(Bytes::from(head));
    parts.extend(original.iter().cloned());
    if !tail.is_empty() {
        parts.push(Bytes::from(tail));
    }
    let size = parts.iter().map(|part| part.len() as u64).sum();
    let eight_bit = parts.iter().any(|part| !part.is_ascii());
    Wrapped {
        parts,
        size,
        eight_bit,
        smtputf8,
    }
}

fn report(meta: &CopyMeta, original: &[Bytes]) -> (String, String) {
    let boundary = boundary(&meta.delivery_id, original);
    let encoding = |ascii: bool| if ascii { "7bit" } else { "8bit" };
    let summary = summary(meta);
    let mut head = String::with_capacity(1024 + summary.len());
    let host = text::token(&meta.host);
    text::header(
        &mut head,
        "From",
        &format!("Threat Defense Connector <tdc@{host}>"),
    );
    // Not as an encoded word, which may not stand in an address (RFC 2047 section 5).
    let to = text::ascii_address(&meta.intake_address);
    text::line(&mut head, "To", &format!("<{to}>"));
    text::header(&mut head, "Subject", &meta.subject);
    text::header(&mut head, "Date", &meta.date);
    text::header(
        &mut head,
        "Message-ID",
        &format!("<{}@{host}>", text::token(&meta.delivery_id)),
    );
    head.push_str("MIME-Version: 1.0\r\nAuto-Submitted: auto-generated\r\nX-MS-Journal-Report:\r\n");
    mark(&mut head, meta);
    head.push_str("Content-Type: multipart/mixed; boundary=\"");
    head.push_str(&boundary);
    head.push_str("\"\r\n\r\n--");
    head.push_str(&boundary);
    head.push_str("\r\nContent-Type: text/plain; charset=\"utf-8\"\r\nContent-Transfer-Encoding: ");
    head.push_str(encoding(summary.is_ascii()));
    head.push_str("\r\n\r\n");
    head.push_str(&summary);
    head.push_str("\r\n--");
    head.push_str(&boundary);
    head.push_str("\r\nContent-Type: message/rfc822\r\nContent-Disposition: attachment\r\n");
    head.push_str("Content-Transfer-Encoding: ");
    head.push_str(encoding(original.iter().all(|part| part.is_ascii())));
    head.push_str("\r\n\r\n");
    (head, format!("\r\n--{boundary}--\r\n"))
}

/// The lines that tell the envelope; "every value in each header field has its own line".
fn summary(meta: &CopyMeta) -> String {
    let mut summary = String::with_capacity(256 + 40 * meta.recipients.len());
    let sender = if meta.sender.is_empty() {
        "<>"
    } else {
        &meta.sender
    };
    text::line(&mut summary, "Sender", sender);
    text::line(&mut summary, "Subject", &meta.subject);
    text::line(&mut summary, "Message-Id", &meta.message_id);
    for recipient in &meta.recipients {
        text::line(&mut summary, "Recipient", recipient);
    }
    summary
}

fn raw(meta: &CopyMeta, original: &[Bytes]) -> String {
    let mut head = String::with_capacity(512 + 40 * meta.recipients.len());
    mark(&mut head, meta);
    text::line(&mut head, "X-CSE-ClientIP", &meta.client_ip);
    text::line(&mut head, "X-CSE-MailFrom", &format!("<{}>", meta.sender));
    text::list(&mut head, "X-CSE-RcptTo", &meta.recipients);
    if is_headerless(original) {
        text::line(&mut head, HEADERLESS, "yes");
        head.push_str(RAW_END);
        head.push_str("\r\n");
    } else {
        head.push_str(RAW_END);
    }
    head
}

/// Whether the first line is neither a header field nor the blank line behind none. Such a line would become part of
/// the headers that are put before it.
fn is_headerless(original: &[Bytes]) -> bool {
    let mut scanner = HeaderScanner::default();
    let mut first = original.iter().skip_while(|piece| piece.is_empty()).peekable();
    if first.peek().is_none_or(|piece| piece[0] == b'\r') {
        return false;
    }
    first
        .take_while(|piece| {
            scanner.feed(piece);
            !scanner.is_done()
        })
        .for_each(drop);
    scanner.finish().is_empty()
}

/// Whether the header section is ASCII.
fn has_ascii_headers(original: &[Bytes]) -> bool {
    let mut empty = true;
    for piece in original {
        for line in piece.split_inclusive(|octet| *octet == b'\n') {
            if !line.is_ascii() {
                return false;
            }
            empty &= line.iter().all(|octet| matches!(octet, b'\r' | b'\n'));
            if line.ends_with(b"\n") && std::mem::replace(&mut empty, true) {
                return true;
            }
        }
    }
    true
}

fn mark(head: &mut String, meta: &CopyMeta) {
    text::line(head, DELIVERY_ID, &meta.delivery_id);
    if meta.in_doubt {
        text::line(head, IN_DOUBT, "yes");
    }
    let name = text::token(&meta.sender_ip_header);
    if !name.is_empty() {
        text::line(head, &name, &meta.client_ip);
    }
}

/// A boundary (RFC 2046 section 5.1.1, at most 70 characters) that occurs nowhere in the original.
fn boundary(delivery_id: &str, original: &[Bytes]) -> String {
    let id: String = text::token(delivery_id)
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(32)
        .collect();
    let mut number = 0_u64;
    loop {
        let boundary = format!("=_TDC_{id}_{number}");
        if !occurs(&boundary, original) {
            return boundary;
        }
        number += 1;
    }
}

/// Whether the text stands in the pieces, also across a seam.
fn occurs(text: &str, pieces: &[Bytes]) -> bool {
    let finder = memmem::Finder::new(text);
    let mut seam: Vec<u8> = Vec::new();
    for piece in pieces {
        if finder.find(piece).is_some() {
            return true;
        }
        let reach = piece.len().min(text.len() - 1);
        seam.extend_from_slice(&piece[..reach]);
        if finder.find(&seam).is_some() {
            return true;
        }
        if piece.len() > reach {
            seam.clear();
            seam.extend_from_slice(&piece[piece.len() - reach..]);
        } else {
            let surplus = seam.len().saturating_sub(text.len() - 1);
            seam.drain(..surplus);
        }
    }
    false
}

#[cfg(test)]
mod tests;
