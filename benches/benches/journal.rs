//! The journal wrapper: a report and a raw copy around an original of some size.
//!
//! `cargo bench -p tdc-benches --bench journal`. The original is not copied; it is read for its headers, for octets
//! above 127, and for the boundary.

use bytes::Bytes;
use divan::counter::BytesCount;
use divan::{AllocProfiler, Bencher, black_box};
use tdc_benches::{LONG, Lines, SHORT, message};
use tdc_core::journal::{CopyMeta, wrap};
use tdc_core::policy::Format;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

/// A large attachment.
const LARGE: usize = 25 * 1024 * 1024;

fn main() {
    divan::main();
}

fn bench(bencher: Bencher<'_, '_>, format: Format, octets: usize) {
    let body = Bytes::from(message(Lines::Base64, octets));
    let original: Vec<Bytes> = body
        .chunks(1024 * 1024)
        .map(|chunk| body.slice_ref(chunk))
        .collect();
    let meta = CopyMeta {
        delivery_id: "01JDZ0000000000000000000000".into(),
        intake_address: "journal@intake.example".into(),
        host: "mx.company.example".into(),
        sender: "ann@partner.example".into(),
        recipients: vec!["bob@company.example".into()],
        subject: "A message of the benchmark".into(),
        message_id: "<benchmark@partner.example>".into(),
        client_ip: "192.0.2.1".into(),
        sender_ip_header: "X-IronPort-RemoteIP".into(),
        date: "Tue, 24 Nov 2026 06:00:00 +0000".into(),
        in_doubt: false,
        smtputf8: false,
    };
    bencher
        .counter(BytesCount::new(body.len()))
        .bench_local(|| wrap(format, black_box(&meta), black_box(&original)));
}

#[divan::bench(args = [SHORT, LONG, LARGE])]
fn report(bencher: Bencher<'_, '_>, octets: usize) {
    bench(bencher, Format::JournalReport, octets);
}

#[divan::bench(args = [SHORT, LONG, LARGE])]
fn raw(bencher: Bencher<'_, '_>, octets: usize) {
    bench(bencher, Format::Raw, octets);
}
