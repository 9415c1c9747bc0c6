//! The body codec: octets a second, and allocations, for a short and a long message.
//!
//! `cargo bench -p tdc-benches --bench data`. A message is decoded from one read of its whole size, and from reads of
//! 16 KiB as a TLS connection makes them.

use bytes::{Bytes, BytesMut};
use divan::counter::BytesCount;
use divan::{AllocProfiler, Bencher, black_box};
use tdc_benches::{LONG, Lines, SHORT, message, with_bare_lf};
use tdc_smtp::{DataDecoder, DataEncoder};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

/// Octets in one TLS record (RFC 8446 section 5.1).
const TLS_RECORD: usize = 16 * 1024;

fn main() {
    divan::main();
}

fn encoded(message: Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = DataEncoder::new();
    encoder.encode(&Bytes::from(message), &mut out);
    encoder.finish(&mut out);
    out.concat()
}

/// Decodes a wire that comes in reads of this size. Setting up the buffers is not measured.
fn decode_in(bencher: Bencher<'_, '_>, wire: &[u8], read: usize) {
    bencher
        .counter(BytesCount::new(wire.len()))
        .with_inputs(|| wire.chunks(read).map(BytesMut::from).collect::<Vec<_>>())
        .bench_local_values(|reads| {
            let mut decoder = DataDecoder::new();
            let mut out = Vec::with_capacity(64);
            let mut input = BytesMut::new();
            let mut ended = false;
            for read in reads {
                // As a driver's buffer does: what was left waits in front of what comes.
                if input.is_empty() {
                    input = read;
                } else {
                    input.extend_from_slice(&read);
                }
                ended = decoder.decode(black_box(&mut input), &mut out);
            }
            assert!(ended, "the wire holds an end of data");
            out
        });
}

#[divan::bench(args = [SHORT, LONG])]
fn decode_base64(bencher: Bencher<'_, '_>, octets: usize) {
    decode_in(bencher, &encoded(message(Lines::Base64, octets)), usize::MAX);
}

#[divan::bench(args = [SHORT, LONG])]
fn decode_base64_in_tls_records(bencher: Bencher<'_, '_>, octets: usize) {
    decode_in(bencher, &encoded(message(Lines::Base64, octets)), TLS_RECORD);
}

#[divan::bench(args = [SHORT, LONG])]
fn decode_prose_with_dots(bencher: Bencher<'_, '_>, octets: usize) {
    decode_in(bencher, &encoded(message(Lines::Prose, octets)), usize::MAX);
}

#[divan::bench(args = [SHORT, LONG])]
fn decode_bare_lf(bencher: Bencher<'_, '_>, octets: usize) {
    decode_in(
        bencher,
        &with_bare_lf(&message(Lines::Base64, octets)),
        usize::MAX,
    );
}

fn encode(bencher: Bencher<'_, '_>, message: Vec<u8>) {
    let message = Bytes::from(message);
    bencher.counter(BytesCount::new(message.len())).bench_local(|| {
        let mut encoder = DataEncoder::new();
        let mut out = Vec::with_capacity(64);
        encoder.encode(black_box(&message), &mut out);
        encoder.finish(&mut out);
        out
    });
}

#[divan::bench(args = [SHORT, LONG])]
fn encode_base64(bencher: Bencher<'_, '_>, octets: usize) {
    encode(bencher, message(Lines::Base64, octets));
}

#[divan::bench(args = [SHORT, LONG])]
fn encode_prose_with_dots(bencher: Bencher<'_, '_>, octets: usize) {
    encode(bencher, message(Lines::Prose, octets));
}
