//! The server side of a session, without I/O.
//!
//! The driver calls [`ServerSession::poll`] with what it has read, until it hears [`ServerEvent::NeedInput`]; only
//! then does it write [`ServerSession::output`] and read on, so that the replies to pipelined commands leave in one
//! write (RFC 2920). Commands that need a decision come out as events, which the driver must
//! [`answer`](ServerSession::answer) before it polls again; everything else the session answers itself.
//!
//! What always holds: at most one event waits for an answer; the order of commands is that of RFC 5321 section
//! 4.1.4; after STARTTLS nothing that was said before counts, and octets that were already waiting behind it end the
//! session (RFC 3207 section 6).

mod ahead;
mod body;
#[cfg(test)]
mod bytes_tests;
mod commands;
#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod tests;

pub use ahead::Ahead;

use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::memchr;

use crate::capabilities::Extensions;
use crate::command::{MailFrom, RcptTo};
use crate::data::{BareLf, DataDecoder};
use crate::proxy::{ProxyStatus, proxy_header};
use crate::reply::Reply;

/// Octets of a line that is too long which are passed over before the session is ended; a client that is merely
/// clumsy gets 500 and stays in step.
const MAX_SKIP: usize = 1024 * 1024;

/// What holds for all sessions of a listener.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The name in the greeting.
    pub hostname: String,
    /// What EHLO offers; `size` is also the limit that is enforced. `starttls` is no longer offered once TLS runs.
    pub extensions: Extensions,
    /// Octets of a command line, its end included.
    pub max_line: usize,
    /// Accepted recipients of one message.
    pub max_recipients: usize,
    /// Octets of the header section of a message.
    pub max_header: u64,
    /// Messages of one session; `MAIL` for one more gets 421.
    pub max_messages: u32,
    /// Errors (5xx replies of the session itself) before each more asks for a delay:
    /// [`ServerSession::take_penalty`].
    pub soft_errors: u32,
    /// Errors before the session is closed with 421. A message that is taken resets the count.
    pub max_errors: u32,
    /// Commands that do nothing (NOOP, RSET, VRFY, HELP, tiny chunks) before each more counts as an error.
    pub max_junk: u32,
    /// What to do with a bare LF.
    pub bare_lf: BareLf,
    /// Commands other than EHLO, NOOP, RSET, QUIT and STARTTLS get 530 until TLS runs.
    pub tls_required: bool,
    /// Ends a session in which octets wait behind a command that must be the last of its group (RFC 2920).
    pub forbid_unauth_pipelining: bool,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            hostname: "localhost".to_owned(),
            extensions: Extensions::default(),
            max_line: 2048,
            max_recipients: 1000,
            max_header: 256 * 1024,
            max_messages: 10_000,
            soft_errors: 10,
            max_errors: 20,
            max_junk: 100,
            bare_lf: BareLf::Normalize,
            tls_required: false,
            forbid_unauth_pipelining: false,
        }
    }
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerEvent {
    /// Write the output, then read.
    NeedInput,
    /// EHLO or HELO was answered; a transaction, if there was one, is over.
    Greeted,
    /// Answer: may this sender send?
    Mail(MailFrom),
    /// Answer: is this recipient taken?
    Rcpt(RcptTo),
    /// Answer with 354 to take the body, or with a refusal.
    Data,
    /// A piece of the message, decoded and normalised.
    Body(Bytes),
    /// The body is over. Answer: is the message taken? The transaction ends with the answer.
    BodyEnd(BodyEnd),
    /// RSET was answered; the transaction is over.
    Reset,
    /// `XFORWARD` was answered; the attributes as they came.
    Xforward(Vec<(String, String)>),
    /// `XCLIENT`: the attributes as they came, none of them checked. Answer with 220 to begin the session anew for
    /// that client, or with a refusal.
    Xclient(Vec<(String, String)>),
    /// Write the output, shake hands, then call [`ServerSession::tls_started`].
    StartTls,
    /// Write the output, then close.
    Close(CloseReason),
}

/// The end of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyEnd {
    /// Decoded octets.
    pub size: u64,
    /// Why the message must not be taken.
    pub fault: Option<BodyFault>,
}

/// What is wrong with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFault {
    /// Larger than the limit; what was over it was not handed out. `552 5.3.4`.
    TooBig,
    /// A header section larger than [`ServerConfig::max_header`]; the message was not handed out from there on.
    /// `552 5.3.4`.
    HeaderTooBig,
    /// A bare LF, and [`BareLf::Reject`]. `550 5.5.2`.
    BareLf,
}

/// A limit that a client met and that did not end its session by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// A command line: [`ServerConfig::max_line`].
    Line,
    /// Recipients: [`ServerConfig::max_recipients`].
    Recipients,
    /// The size that `MAIL` declares.
    DeclaredSize,
    /// Errors: [`ServerConfig::soft_errors`].
    SoftErrors,
    /// Commands that do nothing: [`ServerConfig::max_junk`].
    Junk,
}

impl Limit {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::Line,
        Self::Recipients,
        Self::DeclaredSize,
        Self::SoftErrors,
        Self::Junk,
    ];
}

/// Why the session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// QUIT.
    Quit,
    /// More than [`ServerConfig::max_errors`].
    TooManyErrors,
    /// More than [`ServerConfig::max_messages`].
    TooManyMessages,
    /// Octets waited behind a command that must be the last of its group.
    UnauthorizedPipelining,
    /// A command line that does not end.
    EndlessLine,
    /// HTTP, or another protocol.
    NotSmtp,
    /// Octets waited behind STARTTLS.
    PlaintextBehindStartTls,
    /// A PROXY header on a listener that is not made for it.
    ProxyHeader,
    /// A command ended in a bare LF, and [`BareLf::Reject`].
    BareLf,
    /// [`ServerSession::shutdown`].
    Shutdown,
    /// The session has lasted as long as it may.
    Lifetime,
    /// The session was idle, and its place was needed.
    Evicted,
    /// The driver answered 421.
    Answered421,
}

#[derive(Debug)]
enum State {
    /// Before the first octet.
    First,
    Command,
    /// An event waits for its answer.
    Waiting(Question),
    /// In a line that is too long: octets of it that were passed over.
    SkipLine(usize),
    Body(Body),
    /// In a chunk: octets that remain, and whether it is the last.
    Chunk(Body, u64, bool),
    Closed(CloseReason),
}

#[derive(Debug)]
enum Question {
    Mail,
    Rcpt,
    Data,
    /// The first BDAT, with its size and whether it is the last.
    FirstChunk(u64, bool),
    End,
    Xclient,
}

/// A body on its way.
#[derive(Debug)]
struct Body {
    decoder: DataDecoder,
    pieces: std::collections::VecDeque<Bytes>,
    scratch: Vec<Bytes>,
    /// Octets of chunks that are not decided yet.
    chunk: BytesMut,
    too_big: bool,
    header: body::HeaderMeter,
    header_too_big: bool,
    /// The message was refused: octets are swallowed, and this is the answer to each chunk.
    refused: Option<Reply>,
    /// The chunk belongs to no message: refusing it changes nothing.
    stray: bool,
    ended: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Transaction {
    recipients: usize,
    /// `RCPT` commands that were asked about, taken or not.
    asked: usize,
    /// BDAT was used: DATA is not allowed any more.
    chunked: bool,
    smtputf8: bool,
}

/// One session.
#[derive(Debug)]
pub struct ServerSession {
    config: Arc<ServerConfig>,
    offered: Extensions,
    state: State,
    output: BytesMut,
    tls: bool,
    helo: Option<String>,
    esmtp: bool,
    transaction: Option<Transaction>,
    chunks: Option<Body>,
    errors: u32,
    junk: u32,
    messages: u32,
    penalty: u32,
    /// How often each [`Limit`] was met since it was last asked for.
    met: [u32; Limit::ALL.len()],
    /// What to say at the next command boundary outside of a transaction.
    ending: Option<(Reply, CloseReason)>,
}

impl ServerSession {
    /// A new session; the greeting is in the output.
    pub fn new(config: Arc<ServerConfig>) -> Self {
        let mut session = Self {
            offered: config.extensions.clone(),
            config,
            state: State::First,
            output: BytesMut::new(),
            tls: false,
            helo: None,
            esmtp: false,
            transaction: None,
            chunks: None,
            errors: 0,
            junk: 0,
            messages: 0,
            penalty: 0,
            met: [0; Limit::ALL.len()],
            ending: None,
        };
        session.say(&session.greeting());
        session
    }

    /// The greeting: also the answer that accepts an XCLIENT.
    pub fn greeting(&self) -> Reply {
        Reply::new(220, format!("{} ESMTP", self.config.hostname))
    }

    /// Tells the session that TLS runs: everything begins anew (RFC 3207 section 4.2), without a greeting.
    pub fn tls_started(&mut self) {
        self.tls = true;
        self.offered.starttls = false;
        self.restart();
        self.state = State::Command;
    }

    /// Replaces what is offered, from the next command on. The reply to the last EHLO has been given already.
    pub fn offer(&mut self, extensions: Extensions) {
        self.offered = extensions;
    }

    /// True once TLS runs.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The name that the client gave.
    pub fn helo(&self) -> Option<&str> {
        self.helo.as_deref()
    }

    /// The client said EHLO.
    pub fn is_esmtp(&self) -> bool {
        self.esmtp
    }

    /// MAIL was accepted and the transaction is not over.
    pub fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// True while octets of a message are awaited, not a command.
    pub fn in_body(&self) -> bool {
        matches!(self.state, State::Body(_) | State::Chunk(..))
    }

    /// How many errors beyond the soft limit were made since this was last asked: the replies to them should be
    /// delayed (RFC 5321 section 7.8 allows it; Postfix sleeps a second for each).
    pub fn take_penalty(&mut self) -> u32 {
        std::mem::take(&mut self.penalty)
    }

    /// How often each limit was met since this was last asked.
    pub fn take_met(&mut self) -> impl Iterator<Item = (Limit, u32)> + use<> {
        let met = std::mem::take(&mut self.met);
        Limit::ALL.into_iter().zip(met).filter(|(_, count)| *count > 0)
    }

    /// Takes the name that an XCLIENT gave in the client's place; it holds until the next EHLO or HELO.
    pub fn set_helo(&mut self, name: String, esmtp: bool) {
        self.helo = Some(name);
        self.esmtp = esmtp;
    }

    /// Replies to be written.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// At the next command that begins outside of a transaction: 421, and close.
    pub fn shutdown(&mut self) {
        let reply = Reply::new(421, "4.3.2 The server is shutting down");
        self.end(reply, CloseReason::Shutdown);
    }

    /// Ends the session with this reply at the next command that begins outside of a transaction; the first reason
    /// given counts.
    pub fn end(&mut self, reply: Reply, reason: CloseReason) {
        self.ending.get_or_insert((reply, reason));
    }

    /// Goes on with what was read. Octets that belong to later commands stay in the input.
    pub fn poll(&mut self, input: &mut BytesMut) -> ServerEvent {
        loop {
            let event = match &self.state {
                State::Closed(reason) => return ServerEvent::Close(*reason),
                State::Waiting(_) => {
                    debug_assert!(false, "the driver polls before it has answered");
                    return ServerEvent::NeedInput;
                }
                State::First => self.first(input),
                State::SkipLine(skipped) => self.skip_line(*skipped, input),
                State::Command => self.command_line(input),
                State::Body(_) | State::Chunk(..) => self.body(input),
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    /// Answers the event that was handed out last.
    pub fn answer(&mut self, reply: Reply) {
        let State::Waiting(question) = std::mem::replace(&mut self.state, State::Command) else {
            debug_assert!(false, "nothing was asked");
            return;
        };
        match question {
            Question::FirstChunk(size, last) => {
                let mut body = Body::new(DataDecoder::for_chunks());
                // The octets of a refused chunk follow all the same; the reply comes after them.
                body.refused = (!reply.is_intermediate()).then_some(reply);
                self.state = State::Chunk(body, size, last);
                return;
            }
            Question::Mail if !reply.is_positive() => self.transaction = None,
            Question::Rcpt => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.asked += 1;
                    transaction.recipients += usize::from(reply.is_positive());
                }
            }
            Question::Xclient if reply.is_positive() => self.restart(),
            Question::Data if reply.is_intermediate() => {
                self.state = State::Body(Body::new(DataDecoder::new()));
            }
            Question::Mail | Question::Data | Question::Xclient => {}
            Question::End => {
                self.transaction = None;
                self.messages += 1;
                if reply.is_positive() {
                    self.errors = 0;
                    self.junk = 0;
                }
            }
        }
        self.say(&reply);
        if reply.code() == 421 {
            self.state = State::Closed(CloseReason::Answered421);
        }
    }

    /// Nothing that was said before counts.
    fn restart(&mut self) {
        self.esmtp = false;
        self.helo = None;
        self.transaction = None;
        self.chunks = None;
    }

    fn meet(&mut self, limit: Limit) {
        self.met[limit as usize] += 1;
    }

    fn say(&mut self, reply: &Reply) {
        reply.write_to(&mut self.output);
    }

    /// A reply of the session's own that counts as the client's error.
    fn error(&mut self, reply: &Reply) {
        self.errors += 1;
        if self.errors > self.config.max_errors {
            self.close(
                &Reply::new(421, "4.7.0 Error: too many errors"),
                CloseReason::TooManyErrors,
            );
            return;
        }
        if self.errors > self.config.soft_errors {
            self.penalty += 1;
            self.meet(Limit::SoftErrors);
        }
        self.say(reply);
    }

    fn close(&mut self, reply: &Reply, reason: CloseReason) {
        self.say(reply);
        self.state = State::Closed(reason);
    }

    /// The first octets tell another protocol from SMTP.
    fn first(&mut self, input: &mut BytesMut) -> Option<ServerEvent> {
        if self.is_ending() {
            return None;
        }
        match proxy_header(input) {
            ProxyStatus::Incomplete => return Some(ServerEvent::NeedInput),
            ProxyStatus::NotProxy => self.state = State::Command,
            ProxyStatus::Header { .. } | ProxyStatus::Invalid(_) => {
                let reply = Reply::new(421, "4.3.2 This port takes no PROXY protocol header");
                self.close(&reply, CloseReason::ProxyHeader);
            }
        }
        None
    }

    /// Says goodbye when the session is to end and no transaction is open.
    fn is_ending(&mut self) -> bool {
        if self.transaction.is_some() {
            return false;
        }
        let Some((reply, reason)) = self.ending.take() else {
            return false;
        };
        self.close(&reply, reason);
        true
    }

    fn skip_line(&mut self, skipped: usize, input: &mut BytesMut) -> Option<ServerEvent> {
        if self.is_ending() {
            return None;
        }
        let end = memchr(b'\n', input);
        let skipped = skipped + end.unwrap_or(input.len());
        if skipped > MAX_SKIP {
            self.close(&too_long(421), CloseReason::EndlessLine);
            return None;
        }
        match end {
            Some(end) => {
                input.advance(end + 1);
                self.state = State::Command;
                self.meet(Limit::Line);
                self.error(&too_long(500));
                None
            }
            None => {
                input.clear();
                self.state = State::SkipLine(skipped);
                Some(ServerEvent::NeedInput)
            }
        }
    }

    fn command_line(&mut self, input: &mut BytesMut) -> Option<ServerEvent> {
        if self.is_ending() {
            return None;
        }
        if input.first().is_some_and(|first| !begins_command(*first)) {
            self.not_smtp();
            return None;
        }
        let Some(end) = memchr(b'\n', input) else {
            if input.len() >= self.config.max_line {
                self.state = State::SkipLine(0);
                return None;
            }
            return Some(ServerEvent::NeedInput);
        };
        let line = input.split_to(end + 1).freeze();
        if line.len() > self.config.max_line {
            self.meet(Limit::Line);
            self.error(&too_long(500));
            return None;
        }
        let line = &line[..end];
        let line = match line.strip_suffix(b"\r") {
            Some(line) => line,
            None if self.config.bare_lf == BareLf::Normalize => line,
            None => {
                self.close(
                    &Reply::new(550, "5.5.2 Error: bare <LF> received"),
                    CloseReason::BareLf,
                );
                return None;
            }
        };
        if is_http(line) {
            self.not_smtp();
            return None;
        }
        self.command(line, input)
    }

    fn not_smtp(&mut self) {
        self.close(
            &Reply::new(221, "2.7.0 This is an SMTP server"),
            CloseReason::NotSmtp,
        );
    }
}

fn too_long(code: u16) -> Reply {
    let class = code / 100;
    Reply::new(code, format!("{class}.5.6 Error: line too long"))
}

/// Whether a line that begins so may be a command, or is an empty one.
fn begins_command(first: u8) -> bool {
    first.is_ascii_alphabetic() || matches!(first, b'\r' | b'\n')
}

/// The first word of an HTTP request, or of a proxied one.
fn is_http(line: &[u8]) -> bool {
    let verb = line.split(|b| *b == b' ').next().unwrap_or(line);
    [
        &b"GET"[..],
        b"POST",
        b"PUT",
        b"HEAD",
        b"OPTIONS",
        b"CONNECT",
        b"DELETE",
        b"PATCH",
        b"TRACE",
        b"PRI",
    ]
    .iter()
    .any(|http| verb.eq_ignore_ascii_case(http))
}
