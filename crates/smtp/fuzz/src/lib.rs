//! What the fuzz targets share: how an input is cut into reads, and the second opinion on a message body.
//!
//! A target's input begins with [`HEADER`] octets that choose configuration and cuts; the rest is what the peer sends.
//! So the fuzzer moves both, and one input always means one run.

use bytes::BytesMut;
use tdc_smtp::{Reply, parse_reply};

/// Octets in front of the wire.
pub const HEADER: usize = 4;

/// The reads of a connection: the wire in pieces whose lengths follow from a seed.
pub struct Reads<'a> {
    wire: &'a [u8],
    seed: u32,
    /// Octets in the longest read; `None`: there is one read of all.
    longest: Option<usize>,
}

impl<'a> Reads<'a> {
    /// All in one read.
    pub fn whole(wire: &'a [u8]) -> Self {
        Self {
            wire,
            seed: 1,
            longest: None,
        }
    }

    /// Reads of 1 to 64 octets at most; the seed says how long the longest may be.
    pub fn cut(wire: &'a [u8], seed: [u8; 2]) -> Self {
        let seed = u32::from(u16::from_le_bytes(seed));
        Self {
            wire,
            seed: seed | 0x1_0000,
            longest: Some(1 << (seed % 7)),
        }
    }
}

impl<'a> Iterator for Reads<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.wire.is_empty() {
            return None;
        }
        // xorshift: any spread of lengths will do, but it must be the same in every run.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 17;
        self.seed ^= self.seed << 5;
        let length = self
            .longest
            .map_or(self.wire.len(), |longest| 1 + self.seed as usize % longest);
        let (read, rest) = self.wire.split_at(length.min(self.wire.len()));
        self.wire = rest;
        Some(read)
    }
}

/// Takes the header off a target's input; `None` when it is too short to mean anything.
pub fn header(data: &[u8]) -> Option<([u8; HEADER], &[u8])> {
    let (header, wire) = data.split_first_chunk()?;
    Some((*header, wire))
}

/// The replies in `output`, which must hold whole replies and nothing else.
pub fn replies(output: &[u8]) -> Vec<Reply> {
    let mut input = BytesMut::from(output);
    let mut all = Vec::new();
    while let Some(reply) = parse_reply(&mut input).expect("the session writes valid replies") {
        all.push(reply);
    }
    assert!(input.is_empty(), "half a reply was written");
    all
}

/// Whether octets may pass on: no NUL, no CR without its LF, no LF without its CR.
pub fn is_normal(message: &[u8]) -> bool {
    let pairs = message.windows(2).filter(|pair| pair == b"\r\n").count();
    let count = |octet| message.iter().filter(|b| **b == octet).count();
    count(0) == 0 && count(b'\r') == pairs && count(b'\n') == pairs
}

/// What a body means, by the rules read one octet at a time (the decoder under test searches and slices).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Meaning {
    /// The decoded message.
    pub message: Vec<u8>,
    /// How many octets of the wire belong to it, with the end of data; `None` when there is no end.
    pub length: Option<usize>,
    /// Whether a line ended in LF without CR.
    pub bare_lf: bool,
}

/// Reads a body behind `DATA`.
pub fn meaning(wire: &[u8]) -> Meaning {
    let mut found = Meaning::default();
    let mut line: Vec<u8> = Vec::new();
    let mut after_crlf = true;
    for (at, &octet) in wire.iter().enumerate() {
        if octet != b'\n' {
            line.push(octet);
            continue;
        }
        let crlf = line.last() == Some(&b'\r');
        if crlf {
            line.pop();
        }
        found.bare_lf |= !crlf;
        if line == [b'.'] {
            if crlf && after_crlf {
                found.length = Some(at + 1);
                return found;
            }
        } else {
            let stuffed = usize::from(line.first() == Some(&b'.'));
            found.message.extend(
                line[stuffed..]
                    .iter()
                    .map(|&b| if b == b'\r' || b == 0 { b' ' } else { b }),
            );
            found.message.extend(b"\r\n");
        }
        after_crlf = crlf;
        line.clear();
    }
    found
}

/// What the octets of `BDAT` chunks mean: the same, without dots, and the end is where they end; the
/// last line is completed.
pub fn chunk_meaning(wire: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    for (at, &octet) in wire.iter().enumerate() {
        match octet {
            b'\n' => message.extend(b"\r\n"),
            b'\r' if wire.get(at + 1) == Some(&b'\n') => {}
            b'\r' | 0 => message.push(b' '),
            other => message.push(other),
        }
    }
    if !message.is_empty() && !message.ends_with(b"\r\n") {
        message.extend(b"\r\n");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_opinion_is_right_where_it_can_be_checked_by_hand() {
        type Case = (&'static [u8], &'static [u8], Option<usize>, &'static str);
        let cases: [Case; 7] = [
            (b".\r\nX", b"", Some(3), "an empty message"),
            (b"a\r\n.\r\nX", b"a\r\n", Some(6), "the end of data"),
            (b"..\r\n.\r\n", b".\r\n", Some(7), "a stuffed dot"),
            (
                b"a\n.\r\nb\r\n.\r\n",
                b"a\r\nb\r\n",
                Some(11),
                "no end behind a bare LF",
            ),
            (
                b"a\r\n.\nb\r\n.\r\n",
                b"a\r\nb\r\n",
                Some(11),
                "no end with a bare LF",
            ),
            (b"a\r\r\n\0\r\n.\r\n", b"a \r\n \r\n", Some(10), "stray octets"),
            (b"a\r\n", b"a\r\n", None, "no end"),
        ];
        for (wire, message, length, why) in cases {
            let found = meaning(wire);
            assert_eq!(
                (found.message.as_slice(), found.length),
                (message, length),
                "{why}"
            );
        }
        assert_eq!(chunk_meaning(b".\n\r\0\r\n\r"), b".\r\n  \r\n \r\n");
    }

    #[test]
    fn reads_lose_nothing() {
        let wire: Vec<u8> = (0..=255).collect();
        for seed in 0..500_u16 {
            let reads: Vec<&[u8]> = Reads::cut(&wire, seed.to_le_bytes()).collect();
            assert_eq!(reads.concat(), wire);
        }
        assert_eq!(Reads::whole(&wire).collect::<Vec<_>>(), [wire.as_slice()]);
    }
}
