//! Replies (RFC 5321 section 4.2): what a server says, in both directions.
//!
//! A [`Reply`] is always fit to be written: its code is between 200 and 599, it has at least one line, and no line
//! holds a control character, so that text that came from one peer can be passed to another and stay one reply.
//! Reading is bounded by [`MAX_REPLY_LINE`] and [`MAX_REPLY_LINES`].

use std::fmt;

use bytes::{BufMut, BytesMut};

/// Longest line of a reply that is read, in octets with its CRLF. RFC 5321 section 4.5.3.1.5 promises 512.
pub const MAX_REPLY_LINE: usize = 1024;
/// Most lines in one reply that is read; an EHLO reply has about twenty.
pub const MAX_REPLY_LINES: usize = 100;
/// What an unusable code becomes: "local error in processing" (RFC 5321 section 4.2.3).
const CODE_OF_LAST_RESORT: u16 = 451;

/// One reply: a code and its lines of text. An enhanced status code (RFC 3463) is part of the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    lines: Vec<Box<str>>,
}

/// Why what the server sent is not a reply. The connection is out of step and must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// A line without a code between 200 and 599, or with something other than space or `-` behind it.
    #[error("the server sent a line that is not an SMTP reply")]
    NotAReply,
    /// The lines of one reply have different codes (RFC 5321 section 4.2.1 forbids it).
    #[error("the server sent one reply with two codes")]
    MixedCodes,
    /// A line is longer than [`MAX_REPLY_LINE`].
    #[error("the server sent a reply line of more than {MAX_REPLY_LINE} octets")]
    LineTooLong,
    /// A reply has more than [`MAX_REPLY_LINES`] lines.
    #[error("the server sent a reply of more than {MAX_REPLY_LINES} lines")]
    TooManyLines,
}

impl Reply {
    /// A reply whose text has one line, or several if `text` holds line breaks.
    ///
    /// Control characters become `?`. A code outside 200 to 599 cannot be sent and becomes 451.
    pub fn new(code: u16, text: impl Into<String>) -> Self {
        Self::multi(code, [text])
    }

    /// A reply with these lines; an item that holds line breaks becomes several lines.
    pub fn multi(code: u16, lines: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut all = Vec::new();
        for item in lines {
            let item = item.into();
            let text = item.trim_end_matches(['\r', '\n']);
            all.extend(
                text.split('\n')
                    .map(|line| censored(line.trim_end_matches('\r')).into_boxed_str()),
            );
        }
        if all.is_empty() {
            all.push(Box::default());
        }
        let code = if (200..=599).contains(&code) {
            code
        } else {
            CODE_OF_LAST_RESORT
        };
        Self { code, lines: all }
    }

    /// The three-digit code, 200 to 599.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The text of each line, without code and line end; never empty.
    pub fn lines(&self) -> &[Box<str>] {
        &self.lines
    }

    /// The text of all lines, joined by a space: for logs.
    pub fn text(&self) -> String {
        self.lines.join(" ")
    }

    /// The enhanced status code (`class.subject.detail`, RFC 3463) at the start of the first line, if its class fits
    /// the code's first digit.
    pub fn enhanced(&self) -> Option<&str> {
        let first = self.lines.first()?;
        let token = first.split(' ').next()?;
        let mut parts = token.split('.');
        let (class, subject, detail) = (parts.next()?, parts.next()?, parts.next()?);
        let number = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        let fits = class.len() == 1 && class.parse() == Ok(self.code / 100);
        (fits && number(subject) && number(detail) && parts.next().is_none()).then_some(token)
    }

    /// 2xx: done.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 3xx: go on.
    pub fn is_intermediate(&self) -> bool {
        self.code / 100 == 3
    }

    /// 4xx: try again later.
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// 5xx: do not try again.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// Appends the reply in wire form, each line ended by CRLF.
    pub fn write_to(&self, out: &mut BytesMut) {
        let last = self.lines.len().saturating_sub(1);
        for (i, line) in self.lines.iter().enumerate() {
            out.reserve(line.len() + 6);
            out.put_slice(self.code.to_string().as_bytes());
            out.put_u8(if i == last { b' ' } else { b'-' });
            out.put_slice(line.as_bytes());
            out.put_slice(b"\r\n");
        }
    }
}

/// `250 2.0.0 Ok`; several lines are joined by a space.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        self.lines.iter().try_for_each(|line| write!(f, " {line}"))
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({self})")
    }
}

/// Takes one whole reply from the front of `input`.
///
/// `Ok(None)` means that more input is needed; nothing was consumed. UTF-8 text stays (RFC 6531 section 3.6 lets a
/// server send it), everything else that does not print becomes `?`.
///
/// # Errors
/// See [`ReplyError`]; `input` is then left as it was.
pub fn parse_reply(input: &mut BytesMut) -> Result<Option<Reply>, ReplyError> {
    let mut lines = Vec::new();
    let mut code = None;
    let mut at = 0;
    loop {
        let rest = input.get(at..).unwrap_or_default();
        let Some(end) = memchr::memchr(b'\n', rest.get(..MAX_REPLY_LINE).unwrap_or(rest)) else {
            return if rest.len() >= MAX_REPLY_LINE {
                Err(ReplyError::LineTooLong)
            } else {
                Ok(None)
            };
        };
        if lines.len() == MAX_REPLY_LINES {
            return Err(ReplyError::TooManyLines);
        }
        let line = rest.get(..end).unwrap_or_default();
        let (this, last, text) = parse_line(line.strip_suffix(b"\r").unwrap_or(line))?;
        if *code.get_or_insert(this) != this {
            return Err(ReplyError::MixedCodes);
        }
        lines.push(censored(&String::from_utf8_lossy(text)).into_boxed_str());
        at += end + 1;
        if last {
            bytes::Buf::advance(input, at);
            return Ok(Some(Reply { code: this, lines }));
        }
    }
}

/// One line as (code, whether it is the last, text). A bare code is a last line (RFC 5321 section 4.2.1 asks for it).
fn parse_line(line: &[u8]) -> Result<(u16, bool, &[u8]), ReplyError> {
    let (digits, rest) = line.split_at_checked(3).ok_or(ReplyError::NotAReply)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(ReplyError::NotAReply);
    }
    let code = digits.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'));
    if !(200..=599).contains(&code) {
        return Err(ReplyError::NotAReply);
    }
    match rest.split_first() {
        None => Ok((code, true, rest)),
        Some((b' ', text)) => Ok((code, true, text)),
        Some((b'-', text)) => Ok((code, false, text)),
        Some(_) => Err(ReplyError::NotAReply),
    }
}

/// The text with `?` in place of what must not reach a terminal, a log line or another peer.
fn censored(text: &str) -> String {
    let strange = |c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER;
    text.chars().map(|c| if strange(c) { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(wire: &[u8]) -> (Result<Option<Reply>, ReplyError>, usize) {
        let mut input = BytesMut::from(wire);
        let result = parse_reply(&mut input);
        (result, input.len())
    }

    #[test]
    fn reads_whole_replies_only() {
        let cases: &[(&[u8], Option<(&str, usize)>, &str)] = &[
            (b"250 2.0.0 Ok\r\n", Some(("250 2.0.0 Ok", 0)), "one line"),
            (
                b"250 Ok\n354 x",
                Some(("250 Ok", 5)),
                "bare LF is tolerated, the rest stays",
            ),
            (b"250\r\n", Some(("250 ", 0)), "a bare code"),
            (
                b"250-a\r\n250-b\r\n250 c\r\n220",
                Some(("250 a b c", 3)),
                "several lines",
            ),
            (b"250-a\r\n250", None, "half a reply is not consumed"),
            (b"", None, "nothing"),
            (b"550 a\0b\x1b\xff\r\n", Some(("550 a?b??", 0)), "censored"),
            (
                "550 5.1.1 f\u{fc}r\r\n".as_bytes(),
                Some(("550 5.1.1 f\u{fc}r", 0)),
                "UTF-8 stays",
            ),
        ];
        for (wire, want, why) in cases {
            let (got, left) = parsed(wire);
            let got = got.unwrap();
            assert_eq!(
                got.as_ref().map(ToString::to_string).as_deref(),
                want.map(|w| w.0),
                "{why}"
            );
            assert_eq!(left, want.map_or(wire.len(), |w| w.1), "{why}");
        }
    }

    #[test]
    fn refuses_what_is_no_reply() {
        let long = [b"250 ".as_slice(), &[b'x'; MAX_REPLY_LINE]].concat();
        let many = b"250-x\r\n".repeat(MAX_REPLY_LINES + 1);
        let cases: &[(&[u8], ReplyError)] = &[
            (b"HTTP/1.1 400\r\n", ReplyError::NotAReply),
            (b"25\r\n", ReplyError::NotAReply),
            (b"250_x\r\n", ReplyError::NotAReply),
            (b"150 x\r\n", ReplyError::NotAReply),
            (b"600 x\r\n", ReplyError::NotAReply),
            (b"\r\n", ReplyError::NotAReply),
            (b"250-a\r\n251 b\r\n", ReplyError::MixedCodes),
            (&long, ReplyError::LineTooLong),
            (&many, ReplyError::TooManyLines),
        ];
        for (wire, want) in cases {
            assert_eq!(parsed(wire), (Err(*want), wire.len()));
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let cases = [
            (Reply::new(250, "2.0.0 Ok"), "250 2.0.0 Ok\r\n"),
            (
                Reply::new(550, "one\r\ntwo\rthree"),
                "550-one\r\n550 two?three\r\n",
            ),
            (
                Reply::multi(250, ["a", "", "b\nc"]),
                "250-a\r\n250-\r\n250-b\r\n250 c\r\n",
            ),
            (Reply::new(354, ""), "354 \r\n"),
            (Reply::new(99, "x"), "451 x\r\n"),
        ];
        for (reply, wire) in cases {
            let mut out = BytesMut::new();
            reply.write_to(&mut out);
            assert_eq!(out, wire);
            assert_eq!(parse_reply(&mut out), Ok(Some(reply)));
        }
    }

    #[test]
    fn finds_the_enhanced_code() {
        let cases = [
            (Reply::new(250, "2.1.5 Ok"), Some("2.1.5")),
            (Reply::new(550, "5.7.509 no"), Some("5.7.509")),
            (Reply::new(421, "4.3.2"), Some("4.3.2")),
            (Reply::new(550, "4.1.1 class does not fit"), None),
            (Reply::new(250, "Ok"), None),
            (Reply::new(250, "2.1 Ok"), None),
            (Reply::new(250, "2.1.1.1 Ok"), None),
            (Reply::new(250, "2.1000.1 Ok"), None),
        ];
        for (reply, want) in cases {
            assert_eq!(reply.enhanced(), want, "{reply}");
        }
    }
}
