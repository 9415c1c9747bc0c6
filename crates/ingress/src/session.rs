//! The driver of one client's connection: reads, lets the state machine decide what was said, writes.
//!
//! What always holds: what the session keeps of a client's octets is bounded and, for messages, reserved before it is
//! kept; the client's time is a budget in every state; while the session works for the client, its place at the gate
//! cannot be taken.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tdc_core::maillog::MailEvent;
use tdc_queue::{MAX_CHUNK, Series};
use tdc_smtp::{Ahead, BodyEnd, CloseReason, MailFrom, Reply, ServerEvent, ServerSession};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::admission::{self, linger};
use crate::budget::Budget;
use crate::client::{Attributes, Client};
use crate::gate::Pass;
use crate::listener::Shared;
use crate::memory::Reservation;
use crate::proxied::Prefixed;
use crate::shedding::no_room;
use crate::tls;
use crate::transaction::Transaction;

/// Room for one read of commands: an idle connection costs little more.
const READ_COMMANDS: usize = 4 * 1024;
/// Room for one read of a message.
const READ_BODY: usize = 32 * 1024;
/// A read may begin with so little room left. Octets that wait elsewhere keep their whole buffer, so that a buffer is
/// filled before the next one is made, however small the reads are.
const MIN_ROOM: usize = 1024;
/// Pieces of a message below this are put together, up to [`TOGETHER`].
const SMALL: usize = 1024;
const TOGETHER: usize = 8 * 1024;
/// What a message is taken to need beside its own octets: buffers here and on the way to the next hop.
const OVERHEAD: u64 = 16 * 1024;
/// The most that is held of one message: a chunk for the queue, and what waits for the next hop. Larger ones stream.
const MAX_HELD: u64 = MAX_CHUNK as u64 + 128 * 1024;
/// A reservation grows by at least so much.
const GROWTH: u64 = 64 * 1024;

/// How a run of the session ended.
enum Exit {
    Closed,
    Lost,
    StartTls,
}

/// What a read brought.
enum Read {
    More,
    Gone,
    TimedOut,
    TooLong,
}

/// Who the client is.
pub(crate) struct Identity {
    pub(crate) icid: u64,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    /// It may say XCLIENT and XFORWARD.
    pub(crate) trusted: bool,
    pub(crate) name: Option<String>,
    /// What XFORWARD said, for the next message.
    pub(crate) forwarded: Option<Attributes>,
}

/// Room for the message on its way.
struct Held {
    reservation: Reservation,
    octets: u64,
}

/// One client.
pub(crate) struct Session {
    shared: Arc<Shared>,
    pass: Pass,
    identity: Identity,
    server: ServerSession,
    input: BytesMut,
    together: BytesMut,
    transaction: Option<Transaction>,
    held: Option<Held>,
    time: Budget,
    begun: Instant,
    told_to_stop: bool,
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, pass: Pass, identity: Identity, server: ServerSession) -> Self {
        let limits = &shared.config.limits;
        let time = Budget::new(limits.timeout, limits.data_rate);
        Self {
            shared,
            pass,
            identity,
            server,
            input: BytesMut::new(),
            together: BytesMut::new(),
            transaction: None,
            held: None,
            time,
            begun: Instant::now(),
            told_to_stop: false,
        }
    }

    /// Serves the client to the end of its connection; `input` has been read already.
    pub(crate) async fn serve(mut self, input: BytesMut, mut stream: TcpStream) {
        self.input = input;
        let exit = match self.run(&mut stream).await {
            Ok(Exit::StartTls) => {
                self.cancel().await;
                // The session has made sure that nothing waits behind STARTTLS.
                self.run_tls(Prefixed::new(BytesMut::new(), stream)).await
            }
            other => other,
        };
        self.end(exit).await;
    }

    /// The same, with TLS from the first octet.
    pub(crate) async fn serve_tls(mut self, stream: Prefixed<TcpStream>) {
        let exit = self.run_tls(stream).await;
        self.end(exit).await;
    }

    async fn end(mut self, exit: io::Result<Exit>) {
        self.cancel().await;
        let icid = self.identity.icid;
        self.shared.deps.mail_log.emit(&match exit {
            Ok(Exit::Closed) => MailEvent::Closed { icid },
            Ok(Exit::Lost | Exit::StartTls) | Err(_) => MailEvent::Lost { icid },
        });
    }

    async fn run_tls(&mut self, stream: Prefixed<TcpStream>) -> io::Result<Exit> {
        let Some(mut stream) = self.handshake(stream).await else {
            return Ok(Exit::Lost);
        };
        self.server.tls_started();
        self.time.renew();
        self.run(&mut stream).await
    }

    async fn handshake(&mut self, stream: Prefixed<TcpStream>) -> Option<TlsStream<Prefixed<TcpStream>>> {
        let accept = TlsAcceptor::from(self.shared.tls.clone()?).accept(stream);
        let limit = self.shared.config.limits.handshake_timeout;
        self.pass.idle(Instant::now());
        let accepted = tokio::select! {
            accepted = tokio::time::timeout(limit, accept) => accepted,
            () = self.pass.evicted() => {
                self.shared.deps.metrics.closed(CloseReason::Evicted);
                return None;
            }
        };
        self.pass.busy();
        let icid = self.identity.icid;
        let reason = match accepted {
            Ok(Ok(stream)) => {
                let (protocol, cipher) = tls::describe(stream.get_ref().1);
                let event = MailEvent::TlsAccepted {
                    icid,
                    protocol,
                    cipher,
                };
                self.shared.deps.mail_log.emit(&event);
                return Some(stream);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no handshake within {limit:?}"),
        };
        self.shared.deps.metrics.closed_by("tls_failed");
        self.shared
            .deps
            .mail_log
            .emit(&MailEvent::TlsRefused { icid, reason });
        None
    }

    async fn run(&mut self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<Exit> {
        loop {
            match self.server.poll(&mut self.input) {
                ServerEvent::NeedInput => {
                    self.flush(stream).await?;
                    match self.read(stream).await? {
                        Read::More => {}
                        Read::Gone => return Ok(Exit::Lost),
                        Read::TimedOut => {
                            return self
                                .give_up(stream, "timeout", "4.4.2 Error: timeout exceeded")
                                .await;
                        }
                        Read::TooLong => {
                            return self
                                .give_up(stream, "lifetime", "4.4.2 Error: the session lasts too long")
                                .await;
                        }
                    }
                }
                ServerEvent::StartTls => {
                    self.flush(stream).await?;
                    return Ok(Exit::StartTls);
                }
                ServerEvent::Close(reason) => return self.close(stream, reason).await,
                event => self.step(event).await,
            }
        }
    }

    /// What concerns the client's mail.
    async fn step(&mut self, event: ServerEvent) {
        match event {
            ServerEvent::Greeted | ServerEvent::Reset => self.cancel().await,
            ServerEvent::Mail(mail) => self.mail(mail).await,
            ServerEvent::Rcpt(rcpt) => {
                let reply = match &mut self.transaction {
                    Some(transaction) => {
                        let ahead = if transaction.wants_ahead() {
                            self.server.ahead(&self.input)
                        } else {
                            Ahead::default()
                        };
                        transaction.rcpt(rcpt, &ahead).await
                    }
                    None => out_of_step(),
                };
                self.server.answer(reply);
            }
            ServerEvent::Data => {
                let reply = self.data().await;
                self.server.answer(reply);
            }
            ServerEvent::Body(piece) => self.piece(piece).await,
            ServerEvent::BodyEnd(end) => self.body_end(end).await,
            ServerEvent::Xforward(attributes) => self.xforward(attributes),
            ServerEvent::Xclient(attributes) => self.xclient(attributes).await,
            ServerEvent::NeedInput | ServerEvent::StartTls | ServerEvent::Close(_) => {}
        }
    }

    async fn mail(&mut self, mail: MailFrom) {
        // A transaction that the next hop refused to take may still be here.
        self.cancel_transaction().await;
        let declared = mail.size.unwrap_or(0).saturating_add(OVERHEAD).min(MAX_HELD);
        let Some(reservation) = self.shared.shedding.admit(&self.shared, declared) else {
            self.server.answer(no_room());
            return;
        };
        let client = Client {
            icid: self.identity.icid,
            peer: self.identity.peer,
            helo: self.server.helo().unwrap_or_default().to_owned(),
            esmtp: self.server.is_esmtp(),
            name: self.identity.name.clone(),
            forwarded: self.identity.forwarded.clone(),
        };
        let ahead = self.server.ahead(&self.input);
        let (reply, transaction) = Transaction::begin(&self.shared, client, mail, &ahead).await;
        self.held = transaction.is_some().then_some(Held {
            reservation,
            octets: 0,
        });
        self.transaction = transaction;
        self.server.answer(reply);
    }

    async fn data(&mut self) -> Reply {
        let Some(transaction) = &mut self.transaction else {
            return out_of_step();
        };
        if self
            .shared
            .shedding
            .refuses(&self.shared, transaction.envelope())
            .await
        {
            return no_room();
        }
        transaction.data(self.server.in_chunks()).await
    }

    /// Passes a piece of the message on, small ones together.
    async fn piece(&mut self, piece: Bytes) {
        let Some(held) = &mut self.held else { return };
        held.octets += piece.len() as u64;
        let needed = held.octets.saturating_add(OVERHEAD).min(MAX_HELD);
        if !held.reservation.grow_to(needed) && !held.reservation.grow_to((needed + GROWTH).min(MAX_HELD)) {
            self.shared
                .shedding
                .memory_is_short(&self.shared.memory, &self.shared.deps.metrics);
            // The rest is read and forgotten; the client hears 452 at its end.
            self.cancel_transaction().await;
            return;
        }
        if piece.len() < SMALL {
            self.together.extend_from_slice(&piece);
            if self.together.len() >= TOGETHER {
                self.pass_together().await;
            }
            return;
        }
        self.pass_together().await;
        if let Some(transaction) = &mut self.transaction {
            transaction.piece(&piece).await;
        }
    }

    async fn pass_together(&mut self) {
        if self.together.is_empty() {
            return;
        }
        let piece = self.together.split().freeze();
        if let Some(transaction) = &mut self.transaction {
            transaction.piece(&piece).await;
        }
    }

    async fn body_end(&mut self, end: BodyEnd) {
        self.pass_together().await;
        let reply = match self.transaction.take() {
            Some(transaction) => transaction.finish(end).await,
            None => no_room(),
        };
        self.held = None;
        self.identity.forwarded = None;
        tdc_failpoint::hit("ingress.before_reply");
        self.server.answer(reply);
    }

    fn xforward(&mut self, attributes: Vec<(String, String)>) {
        let mut forwarded = self.identity.forwarded.take().unwrap_or_default();
        if let Err(reply) = forwarded.read(attributes) {
            tracing::warn!(%reply, peer = %self.identity.peer, "A trusted proxy sent an XFORWARD that cannot be used.");
            return;
        }
        self.identity.forwarded = Some(forwarded);
    }

    /// Another client takes the place of this one: a new session, with the same limits and networks as any other.
    async fn xclient(&mut self, attributes: Vec<(String, String)>) {
        let mut named = Attributes::default();
        if let Err(reply) = named.read(attributes) {
            self.server.answer(reply);
            return;
        }
        self.cancel().await;
        let deps = &self.shared.deps;
        deps.mail_log.emit(&MailEvent::Closed {
            icid: self.identity.icid,
        });
        let ip = named.addr.unwrap_or(self.identity.peer.ip());
        self.identity.peer = SocketAddr::new(ip, named.port.unwrap_or(self.identity.peer.port()));
        self.identity.icid = deps.ids.next(Series::Icid);
        self.identity.name = named.name;
        let admitted = admission::admit(&self.shared, &self.pass, self.identity.peer);
        admission::greet(&self.shared, &self.identity, admitted.as_ref().err());
        if let Some(login) = &named.login {
            tracing::info!(
                icid = self.identity.icid,
                login,
                "A trusted proxy has authenticated this client."
            );
        }
        if let Err(refusal) = admitted {
            self.server.answer(match refusal.reply.code() {
                421 => refusal.reply,
                _ => Reply::new(421, "4.7.1 Error: this client may not send here"),
            });
            return;
        }
        let greeting = self.server.greeting();
        self.server.answer(greeting);
        if let Some(helo) = named.helo {
            self.server.set_helo(helo, named.esmtp.unwrap_or(true));
        }
    }

    async fn cancel(&mut self) {
        self.identity.forwarded = None;
        self.cancel_transaction().await;
    }

    async fn cancel_transaction(&mut self) {
        self.together.clear();
        if let Some(transaction) = self.transaction.take() {
            transaction.cancel().await;
        }
        self.held = None;
    }

    /// Writes all replies that have come together.
    async fn flush(&mut self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let limits = &self.shared.config.limits;
        for (limit, times) in self.server.take_met() {
            self.shared.deps.metrics.limit(limit, times);
        }
        let penalty = self.server.take_penalty();
        if penalty > 0 {
            tokio::time::sleep(limits.error_delay.saturating_mul(penalty)).await;
        }
        let output = self.server.output();
        if output.is_empty() {
            return Ok(());
        }
        let write = async {
            stream.write_all(output).await?;
            stream.flush().await
        };
        tokio::time::timeout(limits.timeout, write)
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
        output.clear();
        tdc_failpoint::hit("ingress.replied");
        self.time.renew();
        Ok(())
    }

    /// Says goodbye; the client has a moment to read it.
    async fn close(
        &mut self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        reason: CloseReason,
    ) -> io::Result<Exit> {
        self.shared.deps.metrics.closed(reason);
        let peer = self.identity.peer;
        match reason {
            CloseReason::ProxyHeader => tracing::warn!(
                %peer,
                "A client sent a PROXY header to a listener that takes none; give the balancer --listen-proxy."
            ),
            CloseReason::UnauthorizedPipelining => {
                tracing::info!(%peer, "Closed a session: octets behind a command that must be the last of its group.");
            }
            CloseReason::PlaintextBehindStartTls => {
                tracing::warn!(%peer, "Closed a session: octets in the clear behind STARTTLS.");
            }
            _ => {}
        }
        self.flush(stream).await?;
        if reason == CloseReason::Quit {
            let _ = stream.shutdown().await;
        } else {
            self.pass.idle(Instant::now());
            linger(stream).await;
        }
        Ok(Exit::Closed)
    }

    async fn give_up(
        &mut self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        reason: &'static str,
        text: &str,
    ) -> io::Result<Exit> {
        self.shared.deps.metrics.closed_by(reason);
        Reply::new(421, text).write_to(self.server.output());
        self.flush(stream).await?;
        let _ = stream.shutdown().await;
        Ok(Exit::Lost)
    }

    /// Reads once.
    async fn read(&mut self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<Read> {
        let in_body = self.server.in_body();
        let outside = !in_body && !self.server.in_transaction();
        self.make_room(in_body);
        let now = Instant::now();
        let lasted = now.duration_since(self.begun);
        let lifetime = self.shared.config.limits.lifetime;
        let allowed = if outside {
            lifetime
        } else {
            lifetime.saturating_mul(2)
        };
        let remaining = allowed.saturating_sub(lasted);
        if remaining.is_zero() {
            return Ok(self.too_long(outside));
        }
        if outside {
            self.pass.idle(now);
        }
        let stopping = self.told_to_stop;
        let read = tokio::select! {
            biased;
            read = stream.read_buf(&mut self.input) => {
                let count = read?;
                self.time.spend(now.elapsed());
                if in_body {
                    self.time.earn(count);
                }
                if count == 0 { Read::Gone } else { Read::More }
            }
            () = self.shared.stop_sessions.started(), if !stopping => {
                self.told_to_stop = true;
                self.server.shutdown();
                Read::More
            }
            () = self.pass.evicted(), if outside => {
                let reply = Reply::new(421, "4.7.0 Error: idle, and others are waiting");
                self.server.end(reply, CloseReason::Evicted);
                Read::More
            }
            () = tokio::time::sleep(remaining.min(self.time.left())) => {
                if remaining > self.time.left() { Read::TimedOut } else { self.too_long(outside) }
            }
        };
        self.pass.busy();
        Ok(read)
    }

    /// The session has lasted as long as it may.
    fn too_long(&mut self, outside: bool) -> Read {
        if !outside {
            return Read::TooLong;
        }
        let reply = Reply::new(421, "4.4.2 Error: the session lasts too long");
        self.server.end(reply, CloseReason::Lifetime);
        Read::More
    }

    fn make_room(&mut self, in_body: bool) {
        let room = if in_body { READ_BODY } else { READ_COMMANDS };
        if self.input.is_empty() && !in_body && self.input.capacity() > READ_BODY / 2 {
            // An idle session does not keep the buffer of its last message.
            self.input = BytesMut::new();
        }
        if self.input.capacity() - self.input.len() < MIN_ROOM {
            self.input.reserve(room);
        }
    }
}

/// The session asks for a step of a transaction that is not there; it cannot be, but a reply must be.
fn out_of_step() -> Reply {
    Reply::new(451, "4.3.0 Error: the transaction is gone, try again later")
}
