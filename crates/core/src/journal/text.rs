//! Text that goes into headers and into the summary of a report.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::address::domain_key;

/// Octets of one value that are kept; a line may have 998 (RFC 5322 section 2.1.1).
const MAX_VALUE: usize = 900;
/// Octets of UTF-8 in one encoded word, which may have 75 characters (RFC 2047 section 2).
const ENCODED_WORD: usize = 39;

/// Without control characters, cut at [`MAX_VALUE`].
fn clean(value: &str) -> Cow<'_, str> {
    let mut end = value.len().min(MAX_VALUE);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    let value = &value[..end];
    if value.chars().any(char::is_control) {
        return value
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect::<String>()
            .into();
    }
    value.into()
}

/// An address with its domain as A-labels, when that makes all of it ASCII; else as it is.
pub fn ascii_address(address: &str) -> Cow<'_, str> {
    match address.rsplit_once('@') {
        Some((local, domain)) if local.is_ascii() && !domain.is_ascii() => {
            format!("{local}@{}", domain_key(domain)).into()
        }
        _ => address.into(),
    }
}

/// Only what may stand in a domain, an id or a header's name.
pub(super) fn token(value: &str) -> String {
    value
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        .take(255)
        .collect()
}

/// `NAME: VALUE`, as it is.
pub(super) fn line(out: &mut String, name: &str, value: &str) {
    let _ = write!(out, "{name}: {}\r\n", clean(value).trim_end());
}

/// `NAME: VALUE` in a header section that must be ASCII: other text becomes encoded words (RFC 2047).
pub(super) fn header(out: &mut String, name: &str, value: &str) {
    let value = clean(value);
    if value.is_ascii() {
        return line(out, name, &value);
    }
    out.push_str(name);
    out.push(':');
    let mut rest = value.as_ref();
    while !rest.is_empty() {
        let mut end = rest.len().min(ENCODED_WORD);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (word, after) = rest.split_at(end);
        out.push_str(if out.ends_with(':') {
            " =?utf-8?B?"
        } else {
            "\r\n =?utf-8?B?"
        });
        base64(out, word.as_bytes());
        out.push_str("?=");
        rest = after;
    }
    out.push_str("\r\n");
}

/// `NAME: A, B, …`, one value on each line.
pub(super) fn list(out: &mut String, name: &str, values: &[String]) {
    let _ = write!(out, "{name}: ");
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            out.push_str(",\r\n ");
        }
        let _ = write!(out, "<{}>", clean(value).trim());
    }
    out.push_str("\r\n");
}

fn base64(out: &mut String, bytes: &[u8]) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let symbol = ALPHABET[(bits >> (18 - 6 * at) & 63) as usize];
            out.push(if at <= group.len() {
                char::from(symbol)
            } else {
                '='
            });
        }
    }
}

/// A point in time as a `Date` header has it (RFC 5322 section 3.3), in UTC. `unix` is seconds since 1970.
pub fn rfc5322_date(unix: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{}, {day} {} {year} {:02}:{:02}:{:02} +0000",
        DAYS[(days % 7) as usize],
        MONTHS[month],
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// Year, month from 0, and day of a day counted from 1970-01-01, in the Gregorian calendar.
pub(crate) fn civil(mut days: u64) -> (u64, usize, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // Whole cycles of 400 years first, so that the loops below stay short for any input.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [
        31,
        28 + u64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates() {
        let cases = [
            (0, "Thu, 1 Jan 1970 00:00:00 +0000"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (1_073_401_398, "Tue, 6 Jan 2004 15:03:18 +0000"),
            (1_795_478_399, "Mon, 23 Nov 2026 23:59:59 +0000"),
        ];
        for (unix, text) in cases {
            assert_eq!(super::rfc5322_date(unix), text);
        }
    }

    #[test]
    fn encoded_words() {
        let mut out = String::new();
        super::header(&mut out, "Subject", "Grüße");
        assert_eq!(out, "Subject: =?utf-8?B?R3LDvMOfZQ==?=\r\n");
        out.clear();
        super::header(&mut out, "Subject", &"ü".repeat(30));
        assert!(out.lines().all(|line| line.len() <= 78), "{out}");
    }
}
