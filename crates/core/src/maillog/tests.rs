use super::{MAX_VALUE, MailEvent, Value, asyncos_time};
use proptest::prelude::*;

fn address(text: &str) -> std::net::SocketAddr {
    text.parse().unwrap()
}

/// Every line of which a sample of the original is public.
#[test]
fn connections_read_as_in_the_original() {
    let (protocol, cipher): (String, String) = ("TLSv1.2".into(), "ECDHE-RSA-AES256-SHA384".into());
    let cases = [
        (
            MailEvent::Connected {
                icid: 3160,
                local: address("10.10.1.12:25"),
                peer: address("[::ffff:10.10.1.5]:4711"),
                host: None,
            },
            "New SMTP ICID 3160 interface 10.10.1.12 (10.10.1.12) address 10.10.1.5 reverse dns host unknown verified no",
        ),
        (
            MailEvent::Connected {
                icid: 5,
                local: address("10.1.1.1:25"),
                peer: address("10.1.1.209:4711"),
                host: Some("remotehost.com".into()),
            },
            "New SMTP ICID 5 interface 10.1.1.1 (10.1.1.1) address 10.1.1.209 reverse dns host remotehost.com verified yes",
        ),
        (
            MailEvent::Refused {
                icid: 282194765,
                reason: "not in the networks that may send",
            },
            "ICID 282194765 REJECT SG None match not in the networks that may send SBRS not enabled country not enabled",
        ),
        (
            MailEvent::Accepted { icid: 3160 },
            "ICID 3160 ACCEPT SG None match ALL SBRS not enabled country not enabled",
        ),
        (
            MailEvent::TlsAccepted {
                icid: 7,
                protocol: protocol.clone(),
                cipher: cipher.clone(),
            },
            "ICID 7 TLS success protocol TLSv1.2 cipher ECDHE-RSA-AES256-SHA384",
        ),
        (
            MailEvent::TlsRefused {
                icid: 4,
                reason: "[Errno 54] Connection reset by peer".into(),
            },
            "ICID 4 TLS failed: [Errno 54] Connection reset by peer",
        ),
        (MailEvent::Closed { icid: 3160 }, "ICID 3160 close"),
        (MailEvent::Lost { icid: 10304580 }, "ICID 10304580 lost"),
        (
            MailEvent::IntakeConnected {
                dcid: 30,
                local: address("10.13.102.10:4711"),
                peer: address("10.13.101.31:25"),
            },
            "TDC: New SMTP DCID 30 interface 10.13.102.10 address 10.13.101.31 port 25",
        ),
        (
            MailEvent::IntakeTls {
                dcid: 30,
                protocol,
                cipher,
            },
            "DCID 30 TLS success protocol TLSv1.2 cipher ECDHE-RSA-AES256-SHA384",
        ),
        (
            MailEvent::IntakeConnectionError {
                dcid: 36,
                peer: "10.10.0.3:25".into(),
                details: "timeout".into(),
            },
            "TDC: Connection Error: DCID 36 domain: the.tdc.queue IP: 10.10.0.3 port: 25 details: timeout \
             interface: 0.0.0.0 reason: network error",
        ),
        (
            MailEvent::IntakeConnectionError {
                dcid: 36,
                peer: "[2001:db8::3]:2525".into(),
                details: "EOF".into(),
            },
            "TDC: Connection Error: DCID 36 domain: the.tdc.queue IP: 2001:db8::3 port: 2525 details: EOF \
             interface: :: reason: network error",
        ),
        (MailEvent::IntakeClosed { dcid: 30 }, "DCID 30 close"),
    ];
    for (event, line) in cases {
        assert_eq!(event.asyncos(), line);
    }
}

#[test]
fn messages_read_as_in_the_original() {
    let matched = |recipients, all| MailEvent::Matched {
        mid: 5,
        policy: "mail_policy_one".into(),
        recipients,
        all,
    };
    let cases = [
        (
            MailEvent::Started {
                mid: 64855,
                icid: 3160,
                sender: "matt@abc.com".into(),
            },
            "Start MID 64855 ICID 3160\nMID 64855 ICID 3160 From: <matt@abc.com>",
        ),
        (
            MailEvent::Started {
                mid: 1,
                icid: 2,
                sender: String::new(),
            },
            "Start MID 1 ICID 2\nMID 1 ICID 2 From: <>",
        ),
        (
            MailEvent::Recipient {
                mid: 64855,
                icid: 3160,
                rid: 0,
                recipient: "matthew@cisco.com".into(),
            },
            "MID 64855 ICID 3160 RID 0 To: <matthew@cisco.com>",
        ),
        (
            MailEvent::MessageId {
                mid: 64855,
                message_id: "<op.1@mathew.cisco.com>".into(),
            },
            "MID 64855 Message-ID '<op.1@mathew.cisco.com>'",
        ),
        (
            MailEvent::Ready {
                mid: 64855,
                size: 494,
                sender: "matt@abc.com".into(),
            },
            "MID 64855 ready 494 bytes from <matt@abc.com>",
        ),
        (
            matched(3, true),
            "MID 5 matched all recipients for per-recipient policy mail_policy_one in the inbound table",
        ),
        (
            matched(1, false),
            "MID 5 matched 1 recipient for per-recipient policy mail_policy_one in the inbound table",
        ),
        (
            matched(2, false),
            "MID 5 matched 2 recipients for per-recipient policy mail_policy_one in the inbound table",
        ),
        (
            MailEvent::Relayed {
                mid: 64855,
                reply: "250 ok".into(),
            },
            "MID 64855 queued for delivery",
        ),
        (
            MailEvent::Aborted {
                mid: 346002679,
                reason: "Dropped by filter 'FileType'".into(),
            },
            "Message aborted MID 346002679 Dropped by filter 'FileType'",
        ),
    ];
    for (event, line) in cases {
        assert_eq!(event.asyncos(), line);
    }
}

#[test]
fn copies_read_as_in_the_original() {
    let nx = "DNS Hard Error looking up esa.example.com (MX):  NXDomain";
    let cases = [
        (
            MailEvent::Enqueued {
                mid: 171,
                message_id: "<1@vm>".into(),
                intake: "test@esa.example.com".into(),
                delivery_id: "01J".into(),
            },
            "TDC: MID 171 with Message-ID '<1@vm>' enqueued for transfer to Cisco Secure Email Threat Defense with \
             message intake address test@esa.example.com",
        ),
        (
            MailEvent::DeliveryStarted {
                mid: 14501404,
                dcid: 4566150,
            },
            "TDC: Delivery start DCID 4566150 MID 14501404",
        ),
        (
            MailEvent::Delivered {
                mid: 14501404,
                dcid: 1,
                delivery_id: String::new(),
                reply: String::new(),
            },
            "TDC: MID 14501404 successfully delivered for scanning with Cisco Secure Email Threat Defense.\n\
             Message finished MID 14501404 done",
        ),
        (
            MailEvent::IntakeTlsFailed {
                mid: 1450012,
                dcid: 9,
                reason: "STARTTLS unexpected response".into(),
            },
            "DCID 9 TLS failed: STARTTLS unexpected response\n\
             TDC: MID 1450012 delivery failed to Cisco Secure Email Threat Defense:TLS Error.",
        ),
        (
            MailEvent::HardBounced {
                mid: 171,
                dcid: 0,
                code: 0,
                status: "5.1.2",
                text: "Bad destination host",
                detail: nx.into(),
            },
            "TDC: Hard bounced - 5.1.2 - Bad destination host ('000', 'DNS Hard Error looking up esa.example.com \
             (MX):  NXDomain')\n\
             TDC: MID 171 delivery failed to Cisco Secure Email Threat Defense: Hard Bounced.\n\
             Bounced: DCID 0 MID 171 to RID 0 - Bounced by destination server with response: 5.1.2 - Bad destination \
             host ('000', ['DNS Hard Error looking up esa.example.com (MX):  NXDomain'])",
        ),
        (
            MailEvent::SoftBounced {
                mid: 4,
                dcid: 5,
                code: 466,
                status: "4.1.0",
                text: "Unknown address error",
                detail: "Mailbox temporarily full.".into(),
            },
            "Delayed: DCID 5 MID 4 to RID 0 - 4.1.0 - Unknown address error ('466', ['Mailbox temporarily full.']) []",
        ),
        (
            MailEvent::Expired {
                mid: 4,
                dcid: 5,
                delivery_id: String::new(),
                detail: "timeout".into(),
            },
            "Bounced: DCID 5 MID 4 to RID 0 - 5.4.7 - Delivery expired (message too old) ('000', ['timeout'])",
        ),
        (
            MailEvent::PossibleDelivery {
                mid: 8956463,
                dcid: 4641294,
                delivery_id: String::new(),
            },
            "Possible Delivery: DCID: 4641294 MID 8956463 to [0]",
        ),
    ];
    for (event, line) in cases {
        assert_eq!(event.asyncos(), line);
        assert!(!event.fields().is_empty(), "{line}");
    }
}

#[test]
fn time_is_that_of_ctime() {
    for (unix, text) in [
        (0, "Thu Jan  1 00:00:00 1970"),
        (1_073_401_398, "Tue Jan  6 15:03:18 2004"),
        (1_708_140_762, "Sat Feb 17 03:32:42 2024"),
        (4_107_542_399, "Sun Feb 28 23:59:59 2100"),
    ] {
        assert_eq!(asyncos_time(unix), text);
    }
}

proptest! {
    #[test]
    fn nobody_outside_writes_a_line_of_their_own(text in "\\PC*|(?s).{0,1500}", other in "(?s).{0,40}") {
        let started = MailEvent::Started { mid: 1, icid: 2, sender: text.clone() };
        prop_assert_eq!(started.asyncos().split('\n').count(), 2);
        let events = [
            MailEvent::MessageId { mid: 1, message_id: text.clone() },
            MailEvent::RecipientRefused { mid: 1, icid: 2, recipient: text.clone(), reply: other.clone() },
            MailEvent::IntakeConnectionError { dcid: 1, peer: other.clone(), details: text.clone() },
            MailEvent::TlsAccepted { icid: 1, protocol: other, cipher: text },
        ];
        for event in events {
            let line = event.asyncos();
            prop_assert!(!line.contains(super::is_hidden), "{:?}", line);
            prop_assert!(line.len() < 2 * MAX_VALUE + 200);
            for (_, value) in event.fields() {
                if let Value::Text(text) = value {
                    prop_assert!(!text.contains(super::is_hidden));
                    prop_assert!(text.len() <= MAX_VALUE + '…'.len_utf8());
                }
            }
        }
    }
}
