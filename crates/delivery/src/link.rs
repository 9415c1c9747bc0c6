//! One SMTP connection to an intake: the socket, TLS, and the session of `tdc-smtp` between them.
//!
//! What always holds: everything that may wait has a limit, and no limit reaches beyond the [`Budget`] of the entry
//! that is served; [`Link::stage`] says how far the session came, also after a future of this module was dropped, so
//! that a failure is always one of a known stage.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustls::ClientConfig as TlsConfig;
use rustls_pki_types::ServerName;
use tdc_core::outcome::{Need, Outcome, Stage};
use tdc_core::policy::{Intake, TlsMode};
use tdc_smtp::{ClientConfig, ClientError, ClientEvent, ClientSession, ClientTls, Phase, Reply};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::client::TlsStream;

use crate::config::Timeouts;
use crate::tls::{self, HandshakeError};

/// Pieces are joined up to so many octets before they are written: a message of ordinary size leaves in one write, which
/// costs more than the copy.
const JOINED: usize = 128 * 1024;
/// Larger pieces are written in slices, so that the time limit is one for progress and not for the whole of it.
const SLICE: usize = 256 * 1024;
/// How long a server that breaks off a message may take to say why.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Until when work on one entry makes sense.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    end: Instant,
}

impl Budget {
    pub(crate) fn until(end: Instant) -> Self {
        Self { end }
    }

    pub(crate) fn lasting(duration: Duration) -> Self {
        Self {
            end: Instant::now() + duration,
        }
    }

    /// What is left.
    pub(crate) fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Runs a step for at most `limit`, and not beyond the end.
    pub(crate) async fn limit<F: Future>(self, limit: Duration, step: F) -> Result<F::Output, Fault> {
        let until = self.end.min(Instant::now() + limit);
        timeout_at(until, step).await.map_err(|_| {
            if until == self.end {
                Fault::Expired
            } else {
                Fault::TimedOut(limit)
            }
        })
    }
}

/// Why a step was not done.
#[derive(Debug, Error)]
pub(crate) enum Fault {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the connection was closed")]
    Closed,
    #[error("nothing happened for {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    #[error("the lifetime of the copy is over")]
    Expired,
    #[error("{0}")]
    Tls(String),
    #[error("{0}")]
    Session(#[from] ClientError),
}

impl Fault {
    /// What it means for the entry when it happened at that stage.
    pub(crate) fn outcome(self, stage: Stage) -> Outcome {
        let broken = |detail: String| match stage {
            Stage::Dot => Outcome::NoAnswer(detail),
            _ => Outcome::Network { stage, detail },
        };
        match self {
            Self::Expired if stage != Stage::Dot => Outcome::Expired,
            Self::Io(error) if is_alert(&error) && before_mail(stage) => Outcome::Tls {
                stage: Stage::Handshake,
                detail: error.to_string(),
            },
            Self::Io(_) | Self::Closed | Self::TimedOut(_) | Self::Expired => broken(self.to_string()),
            Self::Tls(detail) => Outcome::Tls { stage, detail },
            Self::Session(error) => match error {
                ClientError::Refused(reply) => replied(stage, &reply),
                ClientError::Unilateral(reply) if reply.code() >= 400 => replied(stage, &reply),
                // 454 "TLS not available due to temporary reason" (RFC 3207 section 4) says that it will pass.
                ClientError::TlsRefused(reply) if !reply.is_permanent() => replied(Stage::StartTls, &reply),
                ClientError::TlsNotOffered | ClientError::TlsRefused(_) | ClientError::DataBehindStartTls => {
                    Outcome::Tls {
                        stage: Stage::StartTls,
                        detail: error.to_string(),
                    }
                }
                ClientError::Injection => Outcome::Unsuitable {
                    need: Need::Address,
                    detail: error.to_string(),
                },
                ClientError::Unilateral(_) | ClientError::Malformed(_) => broken(error.to_string()),
            },
        }
    }
}

/// With TLS 1.3 a server says only after the handshake what it did not like about it (RFC 8446 section 4.4.2.4).
fn is_alert(error: &io::Error) -> bool {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::AlertReceived(_)))
}

fn before_mail(stage: Stage) -> bool {
    matches!(
        stage,
        Stage::Greeting | Stage::Ehlo | Stage::StartTls | Stage::Handshake
    )
}

/// A reply that is not the hoped for.
pub(crate) fn replied(stage: Stage, reply: &Reply) -> Outcome {
    Outcome::Replied {
        stage,
        code: reply.code(),
        text: reply.text(),
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// The handshake failed.
    None,
}

impl Stream {
    async fn read(&mut self, input: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read_buf(input).await,
            Self::Tls(stream) => stream.read_buf(input).await,
            Self::None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => stream.write_all(bytes).await,
            Self::None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush().await,
            Self::Tls(stream) => stream.flush().await,
            Self::None => Ok(()),
        }
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.shutdown().await,
            Self::Tls(stream) => stream.shutdown().await,
            Self::None => Ok(()),
        }
    }
}

/// An open connection.
pub(crate) struct Link {
    /// Its number in the mail log.
    pub(crate) dcid: u64,
    /// The settings that it was opened with.
    pub(crate) intake: Arc<Intake>,
    /// Messages that it carried.
    pub(crate) messages: u32,
    pub(crate) session: ClientSession,
    pub(crate) stage: Stage,
    pub(crate) timeouts: Timeouts,
    /// Something could not be written whole: the server is out of step, nothing else can be sent.
    pub(crate) broken: bool,
    stream: Stream,
    input: BytesMut,
    joined: BytesMut,
}

impl Link {
    /// A connection whose session has not begun.
    pub(crate) fn new(
        stream: TcpStream,
        dcid: u64,
        intake: Arc<Intake>,
        helo: &str,
        timeouts: Timeouts,
    ) -> io::Result<Self> {
        // Commands are small and waited for; without this each would wait for an acknowledgement first.
        stream.set_nodelay(true)?;
        let tls = match intake.tls.mode {
            TlsMode::None => ClientTls::Never,
            TlsMode::Verify | TlsMode::Encrypt => ClientTls::Required,
        };
        let session = ClientSession::new(ClientConfig {
            helo: helo.to_owned(),
            tls,
        });
        Ok(Self {
            dcid,
            intake,
            messages: 0,
            broken: false,
            session,
            stage: Stage::Greeting,
            timeouts,
            stream: Stream::Plain(stream),
            input: BytesMut::with_capacity(4096),
            joined: BytesMut::new(),
        })
    }

    /// Greeting, EHLO, and TLS where the session asks for it. Returns protocol and cipher.
    pub(crate) async fn set_up(
        &mut self,
        tls: Option<(Arc<TlsConfig>, ServerName<'static>)>,
        budget: Budget,
    ) -> Result<Option<(String, String)>, Fault> {
        let mut secured = None;
        loop {
            match self.event(self.timeouts.command, budget).await? {
                ClientEvent::Ready => return Ok(secured),
                ClientEvent::StartTls => {
                    let (config, name) = tls
                        .clone()
                        .ok_or_else(|| Fault::Tls("STARTTLS without settings for it".into()))?;
                    secured = Some(self.secure(config, name, budget).await?);
                }
                ClientEvent::NeedInput | ClientEvent::Reply { .. } => {
                    return Err(Fault::Io(io::Error::other("the session is out of step")));
                }
            }
        }
    }

    async fn secure(
        &mut self,
        config: Arc<TlsConfig>,
        name: ServerName<'static>,
        budget: Budget,
    ) -> Result<(String, String), Fault> {
        self.stage = Stage::Handshake;
        let Stream::Plain(stream) = std::mem::replace(&mut self.stream, Stream::None) else {
            return Err(Fault::Tls("STARTTLS inside of TLS".into()));
        };
        let handshake = tls::handshake(config, name, stream);
        let stream = match budget.limit(self.timeouts.handshake, handshake).await? {
            Ok(stream) => stream,
            Err(HandshakeError::Tls(error)) => return Err(Fault::Tls(error.to_string())),
            Err(HandshakeError::Network(error)) => return Err(Fault::Io(error)),
        };
        let described = tls::describe(&stream);
        self.stream = Stream::Tls(Box::new(stream));
        self.session.tls_started();
        Ok(described)
    }

    /// Writes what the session has to say and returns the next thing that is not waiting.
    pub(crate) async fn event(&mut self, limit: Duration, budget: Budget) -> Result<ClientEvent, Fault> {
        self.write_commands(budget).await?;
        loop {
            match self.session.poll(&mut self.input)? {
                ClientEvent::NeedInput => {}
                event => return Ok(event),
            }
            self.write_commands(budget).await?;
            self.follow();
            let limit = if self.stage == Stage::Greeting {
                self.timeouts.greeting
            } else {
                limit
            };
            if budget.limit(limit, self.stream.read(&mut self.input)).await?? == 0 {
                return Err(Fault::Closed);
            }
        }
    }

    /// The next reply.
    pub(crate) async fn reply(&mut self, limit: Duration, budget: Budget) -> Result<Reply, Fault> {
        match self.event(limit, budget).await? {
            ClientEvent::Reply { reply, .. } => Ok(reply),
            ClientEvent::NeedInput | ClientEvent::StartTls | ClientEvent::Ready => {
                Err(Fault::Io(io::Error::other("the session is out of step")))
            }
        }
    }

    /// During set-up the stage is the session's phase; in a transaction the transaction says it.
    fn follow(&mut self) {
        match self.session.phase() {
            Phase::Greeting => self.stage = Stage::Greeting,
            Phase::Ehlo => self.stage = Stage::Ehlo,
            Phase::StartTls => self.stage = Stage::StartTls,
            Phase::Handshake => self.stage = Stage::Handshake,
            Phase::Ready | Phase::Command(_) => {}
        }
    }

    async fn write_commands(&mut self, budget: Budget) -> Result<(), Fault> {
        if self.session.output().is_empty() {
            return Ok(());
        }
        let output = self.session.output().split().freeze();
        self.write(&output, budget).await?;
        budget
            .limit(self.timeouts.write, self.stream.flush())
            .await?
            .map_err(Fault::Io)
    }

    async fn write(&mut self, bytes: &[u8], budget: Budget) -> Result<(), Fault> {
        budget
            .limit(self.timeouts.write, self.stream.write(bytes))
            .await?
            .map_err(Fault::Io)
    }

    /// Writes pieces of the message, joined. What is left is written by [`Link::flush`].
    pub(crate) async fn write_pieces(
        &mut self,
        pieces: &mut Vec<Bytes>,
        budget: Budget,
    ) -> Result<(), Fault> {
        for piece in pieces.drain(..) {
            if self.joined.len() + piece.len() > JOINED {
                self.write_joined(budget).await?;
            }
            if piece.len() <= JOINED {
                self.joined.extend_from_slice(&piece);
                continue;
            }
            for slice in piece.chunks(SLICE) {
                self.write(slice, budget).await?;
            }
        }
        Ok(())
    }

    /// Puts the session's commands before what is written next, to leave in one write with it.
    pub(crate) fn join_commands(&mut self) {
        let commands = self.session.output().split();
        self.joined.extend_from_slice(&commands);
    }

    /// Keeps pieces for the next [`Link::flush`].
    pub(crate) fn join(&mut self, pieces: &[Bytes]) {
        for piece in pieces {
            self.joined.extend_from_slice(piece);
        }
    }

    async fn write_joined(&mut self, budget: Budget) -> Result<(), Fault> {
        if self.joined.is_empty() {
            return Ok(());
        }
        let joined = self.joined.split().freeze();
        self.write(&joined, budget).await
    }

    /// Writes everything that was joined, through TLS and out.
    pub(crate) async fn flush(&mut self, budget: Budget) -> Result<(), Fault> {
        self.write_joined(budget).await?;
        budget
            .limit(self.timeouts.write, self.stream.flush())
            .await?
            .map_err(Fault::Io)
    }

    /// After a failed write: what the server still says, if it does so at once.
    pub(crate) async fn last_words(&mut self) -> Option<Result<Reply, Fault>> {
        self.broken = true;
        let until = Instant::now() + LAST_WORDS;
        loop {
            match self.session.poll(&mut self.input) {
                Ok(ClientEvent::NeedInput) => {}
                Ok(ClientEvent::Reply { reply, .. }) => return Some(Ok(reply)),
                Ok(ClientEvent::StartTls | ClientEvent::Ready) => return None,
                Err(error) => return Some(Err(Fault::Session(error))),
            }
            match timeout_at(until, self.stream.read(&mut self.input)).await {
                Ok(Ok(count)) if count > 0 => {}
                _ => return None,
            }
        }
    }

    /// Returns when the server says something, or closes, although nothing was asked. May be dropped at any time.
    pub(crate) async fn disturbed(&mut self) {
        if self.input.is_empty() {
            let _ = self.stream.read(&mut self.input).await;
        }
    }

    /// Takes leave; nothing of it matters to anybody but the server's log.
    pub(crate) async fn quit(mut self) {
        let budget = Budget::lasting(self.timeouts.quit);
        self.session.quit();
        let _ = self.reply(self.timeouts.quit, budget).await;
        let _ = budget.limit(self.timeouts.quit, self.stream.shutdown()).await;
    }
}
