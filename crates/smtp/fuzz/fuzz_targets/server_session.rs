//! The server session under any octets, cuts, configuration and answers: it keeps the order of a transaction, its
//! output is replies, what waits is bounded, and cuts make no difference.

#![no_main]

use std::sync::Arc;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tdc_smtp::proxy::MAX_V2;
use tdc_smtp::{BareLf, BodyFault, CloseReason, Extensions, Reply, ServerConfig, ServerEvent, ServerSession};
use tdc_smtp_fuzz::{Reads, header, is_normal, replies};

const MAX_LINE: usize = 200;
const MAX_RECIPIENTS: usize = 3;
/// The limit on the header section (octets).
const MAX_HEADER: u64 = 40;
/// The limit on message size, where one is set (octets).
const SIZE: u64 = 60;

fuzz_target!(|data: &[u8]| {
    let Some(([flags, answers, a, b], wire)) = header(data) else {
        return;
    };
    let whole = Run::new(flags, answers).drive(Reads::whole(wire));
    let cut = Run::new(flags, answers).drive(Reads::cut(wire, [a, b]));
    if whole.refused_plaintext() || cut.refused_plaintext() {
        // What waits behind STARTTLS depends on the reads, and it must end the session: up to there they agree.
        let shorter = whole.seen.len().min(cut.seen.len()).saturating_sub(1);
        assert_eq!(whole.seen[..shorter], cut.seen[..shorter]);
    } else {
        assert_eq!(whole.seen, cut.seen, "cuts make no difference to what happens");
        assert_eq!(whole.said, cut.said, "nor to what is said");
    }
});

fn config(flags: u8) -> ServerConfig {
    let on = |bit: u8| flags & (1 << bit) != 0;
    ServerConfig {
        hostname: "mx".to_owned(),
        extensions: Extensions {
            pipelining: true,
            size: on(0).then_some(SIZE),
            eight_bit_mime: on(1),
            starttls: on(2),
            chunking: on(3),
            smtputf8: on(4),
            dsn: on(4),
            xforward: names(on(5)),
            xclient: names(on(5)),
            ..Extensions::default()
        },
        max_line: MAX_LINE,
        max_recipients: MAX_RECIPIENTS,
        max_header: MAX_HEADER,
        max_messages: 5,
        bare_lf: if on(6) { BareLf::Reject } else { BareLf::Normalize },
        tls_required: on(7),
        ..ServerConfig::default()
    }
}

fn names(on: bool) -> Vec<String> {
    on.then(|| "ADDR".to_owned()).into_iter().collect()
}

/// One session and what a driver sees of it.
struct Run {
    session: ServerSession,
    limit: Option<u64>,
    tls_required: bool,
    answers: u8,
    seen: Vec<String>,
    said: Vec<u8>,
    body: Vec<u8>,
    mail: bool,
    recipients: usize,
    in_body: bool,
    /// The body was refused; if it came as BDAT, the transaction ends with its last chunk and no event.
    refused: bool,
}

impl Run {
    fn new(flags: u8, answers: u8) -> Self {
        let config = config(flags);
        Self {
            limit: config.extensions.size,
            tls_required: config.tls_required,
            session: ServerSession::new(Arc::new(config)),
            answers,
            seen: Vec::new(),
            said: Vec::new(),
            body: Vec::new(),
            mail: false,
            recipients: 0,
            in_body: false,
            refused: false,
        }
    }

    fn refused_plaintext(&self) -> bool {
        let mark = format!("{:?}", CloseReason::PlaintextBehindStartTls);
        self.seen.last().is_some_and(|last| last.contains(&mark))
    }

    fn drive(mut self, reads: Reads<'_>) -> Self {
        let mut input = BytesMut::new();
        for piece in reads {
            input.extend_from_slice(piece);
            while self.step(&mut input) {}
            self.said.extend_from_slice(&self.session.output().split());
            if self.seen.last().is_some_and(|last| last.starts_with("Close")) {
                break;
            }
            assert!(input.len() <= MAX_LINE.max(MAX_V2), "{} octets wait", input.len());
            assert!(self.session.in_transaction() == self.mail || self.refused);
        }
        replies(&self.said);
        self
    }

    /// One event; `false` when the driver has to read or to close.
    fn step(&mut self, input: &mut BytesMut) -> bool {
        let event = self.session.poll(input);
        if !matches!(event, ServerEvent::NeedInput | ServerEvent::Body(_)) {
            self.seen.push(format!("{event:?}"));
        }
        match event {
            ServerEvent::NeedInput => return false,
            ServerEvent::Close(reason) => {
                assert_eq!(
                    self.session.poll(input),
                    ServerEvent::Close(reason),
                    "closed is closed"
                );
                return false;
            }
            ServerEvent::Mail(mail) => {
                assert!(!self.mail || self.refused);
                assert!(self.session.is_tls() || !self.tls_required);
                self.forget();
                assert!(self.limit.is_none_or(|limit| mail.size.unwrap_or(0) <= limit));
                self.mail = self.answer(250).is_positive();
            }
            ServerEvent::Rcpt(rcpt) => {
                assert!(self.mail && !rcpt.address.is_empty() && self.recipients < MAX_RECIPIENTS);
                self.recipients += usize::from(self.answer(250).is_positive());
            }
            ServerEvent::Data => {
                assert!(self.mail && self.recipients > 0);
                self.in_body = self.answer(354).is_intermediate();
                self.refused = !self.in_body;
            }
            ServerEvent::Body(piece) => {
                assert!(self.in_body && !piece.is_empty());
                self.body.extend_from_slice(&piece);
            }
            ServerEvent::BodyEnd(end) => self.body_end(end),
            ServerEvent::Greeted | ServerEvent::Reset => self.forget(),
            ServerEvent::Xforward(attributes) => assert!(!attributes.is_empty()),
            ServerEvent::Xclient(attributes) => {
                assert!(!attributes.is_empty() && !self.session.in_transaction());
                if self.answer(220).is_positive() {
                    assert!(self.session.helo().is_none(), "the session begins anew");
                }
            }
            ServerEvent::StartTls => {
                assert!(input.is_empty() && !self.session.is_tls());
                self.session.tls_started();
                self.forget();
                assert!(self.session.helo().is_none(), "all state is new");
            }
        }
        true
    }

    fn body_end(&mut self, end: tdc_smtp::BodyEnd) {
        assert!(self.in_body);
        let too_big = self.limit.is_some_and(|limit| end.size > limit);
        assert_eq!(end.fault == Some(BodyFault::TooBig), too_big);
        if too_big {
            assert!(
                self.body.len() as u64 <= SIZE,
                "what is over the limit is not handed out"
            );
        } else if end.fault == Some(BodyFault::HeaderTooBig) {
            assert!(end.size > MAX_HEADER);
            assert!((self.body.len() as u64) < end.size);
        } else {
            assert_eq!(end.size, self.body.len() as u64);
            assert!(is_normal(&self.body));
            self.seen
                .push(format!("{:?}", self.body.escape_ascii().to_string()));
        }
        self.answer(250);
        self.forget();
    }

    /// The transaction is over.
    fn forget(&mut self) {
        (self.mail, self.recipients, self.in_body, self.refused) = (false, 0, false, false);
        self.body.clear();
    }

    /// Answers with this code, or now and then with another one.
    fn answer(&mut self, code: u16) -> Reply {
        self.answers = self.answers.rotate_left(3).wrapping_add(29);
        let code = match self.answers {
            0..16 => 550,
            16..32 => 451,
            32..36 => 421,
            _ => code,
        };
        let reply = Reply::new(code, "the next hop's words");
        self.session.answer(reply.clone());
        reply
    }
}
