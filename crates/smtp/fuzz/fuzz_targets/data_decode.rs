//! The body decoder against a second one, at any cut; then its output through the encoder and back.

#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use tdc_smtp::{DataDecoder, DataEncoder};
use tdc_smtp_fuzz::{Reads, chunk_meaning, header, is_normal, meaning};

/// Slices that one read may become; beyond it memory would grow with what a peer sends.
const MAX_SLICES: usize = 32;

fuzz_target!(|data: &[u8]| {
    let Some(([a, b, c, d], octets)) = header(data) else {
        return;
    };
    // Whatever the octets are, the data ends somewhere, and a command is behind it.
    let wire = [octets, b"\r\n.\r\nQUIT\r\n"].concat();
    let message = check(&wire, [a, b]);

    let mut encoder = DataEncoder::new();
    let mut encoded = Vec::new();
    for chunk in Reads::cut(&message, [c, d]) {
        encoder.encode(&Bytes::copy_from_slice(chunk), &mut encoded);
    }
    encoder.finish(&mut encoded);
    encoded.push(Bytes::from_static(b"QUIT\r\n"));
    assert_eq!(
        check(&encoded.concat(), [a, b]),
        message,
        "the encoder is the inverse"
    );

    check_chunks(octets, [c, d]);
});

/// Decodes at these cuts, compares with the second opinion, gives the message.
fn check(wire: &[u8], cuts: [u8; 2]) -> Vec<u8> {
    let want = meaning(wire);
    let mut decoder = DataDecoder::new();
    let (mut input, mut out, mut read) = (BytesMut::new(), Vec::new(), 0);
    let mut ended = false;
    for piece in Reads::cut(wire, cuts) {
        input.extend_from_slice(piece);
        read += piece.len();
        let before = out.len();
        ended = decoder.decode(&mut input, &mut out);
        assert!(
            out.len() - before <= MAX_SLICES,
            "one read became {} slices",
            out.len() - before
        );
        if ended {
            break;
        }
        assert!(input.len() <= 2, "only a dot and a CR may wait for what follows");
    }
    let decoded = out.concat();
    assert!(is_normal(&decoded));
    assert_eq!(ended.then(|| read - input.len()), want.length);
    assert_eq!(decoded, want.message);
    assert_eq!(decoder.saw_bare_lf(), want.bare_lf);
    assert_eq!(decoder.decoded_len(), decoded.len() as u64);
    decoded
}

fn check_chunks(octets: &[u8], cuts: [u8; 2]) {
    let mut decoder = DataDecoder::for_chunks();
    let (mut input, mut out) = (BytesMut::new(), Vec::new());
    for piece in Reads::cut(octets, cuts) {
        input.extend_from_slice(piece);
        assert!(
            !decoder.decode(&mut input, &mut out),
            "chunks have no end of their own"
        );
        assert!(input.len() <= 1, "only a CR may wait for what follows");
    }
    decoder.finish_chunks(&mut input, &mut out);
    let decoded = out.concat();
    assert_eq!(decoded, chunk_meaning(octets));
    let bare_lf = (0..octets.len()).any(|at| octets[at] == b'\n' && (at == 0 || octets[at - 1] != b'\r'));
    assert_eq!(decoder.saw_bare_lf(), bare_lf, "what `reject` refuses");
    assert_eq!(decoder.decoded_len(), decoded.len() as u64);
}
