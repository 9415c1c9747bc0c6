//! One handler for each command.

use bytes::BytesMut;

use super::{CloseReason, Limit, Question, ServerEvent, ServerSession, State, Transaction};
use crate::command::{self, Command, MailFrom, RcptTo};
use crate::reply::Reply;

/// Octets of a chunk below which it counts as a command that does nothing, unless it is the last.
const TINY_CHUNK: u64 = 512;

impl ServerSession {
    pub(super) fn command(&mut self, line: &[u8], input: &BytesMut) -> Option<ServerEvent> {
        let command = match command::parse(line, &self.offered) {
            Ok(command) => command,
            Err(reply) => {
                if reply.code() == 552 {
                    self.meet(Limit::DeclaredSize);
                }
                self.error(&reply);
                return None;
            }
        };
        if self.config.forbid_unauth_pipelining && !input.is_empty() && command.ends_group() {
            let reply = Reply::new(554, "5.5.0 Error: SMTP protocol synchronization");
            self.close(&reply, CloseReason::UnauthorizedPipelining);
            return None;
        }
        if self.config.tls_required && !self.tls && needs_tls(&command) {
            self.refuse_chunk(
                &command,
                Reply::new(530, "5.7.0 Must issue a STARTTLS command first"),
            );
            return None;
        }
        match command {
            Command::Ehlo(name) => self.hello(name, true),
            Command::Helo(name) => self.hello(name, false),
            Command::Mail(mail) => self.mail(mail),
            Command::Rcpt(rcpt) => self.rcpt(rcpt),
            Command::Data => self.data(),
            Command::Bdat { size, last } => self.bdat(size, last),
            Command::StartTls => self.starttls(input),
            Command::Rset => self.rset(),
            Command::Noop => self.junk(&Reply::new(250, "2.0.0 Ok")),
            Command::Vrfy => self.junk(&Reply::new(252, "2.1.5 Send some mail, I'll try my best")),
            Command::Help => self.junk(&Reply::new(214, "2.0.0 See RFC 5321")),
            Command::Xforward(attributes) => self.xforward(attributes),
            Command::Xclient(attributes) => self.xclient(attributes),
            Command::Quit => {
                self.close(&Reply::new(221, "2.0.0 Bye"), CloseReason::Quit);
                None
            }
        }
    }

    fn hello(&mut self, name: String, esmtp: bool) -> Option<ServerEvent> {
        self.helo = Some(name);
        self.esmtp = esmtp;
        self.transaction = None;
        self.chunks = None;
        let reply = if esmtp {
            self.offered.to_reply(&self.config.hostname)
        } else {
            Reply::new(250, self.config.hostname.clone())
        };
        self.say(&reply);
        Some(ServerEvent::Greeted)
    }

    fn mail(&mut self, mail: MailFrom) -> Option<ServerEvent> {
        if self.helo.is_none() {
            self.error(&Reply::new(503, "5.5.1 Error: send HELO/EHLO first"));
            return None;
        }
        if self.transaction.is_some() {
            self.error(&Reply::new(503, "5.5.1 Error: nested MAIL command"));
            return None;
        }
        if self.messages >= self.config.max_messages {
            let reply = Reply::new(421, "4.7.0 Error: too many messages in one session");
            self.close(&reply, CloseReason::TooManyMessages);
            return None;
        }
        self.transaction = Some(Transaction {
            smtputf8: mail.smtputf8,
            ..Transaction::default()
        });
        self.state = State::Waiting(Question::Mail);
        Some(ServerEvent::Mail(mail))
    }

    fn rcpt(&mut self, rcpt: RcptTo) -> Option<ServerEvent> {
        let Some(transaction) = self.transaction else {
            self.error(&Reply::new(503, "5.5.1 Error: need MAIL command"));
            return None;
        };
        if transaction.chunked {
            self.error(&Reply::new(503, "5.5.1 Error: RCPT after BDAT"));
            return None;
        }
        if transaction.asked >= self.config.max_recipients {
            // Not the client's error: RFC 5321 section 4.5.3.1.10 makes it send the rest in another transaction.
            self.meet(Limit::Recipients);
            self.say(&Reply::new(452, "4.5.3 Error: too many recipients"));
            return None;
        }
        if !rcpt.address.is_ascii() && !transaction.smtputf8 {
            self.error(&Reply::new(553, "5.6.7 The recipient's address needs SMTPUTF8"));
            return None;
        }
        self.state = State::Waiting(Question::Rcpt);
        Some(ServerEvent::Rcpt(rcpt))
    }

    fn data(&mut self) -> Option<ServerEvent> {
        match self.transaction {
            None => self.error(&Reply::new(503, "5.5.1 Error: need MAIL command")),
            Some(Transaction { chunked: true, .. }) => {
                self.error(&Reply::new(503, "5.5.1 Error: DATA after BDAT"));
            }
            Some(Transaction { recipients: 0, .. }) => {
                self.error(&Reply::new(554, "5.5.1 Error: no valid recipients"));
            }
            Some(_) => {
                self.state = State::Waiting(Question::Data);
                return Some(ServerEvent::Data);
            }
        }
        None
    }

    fn bdat(&mut self, size: u64, last: bool) -> Option<ServerEvent> {
        if size < TINY_CHUNK && !last {
            // Each chunk buys time for the next one; tiny ones are a way to keep a session for next to nothing. A
            // message cannot go on without one of its chunks, so that the session ends.
            self.junk += 1;
            if self.junk > self.config.max_junk {
                let reply = Reply::new(421, "4.7.0 Error: too many small chunks");
                self.close(&reply, CloseReason::TooManyErrors);
                return None;
            }
        }
        if let Some(body) = self.chunks.take() {
            self.state = State::Chunk(body, size, last);
            return None;
        }
        match &mut self.transaction {
            Some(transaction) if transaction.recipients > 0 && !transaction.chunked => {
                transaction.chunked = true;
                self.state = State::Waiting(Question::FirstChunk(size, last));
                return Some(ServerEvent::Data);
            }
            Some(transaction) if transaction.recipients > 0 => {
                self.swallow(size, Reply::new(503, "5.5.1 Error: the message is over"));
            }
            Some(_) => self.swallow(size, Reply::new(554, "5.5.1 Error: no valid recipients")),
            None => self.swallow(size, Reply::new(503, "5.5.1 Error: need MAIL command")),
        }
        None
    }

    /// The octets of a refused chunk must be read all the same (RFC 3030 section 2).
    fn refuse_chunk(&mut self, command: &Command, reply: Reply) {
        match command {
            Command::Bdat { size, .. } => self.swallow(*size, reply),
            _ => self.error(&reply),
        }
    }

    fn starttls(&mut self, input: &BytesMut) -> Option<ServerEvent> {
        if self.tls {
            self.error(&Reply::new(554, "5.5.1 Error: TLS already active"));
            return None;
        }
        if !self.offered.starttls {
            self.error(&Reply::new(502, "5.5.1 Error: command not implemented"));
            return None;
        }
        if !input.is_empty() {
            let reply = Reply::new(554, "5.5.1 Error: data behind STARTTLS");
            self.close(&reply, CloseReason::PlaintextBehindStartTls);
            return None;
        }
        self.say(&Reply::new(220, "2.0.0 Ready to start TLS"));
        Some(ServerEvent::StartTls)
    }

    fn xforward(&mut self, attributes: Vec<(String, String)>) -> Option<ServerEvent> {
        if self.transaction.is_some() {
            self.error(&Reply::new(503, "5.5.1 Error: MAIL transaction in progress"));
            return None;
        }
        self.say(&Reply::new(250, "2.0.0 Ok"));
        Some(ServerEvent::Xforward(attributes))
    }

    fn xclient(&mut self, attributes: Vec<(String, String)>) -> Option<ServerEvent> {
        if self.transaction.is_some() {
            self.error(&Reply::new(503, "5.5.1 Error: MAIL transaction in progress"));
            return None;
        }
        self.state = State::Waiting(Question::Xclient);
        Some(ServerEvent::Xclient(attributes))
    }

    fn rset(&mut self) -> Option<ServerEvent> {
        self.transaction = None;
        self.chunks = None;
        self.junk(&Reply::new(250, "2.0.0 Ok"));
        Some(ServerEvent::Reset)
    }

    /// Commands that do nothing are free up to a number.
    fn junk(&mut self, reply: &Reply) -> Option<ServerEvent> {
        self.junk += 1;
        if self.junk > self.config.max_junk {
            self.meet(Limit::Junk);
            self.error(reply);
        } else {
            self.say(reply);
        }
        None
    }
}

fn needs_tls(command: &Command) -> bool {
    !matches!(
        command,
        Command::Ehlo(_)
            | Command::Helo(_)
            | Command::Noop
            | Command::Quit
            | Command::StartTls
            | Command::Rset
            | Command::Xclient(_)
    )
}
