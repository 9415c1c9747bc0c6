//! Every byte sequence at every split; the decoder against a second, naive one; encode and decode as inverses.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::{DataDecoder, DataEncoder};

/// What comes out, what was left behind the end (`None`: data has not ended), and whether a bare LF was seen.
type Decoded = (Vec<u8>, Option<Vec<u8>>, bool);

fn decode(wire: &[u8], splits: &[usize]) -> Decoded {
    let mut decoder = DataDecoder::new();
    let mut input = BytesMut::new();
    let mut out = Vec::new();
    let mut from = 0;
    for &to in splits.iter().chain([&wire.len()]) {
        let to = to.clamp(from, wire.len());
        input.extend_from_slice(&wire[from..to]);
        from = to;
        if decoder.decode(&mut input, &mut out) {
            input.extend_from_slice(&wire[from..]);
            let decoded: Vec<u8> = out.concat();
            assert_eq!(decoder.decoded_len(), decoded.len() as u64);
            return (decoded, Some(input.to_vec()), decoder.saw_bare_lf());
        }
    }
    (out.concat(), None, decoder.saw_bare_lf())
}

/// The rules read literally: split into lines, then look at each.
fn naive(wire: &[u8]) -> Decoded {
    let mut out = Vec::new();
    let (mut at, mut after_crlf, mut bare) = (0, true, false);
    while let Some(length) = wire[at..].iter().position(|b| *b == b'\n') {
        let line = &wire[at..at + length];
        at += length + 1;
        let (line, crlf) = match line.split_last() {
            Some((b'\r', line)) => (line, true),
            _ => (line, false),
        };
        bare |= !crlf;
        if line == b"." {
            if crlf && after_crlf {
                return (out, Some(wire[at..].to_vec()), bare);
            }
            after_crlf = crlf;
            continue;
        }
        after_crlf = crlf;
        out.extend(content(line));
        out.extend_from_slice(b"\r\n");
    }
    // The last, unfinished line: all but what cannot be decided yet.
    let mut line = &wire[at..];
    if let Some((b'\r', rest)) = line.split_last() {
        line = rest;
    }
    if line != b"." {
        out.extend(content(line));
    }
    (out, None, bare)
}

fn content(line: &[u8]) -> Vec<u8> {
    let line = line.strip_prefix(b".").unwrap_or(line);
    line.iter()
        .map(|b| if matches!(b, b'\r' | 0) { b' ' } else { *b })
        .collect()
}

#[test]
fn end_of_data_and_smuggling() {
    let cases: [(&str, &str, Option<&str>, &str); 24] = [
        ("a\r\n.\r\nNEXT", "a\r\n", Some("NEXT"), "the end of data"),
        (".\r\nNEXT", "", Some("NEXT"), "an empty message"),
        (
            "..\r\n.\r\n",
            ".\r\n",
            Some(""),
            "a stuffed dot on the first line",
        ),
        (".a\r\n.\r\n", "a\r\n", Some(""), "an unneeded dot is removed"),
        ("a\r\n..b\r\n.\r\n", "a\r\n.b\r\n", Some(""), "a stuffed dot"),
        (
            "a\n.\nb\r\n.\r\n",
            "a\r\nb\r\n",
            Some(""),
            "LF.LF does not end data, and the dot is dropped",
        ),
        (
            "a\n.\r\nb\r\n.\r\n",
            "a\r\nb\r\n",
            Some(""),
            "LF.CRLF does not end data",
        ),
        (
            "a\r\n.\nb\r\n.\r\n",
            "a\r\nb\r\n",
            Some(""),
            "CRLF.LF does not end data",
        ),
        (
            "a\r.\rb\r\n.\r\n",
            "a . b\r\n",
            Some(""),
            "CR.CR does not end data",
        ),
        (
            "a\r\n.\rb\r\n.\r\n",
            "a\r\n b\r\n",
            Some(""),
            "CRLF.CR does not end data",
        ),
        (
            "a\r\r\n.\r\n",
            "a \r\n",
            Some(""),
            "one CR belongs to the line end, the other is stray",
        ),
        (
            "a\r\n.\r\r\nb\r\n.\r\n",
            "a\r\n \r\nb\r\n",
            Some(""),
            "CRLF.CRCRLF does not end data",
        ),
        (
            "a\r.\r\nb\r\n.\r\n",
            "a .\r\nb\r\n",
            Some(""),
            "CR.CRLF does not end data",
        ),
        (
            "a\n\r\n.\r\n",
            "a\r\n\r\n",
            Some(""),
            "after a bare LF the next CRLF line may end",
        ),
        (
            "a\n.\r\n.\r\n",
            "a\r\n",
            Some(""),
            "the dropped line ended in CRLF, so the next dot counts",
        ),
        (
            "a\n.\n.\r\nb\r\n.\r\n",
            "a\r\nb\r\n",
            Some(""),
            "a dropped bare line does not vouch for the next",
        ),
        ("a\0b\r\n.\r\n", "a b\r\n", Some(""), "NUL"),
        (
            "\0.\r\n.\r\n",
            " .\r\n",
            Some(""),
            "a dot behind a NUL is no dot line",
        ),
        (
            "a\r\n.\0\r\n.\r\n",
            "a\r\n \r\n",
            Some(""),
            "a dot before a NUL is no dot line",
        ),
        ("\r\n.\r\n", "\r\n", Some(""), "one empty line"),
        ("\n.\r\n.\r\n", "\r\n", Some(""), "one bare LF"),
        ("a\r\n.\r", "a\r\n", None, "not yet"),
        ("a", "a", None, "not yet"),
        ("a\r\n.", "a\r\n", None, "not yet"),
    ];
    for (wire, message, rest, why) in cases {
        let expected = (message.as_bytes(), rest.map(str::as_bytes));
        for first in 0..=wire.len() {
            for second in first..=wire.len() {
                let (decoded, left, _) = decode(wire.as_bytes(), &[first, second]);
                assert_eq!(
                    (&decoded[..], left.as_deref()),
                    expected,
                    "{why}: {wire:?} at {first}, {second}"
                );
            }
        }
        let (decoded, left, _) = naive(wire.as_bytes());
        assert_eq!(
            (&decoded[..], left.as_deref()),
            expected,
            "naive, {why}: {wire:?}"
        );
    }
}

#[test]
fn chunks_keep_dots_and_normalise() {
    let cases: [(&[u8], &[u8]); 6] = [
        (b"\r", b" \r\n"),
        (b"a\r\n", b"a\r\n"),
        (b".\r\n", b".\r\n"),
        (b"a\nb\r", b"a\r\nb \r\n"),
        (b"..\0", b".. \r\n"),
        (b"", b""),
    ];
    for (wire, expected) in cases {
        for split in 0..=wire.len() {
            let mut decoder = DataDecoder::for_chunks();
            let mut out = Vec::new();
            let mut input = BytesMut::from(&wire[..split]);
            decoder.decode(&mut input, &mut out);
            input.extend_from_slice(&wire[split..]);
            decoder.finish_chunks(&mut input, &mut out);
            assert_eq!(out.concat(), expected, "{wire:?} at {split}");
        }
    }
}

#[test]
fn the_encoder_adds_a_line_end_only_when_it_is_missing() {
    let cases = [
        ("", ".\r\n"),
        ("a", "a\r\n.\r\n"),
        ("a\r\n", "a\r\n.\r\n"),
        ("a\n", "a\n\r\n.\r\n"),
        (".", "..\r\n.\r\n"),
    ];
    for (message, wire) in cases {
        for step in 1..4 {
            let mut encoder = DataEncoder::new();
            let mut out = Vec::new();
            for chunk in message.as_bytes().chunks(step) {
                encoder.encode(&Bytes::copy_from_slice(chunk), &mut out);
            }
            encoder.finish(&mut out);
            assert_eq!(out.concat(), wire.as_bytes(), "{message:?}");
        }
    }
}

fn awkward() -> impl Strategy<Value = Vec<u8>> {
    let octet = prop_oneof![
        3 => Just(b'\r'), 3 => Just(b'\n'), 3 => Just(b'.'), 1 => Just(0_u8), 2 => Just(b'a'), 1 => any::<u8>()
    ];
    prop::collection::vec(octet, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn decoder_equals_naive_decoder(wire in awkward(), mut splits in prop::collection::vec(0..200_usize, 0..6)) {
        splits.sort_unstable();
        let (decoded, rest, bare) = decode(&wire, &splits);
        prop_assert_eq!(&(decoded.clone(), rest, bare), &naive(&wire));
        let mut before = 0;
        for octet in &decoded {
            prop_assert!(*octet != 0 && (*octet != b'\n' || before == b'\r') && (before != b'\r' || *octet == b'\n'));
            before = *octet;
        }
    }

    #[test]
    fn any_message_survives(raw in awkward(), chunk in 1..50_usize, mut splits in prop::collection::vec(0..500_usize, 0..6)) {
        // Any message that can be in the system: what a decoder once handed out, whole lines.
        let mut wire = raw;
        wire.extend_from_slice(b"\r\n.\r\n");
        let message = naive(&wire).0;
        let mut encoder = DataEncoder::new();
        let mut out = Vec::new();
        for chunk in Bytes::from(message.clone()).chunks(chunk) {
            encoder.encode(&Bytes::copy_from_slice(chunk), &mut out);
        }
        encoder.finish(&mut out);
        let mut wire: Vec<u8> = out.concat();
        wire.extend_from_slice(b"QUIT\r\n");
        splits.sort_unstable();
        let (decoded, rest, bare) = decode(&wire, &splits);
        prop_assert_eq!(decoded, message);
        prop_assert_eq!(rest, Some(b"QUIT\r\n".to_vec()));
        prop_assert!(!bare);
    }
}
