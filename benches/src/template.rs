//! The message that the generator sends and the sinks expect, octet for octet.
//!
//! Every message is the same but for two numbers of fixed width in its first line: its own, and when it was due to be
//! sent. So a sink knows every octet that must arrive, and no digest is needed to tell a changed one.

use std::time::{SystemTime, UNIX_EPOCH};

use tdc_benches::{Lines, message};

/// Begins the first line.
pub(crate) const MARK: &[u8] = b"X-Bench: ";
/// Digits of the message's number.
const NUMBER: usize = 10;
/// Digits of the time, in microseconds since 1970.
const TIME: usize = 16;
/// Where the digits of the time begin.
const TIME_AT: usize = MARK.len() + NUMBER + 1;
/// Length of the first line without its end.
const LINE: usize = TIME_AT + TIME;

/// The message of one size.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    plain: Vec<u8>,
    /// As it stands on the wire: leading dots doubled.
    wire: Vec<u8>,
}

/// The two numbers of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) number: u64,
    pub(crate) micros: u64,
}

impl Template {
    /// A message of about `size` octets. Prose: lines that begin with a dot are among it.
    pub(crate) fn new(size: usize) -> Self {
        let mut plain = MARK.to_vec();
        plain.extend_from_slice(&[b'0'; NUMBER]);
        plain.push(b' ');
        plain.extend_from_slice(&[b'0'; TIME]);
        plain.extend_from_slice(
            b"\r\nFrom: <ann@partner.example>\r\nTo: <bob@company.example>\r\nSubject: A message of the benchmark\r\n\
              Date: Tue, 24 Nov 2026 06:00:00 +0000\r\nMessage-ID: <benchmark@partner.example>\r\n\r\n",
        );
        let rest = size.saturating_sub(plain.len()).max(1);
        plain.extend_from_slice(&message(Lines::Prose, rest));
        let mut wire = Vec::with_capacity(plain.len() + plain.len() / 1000);
        for line in plain.split_inclusive(|octet| *octet == b'\n') {
            if line.first() == Some(&b'.') {
                wire.push(b'.');
            }
            wire.extend_from_slice(line);
        }
        Self { plain, wire }
    }

    /// Octets of the message itself.
    pub(crate) fn size(&self) -> usize {
        self.plain.len()
    }

    /// As `DATA` wants it, without the final dot.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// Writes the numbers into a copy of the message, or of its beginning.
    pub(crate) fn stamp(text: &mut [u8], stamp: Stamp) {
        let digits = format!("{:0NUMBER$} {:0TIME$}", stamp.number, stamp.micros);
        text[MARK.len()..LINE].copy_from_slice(digits.as_bytes());
    }

    /// Checks that `text` begins with this message; `dotted` when its leading dots are doubled. Gives its numbers and
    /// how long it is.
    pub(crate) fn check(&self, text: &[u8], dotted: bool) -> Option<(Stamp, usize)> {
        let expected = if dotted { &self.wire } else { &self.plain };
        let whole = text.len() >= expected.len()
            && text.starts_with(MARK)
            && text[LINE..expected.len()] == expected[LINE..];
        let number = |range: std::ops::Range<usize>| -> Option<u64> {
            std::str::from_utf8(&text[range]).ok()?.parse().ok()
        };
        if !whole || text[TIME_AT - 1] != b' ' {
            return None;
        }
        let stamp = Stamp {
            number: number(MARK.len()..TIME_AT - 1)?,
            micros: number(TIME_AT..LINE)?,
        };
        Some((stamp, expected.len()))
    }
}

/// Now, in microseconds since 1970: the clock that generator and sinks share.
pub(crate) fn micros() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::{Stamp, Template};

    #[test]
    fn a_message_is_known_by_every_octet() {
        let template = Template::new(10_240);
        assert!((10_240..10_330).contains(&template.size()));
        assert!(
            template.wire().len() > template.size(),
            "some line begins with a dot"
        );
        let stamp = Stamp {
            number: 77,
            micros: 1_790_000_000_000_001,
        };
        for dotted in [false, true] {
            let mut text = if dotted {
                template.wire.clone()
            } else {
                template.plain.clone()
            };
            Template::stamp(&mut text, stamp);
            let length = text.len();
            text.extend_from_slice(b"what follows");
            assert_eq!(template.check(&text, dotted), Some((stamp, length)));
            assert_eq!(template.check(&text, !dotted), None, "dots doubled or not");
            for at in [0, 5, 12, 40, 300, length - 1] {
                let mut changed = text.clone();
                changed[at] ^= 0x20;
                let same = template.check(&changed, dotted) == Some((stamp, length));
                assert!(!same, "a changed octet at {at} shows");
            }
            assert_eq!(template.check(&text[..length - 1], dotted), None, "cut short");
        }
    }
}
