//! `tdc send`, which `helm test` runs: it says whether a mail goes through.

use std::process::Command;

use crate::mutual_tls::write_certificates;
use crate::stage::{Options, Stage, run, tdc};

fn send(server: &str, to: &str) -> (bool, String) {
    let mut command = Command::new(tdc());
    command.args(["send", "--from", "<>", "--to", to, "--server", server]);
    let output = run(&mut command);
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn it_succeeds_exactly_when_the_mail_was_taken() {
    let stage = Stage::build(Options {
        mailbox: vec!["--reject-rcpt", "nobody@company.example=550 5.1.1 nobody"],
        ..Options::default()
    });
    let server = stage.smtp.to_string();
    let cases: [(&str, &str, bool, &str, &str); 4] = [
        (
            &server,
            "postmaster",
            true,
            "in the clear: 250",
            "RFC 5321, section 4.5.1: no domain",
        ),
        (
            &server,
            "ann@company.example,bob@company.example",
            true,
            "in the clear: 250",
            "several",
        ),
        (
            &server,
            "ann@company.example,nobody@company.example",
            false,
            "RCPT was answered: 550",
            "one is refused",
        ),
        (
            "127.0.0.1:9",
            "ann@company.example",
            false,
            "127.0.0.1:9: connect: ",
            "nobody listens",
        ),
    ];
    for (server, to, success, text, why) in cases {
        let (sent, said) = send(server, to);
        assert!(sent == success && said.contains(text), "{why}: {said}");
    }
    let arrived = stage.mailbox();
    assert_eq!(arrived.len(), 2);
    assert_eq!(arrived[0].to(), ["postmaster"]);
    stage.intake(1);
}

#[test]
fn it_uses_starttls_whatever_the_certificate() {
    let dir = tempfile::tempdir().unwrap();
    write_certificates(dir.path());
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let stage = Stage::build(Options {
        env: vec![
            ("TDC_TLS_CERT", file("tls.crt")),
            ("TDC_TLS_KEY", file("tls.key")),
            ("TDC_TLS_REQUIRED", "true".to_owned()),
        ],
        ..Options::default()
    });
    let (sent, said) = send(&stage.smtp.to_string(), "ann@company.example");
    assert!(sent && said.contains("over TLS: 250"), "{said}");
    assert_eq!(stage.mailbox().len(), 1);
}
