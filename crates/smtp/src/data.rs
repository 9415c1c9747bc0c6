//! The content of a message on the wire: end of data, dot-stuffing, and the normalisation of line ends.
//!
//! The decoder keeps Postfix's semantics (`smtpd_forbid_bare_newline = normalize`):
//! - Data ends at a line that is only `.`, when both this line and the one before it end in CRLF; the beginning of
//!   the data counts as the end of a line, so an empty message is legal.
//! - Any other line that is only `.` is dropped: passing it on could end the data at the next server.
//! - A bare LF ends a line and becomes CRLF. Exactly one CR belongs to a line end; any other CR, and every NUL,
//!   becomes a space.
//! - The first dot of a line is removed (RFC 5321 section 4.5.2), on the first line too.
//!
//! Octets that do not change are not copied: the decoder hands out slices of its input. Whatever it hands out can be
//! encoded and decoded again without a change.

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::{memchr3, memmem};

/// What to do with a bare LF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BareLf {
    /// It becomes CRLF.
    #[default]
    Normalize,
    /// The message is refused at its end.
    Reject,
}

/// Pieces above which one copy is cheaper than handing out slices.
const MAX_PIECES: usize = 16;

/// A part of what came in, or a replacement.
#[derive(Clone, Copy, Debug)]
enum Piece {
    Keep(usize, usize),
    Insert(&'static [u8]),
}

/// Decodes one message.
#[derive(Debug)]
pub struct DataDecoder {
    dots: bool,
    at_line_start: bool,
    after_crlf: bool,
    saw_bare_lf: bool,
    decoded: u64,
    pieces: Vec<Piece>,
}

impl Default for DataDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl DataDecoder {
    /// For the octets after `354`.
    pub fn new() -> Self {
        Self {
            dots: true,
            at_line_start: true,
            after_crlf: true,
            saw_bare_lf: false,
            decoded: 0,
            pieces: Vec::new(),
        }
    }

    /// For the octets of `BDAT` chunks (RFC 3030): no dots, no end; the same normalisation.
    pub fn for_chunks() -> Self {
        Self {
            dots: false,
            ..Self::new()
        }
    }

    /// True when a line ended in a bare LF.
    pub fn saw_bare_lf(&self) -> bool {
        self.saw_bare_lf
    }

    /// Octets handed out so far.
    pub fn decoded_len(&self) -> u64 {
        self.decoded
    }

    /// Takes what can be decided from the input and appends the decoded octets to `out`. Up to two octets may stay
    /// in the input until more arrive. True: the end of data was consumed, and what follows it is still there.
    pub fn decode(&mut self, input: &mut BytesMut, out: &mut Vec<Bytes>) -> bool {
        let (consumed, ended) = self.scan(input);
        let taken = input.split_to(consumed).freeze();
        self.hand_out(&taken, out);
        ended
    }

    /// Takes the rest when no more octets will come: a last CR is a stray one, and a last line without an end gets
    /// one, as it would on its way through `DATA`. So the next hop and the queue hold the same octets.
    pub fn finish_chunks(&mut self, input: &mut BytesMut, out: &mut Vec<Bytes>) {
        self.decode(input, out);
        if !input.is_empty() {
            input.clear();
            self.at_line_start = false;
            self.decoded += 1;
            out.push(Bytes::from_static(b" "));
        }
        if !self.at_line_start {
            self.at_line_start = true;
            self.decoded += 2;
            out.push(Bytes::from_static(b"\r\n"));
        }
    }

    /// Fills `pieces`; gives the octets that they cover, and whether data ended there.
    fn scan(&mut self, input: &[u8]) -> (usize, bool) {
        self.pieces.clear();
        let mut at = 0;
        let mut kept = 0;
        loop {
            if self.at_line_start && self.dots && input.get(at) == Some(&b'.') {
                self.keep(kept, at);
                match input[at + 1..] {
                    [] | [b'\r'] => return (at, false),
                    [b'\r', b'\n', ..] if self.after_crlf => return (at + 3, true),
                    [b'\r', b'\n', ..] => {
                        at += 3;
                        self.after_crlf = true;
                        kept = at;
                        continue;
                    }
                    [b'\n', ..] => {
                        at += 2;
                        self.after_crlf = false;
                        self.saw_bare_lf = true;
                        kept = at;
                        continue;
                    }
                    _ => {
                        at += 1;
                        kept = at;
                    }
                }
            }
            let Some(found) = memchr3(b'\r', b'\n', 0, &input[at..]) else {
                self.at_line_start &= at == input.len();
                self.keep(kept, input.len());
                return (input.len(), false);
            };
            self.at_line_start &= found == 0;
            at += found;
            match input[at..] {
                [b'\r'] => {
                    self.keep(kept, at);
                    return (at, false);
                }
                [b'\r', b'\n', ..] => {
                    at += 2;
                    self.at_line_start = true;
                    self.after_crlf = true;
                }
                [b'\n', ..] => {
                    self.replace(kept, at, b"\r\n");
                    at += 1;
                    kept = at;
                    self.at_line_start = true;
                    self.after_crlf = false;
                    self.saw_bare_lf = true;
                }
                _ => {
                    self.replace(kept, at, b" ");
                    at += 1;
                    kept = at;
                    self.at_line_start = false;
                }
            }
        }
    }

    fn keep(&mut self, from: usize, to: usize) {
        if from < to {
            self.pieces.push(Piece::Keep(from, to));
        }
    }

    fn replace(&mut self, from: usize, to: usize, with: &'static [u8]) {
        self.keep(from, to);
        self.pieces.push(Piece::Insert(with));
    }

    fn hand_out(&mut self, taken: &Bytes, out: &mut Vec<Bytes>) {
        let many = self.pieces.len() > MAX_PIECES;
        let mut copy = BytesMut::with_capacity(if many { taken.len() + taken.len() / 8 } else { 0 });
        for piece in self.pieces.drain(..) {
            let length = match piece {
                Piece::Keep(from, to) => to - from,
                Piece::Insert(text) => text.len(),
            };
            self.decoded += length as u64;
            match piece {
                Piece::Keep(from, to) if many => copy.extend_from_slice(&taken[from..to]),
                Piece::Insert(text) if many => copy.extend_from_slice(text),
                Piece::Keep(from, to) => out.push(taken.slice(from..to)),
                Piece::Insert(text) => out.push(Bytes::from_static(text)),
            }
        }
        if many {
            out.push(copy.freeze());
        }
    }
}

/// Encodes one message: dot-stuffing, and the end of data.
#[derive(Debug)]
pub struct DataEncoder {
    at_line_start: bool,
    empty: bool,
    /// The last two octets.
    tail: [u8; 2],
}

impl Default for DataEncoder {
    fn default() -> Self {
        Self::new()
    }
}

impl DataEncoder {
    /// For one message.
    pub fn new() -> Self {
        Self {
            at_line_start: true,
            empty: true,
            tail: [0; 2],
        }
    }

    /// Appends the chunk with its dots doubled. Without a dot at the head of a line nothing is copied.
    pub fn encode(&mut self, chunk: &Bytes, out: &mut Vec<Bytes>) {
        let Some(last) = chunk.last() else { return };
        let mut rest = chunk.clone();
        if self.at_line_start && rest[0] == b'.' {
            out.push(Bytes::from_static(b"."));
        }
        let dots: Vec<usize> = memmem::find_iter(chunk, b"\n.").collect();
        if dots.len() > MAX_PIECES {
            let mut copy = BytesMut::with_capacity(chunk.len() + dots.len());
            let mut from = 0;
            for dot in dots {
                copy.extend_from_slice(&chunk[from..=dot]);
                copy.extend_from_slice(b".");
                from = dot + 1;
            }
            copy.extend_from_slice(&chunk[from..]);
            out.push(copy.freeze());
        } else {
            let mut from = 0;
            for dot in dots {
                out.push(rest.split_to(dot + 1 - from));
                out.push(Bytes::from_static(b"."));
                from = dot + 1;
            }
            out.push(rest);
        }
        self.empty = false;
        self.at_line_start = *last == b'\n';
        self.tail = match chunk[..] {
            [.., before, last] => [before, last],
            [last] => [self.tail[1], last],
            [] => self.tail,
        };
    }

    /// Appends the end of data; a line end first when the last line has none.
    pub fn finish(&mut self, out: &mut Vec<Bytes>) {
        let complete = self.empty || self.tail == *b"\r\n";
        out.push(Bytes::from_static(if complete { b".\r\n" } else { b"\r\n.\r\n" }));
    }
}

/// Moves up to `limit` octets from the front of one buffer to the end of another.
pub(crate) fn transfer(from: &mut BytesMut, limit: usize, to: &mut BytesMut) -> usize {
    let count = from.len().min(limit);
    if to.is_empty() {
        *to = from.split_to(count);
    } else {
        to.extend_from_slice(&from[..count]);
        from.advance(count);
    }
    count
}

#[cfg(test)]
#[path = "data_tests.rs"]
mod tests;
