//! Limits, synchronisation, and what a trusted proxy may say.

use std::sync::Arc;

use bytes::BytesMut;

use super::tests::{config, drive};
use super::{BodyFault, CloseReason, Limit, ServerConfig, ServerEvent, ServerSession};
use crate::capabilities::Extensions;
use crate::reply::Reply;

const ENVELOPE: &str = "EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";

#[test]
fn a_group_ends_where_it_must() {
    let forbid = ServerConfig {
        forbid_unauth_pipelining: true,
        ..config()
    };
    let sync = Some(CloseReason::UnauthorizedPipelining);
    let quit = Some(CloseReason::Quit);
    let cases = [
        ("EHLO c\r\nNOOP\r\n", sync, "EHLO"),
        ("HELO c\r\nQUIT\r\n", sync, "HELO"),
        ("NOOP\r\nQUIT\r\n", sync, "NOOP"),
        ("VRFY a\r\nQUIT\r\n", sync, "VRFY"),
        ("RSET\r\nRSET\r\nQUIT\r\n", quit, "RSET may be in a group"),
        ("NOOP\r\n", None, "nothing behind it"),
        ("BLAH\r\nQUIT\r\n", quit, "an unknown command is only an error"),
    ];
    for (wire, closed, why) in cases {
        let run = drive(forbid.clone(), wire.as_bytes(), wire.len());
        assert_eq!(run.closed, closed, "{why}");
        assert_eq!(run.codes.last() == Some(&554), closed == sync, "{why}");
        assert_eq!(
            drive(forbid.clone(), wire.as_bytes(), 1).closed.is_some(),
            wire.contains("QUIT"),
            "{why}, one by one"
        );
    }
}

#[test]
fn lines_without_end() {
    let long = |octets: usize| [vec![b'x'; octets], b"\r\nQUIT\r\n".to_vec()].concat();
    let cases = [
        (2047, vec![220, 500, 500, 221], CloseReason::Quit),
        (65_536, vec![220, 500, 221], CloseReason::Quit),
        (2 * 1024 * 1024, vec![220, 421], CloseReason::EndlessLine),
    ];
    for (octets, codes, closed) in cases {
        let run = drive(config(), &long(octets), 4096);
        assert_eq!(run.closed, Some(closed), "{octets}");
        assert!(run.codes == codes || octets == 2047, "{octets}: {:?}", run.codes);
    }
}

#[test]
fn limits_are_counted_once_each_and_errors_ask_for_a_delay() {
    let few = ServerConfig {
        soft_errors: 2,
        max_junk: 1,
        ..config()
    };
    let mut session = ServerSession::new(Arc::new(few));
    let wire = format!(
        "{}\r\nBLAH\r\nBLAH\r\nNOOP\r\nNOOP\r\nEHLO c\r\nMAIL FROM:<> SIZE=5000\r\n",
        "x".repeat(3000)
    );
    let mut input = BytesMut::from(wire.as_bytes());
    while session.poll(&mut input) != ServerEvent::NeedInput {}
    let met: Vec<_> = session.take_met().collect();
    assert_eq!(
        met,
        [
            (Limit::Line, 1),
            (Limit::DeclaredSize, 1),
            (Limit::SoftErrors, 3),
            (Limit::Junk, 1)
        ]
    );
    assert_eq!((session.take_penalty(), session.take_penalty()), (3, 0));
    assert_eq!(session.take_met().count(), 0);
}

#[test]
fn headers_messages_and_tiny_chunks() {
    let small = ServerConfig {
        max_header: 20,
        ..config()
    };
    let wire = format!("{ENVELOPE}DATA\r\nA: b\r\nC: 0123456789abcdef\r\n\r\nx\r\n.\r\nQUIT\r\n");
    for step in 1..wire.len() {
        let run = drive(small.clone(), wire.as_bytes(), step);
        assert_eq!(run.messages[0].1, Some(BodyFault::HeaderTooBig), "step {step}");
        assert_eq!(run.closed, Some(CloseReason::Quit), "step {step}");
    }
    let few = ServerConfig {
        max_messages: 1,
        ..config()
    };
    let wire = format!("{ENVELOPE}DATA\r\n.\r\nMAIL FROM:<>\r\n");
    let run = drive(few, wire.as_bytes(), 7);
    assert_eq!(
        (run.codes.last(), run.closed),
        (Some(&421), Some(CloseReason::TooManyMessages))
    );
    let few = ServerConfig {
        max_junk: 2,
        ..config()
    };
    let wire = format!("{ENVELOPE}{}", "BDAT 1\r\nx".repeat(3));
    let run = drive(few, wire.as_bytes(), 5);
    assert_eq!(run.codes, [220, 250, 250, 250, 250, 250, 421]);
    assert!(run.messages.is_empty(), "half a message is none");
}

#[test]
fn refused_recipients_count_too() {
    let wire =
        "EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<no1@d>\r\nRCPT TO:<no2@d>\r\nRCPT TO:<3@d>\r\nRCPT TO:<4@d>\r\n";
    let run = drive(config(), wire.as_bytes(), wire.len());
    assert_eq!(
        run.codes,
        [220, 250, 250, 550, 550, 250, 452],
        "three of them are asked about"
    );
}

#[test]
fn other_protocols_are_known_at_their_first_octet() {
    for wire in [
        &b"\x16\x03\x01"[..],
        b"\0",
        b" EHLO c",
        b"{\"a\":1}",
        b"\xff\xfe",
        b"GET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n",
    ] {
        let run = drive(config(), wire, wire.len());
        assert_eq!(
            (run.codes, run.closed),
            (vec![220, 221], Some(CloseReason::NotSmtp)),
            "{}",
            wire.escape_ascii()
        );
    }
}

#[test]
fn a_session_ends_for_a_reason_that_is_given_once() {
    let mut session = ServerSession::new(Arc::new(config()));
    session.end(Reply::new(421, "4.7.0 first"), CloseReason::Evicted);
    session.shutdown();
    // In the middle of what could become a PROXY header, and of a line that is too long, too.
    let mut input = BytesMut::from(&b"P"[..]);
    assert_eq!(session.poll(&mut input), ServerEvent::Close(CloseReason::Evicted));
    let mut session = ServerSession::new(Arc::new(config()));
    let mut input = BytesMut::from(&vec![b'x'; 5000][..]);
    assert_eq!(session.poll(&mut input), ServerEvent::NeedInput);
    session.end(Reply::new(421, "4.4.2 over"), CloseReason::Lifetime);
    assert_eq!(
        session.poll(&mut input),
        ServerEvent::Close(CloseReason::Lifetime)
    );
}

fn trusting() -> ServerConfig {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let base = config();
    ServerConfig {
        extensions: Extensions {
            xclient: names(&["NAME", "ADDR", "HELO"]),
            xforward: names(&["ADDR"]),
            ..base.extensions
        },
        ..base
    }
}

#[test]
fn xclient_begins_the_session_anew() {
    let mut session = ServerSession::new(Arc::new(trusting()));
    let mut input = BytesMut::from(&b"EHLO c\r\nXCLIENT NAME=a+3Db ADDR=IPV6:::1\r\n"[..]);
    assert_eq!(session.poll(&mut input), ServerEvent::Greeted);
    let ServerEvent::Xclient(attributes) = session.poll(&mut input) else {
        panic!("no XCLIENT");
    };
    let pairs: Vec<(&str, &str)> = attributes.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(pairs, [("NAME", "a=b"), ("ADDR", "IPV6:::1")]);
    session.output().clear();
    let greeting = session.greeting();
    session.answer(greeting);
    assert_eq!(session.helo(), None);
    session.set_helo("dsl.example".into(), true);
    let mut input = BytesMut::from(&b"MAIL FROM:<a@b>\r\n"[..]);
    assert!(
        matches!(session.poll(&mut input), ServerEvent::Mail(_)),
        "the name in HELO counts"
    );
    assert_eq!(&session.output()[..], b"220 mx ESMTP\r\n");
}

#[test]
fn what_a_proxy_says_is_checked() {
    let cases = [
        ("XCLIENT NAME=a\r\n", 220, "good"),
        ("XFORWARD ADDR=192.0.2.1\r\n", 250, "good"),
        ("XCLIENT\r\n", 501, "nothing"),
        ("XCLIENT NAME\r\n", 501, "no value"),
        ("XCLIENT NAME=\r\n", 501, "an empty value"),
        ("XCLIENT PORT=1\r\n", 501, "an attribute that is not offered"),
        ("XCLIENT NAME=+0D+0ANOOP\r\n", 501, "a line of its own"),
        ("XCLIENT NAME=+F\r\n", 501, "half an octet"),
        ("XCLIENT NAME=+FF\r\n", 501, "no text"),
        (
            "XFORWARD ADDR=a NAME=b\r\n",
            501,
            "an attribute that is not offered",
        ),
    ];
    for (line, code, why) in cases {
        let run = drive(trusting(), format!("EHLO c\r\n{line}").as_bytes(), 1000);
        assert_eq!(run.codes.last(), Some(&code), "{why}: {line}");
        let run = drive(config(), format!("EHLO c\r\n{line}").as_bytes(), 1000);
        assert_eq!(
            run.codes.last(),
            Some(&500),
            "not known where it is not offered: {line}"
        );
    }
    let wire = format!("{ENVELOPE}XCLIENT NAME=a\r\nXFORWARD ADDR=b\r\n");
    let run = drive(trusting(), wire.as_bytes(), 1000);
    assert_eq!(run.codes[4..], [503, 503], "not in a transaction");
}
