//! The client side of a session, without I/O.
//!
//! Commands may be queued back to back; replies come out in their order ([`ClientEvent::Reply`]), so a driver that
//! has seen PIPELINING offered may send a whole envelope in one write. Greeting, EHLO (HELO when that is refused and
//! TLS is not required) and STARTTLS are the session's own affair: the first event is [`ClientEvent::Ready`].
//!
//! What always holds: a reply that nobody waits for is an error, never an answer to a later command; octets that
//! were waiting behind the 220 of STARTTLS are refused (they were not protected), and what the server offered before
//! TLS is forgotten; no argument can smuggle a line end into a command.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use crate::capabilities::Extensions;
use crate::data::DataEncoder;
use crate::reply::{Reply, ReplyError, parse_reply};

/// What is asked of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientTls {
    /// STARTTLS is not used.
    Never,
    /// STARTTLS is used where it is offered and accepted.
    IfOffered,
    /// Without STARTTLS the session fails.
    Required,
}

/// What holds for a session.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The name for EHLO.
    pub helo: String,
    /// What is asked of TLS.
    pub tls: ClientTls,
}

/// What a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `MAIL`
    Mail,
    /// `RCPT`
    Rcpt,
    /// `DATA`
    Data,
    /// The final dot.
    Dot,
    /// `BDAT`
    Bdat,
    /// `RSET`
    Rset,
    /// `QUIT`
    Quit,
    /// `XFORWARD`
    Xforward,
}

/// The oldest command without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// None yet: the greeting is awaited.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS.
    StartTls,
    /// The driver shakes hands.
    Handshake,
    /// No command waits.
    Ready,
    /// A command waits.
    Command(Verb),
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// Write the output, then read.
    NeedInput,
    /// Shake hands, then call [`ClientSession::tls_started`].
    StartTls,
    /// Commands may be sent.
    Ready,
    /// A command was answered.
    Reply {
        /// Which.
        to: Verb,
        /// The answer.
        reply: Reply,
    },
}

/// The session cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClientError {
    /// The greeting or EHLO was answered with a refusal.
    #[error("the server refuses the session: {0}")]
    Refused(Reply),
    /// STARTTLS is required and not offered.
    #[error("the server does not offer STARTTLS")]
    TlsNotOffered,
    /// STARTTLS was answered with a refusal.
    #[error("the server refuses STARTTLS: {0}")]
    TlsRefused(Reply),
    /// A reply that nobody waited for.
    #[error("the server says unasked: {0}")]
    Unilateral(Reply),
    /// Not SMTP.
    #[error("the server sends {0}")]
    Malformed(#[from] ReplyError),
    /// Octets behind the 220 of STARTTLS.
    #[error("the server sent data in the clear behind its reply to STARTTLS")]
    DataBehindStartTls,
    /// An argument holds a control character.
    #[error("an address or parameter holds a line end or another control character")]
    Injection,
}

/// One session.
#[derive(Debug)]
pub struct ClientSession {
    config: ClientConfig,
    phase: Setup,
    extensions: Extensions,
    output: BytesMut,
    waiting: VecDeque<Verb>,
    encoder: DataEncoder,
    tls: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setup {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Handshake,
    Done,
}

impl ClientSession {
    /// Waits for the greeting.
    pub fn new(config: ClientConfig) -> Self {
        Self {
            config,
            phase: Setup::Greeting,
            extensions: Extensions::default(),
            output: BytesMut::new(),
            waiting: VecDeque::new(),
            encoder: DataEncoder::new(),
            tls: false,
        }
    }

    /// What the server offers now.
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// True once TLS runs.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Commands without an answer.
    pub fn pending(&self) -> usize {
        self.waiting.len()
    }

    /// The oldest command without an answer.
    pub fn phase(&self) -> Phase {
        match self.phase {
            Setup::Greeting => Phase::Greeting,
            Setup::Ehlo | Setup::Helo => Phase::Ehlo,
            Setup::StartTls => Phase::StartTls,
            Setup::Handshake => Phase::Handshake,
            Setup::Done => self
                .waiting
                .front()
                .map_or(Phase::Ready, |verb| Phase::Command(*verb)),
        }
    }

    /// To be written before the driver reads.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Goes on with what was read.
    ///
    /// # Errors
    /// When the session cannot go on; the connection is to be closed.
    pub fn poll(&mut self, input: &mut BytesMut) -> Result<ClientEvent, ClientError> {
        loop {
            if self.phase == Setup::Handshake {
                return Ok(ClientEvent::StartTls);
            }
            let Some(reply) = parse_reply(input)? else {
                return Ok(ClientEvent::NeedInput);
            };
            if self.phase == Setup::Done {
                let Some(to) = self.waiting.pop_front() else {
                    return Err(ClientError::Unilateral(reply));
                };
                return Ok(ClientEvent::Reply { to, reply });
            }
            if self.set_up(reply, input)? {
                return Ok(ClientEvent::Ready);
            }
        }
    }

    /// One reply of the set-up; true when it is done.
    fn set_up(&mut self, reply: Reply, input: &BytesMut) -> Result<bool, ClientError> {
        match self.phase {
            Setup::Greeting if reply.code() == 220 => self.hello(Setup::Ehlo),
            Setup::Ehlo if reply.is_positive() => return self.offered(&reply),
            Setup::Ehlo if reply.is_permanent() && self.config.tls != ClientTls::Required && !self.tls => {
                self.hello(Setup::Helo);
            }
            Setup::Helo if reply.is_positive() => {
                self.extensions = Extensions::default();
                self.phase = Setup::Done;
                return Ok(true);
            }
            Setup::StartTls if reply.code() == 220 => {
                if !input.is_empty() {
                    return Err(ClientError::DataBehindStartTls);
                }
                self.phase = Setup::Handshake;
            }
            Setup::StartTls if self.config.tls == ClientTls::IfOffered => {
                self.phase = Setup::Done;
                return Ok(true);
            }
            Setup::StartTls => return Err(ClientError::TlsRefused(reply)),
            Setup::Greeting | Setup::Ehlo | Setup::Helo | Setup::Handshake | Setup::Done => {
                return Err(ClientError::Refused(reply));
            }
        }
        Ok(false)
    }

    fn hello(&mut self, phase: Setup) {
        let verb = if phase == Setup::Helo { "HELO " } else { "EHLO " };
        self.phase = phase;
        self.push(&[
            verb,
            &self.config.helo.replace(|c: char| c.is_control() || c == ' ', ""),
        ]);
    }

    fn offered(&mut self, reply: &Reply) -> Result<bool, ClientError> {
        self.extensions = Extensions::from_reply(reply);
        if self.tls || self.config.tls == ClientTls::Never {
            self.phase = Setup::Done;
            return Ok(true);
        }
        if self.extensions.starttls {
            self.phase = Setup::StartTls;
            self.push(&["STARTTLS"]);
            return Ok(false);
        }
        if self.config.tls == ClientTls::Required {
            return Err(ClientError::TlsNotOffered);
        }
        self.phase = Setup::Done;
        Ok(true)
    }

    /// Tells the session that TLS runs: EHLO again (RFC 3207 section 4.2).
    pub fn tls_started(&mut self) {
        self.tls = true;
        self.extensions = Extensions::default();
        self.hello(Setup::Ehlo);
    }

    /// Queues `MAIL FROM`.
    ///
    /// # Errors
    /// [`ClientError::Injection`]; nothing is queued then. The same holds for the other commands.
    pub fn mail(&mut self, address: &str, params: &[String]) -> Result<(), ClientError> {
        self.path_command("MAIL FROM:<", address, params, Verb::Mail)
    }

    /// Queues `RCPT TO`.
    ///
    /// # Errors
    /// As [`Self::mail`].
    pub fn rcpt(&mut self, address: &str, params: &[String]) -> Result<(), ClientError> {
        self.path_command("RCPT TO:<", address, params, Verb::Rcpt)
    }

    /// Queues `DATA`.
    pub fn data(&mut self) {
        self.push(&["DATA"]);
        self.waiting.push_back(Verb::Data);
        self.encoder = DataEncoder::new();
    }

    /// Queues `RSET`.
    pub fn rset(&mut self) {
        self.push(&["RSET"]);
        self.waiting.push_back(Verb::Rset);
    }

    /// Queues `QUIT`.
    pub fn quit(&mut self) {
        self.push(&["QUIT"]);
        self.waiting.push_back(Verb::Quit);
    }

    /// Queues `XFORWARD`; values are written as xtext (RFC 3461 section 4).
    pub fn xforward(&mut self, attributes: &[(&str, &str)]) {
        let words: String = attributes
            .iter()
            .map(|(name, value)| format!(" {name}={}", xtext(value)))
            .collect();
        self.push(&["XFORWARD", &words]);
        self.waiting.push_back(Verb::Xforward);
    }

    /// Queues `BDAT` (RFC 3030 section 2): `size` octets of the message follow, which the driver writes behind the
    /// output, just as they are. The server answers each chunk, and only then: the last chunk ends the message.
    pub fn bdat(&mut self, size: u64, last: bool) {
        let last = if last { " LAST" } else { "" };
        self.push(&["BDAT ", &size.to_string(), last]);
        self.waiting.push_back(Verb::Bdat);
    }

    /// Encodes a piece of the message, after the 354.
    pub fn body(&mut self, chunk: &Bytes, out: &mut Vec<Bytes>) {
        self.encoder.encode(chunk, out);
    }

    /// Encodes the end of the message.
    pub fn end_body(&mut self, out: &mut Vec<Bytes>) {
        self.encoder.finish(out);
        self.waiting.push_back(Verb::Dot);
    }

    fn path_command(
        &mut self,
        head: &str,
        address: &str,
        params: &[String],
        verb: Verb,
    ) -> Result<(), ClientError> {
        let evil = |text: &str| text.chars().any(char::is_control);
        if evil(address) || params.iter().any(|param| evil(param) || param.contains(' ')) {
            return Err(ClientError::Injection);
        }
        self.output.extend_from_slice(head.as_bytes());
        self.output.extend_from_slice(address.as_bytes());
        self.output.extend_from_slice(b">");
        for param in params {
            self.output.extend_from_slice(b" ");
            self.output.extend_from_slice(param.as_bytes());
        }
        self.output.extend_from_slice(b"\r\n");
        self.waiting.push_back(verb);
        Ok(())
    }

    fn push(&mut self, parts: &[&str]) {
        for part in parts {
            self.output.extend_from_slice(part.as_bytes());
        }
        self.output.extend_from_slice(b"\r\n");
    }
}

fn xtext(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_graphic() && byte != b'+' && byte != b'=' {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("+{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
