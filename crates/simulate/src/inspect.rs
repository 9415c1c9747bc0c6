//! What a copy that reached the intake says about itself.
//!
//! Pure: the same octets and envelope give the same answer. A copy is sound when it unwraps as one of the two formats
//! of `tdc_core::journal`, names its delivery id and at least one recipient, came from the null sender, and to one
//! intake address. Every rule that it breaks is listed, not only the first.

use serde::{Deserialize, Serialize};
use tdc_core::headers::HeaderScanner;
use tdc_core::journal::{self, IN_DOUBT, UnwrapError};
use tdc_core::policy::Format;

/// The longest delivery id that is kept; ours have 26 characters.
const MAX_DELIVERY_ID: usize = 128;
/// Latencies beyond this many milliseconds are no latencies: the clocks differ, or the id is from elsewhere.
const MAX_LATENCY: u64 = 24 * 3600 * 1000;

/// One rule that a copy breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Fault {
    /// No `X-TDC-Delivery-Id`, or an empty or overlong one.
    NoDeliveryId,
    /// Neither a journal report nor a raw copy.
    UnknownFormat,
    /// A journal report whose structure is broken.
    BrokenReport,
    /// The copy lists nobody.
    NoRecipients,
    /// The envelope's sender is not `<>`.
    SenderNotNull,
    /// The envelope has more than one recipient: a copy is for one intake.
    SeveralIntakes,
}

/// What a copy says, as far as it could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRecord {
    /// `JournalReport` or `Raw`; None when the copy did not unwrap.
    pub format: Option<String>,
    /// `X-TDC-Delivery-Id`; empty when there is none.
    pub delivery_id: String,
    /// The original's `MAIL FROM`; empty for the null sender.
    pub sender: String,
    /// The recipients that the copy lists.
    pub recipients: Vec<String>,
    /// The original's subject; empty in a raw copy.
    pub subject: String,
    /// The original's `Message-ID`; empty in a raw copy.
    pub message_id: String,
    /// Where the original begins in the message, in octets.
    pub original_offset: usize,
    /// How long the original is, in octets; 0 with `original_offset` 0 when the copy did not unwrap.
    pub original_length: usize,
    /// It is not known whether the original was accepted by its next hop.
    pub in_doubt: bool,
    /// The number of the earlier message with the same delivery id.
    pub duplicate_of: Option<u64>,
    /// Milliseconds from the id's making to the arrival, when the id tells the time (ULID).
    pub latency_ms: Option<u64>,
    /// The rules that it breaks; none: the copy is sound.
    pub faults: Vec<Fault>,
}

impl CopyRecord {
    /// The original within the octets of the message; None when the copy did not unwrap.
    #[must_use]
    pub fn original<'a>(&self, octets: &'a [u8]) -> Option<&'a [u8]> {
        self.format.as_ref()?;
        octets.get(self.original_offset..self.original_offset.checked_add(self.original_length)?)
    }
}

/// Reads a copy: its octets, its envelope, and when it arrived (milliseconds since 1970). `duplicate_of` is left to
/// the caller, who knows what came before.
#[must_use]
pub fn inspect(octets: &[u8], mail_from: &str, rcpt_count: usize, received_unix_ms: u64) -> CopyRecord {
    let mut record = CopyRecord::default();
    match journal::unwrap(octets) {
        Ok(report) => {
            let format = match report.format {
                Format::JournalReport => "JournalReport",
                Format::Raw => "Raw",
            };
            record.format = Some(format.to_owned());
            record.in_doubt = in_doubt(&octets[..report.original.start]);
            record.original_offset = report.original.start;
            record.original_length = report.original.len();
            record.delivery_id = report.delivery_id;
            record.sender = report.sender;
            record.recipients = report.recipients;
            record.subject = report.subject;
            record.message_id = report.message_id;
            if record.delivery_id.is_empty() || record.delivery_id.len() > MAX_DELIVERY_ID {
                record.delivery_id.clear();
                record.faults.push(Fault::NoDeliveryId);
            }
            if record.recipients.is_empty() {
                record.faults.push(Fault::NoRecipients);
            }
        }
        Err(UnwrapError::NoDeliveryId) => record.faults.push(Fault::NoDeliveryId),
        Err(UnwrapError::UnknownFormat) => record.faults.push(Fault::UnknownFormat),
        Err(UnwrapError::Broken(_)) => record.faults.push(Fault::BrokenReport),
    }
    if !mail_from.is_empty() {
        record.faults.push(Fault::SenderNotNull);
    }
    if rcpt_count > 1 {
        record.faults.push(Fault::SeveralIntakes);
    }
    record.latency_ms = ulid_millis(&record.delivery_id)
        .and_then(|made| received_unix_ms.checked_sub(made))
        .filter(|latency| *latency <= MAX_LATENCY);
    record
}

/// The mark stands in the block before the original: in the outer header section of both formats.
fn in_doubt(head: &[u8]) -> bool {
    let mut scanner = HeaderScanner::default();
    scanner.feed(head);
    scanner.finish().first(IN_DOUBT).is_some()
}

/// The time in a ULID: its first ten characters are 48 bits of milliseconds in Crockford's base 32.
fn ulid_millis(id: &str) -> Option<u64> {
    const DIGITS: &[u8] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let digit = |byte: &u8| {
        DIGITS
            .iter()
            .position(|digit| digit == &byte.to_ascii_uppercase())
    };
    let digits = id.as_bytes().iter().map(digit).collect::<Option<Vec<_>>>()?;
    if digits.len() != 26 || digits[0] > 7 {
        return None;
    }
    Some(
        digits[..10]
            .iter()
            .fold(0, |millis, digit| millis << 5 | *digit as u64),
    )
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tdc_core::journal::{CopyMeta, wrap};

    use super::*;

    /// Made at 2016-07-30T23:54:10.259Z, the example of the ULID specification.
    const ID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    const MADE: u64 = 1_469_922_850_259;

    fn copy(format: Format, original: &str, change: impl Fn(&mut CopyMeta)) -> Vec<u8> {
        let mut meta = CopyMeta {
            delivery_id: ID.to_owned(),
            intake_address: "t@intake.example".to_owned(),
            host: "tdc.example".to_owned(),
            sender: "a@sender.example".to_owned(),
            recipients: vec!["b@x.example".to_owned(), "c@x.example".to_owned()],
            ..CopyMeta::default()
        };
        change(&mut meta);
        let original = Bytes::copy_from_slice(original.as_bytes());
        wrap(format, &meta, &[original]).parts.concat()
    }

    #[test]
    fn sound_copies_tell_all() {
        let original = "Subject: hi\r\n\r\nbody\r\n";
        for format in [Format::JournalReport, Format::Raw] {
            for doubt in [false, true] {
                let octets = copy(format, original, |meta| meta.in_doubt = doubt);
                let record = inspect(&octets, "", 1, MADE + 1500);
                assert_eq!(record.faults, [], "{format:?}");
                assert_eq!(record.original(&octets), Some(original.as_bytes()));
                assert_eq!(record.recipients, ["b@x.example", "c@x.example"]);
                assert_eq!(record.sender, "a@sender.example");
                assert_eq!(record.delivery_id, ID);
                assert_eq!(record.in_doubt, doubt);
                assert_eq!(record.latency_ms, Some(1500));
            }
        }
    }

    #[test]
    fn the_mark_of_doubt_in_the_original_does_not_count() {
        let original = format!("{IN_DOUBT}: yes\r\n\r\nbody\r\n");
        for format in [Format::JournalReport, Format::Raw] {
            let octets = copy(format, &original, |_| ());
            assert!(!inspect(&octets, "", 1, MADE).in_doubt, "{format:?}");
        }
    }

    #[test]
    fn every_broken_rule_is_listed() {
        let sound = copy(Format::JournalReport, "x\r\n", |_| ());
        let cut = sound[..sound.len() - 4].to_vec();
        let nobody = copy(Format::JournalReport, "x\r\n", |meta| meta.recipients.clear());
        let nameless = copy(Format::Raw, "x\r\n", |meta| meta.delivery_id.clear());
        let endless = copy(Format::JournalReport, "x\r\n", |meta| {
            meta.delivery_id = "A".repeat(200);
        });
        let plain = b"Subject: hi\r\n\r\nbody\r\n".to_vec();
        let marked = format!("X-Other: 1\r\nX-TDC-Delivery-Id: {ID}\r\n\r\nbody\r\n").into_bytes();
        let rows: [(&[u8], &str, usize, &[Fault]); 9] = [
            (&sound, "", 1, &[]),
            (&sound, "a@b", 1, &[Fault::SenderNotNull]),
            (&sound, "a@b", 2, &[Fault::SenderNotNull, Fault::SeveralIntakes]),
            (&cut, "", 1, &[Fault::BrokenReport]),
            (&nobody, "", 1, &[Fault::NoRecipients]),
            (&nameless, "", 1, &[Fault::NoDeliveryId]),
            (&endless, "", 1, &[Fault::NoDeliveryId]),
            (&plain, "x@y", 1, &[Fault::NoDeliveryId, Fault::SenderNotNull]),
            (&marked, "", 1, &[Fault::UnknownFormat]),
        ];
        for (octets, mail_from, rcpts, want) in rows {
            let record = inspect(octets, mail_from, rcpts, MADE);
            assert_eq!(record.faults, want, "{}", String::from_utf8_lossy(octets));
        }
        assert_eq!(inspect(&plain, "", 1, MADE).original(&plain), None);
    }

    #[test]
    fn only_ulids_tell_the_time() {
        let rows = [
            (ID, Some(MADE)),
            ("01arz3ndektsv4rrffq69g5fav", Some(MADE)),
            ("7ZZZZZZZZZZZZZZZZZZZZZZZZZ", Some((1 << 48) - 1)),
            ("8ZZZZZZZZZZZZZZZZZZZZZZZZZ", None),
            ("01ARZ3NDEKTSV4RRFFQ69G5FA", None),
            ("01ARZ3NDEKTSV4RRFFQ69G5FA\u{e9}", None),
            ("01ARZ3NDEKUSV4RRFFQ69G5FAV", None),
            ("", None),
        ];
        for (id, want) in rows {
            assert_eq!(ulid_millis(id), want, "{id}");
        }
    }
}
