//! Messages of every kind, from real clients.

use std::collections::HashMap;
use std::process::Command;

use tdc_core::journal::unwrap;

use crate::stage::{Options, Stage, run};

/// Sends the message; the original and its copy must be it, octet for octet.
fn passes_unchanged(stage: &Stage, number: usize, message: &[u8], why: &str) {
    let (sent, transcript) = stage.swaks("a@x.example", "ann@company.example", Some(message));
    let tail: String = transcript
        .chars()
        .rev()
        .take(500)
        .collect::<String>()
        .chars()
        .rev()
        .collect();
    assert!(sent, "{why}: {tail}");
    let original = &stage.mailbox()[number].bytes;
    assert!(original == message, "{why}: the original is as it was sent");
    let copy = &stage.intake(number + 1)[number].bytes;
    assert!(
        copy[unwrap(copy).unwrap().original] == *original,
        "{why}: the copy holds the same octets"
    );
}

#[test]
fn messages_arrive_octet_for_octet() {
    let stage = Stage::build(Options::default());
    let header = "From: a@x.example\r\nSubject: test\r\nMessage-ID: <1@x.example>\r\n";
    let line = format!("{}\r\n", "0123456789abcdef".repeat(4));
    let large = format!("{header}\r\n{}", line.repeat(25 * 1024 * 1024 / line.len()));
    let cases: [(String, &str); 6] = [
        (format!("{header}\r\nplain\r\n"), "plain"),
        (format!("{header}\r\nGrüße, 東京\r\n"), "8-bit"),
        (
            format!("{header}\r\n.\r\n..\r\n.a\r\n\r\n...\r\nb\r\n"),
            "leading dots",
        ),
        (
            format!("{header}X-Odd:  a\t \r\n b \r\n\r\ntrailing  \r\n\r\n\r\n"),
            "white space",
        ),
        (format!("{header}\r\n"), "an empty body"),
        (large, "25 MB"),
    ];
    for (number, (message, why)) in cases.into_iter().enumerate() {
        passes_unchanged(&stage, number, message.as_bytes(), why);
    }
}

#[test]
fn what_the_next_hop_lacks_is_not_offered() {
    let stage = Stage::build(Options {
        mailbox: vec!["--without", "SMTPUTF8"],
        ..Options::default()
    });
    let (_, transcript) = stage.swaks("a@x.example", "ann@company.example", None);
    assert!(transcript.contains("8BITMIME"), "{transcript}");
    assert!(!transcript.contains("SMTPUTF8"), "not offered: {transcript}");
    let (sent, transcript) = stage.swaks("ü@x.example", "ann@company.example", None);
    assert!(
        !sent && transcript.contains("5.6.7"),
        "refused with a clear reply: {transcript}"
    );
    assert_eq!(stage.mailbox().len(), 1);
}

#[test]
fn the_next_hops_replies_go_back_as_they_are() {
    let rule = "no@company.example=550 5.1.1 Nobody of that name";
    let late = "late@company.example=554 5.7.1 Not this one";
    let stage = Stage::build(Options {
        mailbox: vec!["--reject-rcpt", rule, "--reject-message", late],
        ..Options::default()
    });
    let (sent, transcript) = stage.swaks("a@x.example", "no@company.example,ann@company.example", None);
    assert!(
        sent && transcript.contains("550 5.1.1 Nobody of that name"),
        "{transcript}"
    );
    let (sent, transcript) = stage.swaks("a@x.example", "late@company.example", None);
    assert!(
        !sent && transcript.contains("554 5.7.1 Not this one"),
        "{transcript}"
    );
    let (sent, _) = stage.swaks("a@x.example", "bob@company.example", None);
    assert!(sent);
    let copies = stage.intake(2);
    let listed: Vec<_> = copies
        .iter()
        .map(|copy| unwrap(&copy.bytes).unwrap().recipients)
        .collect();
    assert_eq!(
        listed,
        [["ann@company.example"], ["bob@company.example"]],
        "nothing for what was refused"
    );
}

#[test]
fn two_hundred_messages_over_twenty_connections() {
    let stage = Stage::build(Options::default());
    let mut source = Command::new("/usr/sbin/smtp-source");
    source.args(["-s", "20", "-m", "200", "-l", "10240", "-N"]);
    source.args([
        "-f",
        "a@x.example",
        "-t",
        "ann@company.example",
        &stage.smtp.to_string(),
    ]);
    let output = run(&mut source);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let originals = stage.mailbox();
    let copies = stage.intake(200);
    assert_eq!(
        (originals.len(), copies.len()),
        (200, 200),
        "nothing lost, nothing twice"
    );
    let mut left: HashMap<Vec<u8>, usize> = HashMap::new();
    for original in originals {
        *left.entry(original.bytes).or_default() += 1;
    }
    for copy in copies {
        let report = unwrap(&copy.bytes).unwrap();
        let count = left
            .get_mut(&copy.bytes[report.original])
            .expect("each copy holds an original");
        *count -= 1;
    }
    assert!(
        left.values().all(|count| *count == 0),
        "each original has its copy"
    );
    let report = crate::stage::wait_for("the report", || {
        let report = stage.report();
        (report["messages"] == 200).then_some(report)
    });
    assert_eq!(report["copies"]["duplicates"], 0, "{report}");
    assert_eq!(report["copies"]["malformed"], 0, "{report}");
}
