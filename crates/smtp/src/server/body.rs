//! The body of a message: DATA until its dot, or the octets of BDAT chunks.

use std::collections::VecDeque;

use bytes::BytesMut;
use memchr::memchr;

use super::{Body, BodyEnd, BodyFault, Question, ServerEvent, ServerSession, State};
use crate::data::{BareLf, DataDecoder, transfer};
use crate::reply::Reply;

impl Body {
    pub(super) fn new(decoder: DataDecoder) -> Self {
        Self {
            decoder,
            pieces: VecDeque::new(),
            scratch: Vec::new(),
            chunk: BytesMut::new(),
            too_big: false,
            header: HeaderMeter::default(),
            header_too_big: false,
            refused: None,
            stray: false,
            ended: false,
        }
    }

    /// Takes over what was decoded, unless the message is refused or too big.
    fn collect(&mut self, limit: u64, max_header: u64) {
        self.too_big |= limit > 0 && self.decoder.decoded_len() > limit;
        for piece in &self.scratch {
            self.header.feed(piece);
        }
        self.header_too_big |= self.header.octets > max_header;
        if self.too_big || self.header_too_big || self.refused.is_some() {
            self.scratch.clear();
            self.pieces.clear();
        }
        self.pieces.extend(self.scratch.drain(..));
    }

    fn end(&self, bare_lf: BareLf) -> BodyEnd {
        let fault = if self.too_big {
            Some(BodyFault::TooBig)
        } else if self.header_too_big {
            Some(BodyFault::HeaderTooBig)
        } else if bare_lf == BareLf::Reject && self.decoder.saw_bare_lf() {
            Some(BodyFault::BareLf)
        } else {
            None
        };
        BodyEnd {
            size: self.decoder.decoded_len(),
            fault,
        }
    }
}

/// Octets of a field's name beyond which a line is no field; a line has at most 998 (RFC 5322 section 2.1.1).
const MAX_NAME: u16 = 998;

/// Counts the octets of a header section, whatever the pieces in which it comes. The section ends at an empty line, or
/// at one that is neither a field nor the continuation of one (as for Postfix).
#[derive(Debug, Default)]
pub(super) struct HeaderMeter {
    /// Octets so far, the line that ends the section included.
    pub(super) octets: u64,
    at: At,
}

/// Where in the header section.
#[derive(Clone, Copy, Debug, Default)]
enum At {
    #[default]
    LineStart,
    /// In the name of a field, behind so many octets.
    Name(u16),
    /// In the value of a field.
    Value,
    /// Behind the section.
    Over,
}

impl HeaderMeter {
    fn feed(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while let Some(&octet) = rest.first() {
            let taken = match self.at {
                At::Over => return,
                At::LineStart => {
                    self.at = match octet {
                        b' ' | b'\t' => At::Value,
                        b'!'..=b'~' if octet != b':' => At::Name(1),
                        _ => At::Over,
                    };
                    1
                }
                At::Name(length) => {
                    self.at = match octet {
                        b':' => At::Value,
                        b' ' | b'\t' | b'!'..=b'~' if length < MAX_NAME => At::Name(length + 1),
                        _ => At::Over,
                    };
                    1
                }
                At::Value => {
                    let end = memchr(b'\n', rest).map(|end| end + 1);
                    if end.is_some() {
                        self.at = At::LineStart;
                    }
                    end.unwrap_or(rest.len())
                }
            };
            self.octets += taken as u64;
            rest = &rest[taken..];
        }
    }
}

impl ServerSession {
    pub(super) fn body(&mut self, input: &mut BytesMut) -> Option<ServerEvent> {
        match std::mem::replace(&mut self.state, State::Command) {
            State::Body(body) => self.data_octets(body, input),
            State::Chunk(body, remaining, last) => self.chunk_octets(body, remaining, last, input),
            other => {
                self.state = other;
                None
            }
        }
    }

    fn limit(&self) -> u64 {
        self.offered.size.unwrap_or(0)
    }

    fn data_octets(&mut self, mut body: Body, input: &mut BytesMut) -> Option<ServerEvent> {
        if body.pieces.is_empty() && !body.ended {
            body.ended = body.decoder.decode(input, &mut body.scratch);
            body.collect(self.limit(), self.config.max_header);
        }
        if let Some(piece) = body.pieces.pop_front() {
            self.state = State::Body(body);
            return Some(ServerEvent::Body(piece));
        }
        if body.ended {
            self.state = State::Waiting(Question::End);
            return Some(ServerEvent::BodyEnd(body.end(self.config.bare_lf)));
        }
        self.state = State::Body(body);
        Some(ServerEvent::NeedInput)
    }

    fn chunk_octets(
        &mut self,
        mut body: Body,
        mut remaining: u64,
        last: bool,
        input: &mut BytesMut,
    ) -> Option<ServerEvent> {
        if body.pieces.is_empty() && !body.ended {
            let limit = usize::try_from(remaining).unwrap_or(usize::MAX);
            remaining -= transfer(input, limit, &mut body.chunk) as u64;
            if remaining == 0 && last {
                body.decoder.finish_chunks(&mut body.chunk, &mut body.scratch);
                body.ended = true;
            } else {
                body.decoder.decode(&mut body.chunk, &mut body.scratch);
            }
            body.collect(self.limit(), self.config.max_header);
        }
        if let Some(piece) = body.pieces.pop_front() {
            self.state = State::Chunk(body, remaining, last);
            return Some(ServerEvent::Body(piece));
        }
        if remaining > 0 {
            self.state = State::Chunk(body, remaining, last);
            return Some(ServerEvent::NeedInput);
        }
        self.chunk_done(body, last)
    }

    /// A chunk has been read in full.
    fn chunk_done(&mut self, body: Body, last: bool) -> Option<ServerEvent> {
        match (&body.refused, last) {
            (Some(reply), _) => {
                let reply = reply.clone();
                if reply.code() == 421 {
                    self.close(&reply, super::CloseReason::Answered421);
                } else {
                    self.error(&reply);
                    // Later chunks of the same message are refused too; with the last the message is over.
                    if last && !body.stray {
                        self.transaction = None;
                    }
                    self.chunks = if last { None } else { Some(body) };
                }
                None
            }
            (None, true) => {
                self.state = State::Waiting(Question::End);
                Some(ServerEvent::BodyEnd(body.end(self.config.bare_lf)))
            }
            (None, false) => {
                self.chunks = Some(body);
                self.say(&Reply::new(250, "2.0.0 Ok: chunk received"));
                None
            }
        }
    }

    /// Reads and forgets the octets of a chunk, then replies.
    pub(super) fn swallow(&mut self, size: u64, reply: Reply) {
        let mut body = Body::new(DataDecoder::for_chunks());
        body.refused = Some(reply);
        body.stray = true;
        self.state = State::Chunk(body, size, true);
    }
}

#[cfg(test)]
mod tests {
    use super::HeaderMeter;

    #[test]
    fn a_header_section_is_counted_at_any_split() {
        let cases: [(&str, u64, &str); 9] = [
            ("A: b\r\nC: d\r\n\r\nbody: x\r\n", 13, "to the empty line"),
            ("\r\nbody", 1, "no header section"),
            ("A: b\r\n c\r\n\td\r\n\r\n", 15, "folded"),
            (
                "A: b\r\nno field\r\nC: d\r\n",
                15,
                "a line that is no field, and its end",
            ),
            ("no field at all\r\nA: b\r\n", 16, "a body without headers"),
            ("A : b\r\n\r\n", 8, "a space in front of the colon"),
            (": b\r\nA: b\r\n", 1, "no name"),
            ("Gr\u{fc}n: b\r\nA: b\r\n", 3, "a name that is none"),
            ("A: b\r\nC: ", 9, "not over yet"),
        ];
        for (message, octets, why) in cases {
            for step in 1..=message.len() {
                let mut meter = HeaderMeter::default();
                for piece in message.as_bytes().chunks(step) {
                    meter.feed(piece);
                }
                assert_eq!(meter.octets, octets, "{why}, step {step}");
            }
        }
        let mut meter = HeaderMeter::default();
        meter.feed(&[b'x'; 5000]);
        assert_eq!(meter.octets, 999, "a name has an end");
    }
}
