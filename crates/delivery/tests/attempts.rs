//! One entry against an intake that misbehaves in a known way: how it ends, and after how many attempts.

#![allow(
    clippy::unwrap_used,
    clippy::type_complexity,
    reason = "a test that cannot go on stops; its tables are read, not passed on"
)]

mod rig;

use std::sync::atomic::Ordering;
use std::time::Duration;

use rig::pki::Authority;
use rig::server::{Act, At, Options, Script, Server, at, good};
use rig::{ORIGINAL, Rig, config, intake};
use tdc_core::journal::unwrap;
use tdc_core::policy::{Format, TlsMode, TlsVersion};
use tdc_queue::{EntryMeta, Stats};

const LIFETIME: Duration = Duration::from_secs(60);

/// `delivered hard possible expired, soft`.
fn ends(stats: &Stats) -> String {
    let Stats {
        delivered,
        hard_bounced,
        possible_delivery,
        expired,
        soft_bounced,
        ..
    } = stats;
    format!("{delivered} {hard_bounced} {possible_delivery} {expired}, {soft_bounced}")
}

#[tokio::test]
async fn a_good_copy_over_verified_tls() {
    let authority = Authority::new();
    for (format, newest) in [
        (Format::JournalReport, &rustls::version::TLS13),
        (Format::Raw, &rustls::version::TLS12),
    ] {
        let tls = Some(authority.acceptor(&["127.0.0.1"], newest));
        let server = Server::start(Options {
            tls,
            ..Options::default()
        })
        .await;
        let mut intake = intake(server.address);
        intake.format = format;
        intake.tls.mode = TlsMode::Verify;
        intake.tls.ca_bundle = authority.pem.as_str().into();
        let rig = Rig::start(config(), intake).await;
        let key = rig.put(ORIGINAL, LIFETIME).await;
        assert_eq!(ends(&rig.ended(1).await), "1 0 0 0, 0");

        assert_eq!(server.seen.secured.load(Ordering::SeqCst), 1);
        {
            let messages = server.seen.messages.lock().unwrap();
            let (_, message) = &messages[0];
            let report = unwrap(message).unwrap();
            assert_eq!(
                &message[report.original.clone()],
                ORIGINAL,
                "the original, byte for byte"
            );
            assert_eq!(report.delivery_id, &*key.id);
            assert_eq!(report.recipients, ["b@example.com"]);
            let envelopes = server.seen.envelopes.lock().unwrap();
            assert_eq!(envelopes[0], format!("MAIL FROM:<> SIZE={}", message.len()));
            assert_eq!(envelopes[1], "RCPT TO:<journal@intake.example>");
        }
        let metrics = rig.metrics.encode();
        assert!(
            metrics.contains(r#"tdc_worker_deliveries_total{intake="etd",class="delivered"} 1"#),
            "{metrics}"
        );
        assert!(
            metrics.contains(r#"tdc_worker_acceptance_to_delivery_seconds_count{intake="etd"} 1"#),
            "{metrics}"
        );
        rig.stop().await;
    }
}

#[tokio::test]
async fn every_outcome_without_tls() {
    use Act::{Close, Say, Stall};
    let one = |script: Script| vec![script];
    let two = |script: Script| vec![script.clone(), script];
    let cases: Vec<(Vec<Script>, &'static str, u32, &'static str)> = vec![
        (
            one(at(At::Rcpt, Say("550 5.1.1 no such user"))),
            "0 1 0 0, 0",
            1,
            "5xx: no retry",
        ),
        (
            one(at(At::Rcpt, Say("451 4.3.0 later"))),
            "1 0 0 0, 1",
            2,
            "4xx: retry on a fresh connection",
        ),
        (
            two(at(At::Rcpt, Say("451 4.3.0 later"))),
            "0 1 0 0, 1",
            2,
            "4xx twice",
        ),
        (
            one(at(At::Mail, Say("503 5.5.1 sequence"))),
            "1 0 0 0, 1",
            2,
            "503 counts as 4xx",
        ),
        (
            one(at(At::Dot, Say("552 5.3.4 full"))),
            "1 0 0 0, 1",
            2,
            "552 counts as 4xx",
        ),
        (
            one(at(At::Dot, Say("554 5.7.1 refused"))),
            "0 1 0 0, 0",
            1,
            "5xx to the final dot",
        ),
        (
            one(at(At::Data, Say("554 5.5.1 no"))),
            "0 1 0 0, 0",
            1,
            "5xx to DATA",
        ),
        (
            one(at(At::Greeting, Say("421 4.3.2 closed"))),
            "1 0 0 0, 1",
            2,
            "421 as greeting",
        ),
        (
            one(at(At::Greeting, Say("554 5.3.2 never"))),
            "0 1 0 0, 0",
            1,
            "554 as greeting",
        ),
        (
            one(at(At::Greeting, Close)),
            "1 0 0 0, 1",
            2,
            "closed without a greeting",
        ),
        (one(at(At::Ehlo, Close)), "1 0 0 0, 1", 2, "closed at EHLO"),
        (
            one(at(At::Mail, Close)),
            "1 0 0 0, 1",
            2,
            "closed at MAIL on a fresh connection",
        ),
        (
            one(at(At::Body, Close)),
            "1 0 0 0, 1",
            2,
            "closed while the message is sent",
        ),
        (
            one(at(At::Dot, Close)),
            "1 0 0 0, 1",
            2,
            "no answer to the dot, then a good one",
        ),
        (
            two(at(At::Dot, Close)),
            "0 0 1 0, 1",
            2,
            "no answer to the dot, twice",
        ),
        (
            vec![at(At::Dot, Close), at(At::Rcpt, Say("550 5.1.1 no"))],
            "0 0 1 0, 1",
            2,
            "the first may have arrived, whatever the second says",
        ),
        (
            one(at(At::Mail, Stall)),
            "1 0 0 0, 1",
            2,
            "no reply to MAIL in time",
        ),
        (
            one(at(At::Dot, Stall)),
            "1 0 0 0, 1",
            2,
            "no reply to the dot in time",
        ),
        (
            one(at(At::Greeting, Say("250 strange"))),
            "1 0 0 0, 1",
            2,
            "not the greeting of RFC 5321",
        ),
        (
            one(at(At::Mail, Say("this is not SMTP"))),
            "1 0 0 0, 1",
            2,
            "not SMTP",
        ),
        (one(good()), "1 0 0 0, 0", 1, "good"),
    ];
    // All at once: each waits for a retry or two.
    let mut running = tokio::task::JoinSet::new();
    let offers = [
        &["PIPELINING", "SIZE"][..],
        &["8BITMIME"],
        &["PIPELINING", "CHUNKING", "SIZE"],
        &["CHUNKING"],
    ];
    for keywords in offers {
        for (scripts, expected, connections, why) in &cases {
            if keywords.contains(&"CHUNKING") && scripts.iter().any(|script| script.is_at(At::Data)) {
                continue;
            }
            let options = Options {
                keywords,
                scripts: scripts.clone(),
                ..Options::default()
            };
            running.spawn(outcome(options, expected, *connections, why));
        }
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}

async fn outcome(options: Options, expected: &str, connections: u32, why: &str) {
    let keywords = options.keywords;
    let server = Server::start(options).await;
    let mut config = config();
    config.timeouts.command = Duration::from_millis(500);
    config.timeouts.final_dot = Duration::from_millis(500);
    let rig = Rig::start(config, intake(server.address)).await;
    let key = rig.put(ORIGINAL, LIFETIME).await;
    assert_eq!(ends(&rig.ended(1).await), expected, "{why} {keywords:?}");
    assert_eq!(
        server.seen.connections.load(Ordering::SeqCst),
        connections,
        "{why} {keywords:?}"
    );
    for (_, message) in &*server.seen.messages.lock().unwrap() {
        assert_eq!(
            unwrap(message).unwrap().delivery_id,
            &*key.id,
            "one id through all attempts"
        );
    }
    rig.stop().await;
}

#[tokio::test]
async fn every_outcome_of_tls() {
    use Act::{Close, Say, Stall};
    let authority = Authority::new();
    let other = Authority::new();
    let (new, old) = (&rustls::version::TLS13, &rustls::version::TLS12);
    let localhost = || Some(authority.acceptor(&["127.0.0.1"], new));
    let pem = || authority.pem.as_str().into();
    let verify = (TlsMode::Verify, TlsVersion::V1_2, None::<&str>);
    let cases = [
        (localhost(), verify, pem(), good(), "1 0 0 0, 0", "verified"),
        (
            localhost(),
            verify,
            other.pem.as_str().into(),
            good(),
            "0 1 0 0, 0",
            "another authority",
        ),
        (
            localhost(),
            verify,
            "".into(),
            good(),
            "0 1 0 0, 0",
            "not one of the system's authorities",
        ),
        (
            localhost(),
            verify,
            "rubbish".into(),
            good(),
            "0 1 0 0, 0",
            "a bundle without certificates",
        ),
        (
            Some(authority.acceptor(&["mx.intake.example"], new)),
            verify,
            pem(),
            good(),
            "0 1 0 0, 0",
            "a certificate for another name",
        ),
        (
            Some(authority.acceptor(&["mx.intake.example"], new)),
            (TlsMode::Verify, TlsVersion::V1_2, Some("MX.intake.example")),
            pem(),
            good(),
            "1 0 0 0, 0",
            "the name that is configured",
        ),
        (
            Some(authority.acceptor(&["127.0.0.1"], old)),
            (TlsMode::Verify, TlsVersion::V1_3, None),
            pem(),
            good(),
            "0 1 0 0, 0",
            "only an older version",
        ),
        (
            Some(other.acceptor(&["nobody"], old)),
            (TlsMode::Encrypt, TlsVersion::V1_3, None),
            pem(),
            good(),
            "0 1 0 0, 0",
            "but not any version",
        ),
        (
            Some(other.acceptor(&["nobody"], old)),
            (TlsMode::Encrypt, TlsVersion::V1_2, None),
            pem(),
            good(),
            "1 0 0 0, 0",
            "Encrypt takes any certificate",
        ),
        (
            Some(authority.exclusive_acceptor(&["127.0.0.1"])),
            verify,
            pem(),
            good(),
            "0 1 0 0, 0",
            "an alert behind the handshake",
        ),
        (
            None,
            verify,
            pem(),
            good(),
            "0 1 0 0, 0",
            "STARTTLS is not offered",
        ),
        (
            None,
            (TlsMode::Encrypt, TlsVersion::V1_2, None),
            pem(),
            good(),
            "0 1 0 0, 0",
            "not offered either",
        ),
        (
            localhost(),
            verify,
            pem(),
            at(At::StartTls, Say("454 4.7.0 not now")),
            "1 0 0 0, 1",
            "refused for now: a 4xx like any other",
        ),
        (
            localhost(),
            verify,
            pem(),
            at(At::StartTls, Say("502 5.5.1 never")),
            "0 1 0 0, 0",
            "refused for good",
        ),
        (
            localhost(),
            verify,
            pem(),
            at(At::StartTls, Close),
            "1 0 0 0, 1",
            "closed at STARTTLS is network",
        ),
        (
            localhost(),
            verify,
            pem(),
            at(At::Handshake, Say("500 not a handshake")),
            "0 1 0 0, 0",
            "not TLS at all",
        ),
        (
            localhost(),
            verify,
            pem(),
            at(At::Handshake, Close),
            "1 0 0 0, 1",
            "a broken handshake is network",
        ),
        (
            localhost(),
            verify,
            pem(),
            at(At::Handshake, Stall),
            "1 0 0 0, 1",
            "a stalled handshake is network",
        ),
    ];
    for (tls, (mode, min_version, server_name), ca_bundle, script, expected, why) in cases {
        let server = Server::start(Options {
            tls,
            scripts: vec![script],
            ..Options::default()
        })
        .await;
        let mut intake = intake(server.address);
        let server_name = server_name.map(Into::into);
        intake.tls = tdc_core::policy::IntakeTls {
            mode,
            min_version,
            server_name,
            ca_bundle,
        };
        let mut config = config();
        config.timeouts.handshake = Duration::from_millis(500);
        let rig = Rig::start(config, intake).await;
        rig.put(ORIGINAL, LIFETIME).await;
        assert_eq!(ends(&rig.ended(1).await), expected, "{why}");
        let (secured, messages) = (
            server.seen.secured.load(Ordering::SeqCst),
            server.seen.messages.lock().unwrap().len(),
        );
        assert!(messages == 0 || secured > 0, "nothing leaves in the clear: {why}");
        rig.stop().await;
    }
}

#[tokio::test]
async fn later_connections_resume_the_session() {
    let authority = Authority::new();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let server = Server::start(Options {
            tls: Some(authority.acceptor(&["127.0.0.1"], version)),
            ..Options::default()
        })
        .await;
        let mut intake = intake(server.address);
        intake.tls.mode = TlsMode::Verify;
        intake.tls.ca_bundle = authority.pem.as_str().into();
        intake.connections.max = 1;
        intake.connections.messages_per_connection = 1;
        let rig = Rig::start(config(), intake).await;
        for _ in 0..5 {
            rig.put(ORIGINAL, LIFETIME).await;
        }
        assert_eq!(ends(&rig.ended(5).await), "5 0 0 0, 0");
        let seen = [&server.seen.secured, &server.seen.resumed].map(|count| count.load(Ordering::SeqCst));
        assert_eq!(seen, [5, 4], "{version:?}");
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_message_that_breaks_off_before_its_dot_was_not_delivered() {
    // Larger than all buffers on the way, so that the dot cannot have left.
    let original = [
        b"Subject: large\r\n\r\n".to_vec(),
        b"0123456789\r\n".repeat(2_000_000),
    ]
    .concat();
    let cases = [
        (vec![at(At::Body, Act::Close); 2], "0 1 0 0, 1", "closed twice"),
        (
            vec![at(At::Body, Act::Say("452 4.3.1 full"))],
            "1 0 0 0, 1",
            "closed with a reason that passes",
        ),
        (
            vec![at(At::Body, Act::Say("552 5.3.4 full"))],
            "1 0 0 0, 1",
            "552 passes",
        ),
        (
            vec![at(At::Body, Act::Say("554 5.6.0 no"))],
            "0 1 0 0, 0",
            "closed with a reason that stays",
        ),
    ];
    for (scripts, expected, why) in cases {
        let server = Server::start(Options {
            scripts,
            ..Options::default()
        })
        .await;
        let rig = Rig::start(config(), intake(server.address)).await;
        rig.put(&original, LIFETIME).await;
        assert_eq!(ends(&rig.ended(1).await), expected, "{why}");
        rig.stop().await;
    }
}

#[tokio::test]
async fn nothing_listens() {
    let server = Server::start(Options::default()).await;
    let address = server.address;
    drop(server);
    let rig = Rig::start(config(), intake(address)).await;
    rig.put(ORIGINAL, LIFETIME).await;
    assert_eq!(ends(&rig.ended(1).await), "0 1 0 0, 1", "refused twice");
    rig.stop().await;
}

#[tokio::test]
async fn what_the_intake_cannot_take_is_not_sent() {
    let eight_bit = "Subject: gr\u{fc}n\r\n\r\n\u{fc}\r\n".as_bytes();
    let utf8 = || EntryMeta {
        smtputf8: true,
        sender: "\u{fc}@x".into(),
        ..EntryMeta::default()
    };
    use Format::{JournalReport, Raw};
    let cases: [(&'static [&'static str], EntryMeta, &[u8], Format, &str, &str); 7] = [
        (
            &[],
            EntryMeta::default(),
            ORIGINAL,
            JournalReport,
            "1 0 0 0, 0",
            "7-bit needs nothing",
        ),
        (
            &[],
            EntryMeta::default(),
            eight_bit,
            JournalReport,
            "0 1 0 0, 0",
            "8-bit content, no 8BITMIME",
        ),
        (
            &["8BITMIME"],
            EntryMeta::default(),
            eight_bit,
            JournalReport,
            "1 0 0 0, 0",
            "8BITMIME",
        ),
        (
            &["SIZE 100"],
            EntryMeta::default(),
            ORIGINAL,
            JournalReport,
            "0 1 0 0, 0",
            "larger than SIZE",
        ),
        (
            &["8BITMIME"],
            utf8(),
            ORIGINAL,
            JournalReport,
            "1 0 0 0, 0",
            "a report has UTF-8 only in its text part",
        ),
        (
            &["8BITMIME"],
            utf8(),
            ORIGINAL,
            Raw,
            "0 1 0 0, 0",
            "SMTPUTF8 is needed and not offered",
        ),
        (
            &["8BITMIME", "SMTPUTF8"],
            utf8(),
            ORIGINAL,
            Raw,
            "1 0 0 0, 0",
            "and offered",
        ),
    ];
    for (keywords, meta, original, format, expected, why) in cases {
        let server = Server::start(Options {
            keywords,
            ..Options::default()
        })
        .await;
        let mut intake = intake(server.address);
        intake.format = format;
        let rig = Rig::start(config(), intake).await;
        rig.put_with(meta, original, LIFETIME).await;
        assert_eq!(ends(&rig.ended(1).await), expected, "{why}");
        let sent = server.seen.envelopes.lock().unwrap().len();
        assert_eq!(sent > 0, expected.starts_with('1'), "{why}");
        rig.stop().await;
    }
}

#[tokio::test]
async fn the_lifetime_ends_an_attempt() {
    let cases = [
        (At::Greeting, "0 0 0 1, 0", "expired before the message was sent"),
        (At::Rcpt, "0 0 0 1, 0", "expired before the message was sent"),
        (
            At::Dot,
            "0 0 1 0, 0",
            "the intake may have it, and there is no time to ask again",
        ),
    ];
    for (stage, expected, why) in cases {
        let stall = || at(stage, Act::Stall);
        let server = Server::start(Options {
            scripts: vec![stall(), stall()],
            ..Options::default()
        })
        .await;
        let rig = Rig::start(config(), intake(server.address)).await;
        rig.put(ORIGINAL, Duration::from_secs(1)).await;
        assert_eq!(ends(&rig.ended(1).await), expected, "{why}");
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_recipient_that_is_refused_behind_a_354_leaves_the_connection_in_step() {
    // With PIPELINING the server has DATA already; it says 354 although it took no recipient.
    let scripts = vec![at(At::Rcpt, Act::Say("550 5.1.1 no"))];
    let server = Server::start(Options {
        scripts,
        ..Options::default()
    })
    .await;
    let mut intake = intake(server.address);
    intake.connections.max = 1;
    let rig = Rig::start(config(), intake).await;
    for _ in 0..3 {
        rig.put(ORIGINAL, LIFETIME).await;
    }
    assert_eq!(ends(&rig.ended(3).await), "0 3 0 0, 0");
    assert_eq!(
        server.seen.connections.load(Ordering::SeqCst),
        1,
        "one connection served them all"
    );
    // The entry ends before its RSET is answered.
    for _ in 0..1000 {
        if server.seen.resets.load(Ordering::SeqCst) == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        server.seen.resets.load(Ordering::SeqCst),
        3,
        "RSET after each refusal"
    );
    assert!(
        server.seen.messages.lock().unwrap().is_empty(),
        "only empty messages were sent"
    );
    rig.stop().await;
}

#[tokio::test]
async fn octets_arrive_as_they_are() {
    let awkward = b"Subject: x\r\n\r\n.\r\n..\r\n.x\r\nBDAT 0 LAST\r\n";
    let open = b"Subject: x\r\n\r\n.no line end";
    let large = [b"A: b\r\n\r\n".to_vec(), b".0123456789\r\n".repeat(300_000)].concat();
    let cases: [(&'static [&'static str], &[u8], &[u8], &str); 6] = [
        (&["PIPELINING", "SIZE"], awkward, b"", "dots, by DATA"),
        (&["PIPELINING", "CHUNKING", "SIZE"], awkward, b"", "dots, by BDAT"),
        (
            &["PIPELINING", "SIZE"],
            open,
            b"\r\n",
            "DATA ends with a line end",
        ),
        (
            &["PIPELINING", "CHUNKING", "SIZE"],
            open,
            b"",
            "BDAT with the last octet",
        ),
        (&["SIZE"], &large, b"", "several MiB by DATA"),
        (&["SIZE", "CHUNKING"], &large, b"", "several MiB by BDAT"),
    ];
    for (keywords, original, added, why) in cases {
        let server = Server::start(Options {
            keywords,
            ..Options::default()
        })
        .await;
        let mut intake = intake(server.address);
        intake.format = Format::Raw;
        let rig = Rig::start(config(), intake).await;
        rig.put(original, LIFETIME).await;
        assert_eq!(ends(&rig.ended(1).await), "1 0 0 0, 0", "{why}");
        {
            let messages = server.seen.messages.lock().unwrap();
            let message = &messages[0].1;
            let got = &message[unwrap(message).unwrap().original];
            assert!(got == [original, added].concat(), "{why}");
            let envelope = server.seen.envelopes.lock().unwrap().clone();
            assert_eq!(
                envelope[0],
                format!("MAIL FROM:<> SIZE={}", message.len()),
                "{why}"
            );
            let third = if keywords.contains(&"CHUNKING") {
                format!("BDAT {} LAST", message.len())
            } else {
                "DATA".to_owned()
            };
            assert_eq!(envelope[2..], [third], "{why}");
        }
        rig.stop().await;
    }
}
