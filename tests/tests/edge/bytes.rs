//! Whatever the client sends, however it is split: one message, the same octets at the next hop and in the copy.

use std::time::Duration;

use tdc_core::journal::unwrap;

use crate::client::Client;
use crate::rig::Rig;

/// What a smuggled message would begin with.
const HIDDEN: &str =
    "MAIL FROM:<evil@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\nhidden: yes\r\n\r\nhidden\r\n.\r\n";

/// Ends of data that other servers take for one, as the public suites send them.
const FAKE_ENDS: [&str; 18] = [
    "\n.\n",
    "\n.\r\n",
    "\r\n.\n",
    "\r.\r",
    "\r\n.\r",
    "\r.\r\n",
    "\r\n\r.\r\n",
    "\n.\r",
    "\r.\n",
    "\r\n.\0\r\n",
    "\r\n\0.\r\n",
    "\r\n.\r\r\n",
    "\r\r\n.\r\r\n",
    "\n\n.\r\n",
    "\n.\n\r\n",
    "\r\n.\t\r\n",
    "\r\n. \r\n",
    "\0.\r\n",
];

fn is_clean(message: &[u8]) -> bool {
    let pairs = message.windows(2).filter(|pair| pair == b"\r\n").count();
    let count = |octet| message.iter().filter(|b| **b == octet).count();
    count(0) == 0 && count(b'\r') == pairs && count(b'\n') == pairs
}

/// Exactly one more message is at the next hop and at the intake: the same, clean, and with the hidden text inside.
fn arrived(rig: &Rig, number: usize, why: &str) {
    let mailbox = rig.mailbox();
    assert_eq!(mailbox.len(), number, "{why}: one message, not two");
    let original = &mailbox[number - 1];
    assert_eq!(original.from(), "a@x.example", "{why}");
    assert!(
        is_clean(&original.bytes),
        "{why}: {}",
        original.bytes.escape_ascii()
    );
    assert!(
        original.bytes.windows(6).any(|window| window == b"hidden"),
        "{why}: it stays content: {}",
        original.bytes.escape_ascii()
    );
    let copy = &rig.intake(number)[number - 1].bytes;
    let copied = &copy[unwrap(copy).unwrap().original];
    assert!(
        copied == original.bytes,
        "{why}: {} and {}",
        copied.escape_ascii(),
        original.bytes.escape_ascii()
    );
}

fn paced(client: &mut Client, wire: &[u8], split: usize) {
    client.send(&wire[..split]);
    std::thread::sleep(Duration::from_millis(2));
    client.send(&wire[split..]);
}

#[test]
fn only_the_exact_end_of_data_ends_it() {
    let rig = Rig::new(&[]);
    let mut client = rig.greeted();
    let mut number = 0;
    for fake in FAKE_ENDS {
        // The hidden commands' own lines are content, up to the one exact end.
        let wire = format!("From: a@x.example\r\n\r\nbefore{fake}{HIDDEN}");
        for split in [
            wire.len(),
            wire.find("before").unwrap() + 7,
            wire.find("before").unwrap() + 8,
        ] {
            client.begin();
            paced(&mut client, wire.as_bytes(), split.min(wire.len()));
            assert_eq!(client.code(), 250, "{fake:?}");
            number += 1;
            arrived(&rig, number, &format!("{fake:?} at {split}"));
        }
    }
    assert_eq!(client.says("QUIT"), 221, "in step all the time");
}

#[test]
fn chunks_hold_no_commands() {
    let rig = Rig::new(&[]);
    let mut client = rig.greeted();
    for (number, fake) in FAKE_ENDS.iter().enumerate() {
        assert_eq!(client.says("MAIL FROM:<a@x.example>"), 250);
        assert_eq!(client.says("RCPT TO:<b@y.example>"), 250);
        let wire = format!("From: a@x.example\r\n\r\nbefore{fake}{HIDDEN}");
        let (first, second) = wire.as_bytes().split_at(wire.find("before").unwrap() + 8);
        client.send([format!("BDAT {}\r\n", first.len()).as_bytes(), first].concat());
        client.send([format!("BDAT {} LAST\r\n", second.len()).as_bytes(), second].concat());
        assert_eq!((client.code(), client.code()), (250, 250), "{fake:?}");
        arrived(&rig, number + 1, &format!("BDAT {fake:?}"));
    }
}

#[test]
fn bare_lf_is_rejected_when_it_is_to_be() {
    let rig = Rig::new(&["--bare-lf", "reject"]);
    let mut client = rig.greeted();
    client.begin();
    client.send("A: b\r\n\r\na\nb\r\n.\r\n");
    let reply = client.reply().unwrap();
    assert_eq!(
        reply, "550 5.5.2 Error: bare <LF> received\r\n",
        "read to its end, then refused"
    );
    client.says("MAIL FROM:<a@x.example>");
    client.says("RCPT TO:<b@y.example>");
    client.send("BDAT 4 LAST\r\na\nb\n");
    assert_eq!(client.code(), 550, "chunks too");
    assert_eq!(client.message(), 250, "the session goes on");
    client.send("NOOP\n");
    assert_eq!(client.reply().unwrap(), reply, "a command ends the session");
    assert!(client.is_closed());
    assert_eq!(rig.mailbox().len(), 1);
    rig.reaches("tdc_ingress_messages_total{outcome=\"bare_lf\"}", 2.0);
    rig.reaches("tdc_ingress_sessions_closed_total{reason=\"bare_lf\"}", 1.0);
}

#[test]
fn commands_behind_a_command_that_must_be_last() {
    let rig = Rig::new(&[]);
    for (wire, why) in [
        ("EHLO c\r\nMAIL FROM:<a@x.example>\r\n", "EHLO"),
        ("HELO c\r\nMAIL FROM:<a@x.example>\r\n", "HELO"),
        ("NOOP\r\nNOOP\r\n", "NOOP"),
        ("VRFY a\r\nNOOP\r\n", "VRFY"),
    ] {
        let mut client = rig.client();
        client.code();
        client.send(wire);
        assert_eq!(
            client.reply().unwrap(),
            "554 5.5.0 Error: SMTP protocol synchronization\r\n",
            "{why}"
        );
        assert!(client.is_closed(), "{why}");
    }
    let mut client = rig.greeted();
    client.send("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n.\r\n");
    assert_eq!(
        (client.code(), client.code(), client.code()),
        (250, 250, 554),
        "a body before 354"
    );
    let mut client = rig.greeted();
    client.send("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n");
    assert_eq!(
        (client.code(), client.code(), client.code()),
        (250, 250, 354),
        "a group as it should be"
    );
    client.send(".\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nBDAT 3 LAST\r\na\r\nQUIT\r\n");
    let codes: Vec<u16> = (0..5).map(|_| client.code()).collect();
    assert_eq!(
        codes,
        [250, 250, 250, 250, 221],
        "behind the end of data, and behind chunks"
    );
    // Whoever must, may switch it off.
    let rig = Rig::new(&["--forbid-unauth-pipelining", "false"]);
    let mut client = rig.client();
    client.send("EHLO c\r\nNOOP\r\nQUIT\r\n");
    assert_eq!(
        (client.code(), client.code(), client.code(), client.code()),
        (220, 250, 250, 221)
    );
}
