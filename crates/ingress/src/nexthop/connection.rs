//! One SMTP connection to the next hop.
//!
//! What always holds: replies are taken in the order of the commands; a reply that comes before its command is an
//! error, so that nothing the server says too early is taken for its answer to a message.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use rustls_pki_types::ServerName;
use tdc_smtp::{ClientConfig, ClientError, ClientEvent, ClientSession, ClientTls, Extensions, Reply, Verb};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::stream::Stream;
use super::{Deadlines, NextHopConfig, NextHopError, write};

/// Octets of the body that are held back before they are written, so that a message of ordinary size goes out in
/// one write together with its final dot.
const HOLD: usize = 64 * 1024;
/// Room made in the input buffer for one read; replies are short.
const READ: usize = 4 * 1024;
/// How long a server that breaks off a message may take to say why.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// How the message travels.
#[derive(Debug)]
enum Body {
    /// `DATA`, dots doubled.
    Data,
    /// `BDAT`, just as it is.
    Chunks,
    /// The server has refused a chunk, and with it the message (RFC 3030 section 2); nothing more is sent.
    Refused(Reply),
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    session: ClientSession,
    input: BytesMut,
    held: Vec<Bytes>,
    held_len: usize,
    body: Body,
    deadlines: Deadlines,
    /// The host's place among the configured hosts.
    pub(super) host: usize,
    pub(super) opened: Instant,
    /// When it was put into the pool.
    pub(super) idle_since: Instant,
    /// It has carried a transaction before: its loss may only mean that the server closes idle connections.
    pub(crate) reused: bool,
}

impl Connection {
    /// A socket on which the greeting has not been read yet.
    pub(super) fn new(stream: TcpStream, host: usize, config: &NextHopConfig, tls: ClientTls) -> Self {
        let now = Instant::now();
        Self {
            stream: Stream::Plain(stream),
            session: ClientSession::new(ClientConfig {
                helo: config.helo.clone(),
                tls,
            }),
            input: BytesMut::new(),
            held: Vec::new(),
            held_len: 0,
            body: Body::Data,
            deadlines: config.deadlines,
            host,
            opened: now,
            idle_since: now,
            reused: false,
        }
    }

    /// Goes on until the session is ready, or wants TLS.
    pub(super) async fn set_up_event(&mut self) -> Result<ClientEvent, NextHopError> {
        self.next_event("the greeting", self.deadlines.greeting).await
    }

    /// Shakes hands, after [`ClientEvent::StartTls`].
    pub(super) async fn secure(
        mut self,
        config: Arc<rustls::ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, String> {
        let Stream::Plain(plain) = self.stream else {
            return Err("it runs already".to_owned());
        };
        let limit = self.deadlines.connect;
        let tls = timeout(limit, TlsConnector::from(config).connect(name, plain))
            .await
            .map_err(|_| format!("no handshake within {limit:?}"))?
            .map_err(|error| error.to_string())?;
        self.stream = Stream::Tls(Box::new(tls));
        self.session.tls_started();
        Ok(self)
    }

    /// What the server offers.
    pub(crate) fn extensions(&self) -> &Extensions {
        self.session.extensions()
    }

    /// Tells the server who the client is (XFORWARD), for the transaction that follows. Not sent before
    /// [`Self::reply`]; the same holds for the other commands, so that several go out in one write.
    pub(crate) fn xforward(&mut self, attributes: &[(&str, &str)]) {
        self.session.xforward(attributes);
    }

    pub(crate) fn mail(&mut self, address: &str, params: &[String]) -> Result<(), NextHopError> {
        Ok(self.session.mail(address, params)?)
    }

    pub(crate) fn rcpt(&mut self, address: &str, params: &[String]) -> Result<(), NextHopError> {
        Ok(self.session.rcpt(address, params)?)
    }

    pub(crate) fn data(&mut self) {
        self.session.data();
        self.body = Body::Data;
    }

    /// The message will be sent in chunks, where [`Extensions::chunking`] is offered; needs no answer.
    pub(crate) fn chunks(&mut self) {
        self.body = Body::Chunks;
    }

    /// The answer to the oldest command without one.
    pub(crate) async fn reply(&mut self) -> Result<(Verb, Reply), NextHopError> {
        self.reply_within("a reply", self.deadlines.command).await
    }

    /// Takes a piece of the body; writes when enough has come together.
    pub(crate) async fn body(&mut self, piece: &Bytes) -> Result<(), NextHopError> {
        match self.body {
            Body::Data => self.session.body(piece, &mut self.held),
            Body::Chunks => self.held.push(piece.clone()),
            Body::Refused(_) => return Ok(()),
        }
        self.held_len += piece.len();
        if self.held_len < HOLD {
            return Ok(());
        }
        match self.body {
            Body::Data => self.write_held().await,
            Body::Chunks => self.send_chunk(false).await,
            Body::Refused(_) => Ok(()),
        }
    }

    /// Sends the end of the message, and waits for what the server makes of it.
    pub(crate) async fn finish(&mut self) -> Result<Reply, NextHopError> {
        match self.body {
            Body::Data => {
                self.must_be_quiet().await?;
                self.session.end_body(&mut self.held);
                self.write_held().await?;
            }
            Body::Chunks => self.send_chunk(true).await?,
            Body::Refused(_) => {}
        }
        if let Body::Refused(reply) = &self.body {
            return Ok(reply.clone());
        }
        tdc_failpoint::hit("ingress.dot_sent");
        let (_, reply) = self
            .reply_within("the reply to the message", self.deadlines.dot)
            .await?;
        Ok(reply)
    }

    /// After [`Self::finish`]: the server may still have a transaction open.
    pub(crate) fn needs_reset(&self) -> bool {
        matches!(self.body, Body::Refused(_))
    }

    /// Sends what is held as one chunk, after the answer to the one before it.
    async fn send_chunk(&mut self, last: bool) -> Result<(), NextHopError> {
        while self.session.pending() > 0 {
            let (_, reply) = self.reply().await?;
            if !reply.is_positive() {
                self.held.clear();
                self.held_len = 0;
                self.body = Body::Refused(reply);
                return Ok(());
            }
        }
        if last {
            self.must_be_quiet().await?;
        }
        self.session.bdat(self.held_len as u64, last);
        self.held.insert(0, self.session.output().split().freeze());
        self.write_held().await
    }

    /// A server that speaks before the end of the message breaks it off, or is out of step.
    async fn must_be_quiet(&mut self) -> Result<(), NextHopError> {
        if self.is_quiet() {
            return Ok(());
        }
        Err(self.last_words(NextHopError::Closed).await)
    }

    /// Takes the replies that are still due and ends the transaction without a message. True: the connection can be
    /// used again.
    pub(crate) async fn reset(&mut self) -> bool {
        self.session.rset();
        while self.session.pending() > 0 {
            match self.reply().await {
                Ok((_, reply)) if reply.code() == 421 => return false,
                // It waits for a message, of which RSET would be the first line.
                Ok((Verb::Data, reply)) if reply.is_intermediate() => return false,
                Ok((Verb::Rset, reply)) if !reply.is_positive() => return false,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Says goodbye without waiting for the answer.
    pub(crate) async fn quit(mut self) {
        self.session.quit();
        let goodbye = async {
            self.stream.write_all(self.session.output()).await?;
            self.stream.shutdown().await
        };
        let _ = timeout(GOODBYE, goodbye).await;
    }

    /// True while the server has neither closed the connection nor said anything unasked (a 421, say).
    pub(super) fn is_quiet(&mut self) -> bool {
        if !self.input.is_empty() {
            return false;
        }
        self.input.reserve(READ);
        // Tickets of TLS are read on the way; they are nothing that the server says. Without the runtime's budget for a
        // task: one that has just written much would be told that nothing is there, whatever is.
        let read = tokio::task::unconstrained(self.stream.read_buf(&mut self.input));
        read.now_or_never().is_none()
    }

    /// What the server said when it broke a message off, if it did: the sender had better hear that.
    async fn last_words(&mut self, error: NextHopError) -> NextHopError {
        let listen = async {
            loop {
                match self.session.poll(&mut self.input) {
                    Ok(ClientEvent::NeedInput) => {}
                    Err(ClientError::Unilateral(reply)) if reply.code() >= 400 => return Some(reply),
                    Ok(_) | Err(_) => return None,
                }
                self.input.reserve(READ);
                if self.stream.read_buf(&mut self.input).await.ok()? == 0 {
                    return None;
                }
            }
        };
        match timeout(LAST_WORDS, listen).await {
            Ok(Some(reply)) => NextHopError::BrokeOff(reply),
            Ok(None) | Err(_) => error,
        }
    }

    async fn write_held(&mut self) -> Result<(), NextHopError> {
        self.held_len = 0;
        let limit = self.deadlines.block;
        let written = write::write_all(&mut self.stream, &mut self.held);
        let result = timeout(limit, written).await;
        self.held.clear();
        match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.last_words(error.into()).await),
            Err(_) => Err(NextHopError::Timeout {
                step: "writing the message",
                limit,
            }),
        }
    }

    async fn reply_within(
        &mut self,
        step: &'static str,
        limit: Duration,
    ) -> Result<(Verb, Reply), NextHopError> {
        match self.next_event(step, limit).await? {
            ClientEvent::Reply { to, reply } => Ok((to, reply)),
            _ => Err(NextHopError::Closed),
        }
    }

    async fn next_event(&mut self, step: &'static str, limit: Duration) -> Result<ClientEvent, NextHopError> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            match self.session.poll(&mut self.input) {
                Ok(ClientEvent::NeedInput) => {}
                Ok(event) => return Ok(event),
                Err(ClientError::Refused(reply)) => return Err(NextHopError::Refused(reply)),
                Err(error) => return Err(error.into()),
            }
            let exchange = async {
                let output = self.session.output();
                if !output.is_empty() {
                    self.stream.write_all(output).await?;
                    self.stream.flush().await?;
                    output.clear();
                }
                self.input.reserve(READ);
                self.stream.read_buf(&mut self.input).await
            };
            let read = tokio::time::timeout_at(deadline, exchange).await;
            if read.map_err(|_| NextHopError::Timeout { step, limit })?? == 0 {
                return Err(NextHopError::Closed);
            }
        }
    }
}
