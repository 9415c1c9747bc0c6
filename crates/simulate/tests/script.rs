//! Scripts, as a client sees them over a socket: each stage, each fault.

#![allow(clippy::unwrap_used, reason = "a test ends with a panic")]

mod support;

use std::time::{Duration, Instant};

use support::{Client, PATIENCE, Running, large};
use tdc_simulate::report::Answers;
use tdc_simulate::{Common, IntakeConfig, MailboxConfig, Script, TlsSource};
use tokio::net::TcpStream;

const MESSAGE: &[u8] = b"Message-ID: <1@x>\r\n\r\nhello\r\n";

fn scripted(text: &str) -> Common {
    Common {
        script: Some(Script::parse("script.yaml", text).unwrap()),
        ..Common::default()
    }
}

async fn mailbox(text: &str) -> Running {
    Running::start(MailboxConfig {
        common: scripted(text),
        tls: Some(TlsSource::default()),
        ..MailboxConfig::default()
    })
    .await
}

/// One rule.
async fn with_rule(rule: &str) -> Running {
    mailbox(&format!("rules:\n- {rule}\n")).await
}

/// A session up to the first reply that is not the usual one, and what follows: the replies that differ.
async fn session(server: &Running) -> Vec<String> {
    let (mut client, greeting) = Client::connect_raw(server.addr).await;
    let mut seen = Vec::new();
    if !greeting.starts_with("220 localhost ESMTP") {
        seen.push(greeting);
    }
    let steps = [
        ("EHLO c", "250-localhost"),
        ("MAIL FROM:<a@x>", "250 2.1.0 Ok"),
        ("RCPT TO:<b@y>", "250 2.1.5 Ok"),
        ("DATA", "354 "),
        ("Message-ID: <1@x>\r\n\r\nhello\r\n.", "250 2.0.0 Ok: message"),
        ("RSET", "250 2.0.0 Ok"),
        ("QUIT", "221 2.0.0 Bye"),
    ];
    for (line, usual) in steps {
        if seen.last().is_some_and(|reply| !ends(reply)) {
            break;
        }
        let reply = match client.try_say(line).await {
            Ok(reply) => reply,
            Err(error) => format!("{:?}", error.kind()),
        };
        if !reply.starts_with(usual) {
            seen.push(format!("{}: {reply}", &line[..4]));
        }
    }
    seen
}

/// A reply after which the session of these tests goes on.
fn ends(reply: &str) -> bool {
    reply.contains("odd")
}

#[tokio::test]
async fn each_stage_and_fault() {
    let rows = [
        ("{at: connect, do: close}", "", "closed before a word"),
        ("{at: connect, do: reset}", "", "reset before a word"),
        (
            "{at: greeting, do: {reply: 554 5.3.2 never}}",
            "554 5.3.2 never",
            "another greeting",
        ),
        (
            "{at: greeting, do: {half: \"220 loc\", then: close}}",
            "",
            "half a greeting",
        ),
        ("{at: ehlo, do: {reply: 502 no}}", "EHLO: 502 no", "EHLO refused"),
        ("{at: ehlo, do: close}", "EHLO: ", "closed at EHLO"),
        (
            "{at: mail, do: {reply: 451 4.3.0 later}}",
            "MAIL: 451 4.3.0 later",
            "a refusal",
        ),
        (
            "{at: mail, do: {reply: [550-x, y]}}",
            "error",
            "a code is three digits and a space",
        ),
        (
            "{at: mail, do: {reply: [550 5.1.0 x, y z]}}",
            "MAIL: 550-5.1.0 x|550 y z",
            "several lines",
        ),
        (
            "{at: rcpt, do: {reply: 421 4.3.2 bye}}",
            "RCPT: 421 4.3.2 bye",
            "421 closes",
        ),
        (
            "{at: rcpt, do: {reply: 250 odd}}",
            "RCPT: 250 odd",
            "a friendly text goes on",
        ),
        (
            "{at: rcpt, do: {raw: \"what?\\r\\n\", then: close}}",
            "RCPT: what?",
            "not SMTP",
        ),
        ("{at: rcpt, do: reset}", "RCPT: ConnectionReset", "a reset"),
        (
            "{at: data, do: {reply: 554 5.5.1 no}}",
            "DATA: 554 5.5.1 no",
            "DATA refused",
        ),
        (
            "{at: body, do: {reply: 452 4.3.1 full}}",
            "Mess: 452 4.3.1 full",
            "in the middle",
        ),
        ("{at: body, do: close}", "Mess: ", "closed in the middle"),
        (
            "{at: dot, do: {reply: 552 5.3.4 full}}",
            "Mess: 552 5.3.4 full",
            "refused at its end",
        ),
        ("{at: dot, do: close}", "Mess: ", "no answer"),
        (
            "{at: dot, do: {half: \"250 2\", then: close}}",
            "Mess: ",
            "half an answer",
        ),
        (
            "{at: rset, do: {reply: 451 4.3.0 no}}",
            "RSET: 451 4.3.0 no",
            "RSET refused",
        ),
        ("{at: quit, do: close}", "QUIT: ", "no farewell"),
        (
            "{at: quit, do: {reply: 451 odd}}",
            "QUIT: 451 odd",
            "another farewell",
        ),
        (
            "{at: between, do: {reply: 421 4.4.2 idle}}",
            "RSET: 421 4.4.2 idle",
            "unilateral 421",
        ),
        ("{at: between, do: close}", "RSET: ", "unilateral close"),
        (
            "{at: rcpt, do: {stall: 100ms}}",
            "usual",
            "a pause changes nothing else",
        ),
        (
            "{at: dot, do: {stall: 100ms, then: close}}",
            "Mess: ",
            "a pause, then nothing",
        ),
        ("{at: dot, do: {slow: 200}}", "usual", "slow, but whole"),
        ("{at: rcpt, do: pass}", "usual", "nothing"),
    ];
    for (rule, want, why) in rows {
        if want == "error" {
            assert!(
                Script::parse("s", &format!("rules: [{rule}]")).is_err(),
                "{rule}: {why}"
            );
            continue;
        }
        let server = with_rule(rule).await;
        let seen = session(&server).await;
        match want {
            "usual" => assert_eq!(seen, [""; 0], "{rule}: {why}"),
            _ => {
                let first = seen.first().map(String::as_str);
                // A client that writes into a closed connection may hear of it in either way.
                let same =
                    first == Some(want) || want.ends_with(": ") && first.is_some_and(|f| f.starts_with(want));
                assert!(same, "{rule}: {why}: {seen:?}");
            }
        }
        let report = server.stop().await;
        let script = report.script.unwrap();
        let strikes = u64::from(!rule.contains("pass"));
        assert_eq!(script.injected["rule 1"], strikes, "{rule}: counted");
    }
}

#[tokio::test]
async fn a_fault_within_a_batch_is_its_own_command_s() {
    let server = with_rule("{at: rcpt, do: {stall: forever}}").await;
    let mut client = Client::connect(server.addr).await;
    client.talk(&[("EHLO c", "250")]).await;
    client.send(b"MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\n").await;
    assert_eq!(client.reply().await, "250 2.1.0 Ok", "what came before is said");
    let begun = Instant::now();
    server.stop().await;
    assert!(begun.elapsed() < PATIENCE, "a stall does not outlast its server");
    assert_eq!(client.reply().await, "", "and nothing else");
}

#[tokio::test]
async fn what_the_sender_heard_is_reported_for_each_message() {
    let server = mailbox(
        "rules:\n- {at: dot, when: {attempt: 1}, keep: true, do: close}\n\
         - {at: dot, when: {attempt: 2}, do: {reply: 451 4.3.0 later}}\n",
    )
    .await;
    for (attempt, want) in [
        "",
        "451 4.3.0 later",
        "250 2.0.0 Ok: message",
        "250 2.0.0 Ok: message",
    ]
    .iter()
    .enumerate()
    {
        let mut client = Client::connect(server.addr).await;
        client.talk(&[("EHLO c", "250")]).await;
        let reply = client.message("a@x", &["b@y"], MESSAGE).await;
        assert!(reply.starts_with(want), "attempt {}: {reply}", attempt + 1);
    }
    let report = server.stop().await;
    let script = report.script.unwrap();
    let want = Answers {
        accepted: 2,
        refused: 1,
        unanswered: 1,
        kept: 3,
        repeated: 1,
    };
    assert_eq!(script.messages["<1@x>"], want);
    assert_eq!(
        (script.repeated, report.messages),
        (1, 3),
        "the last one no fault excuses"
    );
}

#[tokio::test]
async fn handshakes() {
    let rows = [
        ("{certificate: expired}", "certificate expired"),
        ("{certificate: not-yet-valid}", "not valid yet"),
        ("{certificate: wrong-name}", "not valid for name"),
        ("{certificate: unknown-ca}", "UnknownIssuer"),
        ("{tls: \"1.1\"}", "Tls12"),
        ("{alert: access_denied}", "AccessDenied"),
        ("garbage", "InvalidContentType"),
        ("close", "eof"),
        ("reset", "reset"),
        ("{stall: 200ms}", "fine"),
        ("{tls: \"1.3\"}", "fine"),
        ("{tls: \"1.2\"}", "rotocol"),
    ];
    for (fault, want) in rows {
        let server = Running::start(IntakeConfig {
            common: scripted(&format!("rules: [{{at: handshake, do: {fault}}}]")),
            ..IntakeConfig::default()
        })
        .await;
        let mut client = Client::connect(server.addr).await;
        client.talk(&[("EHLO c", "250")]).await;
        let said = match client.starttls(&server.ca, "localhost", false).await {
            Ok(mut client) => {
                client.talk(&[("EHLO c", "250"), ("MAIL FROM:<>", "250")]).await;
                "fine".to_owned()
            }
            Err(error) => error.to_string(),
        };
        assert!(said.contains(want), "{fault}: {said}");
        let report = server.stop().await;
        assert_eq!(report.tls_failures, u64::from(want != "fine"), "{fault}");
    }
}

#[tokio::test]
async fn starttls_may_be_refused_or_not_offered() {
    let server = with_rule("{at: starttls, do: {reply: 454 4.7.0 not now}}").await;
    let mut client = Client::connect(server.addr).await;
    client
        .talk(&[
            ("EHLO c", "250"),
            ("STARTTLS", "454 4.7.0"),
            ("MAIL FROM:<>", "250"),
        ])
        .await;
    let server = with_rule("{at: ehlo, times: 1, do: {without: STARTTLS}}").await;
    let mut client = Client::connect(server.addr).await;
    assert!(!client.say("EHLO c").await.contains("STARTTLS"));
    client.talk(&[("STARTTLS", "502")]).await;
    assert!(
        client.say("EHLO c").await.contains("STARTTLS"),
        "the next one is usual again"
    );
    client.talk(&[("STARTTLS", "220")]).await;
}

#[tokio::test]
async fn a_chunk_is_refused_before_or_after_its_octets() {
    let server = with_rule("{at: data, times: 1, do: {reply: 421 4.3.2 bye}}").await;
    let start = [
        ("EHLO c", "250"),
        ("MAIL FROM:<>", "250"),
        ("RCPT TO:<b@y>", "250"),
    ];
    let mut client = Client::connect(server.addr).await;
    client.talk(&start).await;
    client.talk(&[("BDAT 100 LAST", "421 4.3.2 bye")]).await;
    assert_eq!(client.reply().await, "", "the server has gone");
    let server = with_rule("{at: data, times: 1, do: {reply: 451 4.3.0 later}}").await;
    let mut client = Client::connect(server.addr).await;
    client.talk(&start).await;
    client.send(b"BDAT 6 LAST\r\nhello\nMAIL FROM:<>\r\n").await;
    assert_eq!(client.reply().await, "451 4.3.0 later");
    assert!(client.reply().await.starts_with("250"), "the session is in step");
}

#[tokio::test]
async fn keywords_come_and_go() {
    let rule = "{at: ehlo, do: {without: [PIPELINING, SIZE], with: [REQUIRETLS]}}";
    let server = with_rule(rule).await;
    let mut client = Client::connect(server.addr).await;
    let offer = client.say("EHLO c").await;
    assert!(
        !offer.contains("PIPELINING") && !offer.contains("SIZE"),
        "{offer}"
    );
    assert!(
        offer.contains("REQUIRETLS") && offer.contains("8BITMIME"),
        "{offer}"
    );
    client
        .talk(&[("MAIL FROM:<> SIZE=10", "555"), ("MAIL FROM:<>", "250")])
        .await;
}

#[tokio::test]
async fn a_limit_that_is_offered_is_kept() {
    let server = with_rule("{at: ehlo, do: {with: [SIZE 1000]}}").await;
    let mut client = Client::connect(server.addr).await;
    assert!(client.say("EHLO c").await.contains("SIZE 1000"));
    client
        .talk(&[
            ("MAIL FROM:<> SIZE=1001", "552"),
            ("MAIL FROM:<>", "250"),
            ("RSET", "250"),
        ])
        .await;
    let reply = client.message("", &["b@y"], &large(2000)).await;
    assert!(reply.starts_with("552 5.3.4"), "{reply}");
}

#[tokio::test]
async fn nothing_listens_for_a_while() {
    let server = with_rule("{at: connect, times: 1, do: {refuse: 1s}}").await;
    let (_, greeting) = Client::connect_raw(server.addr).await;
    assert_eq!(greeting, "", "the connection that struck is reset");
    let mut refused = 0;
    let begun = Instant::now();
    loop {
        match TcpStream::connect(server.addr).await {
            Ok(_) => break,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
                refused += 1;
            }
        }
        assert!(begun.elapsed() < PATIENCE, "it never listens again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(refused > 0, "it was refused");
    Client::connect(server.addr)
        .await
        .talk(&[("EHLO c", "250")])
        .await;
}

#[tokio::test]
async fn an_idle_connection_only() {
    let server = with_rule("{at: between, when: {idle: 1s}, times: 1, do: {reply: 421 4.4.2 idle}}").await;
    let mut client = Client::connect(server.addr).await;
    client.talk(&[("EHLO c", "250")]).await;
    for _ in 0..2 {
        let reply = client.message("a@x", &["b@y"], MESSAGE).await;
        assert!(reply.starts_with("250"), "a busy client is left alone: {reply}");
    }
    assert_eq!(client.reply().await, "421 4.4.2 idle");
    assert_eq!(client.reply().await, "");
}

#[tokio::test]
async fn in_the_middle_of_a_large_message() {
    let server = with_rule("{at: body, when: {octets: 300000}, do: {reply: 452 4.3.1 full}}").await;
    let mut client = Client::connect(server.addr).await;
    client.talk(&[("EHLO c", "250")]).await;
    assert!(
        client
            .message("", &["b@y"], &large(200_000))
            .await
            .starts_with("250"),
        "smaller"
    );
    client
        .talk(&[("MAIL FROM:<>", "250"), ("RCPT TO:<b@y>", "250"), ("DATA", "354")])
        .await;
    client.send(&large(400_000)).await;
    assert_eq!(client.reply().await, "452 4.3.1 full", "its dot was not sent yet");
    let report = server.stop().await;
    assert_eq!(report.messages, 1);
}

#[tokio::test]
async fn a_script_that_changes_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("script.yaml");
    std::fs::write(
        &path,
        "rules: [{name: first, at: mail, do: {reply: 451 4.3.0 first}}]",
    )
    .unwrap();
    let server = Running::start(MailboxConfig {
        common: Common {
            script: Some(Script::load(&path).unwrap()),
            ..Common::default()
        },
        ..MailboxConfig::default()
    })
    .await;
    let mut client = Client::connect(server.addr).await;
    client
        .talk(&[("EHLO c", "250"), ("MAIL FROM:<>", "451 4.3.0 first")])
        .await;
    std::fs::write(&path, "rules: [{at: nowhere}]").unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    client.talk(&[("MAIL FROM:<>", "451 4.3.0 first")]).await;
    std::fs::write(
        &path,
        "rules: [{name: second, at: mail, do: {reply: 451 4.3.0 second one}}]",
    )
    .unwrap();
    let begun = Instant::now();
    while !client.say("MAIL FROM:<>").await.contains("second") {
        assert!(begun.elapsed() < PATIENCE, "the change was not seen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let injected = server.stop().await.script.unwrap().injected;
    assert!(injected["first"] >= 2 && injected["second"] == 1, "{injected:?}");
}

#[tokio::test]
async fn a_server_without_tls_takes_no_script_about_it() {
    let error = tdc_simulate::bind(MailboxConfig {
        common: scripted("rules: [{name: bad, at: handshake, do: close}]"),
        ..MailboxConfig::default()
    })
    .await
    .unwrap_err();
    assert!(
        error.to_string().contains("\"bad\" of the script is about TLS"),
        "{error}"
    );
}

#[test]
fn the_examples_of_the_documentation_are_scripts() {
    let docs =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/simulate.md")).unwrap();
    let examples: Vec<_> = docs
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(examples.len() >= 4);
    for example in examples {
        Script::parse("docs/simulate.md", example).unwrap();
    }
}

#[test]
fn errors_say_where_and_what_to_do() {
    let rows = [
        ("", "s.yaml: is empty; write rules"),
        ("rules: 3", "s.yaml:1: rules: is 3; write a list"),
        (
            "seed: x\nrules: []",
            "s.yaml:1: seed: is \"x\"; write a whole number",
        ),
        ("rule: []", "s.yaml:1: rules: is missing"),
        (
            "rules: []\nsed: 1",
            "s.yaml:2: sed: is not a field here; the fields are seed, rules",
        ),
        (
            "rules:\n- at: rcpt\n",
            "s.yaml:2: rules[0].do: is missing; write what happens",
        ),
        (
            "rules:\n- do: close\n",
            "s.yaml:2: rules[0].at: is missing; write a stage: connect",
        ),
        (
            "rules:\n- do: close\n  at: rcp\n",
            "s.yaml:3: rules[0].at: is \"rcp\"; the stages are",
        ),
        (
            "rules:\n- {at: rcpt, odds: 2, do: close}",
            "s.yaml:2: rules[0].odds: is 2; write a share",
        ),
        (
            "rules:\n- {at: rcpt, do: explode}",
            "rules[0].do: is \"explode\"; write close, reset",
        ),
        (
            "rules:\n- {at: rcpt, do: {reply: 99 x}}",
            "rules[0].do.reply: is \"99 x\"; write a code",
        ),
        (
            "rules:\n- {at: rcpt, do: {stall: 5}}",
            "rules[0].do.stall: is 5; write a length of time",
        ),
        (
            "rules:\n- {at: rcpt, do: {half: x, raw: y}}",
            "rules[0].do: does not fit together",
        ),
        (
            "rules:\n- {at: rcpt, do: {alert: x}}",
            "rules[0].do.alert: is \"x\"; write one of close_notify",
        ),
        (
            "rules:\n- {at: rcpt, do: garbage}",
            "rules[0].do: does not fit at: rcpt: it can only spoil",
        ),
        (
            "rules:\n- {at: [ehlo, connect], do: {reply: 421 x}}",
            "does not fit at: connect",
        ),
        (
            "rules:\n- {at: body, do: {reply: 452 x, then: go-on}}",
            "write then: close",
        ),
        (
            "rules:\n- {at: ehlo, do: {without: [X-ODD]}}",
            "rules[0].do.without: is a list; write EHLO keywords",
        ),
        (
            "rules:\n- {at: mail, when: {attempt: 1}, do: close}",
            "rules[0].when.attempt: is not known at mail",
        ),
        (
            "rules:\n- {at: rcpt, when: {connection: 5-2}, do: close}",
            "write a number, as 1, or a range",
        ),
        (
            "rules:\n- {at: rcpt, keep: true, do: close}",
            "rules[0].keep: belongs to at: dot alone",
        ),
        ("rules: []\n---\nrules: []", "is a second document"),
        ("rules: [", "is not valid YAML"),
    ];
    for (text, want) in rows {
        let errors = Script::parse("s.yaml", text).unwrap_err().to_string();
        assert!(errors.contains(want), "{text:?}: wanted {want}, got {errors}");
    }
    let both = "rules:\n- {at: nowhere, do: close}\n- {at: rcpt, do: nothing}";
    assert_eq!(
        Script::parse("s", both).unwrap_err().0.len(),
        2,
        "all of them at once"
    );
    let missing = Script::load(std::path::Path::new("/nonexistent/s.yaml"))
        .unwrap_err()
        .to_string();
    assert!(
        missing.starts_with("/nonexistent/s.yaml: cannot be read"),
        "{missing}"
    );
}
