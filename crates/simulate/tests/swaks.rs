//! A client that others wrote: swaks. A test fails when it is not installed (Debian: `apt-get install swaks`).

#![allow(clippy::unwrap_used, reason = "a test ends with a panic")]

mod support;

use std::path::Path;

use support::{PATIENCE, Running};
use tdc_simulate::{Common, IntakeConfig, MailboxConfig, Store, TlsSource};
use tokio::process::Command;
use tokio::time::timeout;

/// Runs swaks; its transcript, and whether it was content.
async fn swaks(arguments: &[&str]) -> (String, bool) {
    let run = Command::new("swaks").args(arguments).kill_on_drop(true).output();
    let output = timeout(PATIENCE, run).await.unwrap().expect("swaks is installed");
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        output.status.success(),
    )
}

fn common(store: &Path) -> Common {
    Common {
        store: Some(store.to_owned()),
        ..Common::default()
    }
}

#[tokio::test]
async fn swaks_delivers_to_the_mailbox() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(MailboxConfig {
        common: common(dir.path()),
        ..MailboxConfig::default()
    })
    .await;
    let (host, port) = (server.addr.ip().to_string(), server.addr.port().to_string());
    let to = "b@x.example,c@x.example";
    let data = "Subject: swaks\\n\\n.leading dot\\nend\\n";
    for more in [&["--pipeline"][..], &["--protocol", "SMTP"]] {
        let mut arguments = vec![
            "--server",
            &host,
            "--port",
            &port,
            "--from",
            "a@x.example",
            "--to",
            to,
        ];
        arguments.extend_from_slice(&["--ehlo", "swaks.example", "--data", data]);
        arguments.extend_from_slice(more);
        let (transcript, content) = swaks(&arguments).await;
        assert!(content, "{transcript}");
    }
    let kept = Store::read(dir.path()).unwrap();
    assert_eq!(
        kept.iter().map(|(record, _)| record.esmtp).collect::<Vec<_>>(),
        [true, false]
    );
    for (record, octets) in &kept {
        assert_eq!(
            (record.mail_from.as_str(), record.helo.as_str()),
            ("a@x.example", "swaks.example")
        );
        assert_eq!(record.rcpt_to.len(), 2);
        let text = String::from_utf8_lossy(octets);
        assert!(
            text.starts_with("Subject: swaks\r\n\r\n.leading dot\r\nend\r\n"),
            "{text}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn swaks_verifies_the_certificate_of_the_intake() {
    let dir = tempfile::tempdir().unwrap();
    let tls = dir.path().join("tls");
    let server = Running::start(IntakeConfig {
        common: common(&dir.path().join("store")),
        tls: TlsSource {
            dir: Some(tls.clone()),
            names: Vec::new(),
        },
        ..IntakeConfig::default()
    })
    .await;
    let (port, ca) = (server.addr.port().to_string(), tls.join("ca.pem"));
    let ca = ca.to_str().unwrap();
    let rows = [
        (
            &["--tls", "--tls-verify", "--tls-ca-path", ca][..],
            true,
            "the made CA is trusted",
        ),
        (&["--tls", "--tls-verify"][..], false, "without it nobody vouches"),
        (
            &["--tls", "--tls-protocol", "tlsv1_1"][..],
            false,
            "TLS 1.1 is too old",
        ),
        (&[][..], false, "in the clear"),
    ];
    for (more, want, why) in rows {
        let mut arguments = vec!["--server", "127.0.0.1", "--port", &port, "--from", "<>"];
        arguments.extend_from_slice(&["--to", "t@intake.example"]);
        arguments.extend_from_slice(more);
        let (transcript, content) = swaks(&arguments).await;
        assert_eq!(content, want, "{why}\n{transcript}");
    }
    let kept = Store::read(&dir.path().join("store")).unwrap();
    assert_eq!(kept.len(), 1);
    assert!(kept[0].0.tls.is_some());
    server.stop().await;
}
