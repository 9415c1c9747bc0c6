//! The client session against a server that says anything: what it writes is whole commands, its count of replies is
//! right, cuts make no difference, and no argument becomes a second command.

#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use tdc_smtp::{ClientConfig, ClientError, ClientEvent, ClientSession, ClientTls, Verb};
use tdc_smtp_fuzz::{Reads, header, is_normal, meaning};

/// Messages that the driver sends on one connection.
const MESSAGES: usize = 3;
const MESSAGE: &[u8] = b".first\r\n\r\nline\r\n.\r\n..\r\n";

fuzz_target!(|data: &[u8]| {
    let Some(([flags, recipients, a, b], wire)) = header(data) else {
        return;
    };
    let run = |reads| Run::new(flags, recipients).drive(reads);
    let (whole, cut) = (run(Reads::whole(wire)), run(Reads::cut(wire, [a, b])));
    if whole.refused_plaintext() || cut.refused_plaintext() {
        // What waits behind the reply to STARTTLS depends on the reads: up to there they agree.
        let shorter = whole.seen.len().min(cut.seen.len()).saturating_sub(1);
        assert_eq!(whole.seen[..shorter], cut.seen[..shorter]);
    } else {
        assert_eq!(whole.seen, cut.seen, "cuts make no difference to what happens");
        assert_eq!(whole.said, cut.said, "nor to what is said");
    }
    arguments(&String::from_utf8_lossy(wire.get(..300).unwrap_or(wire)));
});

/// One session and what a driver sees of it.
struct Run {
    session: ClientSession,
    recipients: usize,
    messages: usize,
    seen: Vec<String>,
    said: Vec<u8>,
}

impl Run {
    fn new(flags: u8, recipients: u8) -> Self {
        let tls = match flags % 3 {
            0 => ClientTls::Never,
            1 => ClientTls::IfOffered,
            _ => ClientTls::Required,
        };
        let config = ClientConfig {
            helo: "mx.example".to_owned(),
            tls,
        };
        let session = ClientSession::new(config);
        let recipients = usize::from(recipients % 4) + 1;
        Self {
            session,
            recipients,
            messages: 0,
            seen: Vec::new(),
            said: Vec::new(),
        }
    }

    fn refused_plaintext(&self) -> bool {
        let mark = format!("{:?}", ClientError::DataBehindStartTls);
        self.seen.last().is_some_and(|last| *last == mark)
    }

    fn drive(mut self, reads: Reads<'_>) -> Self {
        let mut input = BytesMut::new();
        for piece in reads {
            input.extend_from_slice(piece);
            loop {
                match self.session.poll(&mut input) {
                    Ok(ClientEvent::NeedInput) => break,
                    Ok(event) => self.event(event),
                    Err(error) => {
                        self.seen.push(format!("{error:?}"));
                        self.flush();
                        assert!(
                            is_normal(&self.said) && (self.said.is_empty() || self.said.ends_with(b"\r\n"))
                        );
                        return self;
                    }
                }
            }
            self.flush();
        }
        assert!(is_normal(&self.said) && (self.said.is_empty() || self.said.ends_with(b"\r\n")));
        self
    }

    fn flush(&mut self) {
        let output = self.session.output().split();
        self.said.extend_from_slice(&output);
    }

    fn event(&mut self, event: ClientEvent) {
        self.seen.push(format!("{event:?}"));
        match event {
            ClientEvent::NeedInput => {}
            ClientEvent::StartTls => self.session.tls_started(),
            ClientEvent::Ready => {
                assert_eq!(self.session.pending(), 0);
                if !self.session.extensions().xforward.is_empty() {
                    self.session
                        .xforward(&[("ADDR", "192.0.2.1"), ("HELO", "a b+=\r\n\u{fc}")]);
                    assert_eq!(self.session.pending(), 1);
                }
                self.envelope();
            }
            ClientEvent::Reply {
                to: Verb::Data,
                reply,
            } if reply.is_intermediate() => self.message(),
            ClientEvent::Reply {
                to: Verb::Data | Verb::Dot,
                ..
            } if self.messages < MESSAGES => {
                self.session.rset();
                self.envelope();
            }
            ClientEvent::Reply {
                to: Verb::Data | Verb::Dot,
                ..
            } => self.session.quit(),
            ClientEvent::Reply { .. } => {}
        }
    }

    /// A whole envelope at once, as a driver does that has seen PIPELINING.
    fn envelope(&mut self) {
        self.messages += 1;
        let before = self.session.pending();
        self.session
            .mail("sender@a.example", &["SIZE=20".to_owned()])
            .expect("a good address");
        for _ in 0..self.recipients {
            self.session
                .rcpt("recipient@b.example", &[])
                .expect("a good address");
        }
        self.session.data();
        assert_eq!(self.session.pending(), before + self.recipients + 2);
    }

    fn message(&mut self) {
        let mut out = Vec::new();
        self.flush();
        self.session.body(&Bytes::from_static(MESSAGE), &mut out);
        self.session.end_body(&mut out);
        let wire = out.concat();
        let read = meaning(&wire);
        assert_eq!(read.message, MESSAGE);
        assert_eq!(
            read.length,
            Some(wire.len()),
            "the data ends where we say it ends"
        );
        self.said.extend_from_slice(&wire);
    }
}

/// Whatever stands in an argument, at most one line is queued, or none.
fn arguments(text: &str) {
    let config = ClientConfig {
        helo: text.to_owned(),
        tls: ClientTls::Never,
    };
    let mut session = ClientSession::new(config);
    let mut input = BytesMut::from("220 mx\r\n");
    session.poll(&mut input).expect("a good greeting");
    assert_one_line(&session.output().split());

    let (address, param) = text.split_once('/').unwrap_or((text, ""));
    for sent in [
        session.mail(address, &[param.to_owned()]),
        session.rcpt(address, &[param.to_owned()]),
    ] {
        assert!(matches!(sent, Ok(()) | Err(ClientError::Injection)));
    }
    let output = session.output().split();
    let lines = output
        .split_inclusive(|b| *b == b'\n')
        .inspect(|line| assert_one_line(line))
        .count();
    assert_eq!(
        lines,
        session.pending(),
        "one line for each reply that is awaited"
    );
}

fn assert_one_line(line: &[u8]) {
    let text = line.strip_suffix(b"\r\n").expect("a command ends in CRLF");
    assert!(!text.iter().any(u8::is_ascii_control), "{}", line.escape_ascii());
}
