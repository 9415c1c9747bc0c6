//! A copy gives its original back.

use bytes::Bytes;
use proptest::prelude::*;

use super::{CopyMeta, Wrapped, boundary, unwrap, wrap};
use crate::headers::{HeaderScanner, Headers};
use crate::policy::Format;

fn meta() -> CopyMeta {
    CopyMeta {
        delivery_id: "01J0000000000000000000TEST".into(),
        intake_address: "id@intake.example".into(),
        host: "worker-1.example".into(),
        sender: "a@partner.example".into(),
        recipients: vec!["cfo@finance.example".into(), "u2@finance.example".into()],
        subject: "Grüße".into(),
        message_id: "<1@partner.example>".into(),
        client_ip: "192.0.2.7".into(),
        sender_ip_header: "X-IronPort-RemoteIP".into(),
        date: super::rfc5322_date(0),
        in_doubt: false,
        smtputf8: false,
    }
}

fn whole(wrapped: &Wrapped) -> Vec<u8> {
    wrapped.parts.iter().flat_map(|part| part.to_vec()).collect()
}

fn headers(copy: &[u8]) -> Headers {
    let mut scanner = HeaderScanner::default();
    scanner.feed(copy);
    scanner.finish()
}

#[test]
fn a_report_tells_the_envelope() {
    let original = Bytes::from_static(b"Subject: hi\r\n\r\nbody\r\n");
    let copy = whole(&wrap(
        Format::JournalReport,
        &meta(),
        std::slice::from_ref(&original),
    ));
    let report = unwrap(&copy).unwrap();
    assert_eq!(report.sender, "a@partner.example");
    assert_eq!(report.recipients, meta().recipients);
    assert_eq!(report.subject, "Grüße");
    assert_eq!(report.message_id, "<1@partner.example>");
    assert_eq!(&copy[report.original], &original[..]);
    let headers = headers(&copy);
    let cases = [
        ("X-MS-Journal-Report", ""),
        ("X-TDC-Delivery-Id", "01J0000000000000000000TEST"),
        ("X-IronPort-RemoteIP", "192.0.2.7"),
        ("To", "<id@intake.example>"),
        ("Subject", "=?utf-8?B?R3LDvMOfZQ==?="),
        ("Date", "Thu, 1 Jan 1970 00:00:00 +0000"),
    ];
    for (name, value) in cases {
        assert_eq!(headers.first(name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(headers.first("X-TDC-In-Doubt"), None);
}

#[test]
fn a_raw_copy_has_the_four_headers() {
    let mut meta = meta();
    meta.in_doubt = true;
    meta.sender.clear();
    let copy = whole(&wrap(
        Format::Raw,
        &meta,
        &[Bytes::from_static(b"A: b\r\n\r\nc\r\n")],
    ));
    let text = String::from_utf8(copy.clone()).unwrap();
    assert_eq!(
        text,
        "X-TDC-Delivery-Id: 01J0000000000000000000TEST\r\nX-TDC-In-Doubt: yes\r\nX-IronPort-RemoteIP: 192.0.2.7\r\n\
         X-CSE-ClientIP: 192.0.2.7\r\nX-CSE-MailFrom: <>\r\n\
         X-CSE-RcptTo: <cfo@finance.example>,\r\n <u2@finance.example>\r\nX-CSE-MsgDirection: Incoming\r\n\
         A: b\r\n\r\nc\r\n"
    );
    assert_eq!(unwrap(&copy).unwrap().recipients, meta.recipients);
}

#[test]
fn an_original_without_headers_stays_apart_from_those_of_the_copy() {
    for (original, apart) in [
        (" folded\r\n", true),
        ("text\r\n", true),
        ("A: b\r\n", false),
        ("\r\ntext", false),
        ("", false),
    ] {
        let copy = whole(&wrap(
            Format::Raw,
            &meta(),
            &[Bytes::from_static(original.as_bytes())],
        ));
        assert_eq!(
            headers(&copy).first("X-CSE-MsgDirection").as_deref(),
            Some("Incoming"),
            "{original:?}"
        );
        assert_eq!(
            headers(&copy).count("X-TDC-Headerless"),
            usize::from(apart),
            "{original:?}"
        );
        assert_eq!(&copy[unwrap(&copy).unwrap().original], original.as_bytes());
    }
}

#[test]
fn what_needs_smtputf8() {
    let plain = "Subject: x\r\n\r\nbody\r\n";
    let fields = "Subject: gr\u{fc}n\r\n\r\nbody\r\n";
    let body = "Subject: x\r\n\r\ngr\u{fc}n\r\n";
    let (ascii, utf8) = ("a@x.example", "\u{fc}@x.example");
    // Original, came with SMTPUTF8, sender, then whether the raw copy needs SMTPUTF8.
    let cases = [
        (plain, false, ascii, false, "nothing"),
        (plain, true, ascii, false, "asked for, not needed"),
        (fields, true, ascii, true, "UTF-8 in the header section"),
        (fields, false, ascii, false, "8-bit header fields of old"),
        (body, true, ascii, false, "UTF-8 in the body is 8BITMIME's affair"),
        (
            plain,
            true,
            utf8,
            true,
            "an address in the copy's own header section",
        ),
        ("", true, ascii, false, "an empty original"),
        ("\r\n\u{fc}", true, ascii, false, "no header section"),
    ];
    for (original, smtputf8, sender, needs, why) in cases {
        for cut in 0..original.len() {
            let octets = original.as_bytes();
            let pieces = [&octets[..cut], &octets[cut..]].map(Bytes::copy_from_slice);
            let mut meta = meta();
            meta.smtputf8 = smtputf8;
            meta.sender = sender.into();
            assert_eq!(wrap(Format::Raw, &meta, &pieces).smtputf8, needs, "{why}");
            assert!(!wrap(Format::JournalReport, &meta, &pieces).smtputf8, "{why}");
        }
    }
    let mut meta = meta();
    for (address, to, needs) in [
        ("id@b\u{fc}cher.example", "<id@xn--bcher-kva.example>", false),
        ("\u{fc}@intake.example", "<\u{fc}@intake.example>", true),
    ] {
        meta.intake_address = address.into();
        let wrapped = wrap(Format::JournalReport, &meta, &[]);
        assert_eq!(wrapped.smtputf8, needs, "{address}");
        assert_eq!(headers(&whole(&wrapped)).first("To").as_deref(), Some(to));
    }
}

#[test]
fn the_end_of_the_last_line() {
    let cases: [(&[&str], bool); 6] = [
        (&[], true),
        (&[""], true),
        (&["a\r\n"], true),
        (&["a\r", "\n", ""], true),
        (&["a\r"], false),
        (&["\n"], false),
    ];
    for (parts, ends) in cases {
        let wrapped = Wrapped {
            parts: parts
                .iter()
                .map(|part| Bytes::from_static(part.as_bytes()))
                .collect(),
            size: 0,
            eight_bit: false,
            smtputf8: false,
        };
        assert_eq!(wrapped.ends_in_crlf(), ends, "{parts:?}");
    }
}

#[test]
fn no_value_adds_a_header_or_a_part() {
    let evil = "x\r\nEvil: yes\r\n\r\n--=_TDC_\0";
    let mut meta = meta();
    meta.sender = evil.into();
    meta.subject = evil.into();
    meta.message_id = evil.into();
    meta.client_ip = evil.into();
    meta.sender_ip_header = "X-Ip: 1\r\nEvil".into();
    meta.recipients = vec![evil.into()];
    for format in [Format::JournalReport, Format::Raw] {
        let copy = whole(&wrap(format, &meta, &[Bytes::from_static(b"\r\nbody")]));
        assert_eq!(headers(&copy).count("Evil"), 0, "{format:?}");
        assert_eq!(&copy[unwrap(&copy).unwrap().original], b"\r\nbody");
        assert!(copy.split(|b| *b == b'\n').all(|line| line.len() <= 1000));
    }
}

#[test]
fn the_boundary_is_nowhere_in_the_original_even_across_seams() {
    let first = "=_TDC_id_0";
    for cut in 0..=first.len() {
        let pieces = [
            Bytes::copy_from_slice(&first.as_bytes()[..cut]),
            Bytes::copy_from_slice(&first.as_bytes()[cut..]),
        ];
        assert_eq!(boundary("id", &pieces), "=_TDC_id_1", "cut at {cut}");
    }
    let bytes: Vec<Bytes> = first.bytes().map(|b| Bytes::from(vec![b])).collect();
    assert_eq!(boundary("id", &bytes), "=_TDC_id_1", "one octet each");
}

proptest! {
    #[test]
    fn unwrap_undoes_wrap(
        pieces in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..80),
            Just(b"\r\n--=_TDC_01J0000000000000000000TEST_0\r\n".to_vec()),
            Just(b"\r\n--=_TDC_01J0000000000000000000TEST_0--\r\n".to_vec()),
            Just(b"X-CSE-MsgDirection: Incoming\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
        ], 0..6),
        raw in any::<bool>(),
    ) {
        let original: Vec<u8> = pieces.concat();
        let pieces: Vec<Bytes> = pieces.into_iter().map(Bytes::from).collect();
        let format = if raw { Format::Raw } else { Format::JournalReport };
        let wrapped = wrap(format, &meta(), &pieces);
        let copy = whole(&wrapped);
        prop_assert_eq!(wrapped.size, copy.len() as u64);
        prop_assert_eq!(wrapped.eight_bit, !copy.is_ascii());
        let report = unwrap(&copy).unwrap();
        prop_assert_eq!(&copy[report.original], &original[..]);
        prop_assert_eq!(report.delivery_id, meta().delivery_id);
    }

    #[test]
    fn unwrap_takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = unwrap(&bytes);
    }
}
