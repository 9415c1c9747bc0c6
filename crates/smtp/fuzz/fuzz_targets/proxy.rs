//! The PROXY header: an answer, once given, does not change with what follows, and none needs more than its bound.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tdc_smtp::proxy::{MAX_V1, MAX_V2};
use tdc_smtp::{ProxyStatus, proxy_header};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fuzz_target!(|data: &[u8]| {
    // The first octet saves the fuzzer from guessing how a header begins.
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let start: &[u8] = match kind % 4 {
        0 => b"",
        1 => b"PROXY ",
        2 => SIGNATURE,
        _ => b"PROXY TCP4 192.0.2.1 ",
    };
    let wire = [start, rest].concat();
    let at_last = proxy_header(&wire);
    match at_last {
        ProxyStatus::Incomplete => assert!(wire.len() < MAX_V2, "a bound on what waits"),
        ProxyStatus::NotProxy => assert!(!wire.starts_with(b"PROXY ") && !wire.starts_with(SIGNATURE)),
        ProxyStatus::Header {
            consumed,
            source,
            destination,
        } => {
            assert!(consumed <= wire.len() && consumed <= MAX_V2);
            assert_eq!(source.is_some(), destination.is_some());
            if wire.starts_with(b"P") {
                assert!(consumed <= MAX_V1 && wire[..consumed].ends_with(b"\r\n"));
            }
        }
        ProxyStatus::Invalid(why) => assert!(!why.is_empty()),
    }
    // With fewer octets: the same answer, or none yet. Prefixes near the end and near the start see every decision.
    let near = (0..wire.len()).filter(|n| *n < 128 || wire.len() - n < 32);
    for n in near {
        let early = proxy_header(&wire[..n]);
        assert!(
            early == ProxyStatus::Incomplete || early == at_last,
            "{n} octets: {early:?}, all: {at_last:?}"
        );
    }
});
