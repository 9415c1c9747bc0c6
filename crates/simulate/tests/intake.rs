//! The intake, as a client sees it over a socket.

#![allow(clippy::unwrap_used, reason = "a test ends with a panic")]

mod support;

use bytes::Bytes;
use support::{Client, Running, large};
use tdc_core::journal::{CopyMeta, wrap};
use tdc_core::policy::Format;
use tdc_simulate::inspect::Fault;
use tdc_simulate::{Common, IntakeConfig, Report, Store, TlsSource};
use tempfile::TempDir;

fn stored(dir: &TempDir) -> IntakeConfig {
    let common = Common {
        store: Some(dir.path().join("store")),
        report: Some(dir.path().join("report.json")),
        ..Common::default()
    };
    IntakeConfig {
        common,
        ..IntakeConfig::default()
    }
}

fn copy(format: Format, id: &str, original: &[u8]) -> Vec<u8> {
    let meta = CopyMeta {
        delivery_id: id.to_owned(),
        intake_address: "t@intake.example".to_owned(),
        host: "tdc.example".to_owned(),
        sender: "a@sender.example".to_owned(),
        recipients: vec!["b@x.example".to_owned()],
        subject: "hi".to_owned(),
        ..CopyMeta::default()
    };
    wrap(format, &meta, &[Bytes::copy_from_slice(original)])
        .parts
        .concat()
}

async fn secure(server: &Running) -> Client {
    let mut client = Client::connect(server.addr).await;
    let offer = client.say("EHLO c").await;
    assert!(offer.contains("STARTTLS"), "{offer}");
    let mut client = client.starttls(&server.ca, "localhost", false).await.unwrap();
    client.talk(&[("EHLO c", "250")]).await;
    client
}

#[tokio::test]
async fn tls_comes_first() {
    let server = Running::start(IntakeConfig::default()).await;
    let mut client = Client::connect(server.addr).await;
    client
        .talk(&[
            ("EHLO c", "250"),
            ("MAIL FROM:<>", "530 5.7.0"),
            ("RCPT TO:<a@x>", "530"),
            ("DATA", "530"),
        ])
        .await;
    let mut client = client.starttls(&server.ca, "127.0.0.1", true).await.unwrap();
    client
        .talk(&[
            ("MAIL FROM:<>", "503"),
            ("EHLO c", "250"),
            ("STARTTLS", "554"),
            ("MAIL FROM:<>", "250"),
        ])
        .await;
    drop(client);

    let mut client = Client::connect(server.addr).await;
    client.talk(&[("EHLO c", "250")]).await;
    client.send(b"STARTTLS\r\nMAIL FROM:<>\r\n").await;
    assert!(
        client.reply().await.starts_with("554"),
        "plain text behind STARTTLS"
    );
    assert_eq!(client.reply().await, "", "ends the connection");

    let client = Client::connect(server.addr).await;
    let other = Running::start(IntakeConfig::default()).await;
    assert!(
        client.starttls(&other.ca, "localhost", false).await.is_err(),
        "another CA does not vouch for it"
    );
    other.stop().await;
    let client = Client::connect(server.addr).await;
    assert!(
        client
            .starttls(&server.ca, "elsewhere.example", false)
            .await
            .is_err(),
        "nor for other names"
    );

    let mut client = Client::connect(server.addr).await;
    client.talk(&[("STARTTLS", "220")]).await;
    client.send(b"EHLO c\r\n").await;
    while !client.read_once().await.is_empty() {}
    let report = server.stop().await;
    assert_eq!(
        (report.connections, report.tls_connections, report.messages),
        (5, 1, 0)
    );
    assert_eq!(report.tls_failures, 3);
}

#[tokio::test]
async fn tls_may_be_optional() {
    let server = Running::start(IntakeConfig {
        require_tls: false,
        ..IntakeConfig::default()
    })
    .await;
    let mut client = Client::connect(server.addr).await;
    client.talk(&[("EHLO c", "250")]).await;
    let message = copy(Format::Raw, "1", b"x\r\n");
    assert!(
        client
            .message("", &["t@intake.example"], &message)
            .await
            .starts_with("250")
    );
    assert_eq!(server.stop().await.copies.unwrap().raw, 1);
}

#[tokio::test]
async fn copies_are_checked_counted_and_kept() {
    let ulid = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let original = b"Subject: hi\r\n\r\n.dots\r\n\xff\r\n";
    let report = copy(Format::JournalReport, "one", original);
    let raw = copy(Format::Raw, ulid, original);
    let t = "t@intake.example";
    let rows: Vec<(&[u8], &str, Vec<&str>, Option<u64>, Vec<Fault>)> = vec![
        (&report, "", vec![t], None, vec![]),
        (&raw, "", vec!["u@intake.example"], None, vec![]),
        (&report, "", vec![t], Some(1), vec![]),
        (
            b"Subject: no copy\r\n\r\n",
            "",
            vec![t],
            None,
            vec![Fault::NoDeliveryId],
        ),
        (
            &raw,
            "a@x",
            vec![t, "u@x"],
            Some(2),
            vec![Fault::SenderNotNull, Fault::SeveralIntakes],
        ),
    ];
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(stored(&dir)).await;
    let mut client = secure(&server).await;
    for (message, from, to, ..) in &rows {
        let reply = client.message(from, to, message).await;
        assert!(
            reply.starts_with("250"),
            "malformed copies are taken and reported: {reply}"
        );
    }
    client.talk(&[("QUIT", "221")]).await;
    let kept = Store::read(&dir.path().join("store")).unwrap();
    assert_eq!(kept.len(), rows.len());
    for ((record, octets), (message, _, to, duplicate_of, faults)) in kept.iter().zip(&rows) {
        assert!(octets == message);
        let seen = record.copy.as_ref().unwrap();
        assert_eq!(
            (&seen.duplicate_of, &seen.faults),
            (duplicate_of, faults),
            "{record:?}"
        );
        let unwraps = faults.first() != Some(&Fault::NoDeliveryId);
        assert_eq!(seen.original(octets), unwraps.then_some(&original[..]));
        let rcpts: Vec<_> = record.rcpt_to.iter().map(|rcpt| rcpt.address.as_str()).collect();
        assert_eq!(&rcpts, to);
        let tls = record.tls.as_ref().unwrap();
        assert_eq!(
            (tls.version.as_str(), tls.server_name.as_deref()),
            ("TLSv1_3", Some("localhost"))
        );
    }
    let last = server.stop().await;
    let copies = last.copies.clone().unwrap();
    assert_eq!(
        (
            copies.journal_reports,
            copies.raw,
            copies.malformed,
            copies.duplicates
        ),
        (2, 1, 2, 2)
    );
    assert_eq!(copies.latency, None, "an id from 2016 tells no latency");
    assert_eq!(last.by_recipient[t], 4);
    let written: Report =
        serde_json::from_slice(&std::fs::read(dir.path().join("report.json")).unwrap()).unwrap();
    assert_eq!(written, last);
    let line = last.to_string();
    assert_eq!(line.lines().count(), 1);
    for part in [
        "intake: 5 messages",
        "2 journal reports, 1 raw, 2 malformed, 2 duplicates",
        "1 with TLS",
    ] {
        assert!(line.contains(part), "{line}");
    }
}

#[tokio::test]
async fn large_copies_are_checked_with_and_without_a_store() {
    let original = large(30_000_000);
    let message = copy(Format::JournalReport, "large", &original);
    let dir = tempfile::tempdir().unwrap();
    for config in [stored(&dir), IntakeConfig::default()] {
        let server = Running::start(config).await;
        let mut client = secure(&server).await;
        assert!(
            client
                .message("", &["t@intake.example"], &message)
                .await
                .starts_with("250")
        );
        let report = server.stop().await;
        assert_eq!(report.copies.unwrap().journal_reports, 1);
        assert_eq!(report.bytes, message.len() as u64);
    }
    let kept = Store::read(&dir.path().join("store")).unwrap();
    let (record, octets) = &kept[0];
    assert!(record.copy.as_ref().unwrap().original(octets) == Some(&original[..]));
}

#[tokio::test]
async fn a_copy_that_could_not_be_kept_is_no_duplicate_later() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(stored(&dir)).await;
    let mut client = secure(&server).await;
    let message = copy(Format::JournalReport, "one", b"x\r\n");
    let (store, away) = (dir.path().join("store"), dir.path().join("away"));
    std::fs::rename(&store, &away).unwrap();
    let reply = client.message("", &["t@intake.example"], &message).await;
    assert!(reply.starts_with("451 4.3.0"), "{reply}");
    std::fs::rename(&away, &store).unwrap();
    assert!(
        client
            .message("", &["t@intake.example"], &message)
            .await
            .starts_with("250")
    );
    let report = server.stop().await;
    assert_eq!(
        (report.messages, report.refused, report.copies.unwrap().duplicates),
        (1, 1, 0)
    );
    assert_eq!(Store::read(&store).unwrap().len(), 1);
}

#[tokio::test]
async fn the_certificate_in_a_folder_is_kept_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let config = || IntakeConfig {
        tls: TlsSource {
            dir: Some(dir.path().join("tls")),
            names: vec!["mx.intake.example".to_owned()],
        },
        ..IntakeConfig::default()
    };
    let first = Running::start(config()).await;
    let ca = first.ca.clone();
    first.stop().await;
    let second = Running::start(config()).await;
    let client = Client::connect(second.addr).await;
    client.starttls(&ca, "mx.intake.example", false).await.unwrap();
    second.stop().await;
}
