//! The one pass over a message's header section.
//!
//! The scanner keeps the header section while the body streams by, up to a bound, and parses nothing until it is
//! asked. It never fails: a message without headers, without a blank line, or of arbitrary bytes has simply fewer
//! fields. MIME is not looked at.

use std::borrow::Cow;
use std::ops::Range;

use memchr::{memchr, memmem};

/// Octets of a header section that are looked at; the most that Exchange takes (`MaxHeaderSize`), which is the next
/// hop of most. ingress refuses messages with more, so that no field is ever out of sight.
pub const MAX_HEADER_SECTION: usize = 256 * 1024;
/// Our mark: a message that carries it is a copy that we made, and is never journaled again.
pub const DELIVERY_ID: &str = "X-TDC-Delivery-Id";

/// Collects the header section of one message.
#[derive(Debug, Default)]
pub struct HeaderScanner {
    bytes: Vec<u8>,
    done: bool,
}

impl HeaderScanner {
    /// Takes the next octets of the message (lines end in CRLF). Cheap once the header section is over.
    pub fn feed(&mut self, chunk: &[u8]) {
        if self.done {
            return;
        }
        let from = self.bytes.len().saturating_sub(3);
        let room = MAX_HEADER_SECTION - self.bytes.len();
        self.bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if self.bytes.starts_with(b"\r\n") {
            self.bytes.clear();
            self.done = true;
        } else if let Some(at) = memmem::find(&self.bytes[from..], b"\r\n\r\n") {
            self.bytes.truncate(from + at + 2);
            self.done = true;
        } else if self.bytes.len() == MAX_HEADER_SECTION {
            self.done = true;
        }
    }

    /// True once the section is complete or the bound is reached.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The fields, of what has been seen.
    pub fn finish(self) -> Headers {
        Headers::parse(self.bytes)
    }
}

/// The fields of a header section, in order.
#[derive(Debug, Default)]
pub struct Headers {
    bytes: Vec<u8>,
    fields: Vec<(Range<usize>, Range<usize>)>,
}

impl Headers {
    /// Finds the fields in a header section. What is no field ends it (RFC 5322 section 2.2).
    pub fn parse(bytes: Vec<u8>) -> Self {
        let mut fields: Vec<(Range<usize>, Range<usize>)> = Vec::new();
        let mut start = 0;
        while start < bytes.len() {
            let end = memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |at| start + at + 1);
            let line = &bytes[start..end];
            if matches!(line.first(), Some(b' ' | b'\t')) {
                match fields.last_mut() {
                    Some((_, value)) => value.end = end,
                    None => break,
                }
            } else {
                let Some(colon) = memchr(b':', line) else { break };
                let name = line[..colon].trim_ascii_end();
                if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
                    break;
                }
                fields.push((start..start + name.len(), start + colon + 1..end));
            }
            start = end;
        }
        Self { bytes, fields }
    }

    /// The unfolded values of every field of that name (compared without case), without surrounding space.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Cow<'a, str>> {
        self.fields
            .iter()
            .filter(move |(field, _)| self.bytes[field.clone()].eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| unfold(&self.bytes[value.clone()]))
    }

    /// The first value of that name.
    pub fn first<'a>(&'a self, name: &'a str) -> Option<Cow<'a, str>> {
        self.values(name).next()
    }

    /// How many fields of that name there are.
    pub fn count(&self, name: &str) -> usize {
        self.fields
            .iter()
            .filter(|(field, _)| self.bytes[field.clone()].eq_ignore_ascii_case(name.as_bytes()))
            .count()
    }

    /// True when there is no field.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// True when some octet of the section is above 127.
    pub fn has_eight_bit(&self) -> bool {
        !self.bytes.is_ascii()
    }
}

fn unfold(value: &[u8]) -> Cow<'_, str> {
    let value = value.trim_ascii();
    let text = String::from_utf8_lossy(value);
    if memchr(b'\n', value).is_none() {
        return text;
    }
    // RFC 5322 section 2.2.3: unfolding removes the CRLF, and nothing else.
    Cow::Owned(text.replace(['\r', '\n'], ""))
}

#[cfg(test)]
mod tests {
    use super::{HeaderScanner, Headers, MAX_HEADER_SECTION};

    fn scan(message: &[u8], step: usize) -> Headers {
        let mut scanner = HeaderScanner::default();
        message.chunks(step).for_each(|chunk| scanner.feed(chunk));
        scanner.finish()
    }

    #[test]
    fn finds_fields_however_the_message_is_split() {
        let message = b"Received: a\r\nSubject: one\r\n two\r\nMESSAGE-ID:<1@x>\r\nreceived: b\r\n\tc\r\nX-E:\r\n\r\nSubject: body\r\n";
        for step in 1..message.len() {
            let headers = scan(message, step);
            assert_eq!(
                headers.first("subject").as_deref(),
                Some("one two"),
                "unfolded, step {step}"
            );
            assert_eq!(
                headers.first("Message-Id").as_deref(),
                Some("<1@x>"),
                "no space needed"
            );
            assert_eq!(headers.values("Received").collect::<Vec<_>>(), ["a", "b\tc"]);
            assert_eq!(headers.count("X-E"), 1, "an empty value is a value");
            assert_eq!(headers.count("Subject"), 1, "the body is not looked at");
        }
    }

    #[test]
    fn takes_any_bytes() {
        let cases: [(&[u8], usize, &str); 6] = [
            (b"", 0, "nothing"),
            (b"\r\nA: b\r\n", 0, "an empty header section"),
            (
                b"no header here\r\nA: b\r\n",
                0,
                "what is no field ends the section",
            ),
            (b" folded first\r\nA: b\r\n", 0, "a fold of nothing"),
            (b"A: b", 1, "no line end"),
            (b"A: b\r\nB \xff: c\r\n", 1, "a name that is none"),
        ];
        for (message, fields, why) in cases {
            assert_eq!(scan(message, 2).fields.len(), fields, "{why}");
        }
    }

    #[test]
    fn is_bounded() {
        let mut scanner = HeaderScanner::default();
        for _ in 0..5000 {
            scanner.feed(b"X-A: 0123456789012345678901234567890123456789012345678901234567890123456789\r\n");
        }
        assert!(scanner.is_done());
        assert_eq!(scanner.bytes.len(), MAX_HEADER_SECTION);
        assert!(
            scanner.finish().count("x-a") > 3300,
            "no field within the bound is missed"
        );
    }
}
