//! The mail log of the receiving side, line by line, as AsyncOS writes it.

use tdc_tests::process::wait_for;

use crate::rig::Rig;

/// The mail log's lines without their time; each must begin with it.
fn lines(rig: &Rig) -> Vec<String> {
    let log = rig.edge.log();
    let mail = log.lines().filter_map(|line| {
        let (time, text) = line.split_at_checked(24)?;
        let text = text.strip_prefix(" Info: ")?;
        let word = |from: usize, to: usize| &time[from..to];
        assert!(
            ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].contains(&word(0, 3))
                && word(13, 14) == ":"
                && word(20, 24).parse::<u16>().is_ok(),
            "{line}"
        );
        Some(text.to_owned())
    });
    mail.collect()
}

fn number(lines: &[String], from: &str, word: &str) -> u64 {
    let line = lines
        .iter()
        .find(|line| line.starts_with(from))
        .unwrap_or_else(|| panic!("{from} in {lines:#?}"));
    let mut words = line.split(' ').skip_while(|w| *w != word);
    words.nth(1).unwrap().parse().unwrap()
}

#[test]
fn one_message_line_by_line() {
    let rig = Rig::new(&["--log-format", "asyncos"]);
    let mut client = rig.greeted();
    client.says("MAIL FROM:<matt@abc.example>");
    client.says("RCPT TO:<one@y.example>");
    client.says("RCPT TO:<two@y.example>");
    client.says("DATA");
    client.send("Message-ID: <1@abc.example>\r\nSubject: a\r\n\r\nhello\r\n.\r\n");
    assert_eq!(client.code(), 250);
    assert_eq!(client.says("QUIT"), 221);
    let found = wait_for("the connection's end in the log", || {
        Some(lines(&rig)).filter(|lines| {
            lines
                .iter()
                .any(|line| line.ends_with(" close") && line.starts_with("ICID"))
        })
    });
    let icid = number(&found, "New SMTP ICID", "ICID");
    let mid = number(&found, "Start MID", "MID");
    let expected = [
        format!(
            "New SMTP ICID {icid} interface 127.0.0.1 (127.0.0.1) address 127.0.0.1 reverse dns host unknown verified no"
        ),
        format!("ICID {icid} ACCEPT SG None match ALL SBRS not enabled country not enabled"),
        format!("Start MID {mid} ICID {icid}"),
        format!("MID {mid} ICID {icid} From: <matt@abc.example>"),
        format!("MID {mid} ICID {icid} RID 0 To: <one@y.example>"),
        format!("MID {mid} ICID {icid} RID 1 To: <two@y.example>"),
        format!("MID {mid} Message-ID '<1@abc.example>'"),
        format!("MID {mid} ready 50 bytes from <matt@abc.example>"),
        format!("MID {mid} matched all recipients for per-recipient policy DEFAULT in the inbound table"),
        format!(
            "TDC: MID {mid} with Message-ID '<1@abc.example>' enqueued for transfer to Cisco Secure Email Threat Defense \
             with message intake address etd@intake.example"
        ),
        format!("MID {mid} queued for delivery"),
        format!("ICID {icid} close"),
    ];
    let received: Vec<&String> = found
        .iter()
        .filter(|line| {
            ["New SMTP ICID", "ICID", "Start MID", "MID", "TDC: MID"]
                .iter()
                .any(|start| line.starts_with(start))
        })
        .filter(|line| !line.contains("successfully delivered"))
        .collect();
    assert_eq!(received, expected.iter().collect::<Vec<_>>());
}

#[test]
fn a_lost_and_a_refused_connection() {
    let rig = Rig::new(&["--log-format", "asyncos", "--allow-from", "127.0.0.1/32"]);
    let mut client = rig.greeted();
    client.begin();
    drop(client);
    rig.edge.says(" lost");
    rig.edge.says("Message aborted MID 1 Receiving aborted by sender");
    let mut client = crate::limits::from(&rig, "127.0.0.2");
    assert_eq!(client.code(), 554);
    rig.edge
        .says("address 127.0.0.2 reverse dns host unknown verified no");
    rig.edge
        .says(" REJECT SG None match not in the networks that may send SBRS not enabled country not enabled");
}

#[test]
fn the_same_events_as_json() {
    let rig = Rig::new(&[]);
    let mut client = rig.greeted();
    assert_eq!((client.message(), client.says("QUIT")), (250, 221));
    rig.edge.says("\"event\":\"closed\"");
    let events: Vec<serde_json::Value> = rig
        .edge
        .log()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &serde_json::Value| line["target"] == "mail")
        .collect();
    let names: Vec<&str> = events
        .iter()
        .filter_map(|event| event["event"].as_str())
        .collect();
    let receiving = [
        "connected",
        "accepted",
        "started",
        "recipient",
        "ready",
        "matched",
        "enqueued",
        "relayed",
        "closed",
    ];
    let found: Vec<&str> = names
        .into_iter()
        .filter(|name| receiving.contains(name))
        .collect();
    assert_eq!(found, receiving);
    assert_eq!(events[2]["from"], "a@x.example");
    assert!(
        events
            .iter()
            .all(|event| event["timestamp"].is_string() && event["level"] == "INFO")
    );
}
