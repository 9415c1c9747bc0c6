//! The server session against scripts, at every split.

use std::sync::Arc;

use bytes::BytesMut;
use proptest::prelude::*;

use super::{BodyFault, CloseReason, ServerConfig, ServerEvent, ServerSession};
use crate::capabilities::Extensions;
use crate::data::BareLf;
use crate::reply::Reply;

pub(super) fn config() -> ServerConfig {
    let extensions = Extensions {
        pipelining: true,
        size: Some(1000),
        eight_bit_mime: true,
        chunking: true,
        starttls: true,
        ..Extensions::default()
    };
    ServerConfig {
        hostname: "mx".into(),
        extensions,
        max_recipients: 3,
        max_errors: 5,
        ..ServerConfig::default()
    }
}

/// A driver that says yes to everything but recipients that begin with `no`; gives codes, messages, and the end.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub(super) struct Run {
    pub(super) codes: Vec<u16>,
    pub(super) messages: Vec<(Vec<u8>, Option<BodyFault>)>,
    pub(super) closed: Option<CloseReason>,
    pub(super) starttls: bool,
}

pub(super) fn drive(config: ServerConfig, wire: &[u8], step: usize) -> Run {
    drive_pieces(config, wire.chunks(step))
}

/// The same with these reads.
pub(super) fn drive_pieces<'a>(config: ServerConfig, pieces: impl IntoIterator<Item = &'a [u8]>) -> Run {
    let mut session = ServerSession::new(Arc::new(config));
    let mut run = Run::default();
    let mut input = BytesMut::new();
    let mut body = Vec::new();
    let mut output = Vec::new();
    for chunk in pieces {
        input.extend_from_slice(chunk);
        loop {
            match session.poll(&mut input) {
                ServerEvent::NeedInput => break,
                ServerEvent::Greeted | ServerEvent::Reset | ServerEvent::Xforward(_) => {}
                ServerEvent::Mail(_) => session.answer(Reply::new(250, "ok")),
                ServerEvent::Rcpt(rcpt) => {
                    let no = rcpt.address.starts_with("no");
                    session.answer(Reply::new(if no { 550 } else { 250 }, "x"));
                }
                ServerEvent::Xclient(_) => {
                    let greeting = session.greeting();
                    session.answer(greeting);
                }
                ServerEvent::Data => session.answer(Reply::new(354, "go")),
                ServerEvent::Body(piece) => body.extend_from_slice(&piece),
                ServerEvent::BodyEnd(end) => {
                    // How much of a message that is too big was handed out depends on the splits.
                    body.truncate(if end.fault == Some(BodyFault::TooBig) {
                        0
                    } else {
                        usize::MAX
                    });
                    run.messages.push((std::mem::take(&mut body), end.fault));
                    let code = if end.fault.is_some() { 552 } else { 250 };
                    session.answer(Reply::new(code, "done"));
                }
                ServerEvent::StartTls => {
                    run.starttls = true;
                    session.tls_started();
                }
                ServerEvent::Close(reason) => {
                    run.closed = Some(reason);
                    break;
                }
            }
        }
        output.extend_from_slice(&session.output().split());
        if run.closed.is_some() {
            break;
        }
    }
    let text = String::from_utf8(output).unwrap();
    run.codes = text
        .lines()
        .filter(|line| line.as_bytes().get(3) == Some(&b' '))
        .map(|line| line[..3].parse().unwrap())
        .collect();
    run
}

#[test]
fn sessions() {
    let ok = "EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";
    let cases: [(String, &[u16], &str); 23] = [
        (
            format!("{ok}DATA\r\nx\r\n.\r\nQUIT\r\n"),
            &[220, 250, 250, 250, 354, 250, 221],
            "a message",
        ),
        ("MAIL FROM:<a@b>\r\n".into(), &[220, 503], "no EHLO"),
        (
            "EHLO c\r\nRCPT TO:<a@b>\r\nDATA\r\n".into(),
            &[220, 250, 503, 503],
            "no MAIL",
        ),
        (
            "EHLO c\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\n".into(),
            &[220, 250, 250, 503],
            "MAIL twice",
        ),
        (
            "EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<no@b>\r\nDATA\r\n".into(),
            &[220, 250, 250, 550, 554],
            "no recipient",
        ),
        (
            format!("{ok}RCPT TO:<2@d>\r\nRCPT TO:<3@d>\r\nRCPT TO:<4@d>\r\n"),
            &[220, 250, 250, 250, 250, 250, 452],
            "too many",
        ),
        (
            format!("{ok}RSET\r\nDATA\r\n"),
            &[220, 250, 250, 250, 250, 503],
            "RSET ends the transaction",
        ),
        (
            format!("{ok}EHLO c\r\nDATA\r\n"),
            &[220, 250, 250, 250, 250, 503],
            "so does EHLO",
        ),
        (
            "EHLO c\r\nMAIL FROM:<a@b> SIZE=2000\r\n".into(),
            &[220, 250, 552],
            "declared too big",
        ),
        (
            format!("{ok}DATA\r\n{}\r\n.\r\nNOOP\r\n", "x".repeat(1001)),
            &[220, 250, 250, 250, 354, 552, 250],
            "too big",
        ),
        (
            format!("NOOP {}\r\nNOOP\r\n", "x".repeat(5000)),
            &[220, 500, 250],
            "a long line, and still in step",
        ),
        (
            "HELO c\r\nVRFY a\r\nHELP\r\nEXPN a\r\nQUIT\r\n".into(),
            &[220, 250, 252, 214, 500, 221],
            "others",
        ),
        ("GET / HTTP/1.1\r\n".into(), &[220, 221], "HTTP"),
        ("\x16\x03\x01\r\n".into(), &[220, 221], "TLS without STARTTLS"),
        (
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\nEHLO c\r\n".into(),
            &[220, 421],
            "a PROXY header",
        ),
        (
            "x\r\n".repeat(9),
            &[220, 500, 500, 500, 500, 500, 421],
            "too many errors",
        ),
        (
            format!("{ok}BDAT 3\r\na\r\nBDAT 3 LAST\r\nb\r\nNOOP\r\n"),
            &[220, 250, 250, 250, 250, 250, 250],
            "BDAT",
        ),
        (
            format!("{ok}BDAT 0 LAST\r\nNOOP\r\n"),
            &[220, 250, 250, 250, 250, 250],
            "an empty BDAT",
        ),
        (
            "EHLO c\r\nBDAT 5\r\nNOOP\nNOOP\r\n".into(),
            &[220, 250, 503, 250],
            "a refused chunk is read",
        ),
        (
            "EHLO c\r\nMAIL FROM:<a@b>\r\nBDAT 2 LAST\r\nxyRCPT TO:<c@d>\r\nDATA\r\n.\r\n".into(),
            &[220, 250, 250, 554, 250, 354, 250],
            "a chunk before any recipient does not end the transaction",
        ),
        (
            format!("{ok}BDAT 2\r\nabDATA\r\n"),
            &[220, 250, 250, 250, 250, 503],
            "DATA after BDAT",
        ),
        (
            format!("{ok}BDAT 2\r\nabRSET\r\nDATA\r\n"),
            &[220, 250, 250, 250, 250, 250, 503],
            "RSET after BDAT",
        ),
        (
            "EHLO c\nMAIL FROM:<a@b>\n".into(),
            &[220, 250, 250],
            "bare LF in commands, normalised",
        ),
    ];
    for (wire, codes, why) in cases {
        let whole = drive(config(), wire.as_bytes(), wire.len());
        assert_eq!(whole.codes, codes, "{why}");
        for step in 1..wire.len().min(40) {
            assert_eq!(
                drive(config(), wire.as_bytes(), step),
                whole,
                "{why}, step {step}"
            );
        }
    }
}

#[test]
fn chunks_are_one_message() {
    let wire = b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<c@d>\r\nBDAT 4\r\n.\r\naBDAT 1\r\n\rBDAT 4 LAST\r\n\nb\0\rQUIT\r\n";
    for step in 1..wire.len() {
        let run = drive(config(), wire, step);
        assert_eq!(
            run.messages,
            [(b".\r\na\r\nb  \r\n".to_vec(), None)],
            "step {step}"
        );
        assert_eq!(run.closed, Some(CloseReason::Quit));
    }
}

#[test]
fn data_behind_starttls_ends_the_session() {
    let wire = b"EHLO c\r\nSTARTTLS\r\nMAIL FROM:<evil@x>\r\n";
    let run = drive(config(), wire, wire.len());
    assert_eq!(run.codes, [220, 250, 554]);
    assert_eq!(run.closed, Some(CloseReason::PlaintextBehindStartTls));
    let mut session = ServerSession::new(Arc::new(config()));
    let mut input = BytesMut::from(&b"EHLO c\r\nMAIL FROM:<a@b>\r\nSTARTTLS\r\n"[..]);
    assert_eq!(session.poll(&mut input), ServerEvent::Greeted);
    assert!(matches!(session.poll(&mut input), ServerEvent::Mail(_)));
    session.answer(Reply::new(250, "ok"));
    assert_eq!(session.poll(&mut input), ServerEvent::StartTls);
    session.tls_started();
    assert!(
        !session.in_transaction() && session.helo().is_none(),
        "all state is new"
    );
    let mut input = BytesMut::from(&b"EHLO c\r\nSTARTTLS\r\n"[..]);
    session.output().clear();
    assert_eq!(session.poll(&mut input), ServerEvent::Greeted);
    assert!(
        !String::from_utf8_lossy(session.output()).contains("STARTTLS"),
        "not offered again"
    );
    assert_eq!(session.poll(&mut input), ServerEvent::NeedInput);
    assert!(
        session
            .output()
            .ends_with(b"554 5.5.1 Error: TLS already active\r\n")
    );
}

#[test]
fn bare_lf_can_be_refused() {
    let reject = || ServerConfig {
        bare_lf: BareLf::Reject,
        ..config()
    };
    let wire = b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<c@d>\r\nDATA\r\na\nb\r\n.\r\nNOOP\r\n";
    let run = drive(reject(), wire, wire.len());
    assert_eq!(run.messages[0].1, Some(BodyFault::BareLf));
    assert_eq!(
        run.codes,
        [220, 250, 250, 250, 354, 552, 250],
        "the message is read to its end, then refused"
    );
    let run = drive(reject(), b"EHLO c\n", 7);
    assert_eq!(
        (run.codes, run.closed),
        (vec![220, 550], Some(CloseReason::BareLf))
    );
}

#[test]
fn tls_can_be_required_and_sessions_shut_down() {
    let required = ServerConfig {
        tls_required: true,
        ..config()
    };
    let run = drive(required, b"EHLO c\r\nMAIL FROM:<>\r\nNOOP\r\n", 99);
    assert_eq!(run.codes, [220, 250, 530, 250]);
    let mut session = ServerSession::new(Arc::new(config()));
    session.shutdown();
    assert_eq!(
        session.poll(&mut BytesMut::new()),
        ServerEvent::Close(CloseReason::Shutdown)
    );
    let mut session = ServerSession::new(Arc::new(config()));
    let mut input = BytesMut::from(&b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRSET\r\n"[..]);
    session.poll(&mut input);
    session.poll(&mut input);
    session.answer(Reply::new(250, "ok"));
    session.shutdown();
    assert!(
        matches!(session.poll(&mut input), ServerEvent::Rcpt(_)),
        "an open transaction goes on"
    );
    session.answer(Reply::new(250, "ok"));
    assert_eq!(session.poll(&mut input), ServerEvent::Reset);
    assert_eq!(
        session.poll(&mut input),
        ServerEvent::Close(CloseReason::Shutdown),
        "and then it is over"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn splits_make_no_difference(
        words in prop::collection::vec(prop_oneof![
            Just("EHLO c\r\n".to_owned()), Just("MAIL FROM:<a@b>\r\n".to_owned()),
            Just("RCPT TO:<c@d>\r\n".to_owned()), Just("RCPT TO:<no@d>\r\n".to_owned()),
            Just("DATA\r\n".to_owned()), Just("BDAT 3\r\n".to_owned()), Just("BDAT 2 LAST\r\n".to_owned()),
            Just(".\r\n".to_owned()), Just("x\n".to_owned()), Just("\r".to_owned()), Just("RSET\r\n".to_owned()),
            Just("NOOP\r\n".to_owned()), "[ -~]{0,12}",
        ], 0..25),
        step in 1..30_usize,
    ) {
        let wire = words.concat();
        let whole = drive(config(), wire.as_bytes(), wire.len().max(1));
        prop_assert_eq!(drive(config(), wire.as_bytes(), step), whole);
    }

    #[test]
    fn any_octets(octets in prop::collection::vec(any::<u8>(), 0..400), step in 1..50_usize) {
        drive(config(), &octets, step);
    }
}
