//! The mailbox server, as a client sees it over a socket.

#![allow(clippy::unwrap_used, reason = "a test ends with a panic")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use support::{Client, PATIENCE, Running, large, names, stuffed};
use tdc_simulate::config::set_keyword;
use tdc_simulate::refuse::RejectAt;
use tdc_simulate::{Common, MailboxConfig, Refuse, Rejection, Report, Stage, Store, TlsSource};
use tdc_smtp::{BareLf, Reply};
use tempfile::TempDir;
use tokio::time::timeout;

fn stored(dir: &TempDir) -> MailboxConfig {
    let common = Common {
        store: Some(dir.path().to_owned()),
        ..Common::default()
    };
    MailboxConfig {
        common,
        ..MailboxConfig::default()
    }
}

#[tokio::test]
async fn messages_are_kept_as_decoded() {
    let rows: Vec<(Vec<u8>, Vec<u8>, &str)> = vec![
        (b".\r\n".to_vec(), b"".to_vec(), "empty"),
        (b"\r\n.\r\n".to_vec(), b"\r\n".to_vec(), "an empty line"),
        (
            b"..\r\n...\r\n.\r\n".to_vec(),
            b".\r\n..\r\n".to_vec(),
            "leading dots",
        ),
        (
            b"A: 1\r\n\r\n\xc3\xa9\xff\x80\r\n.\r\n".to_vec(),
            b"A: 1\r\n\r\n\xc3\xa9\xff\x80\r\n".to_vec(),
            "8-bit",
        ),
        (
            b"a\nb\r\n.\r\n".to_vec(),
            b"a\r\nb\r\n".to_vec(),
            "a bare LF is normalised",
        ),
        (
            b"a\n.\r\nb\r\n.\r\n".to_vec(),
            b"a\r\nb\r\n".to_vec(),
            "no end of data behind a bare LF",
        ),
        (stuffed(&large(3_000_000)), large(3_000_000), "large"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(stored(&dir)).await;
    let mut client = Client::connect(server.addr).await;
    client.talk(&[("EHLO client.example", "250-localhost")]).await;
    for (wire, _, why) in &rows {
        client
            .talk(&[
                ("MAIL FROM:<>", "250"),
                ("RCPT TO:<a@x.example>", "250"),
                ("DATA", "354"),
            ])
            .await;
        client.send(wire).await;
        let reply = client.reply().await;
        assert!(reply.starts_with("250 2.0.0"), "{why}: {reply}");
    }
    client.talk(&[("QUIT", "221")]).await;
    let kept = Store::read(dir.path()).unwrap();
    assert_eq!(kept.len(), rows.len());
    for ((record, octets), (_, want, why)) in kept.iter().zip(&rows) {
        assert!(octets == want, "{why}: {} octets", octets.len());
        assert_eq!(record.size, want.len() as u64, "{why}");
        assert_eq!(record.nth_of_connection, record.number, "{why}");
    }
    let report = server.stop().await;
    let bytes = rows.iter().map(|(_, want, _)| want.len() as u64).sum::<u64>();
    assert_eq!((report.messages, report.bytes, report.refused), (7, bytes, 0));
    assert_eq!(names(dir.path()).len(), 14, "nothing but messages and records");
}

#[tokio::test]
async fn the_record_tells_the_envelope() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(stored(&dir)).await;
    let mut client = Client::connect(server.addr).await;
    client
        .talk(&[
            ("EHLO client.example", "250"),
            ("XFORWARD NAME=spike.example ADDR=192.0.2.1", "250"),
            ("XFORWARD ADDR=192.0.2.2 HELO=spike", "250"),
            ("MAIL FROM:<a@x.example> BODY=8BITMIME SIZE=10", "250"),
            ("RCPT TO:<b@x.example> NOTIFY=NEVER", "250"),
            ("RCPT TO:<C@x.example>", "250"),
        ])
        .await;
    client.send(b"BDAT 4\r\na\r\n.").await;
    client.send(b"BDAT 5 LAST\r\n\r\nb\r\n").await;
    assert!(client.reply().await.starts_with("250"));
    assert!(client.reply().await.starts_with("250"));

    let [(record, octets)] = &Store::read(dir.path()).unwrap()[..] else {
        panic!("one message");
    };
    assert_eq!(octets, b"a\r\n.\r\nb\r\n");
    assert_eq!(
        (record.helo.as_str(), record.esmtp, &record.tls),
        ("client.example", true, &None)
    );
    assert!(record.peer.starts_with("127.0.0.1:"));
    assert_eq!(record.mail_from, "a@x.example");
    assert_eq!(record.mail_params, ["BODY=8BITMIME", "SIZE=10"]);
    let rcpts: Vec<_> = record
        .rcpt_to
        .iter()
        .map(|r| (r.address.as_str(), r.params.clone()))
        .collect();
    assert_eq!(
        rcpts,
        [
            ("b@x.example", vec!["NOTIFY=NEVER".to_owned()]),
            ("C@x.example", Vec::new())
        ]
    );
    let xforward: Vec<_> = record
        .xforward
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    assert_eq!(
        xforward,
        [
            ("NAME", "spike.example"),
            ("ADDR", "192.0.2.2"),
            ("HELO", "spike")
        ]
    );
    let report = server.stop().await;
    assert_eq!(
        report.by_recipient.into_iter().collect::<Vec<_>>(),
        [("C@x.example".to_owned(), 1), ("b@x.example".to_owned(), 1)]
    );
}

#[tokio::test]
async fn extensions_are_offered_and_obeyed_as_configured() {
    let rows = [
        ("SMTPUTF8", "MAIL FROM:<\u{e9}@x.example> SMTPUTF8"),
        ("8BITMIME", "MAIL FROM:<a@x.example> BODY=8BITMIME"),
        ("SIZE", "MAIL FROM:<a@x.example> SIZE=100"),
    ];
    for (keyword, mail) in rows {
        for on in [true, false] {
            let mut config = MailboxConfig::default();
            set_keyword(&mut config.extensions, keyword, on).unwrap();
            let server = Running::start(config).await;
            let mut client = Client::connect(server.addr).await;
            let offer = client.say("EHLO c").await;
            assert_eq!(offer.contains(keyword), on, "{offer}");
            assert!(
                !offer.contains("STARTTLS"),
                "no certificate, no STARTTLS: {offer}"
            );
            let reply = client.say(mail).await;
            assert_eq!(reply.starts_with("250"), on, "{mail}: {reply}");
            // An open transaction would be waited for.
            drop(client);
            server.stop().await;
        }
    }
}

#[tokio::test]
async fn rules_refuse_at_their_stage_and_are_counted() {
    let rule = |at, rule| Rejection::parse(at, rule).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut config = stored(&dir);
    config.common.rejections = vec![
        rule(RejectAt::Mail, "spam@x.example=550 5.7.1 Not you"),
        rule(RejectAt::Rcpt, "gone@x.example=550 5.1.1 No such user"),
        rule(RejectAt::Data, "full@x.example=452 4.2.2 Mailbox full"),
        rule(RejectAt::BodyEnd, "scan@x.example=554 5.6.0 Virus"),
        rule(RejectAt::BodyEnd, "later@x.example=421 4.3.2 Going down"),
    ];
    let server = Running::start(config).await;
    let mut client = Client::connect(server.addr).await;
    client
        .talk(&[
            ("EHLO c", "250"),
            ("MAIL FROM:<spam@x.example>", "550 5.7.1 Not you"),
            ("MAIL FROM:<a@x.example>", "250"),
            ("RCPT TO:<GONE@x.example>", "550 5.1.1 No such user"),
            ("DATA", "554"),
            ("RCPT TO:<full@x.example>", "250"),
            ("DATA", "452 4.2.2 Mailbox full"),
            ("RSET", "250"),
        ])
        .await;
    assert_eq!(
        client.message("a@x.example", &["scan@x.example"], b"x\r\n").await,
        "554 5.6.0 Virus"
    );
    assert_eq!(names(dir.path()), [""; 0], "what is refused is not kept");
    assert!(
        client
            .message("a@x.example", &["b@x.example"], b"x\r\n")
            .await
            .starts_with("250")
    );
    let reply = client
        .message("a@x.example", &["later@x.example"], b"x\r\n")
        .await;
    assert_eq!(
        (reply.as_str(), client.reply().await.as_str()),
        ("421 4.3.2 Going down", ""),
        "421 closes"
    );
    let Report {
        messages, refused, ..
    } = server.stop().await;
    assert_eq!((messages, refused), (1, 5));
}

#[tokio::test]
async fn rules_of_ones_own_are_asked_too() {
    struct OddDomains;
    impl Refuse for OddDomains {
        fn refuse(&self, stage: Stage<'_>) -> Option<Reply> {
            matches!(stage, Stage::Rcpt(to) if to.ends_with(".odd")).then(|| Reply::new(450, "4.7.0 Odd"))
        }
    }
    let server = tdc_simulate::bind(MailboxConfig::default())
        .await
        .unwrap()
        .with_rule(Arc::new(OddDomains));
    let server = Running::run(server);
    let mut client = Client::connect(server.addr).await;
    client
        .talk(&[
            ("HELO c", "250"),
            ("MAIL FROM:<>", "250"),
            ("RCPT TO:<a@x.odd>", "450 4.7.0 Odd"),
        ])
        .await;
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn what_breaks_a_limit_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = stored(&dir);
    config.extensions.size = Some(1_000_000);
    config.common.bare_lf = BareLf::Reject;
    let server = Running::start(config).await;
    let mut client = Client::connect(server.addr).await;
    client
        .talk(&[("EHLO c", "250"), ("MAIL FROM:<a@x> SIZE=1000001", "552")])
        .await;
    let reply = client.message("a@x", &["b@x"], &large(1_000_100)).await;
    assert!(reply.starts_with("552 5.3.4"), "{reply}");
    let reply = client.message("a@x", &["b@x"], b"a\nb\r\n").await;
    assert!(reply.starts_with("550 5.5.2"), "{reply}");
    assert_eq!(names(dir.path()), [""; 0]);
    let reply = client.message("a@x", &["b@x"], b"fine\r\n").await;
    assert!(reply.starts_with("250"), "the connection goes on: {reply}");
    assert_eq!(
        server.stop().await.refused,
        2,
        "what the session itself refuses is no message"
    );
}

#[tokio::test]
async fn a_client_that_goes_away_in_the_middle_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(stored(&dir)).await;
    let mut client = Client::connect(server.addr).await;
    client
        .talk(&[
            ("EHLO c", "250"),
            ("MAIL FROM:<>", "250"),
            ("RCPT TO:<a@x>", "250"),
            ("DATA", "354"),
        ])
        .await;
    client.send(&large(1_000_000)).await;
    drop(client);
    let mut other = Client::connect(server.addr).await;
    other.talk(&[("EHLO c", "250")]).await;
    assert!(
        other.message("", &["a@x"], b"x\r\n").await.starts_with("250"),
        "others are served"
    );
    other.talk(&[("QUIT", "221")]).await;
    let report = server.stop().await;
    assert_eq!((report.messages, report.connections), (1, 2));
    assert_eq!(
        names(dir.path()),
        ["2.eml", "2.json"],
        "the number is gone, the file too"
    );
}

#[tokio::test]
async fn a_pipelined_batch_is_answered_in_one_write() {
    let server = Running::start(MailboxConfig::default()).await;
    let mut client = Client::connect(server.addr).await;
    client.talk(&[("EHLO c", "250")]).await;
    client
        .send(b"MAIL FROM:<>\r\nRCPT TO:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n")
        .await;
    let replies = client.read_once().await;
    assert_eq!(
        replies.lines().map(|line| &line[..3]).collect::<Vec<_>>(),
        ["250", "250", "250", "354"]
    );
    client
        .send(b"x\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<a@x>\r\nQUIT\r\n")
        .await;
    let replies = client.read_once().await;
    assert_eq!(
        replies.lines().map(|line| &line[..3]).collect::<Vec<_>>(),
        ["250", "250", "250", "221"]
    );
    assert_eq!(client.read_once().await, "", "and closed");
    assert_eq!(server.stop().await.messages, 1);
}

#[tokio::test]
async fn many_connections_at_once_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(stored(&dir)).await;
    let addr = server.addr;
    let clients: Vec<_> = (0..20)
        .map(|c| {
            tokio::spawn(async move {
                let mut client = Client::connect(addr).await;
                client.talk(&[("EHLO c", "250")]).await;
                for m in 0..10 {
                    let message = format!("Subject: {c}/{m}\r\n\r\n");
                    let reply = client.message("a@x", &["b@x"], message.as_bytes()).await;
                    assert!(reply.starts_with("250"), "{reply}");
                }
                client
            })
        })
        .collect();
    let mut open = Vec::new();
    for client in clients {
        open.push(client.await.unwrap());
    }
    let mut got: Vec<_> = Store::read(dir.path())
        .unwrap()
        .into_iter()
        .map(|(_, octets)| octets)
        .collect();
    got.sort();
    let mut want: Vec<_> = (0..200)
        .map(|n| format!("Subject: {}/{}\r\n\r\n", n / 10, n % 10).into_bytes())
        .collect();
    want.sort();
    assert!(got == want);
    let report = server.stop().await;
    assert_eq!(
        (
            report.messages,
            report.connections,
            report.max_concurrent_connections
        ),
        (200, 20, 20)
    );
}

#[tokio::test]
async fn surplus_connections_are_turned_away() {
    let mut config = MailboxConfig::default();
    config.common.max_connections = 2;
    let server = Running::start(config).await;
    let first = Client::connect(server.addr).await;
    let mut second = Client::connect(server.addr).await;
    let (mut third, greeting) = Client::connect_raw(server.addr).await;
    assert_eq!(greeting, "421 4.3.2 Too many connections");
    assert_eq!(third.reply().await, "", "and closed");
    second.talk(&[("QUIT", "221")]).await;
    assert_eq!(second.reply().await, "");
    timeout(PATIENCE, async {
        // The place is free once the server has noticed, which the client cannot see.
        while !Client::connect_raw(server.addr).await.1.starts_with("220") {}
    })
    .await
    .unwrap();
    drop(first);
    let report = server.stop().await;
    assert!(report.connections_refused >= 1);
    assert_eq!(report.max_concurrent_connections, 2);
}

#[tokio::test]
async fn a_silent_client_is_told_and_closed() {
    let mut config = MailboxConfig::default();
    config.common.idle_timeout = Duration::from_millis(50);
    let server = Running::start(config).await;
    let mut client = Client::connect(server.addr).await;
    assert_eq!(client.reply().await, "421 4.4.2 Error: timeout exceeded");
    assert_eq!(client.reply().await, "");
    server.stop().await;
}

#[tokio::test]
async fn latency_holds_back_the_last_reply_only() {
    let latency = Duration::from_millis(200);
    let mut config = MailboxConfig::default();
    config.common.latency = latency;
    let server = Running::start(config).await;
    let mut client = Client::connect(server.addr).await;
    client.talk(&[("EHLO c", "250")]).await;
    let begin = Instant::now();
    assert!(client.message("", &["a@x"], b"x\r\n").await.starts_with("250"));
    assert!(begin.elapsed() >= latency);
    server.stop().await;
}

#[tokio::test]
async fn the_end_is_orderly() {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report.json");
    let mut config = stored(&dir);
    config.common.report = Some(report.clone());
    let server = Running::start(config).await;
    let addr = server.addr;
    let mut idle = Client::connect(addr).await;
    let mut busy = Client::connect(addr).await;
    busy.talk(&[
        ("EHLO c", "250"),
        ("MAIL FROM:<>", "250"),
        ("RCPT TO:<a@x>", "250"),
        ("DATA", "354"),
    ])
    .await;
    let end = server.begin_stop();
    assert!(
        idle.reply().await.starts_with("421 4.3.2"),
        "no transaction: closed"
    );
    assert_eq!(idle.reply().await, "");
    busy.send(b"x\r\n.\r\n").await;
    assert!(
        busy.reply().await.starts_with("250"),
        "a running transaction is finished"
    );
    assert!(busy.reply().await.starts_with("421 4.3.2"));
    let last = timeout(PATIENCE, end).await.unwrap().unwrap();
    assert_eq!(last.messages, 1);
    assert!(
        tokio::net::TcpStream::connect(addr).await.is_err(),
        "nobody listens any more"
    );
    let written: Report = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert_eq!(written, last);
}

#[tokio::test]
async fn a_client_that_never_ends_is_cut_after_the_grace() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = stored(&dir);
    config.common.grace = Duration::from_millis(50);
    let server = Running::start(config).await;
    let mut client = Client::connect(server.addr).await;
    client
        .talk(&[
            ("EHLO c", "250"),
            ("MAIL FROM:<>", "250"),
            ("RCPT TO:<a@x>", "250"),
            ("DATA", "354"),
        ])
        .await;
    client.send(&large(1_000_000)).await;
    assert_eq!(server.stop().await.messages, 0);
    assert_eq!(client.reply().await, "", "cut without a reply");
    assert_eq!(names(dir.path()), [""; 0]);
}

#[tokio::test]
async fn the_report_is_written_while_the_server_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.json");
    let mut config = MailboxConfig::default();
    config.common.report = Some(path.clone());
    let server = Running::start(config).await;
    let read = || serde_json::from_slice::<Report>(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(read().messages, 0, "there from the start");
    let mut client = Client::connect(server.addr).await;
    client.talk(&[("EHLO c", "250")]).await;
    assert!(client.message("", &["a@x"], b"x\r\n").await.starts_with("250"));
    timeout(PATIENCE, async {
        while read().messages == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    server.stop().await;
}

#[tokio::test]
async fn starttls_is_offered_with_a_certificate_but_not_required() {
    let config = MailboxConfig {
        tls: Some(TlsSource::default()),
        ..MailboxConfig::default()
    };
    let server = Running::start(config).await;
    let mut client = Client::connect(server.addr).await;
    let offer = client.say("EHLO c").await;
    assert!(offer.contains("STARTTLS"), "{offer}");
    assert!(
        client.message("", &["a@x"], b"x\r\n").await.starts_with("250"),
        "in the clear"
    );
    let mut client = client.starttls(&server.ca, "localhost", false).await.unwrap();
    let offer = client.say("EHLO c").await;
    assert!(!offer.contains("STARTTLS"), "{offer}");
    assert!(
        client.message("", &["a@x"], b"x\r\n").await.starts_with("250"),
        "and over TLS"
    );
    let report = server.stop().await;
    assert_eq!(
        (report.messages, report.connections, report.tls_connections),
        (2, 1, 1)
    );
}

#[tokio::test]
async fn what_cannot_be_set_up_says_what() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let inside = file.join("inside");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let common = Common::default;
    let rows = [
        (
            Common {
                store: Some(inside.clone()),
                ..common()
            },
            "cannot create",
        ),
        (
            Common {
                report: Some(inside),
                ..common()
            },
            "cannot write",
        ),
        (
            Common {
                listen: taken.local_addr().unwrap(),
                ..common()
            },
            "cannot listen on",
        ),
    ];
    for (common, want) in rows {
        let error = tdc_simulate::bind(MailboxConfig {
            common,
            ..MailboxConfig::default()
        })
        .await
        .unwrap_err();
        assert!(error.to_string().starts_with(want), "{error}");
    }
}
