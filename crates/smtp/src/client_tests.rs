//! The client against scripted servers.

use bytes::BytesMut;
use proptest::prelude::*;

use super::{ClientConfig, ClientError, ClientEvent, ClientSession, ClientTls, Phase, Verb};
use crate::reply::Reply;

fn session(tls: ClientTls) -> ClientSession {
    ClientSession::new(ClientConfig {
        helo: "me.example".into(),
        tls,
    })
}

/// Feeds a server's octets; gives what was written and how it ended.
fn run(session: &mut ClientSession, server: &str) -> (String, Result<ClientEvent, ClientError>) {
    let result = session.poll(&mut BytesMut::from(server));
    (
        String::from_utf8(session.output().split().to_vec()).unwrap(),
        result,
    )
}

#[test]
fn set_up() {
    let ehlo = "220 hi\r\n250-x\r\n250-STARTTLS\r\n250 PIPELINING\r\n";
    let plain = "220 hi\r\n250-x\r\n250 PIPELINING\r\n";
    let cases = [
        (
            ClientTls::Never,
            ehlo.to_owned(),
            Ok(ClientEvent::Ready),
            "no TLS wanted",
        ),
        (
            ClientTls::IfOffered,
            plain.to_owned(),
            Ok(ClientEvent::Ready),
            "not offered, not required",
        ),
        (
            ClientTls::IfOffered,
            format!("{ehlo}454 no\r\n"),
            Ok(ClientEvent::Ready),
            "refused, not required",
        ),
        (
            ClientTls::Required,
            plain.to_owned(),
            Err(ClientError::TlsNotOffered),
            "not offered",
        ),
        (
            ClientTls::Required,
            format!("{ehlo}454 no\r\n"),
            Err(ClientError::TlsRefused(Reply::new(454, "no"))),
            "refused",
        ),
        (
            ClientTls::Required,
            format!("{ehlo}220 go\r\n"),
            Ok(ClientEvent::StartTls),
            "TLS",
        ),
        (
            ClientTls::Required,
            format!("{ehlo}220 go\r\n250 injected\r\n"),
            Err(ClientError::DataBehindStartTls),
            "data in the clear behind the 220",
        ),
        (
            ClientTls::Never,
            "220 hi\r\n502 no\r\n250 x\r\n".to_owned(),
            Ok(ClientEvent::Ready),
            "HELO after EHLO is refused",
        ),
        (
            ClientTls::Required,
            "220 hi\r\n502 no\r\n".to_owned(),
            Err(ClientError::Refused(Reply::new(502, "no"))),
            "no HELO when TLS is required",
        ),
        (
            ClientTls::Never,
            "554 no\r\n".to_owned(),
            Err(ClientError::Refused(Reply::new(554, "no"))),
            "the greeting",
        ),
        (
            ClientTls::Never,
            "220 hi\r\n421 busy\r\n".to_owned(),
            Err(ClientError::Refused(Reply::new(421, "busy"))),
            "EHLO",
        ),
        (
            ClientTls::Never,
            "220-a\r\n".to_owned(),
            Ok(ClientEvent::NeedInput),
            "half a greeting",
        ),
    ];
    for (tls, server, expected, why) in cases {
        let mut client = session(tls);
        // A driver reads one flight at a time; octets behind STARTTLS's 220 are the exception that must be seen.
        let (_, result) = run(&mut client, &server);
        assert_eq!(result, expected, "{why}");
    }
}

#[test]
fn what_was_offered_before_tls_is_forgotten() {
    let mut client = session(ClientTls::Required);
    let (_, event) = run(
        &mut client,
        "220 hi\r\n250-x\r\n250-STARTTLS\r\n250 PIPELINING\r\n220 go\r\n",
    );
    assert_eq!(event, Ok(ClientEvent::StartTls));
    assert_eq!(client.phase(), Phase::Handshake);
    client.tls_started();
    assert!(!client.extensions().pipelining);
    let (written, event) = run(&mut client, "250-x\r\n250-STARTTLS\r\n250 SIZE 10\r\n");
    assert_eq!(
        (written.as_str(), event),
        ("EHLO me.example\r\n", Ok(ClientEvent::Ready)),
        "not STARTTLS again"
    );
    assert_eq!(client.extensions().size, Some(10));
}

#[test]
fn commands_are_answered_in_order() {
    let mut client = session(ClientTls::Never);
    run(&mut client, "220 hi\r\n250 x\r\n").1.unwrap();
    client.xforward(&[("NAME", "a b"), ("ADDR", "::1")]);
    client.mail("a@b", &["SIZE=10".into()]).unwrap();
    client.rcpt("c@d", &[]).unwrap();
    client.data();
    let mut input = BytesMut::from("250 x\r\n250 mail\r\n550 rcpt\r\n554 data\r\n421 bye\r\n");
    let mut replies = Vec::new();
    let error = loop {
        match client.poll(&mut input) {
            Ok(ClientEvent::Reply { to, reply }) => replies.push((to, reply.code())),
            other => break other,
        }
    };
    assert_eq!(
        replies,
        [
            (Verb::Xforward, 250),
            (Verb::Mail, 250),
            (Verb::Rcpt, 550),
            (Verb::Data, 554)
        ]
    );
    assert_eq!(error, Err(ClientError::Unilateral(Reply::new(421, "bye"))));
    let written = String::from_utf8(client.output().to_vec()).unwrap();
    assert_eq!(
        written,
        "XFORWARD NAME=a+20b ADDR=::1\r\nMAIL FROM:<a@b> SIZE=10\r\nRCPT TO:<c@d>\r\nDATA\r\n"
    );
}

#[test]
fn chunks_are_counted_and_answered_one_by_one() {
    let mut client = session(ClientTls::Never);
    run(&mut client, "220 hi\r\n250-x\r\n250 CHUNKING\r\n").1.unwrap();
    assert!(client.extensions().chunking);
    client.mail("", &[]).unwrap();
    client.rcpt("c@d", &[]).unwrap();
    client.bdat(5, false);
    client.output().extend_from_slice(b"\r\n.\r\n");
    client.bdat(0, true);
    assert_eq!(
        client.output().split(),
        "MAIL FROM:<>\r\nRCPT TO:<c@d>\r\nBDAT 5\r\n\r\n.\r\nBDAT 0 LAST\r\n",
        "octets that look like an end of data are octets"
    );
    let mut input = BytesMut::from("250 a\r\n250 b\r\n250 c\r\n552 d\r\n");
    let mut replies = Vec::new();
    while let Ok(ClientEvent::Reply { to, reply }) = client.poll(&mut input) {
        replies.push((to, reply.code()));
    }
    assert_eq!(
        replies,
        [
            (Verb::Mail, 250),
            (Verb::Rcpt, 250),
            (Verb::Bdat, 250),
            (Verb::Bdat, 552)
        ]
    );
    assert_eq!(client.pending(), 0);
}

#[test]
fn no_argument_smuggles_a_command() {
    let mut client = session(ClientTls::Never);
    for address in ["a\r\nRSET", "a\nb", "a\0b"] {
        assert_eq!(client.mail(address, &[]), Err(ClientError::Injection));
        assert_eq!(client.rcpt("a@b", &[address.into()]), Err(ClientError::Injection));
    }
    assert!(client.output().is_empty());
}

proptest! {
    #[test]
    fn any_octets_at_any_split(octets in prop::collection::vec(any::<u8>(), 0..300), step in 1..40_usize) {
        let mut client = session(ClientTls::IfOffered);
        let mut input = BytesMut::new();
        for chunk in octets.chunks(step) {
            input.extend_from_slice(chunk);
            while let Ok(ClientEvent::Reply { .. } | ClientEvent::Ready) = client.poll(&mut input) {}
        }
    }
}
