//! One connection: the session of `tdc-smtp` driven over a socket.
//!
//! What always holds: replies are written when the session wants input and not before, so that a pipelined batch is
//! answered in one write (RFC 2920); nothing is read while a command waits for its answer; every wait has an end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tdc_smtp::{BodyEnd, CloseReason, MailFrom, RcptTo, Reply, ServerEvent, ServerSession};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use crate::inject::Usual;
use crate::report::OpenConnection;
use crate::script::{At, Draws, Fault, Strike};
use crate::server::Shared;
use crate::store::TlsRecord;
use crate::transaction::Transaction;

/// How long a handshake may take.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to read a batch of replies.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the end of the client's side is waited for after a close that it may not expect.
pub(crate) const LINGER: Duration = Duration::from_secs(1);
/// Octets read at once: commands, and bodies.
const READ_COMMANDS: usize = 8 * 1024;
const READ_BODY: usize = 64 * 1024;
/// XFORWARD attributes that are kept; Postfix knows eight.
const MAX_XFORWARD: usize = 16;

/// Why a connection ended without the session's consent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    #[error("the client was silent for too long")]
    Idle,
    #[error("the client hung up")]
    HungUp,
    #[error("{0} took too long")]
    TimedOut(&'static str),
    #[error("a rule of the script ended it")]
    Injected,
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What the messages of a connection have in common.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) peer: SocketAddr,
    pub(crate) connection: u64,
    pub(crate) accepted: u64,
    pub(crate) tls: Option<TlsRecord>,
    pub(crate) xforward: Vec<(String, String)>,
}

/// One connection.
pub(crate) struct Connection {
    pub(crate) shared: Arc<Shared>,
    pub(crate) stream: Option<Stream>,
    pub(crate) session: ServerSession,
    pub(crate) input: BytesMut,
    pub(crate) client: Client,
    pub(crate) transaction: Option<Transaction>,
    pub(crate) stop: watch::Receiver<bool>,
    /// Messages begun.
    pub(crate) begun: u64,
    pub(crate) draws: Draws,
    /// What the script says to the connection itself.
    at_connect: Option<Strike>,
    /// The message whose answer is not yet decided, by its id.
    pub(crate) pending: Option<String>,
    /// Messages whose answer is in the output, and whether it is 2xx.
    pub(crate) answers: Vec<(String, bool)>,
    /// A message was answered, and no command has come since.
    pub(crate) between: bool,
    /// Octets a second at which a message is read.
    pub(crate) read_rate: Option<u32>,
    _open: OpenConnection,
}

impl Connection {
    pub(crate) fn new(
        shared: Arc<Shared>,
        stream: TcpStream,
        peer: SocketAddr,
        stop: watch::Receiver<bool>,
    ) -> Self {
        // Replies are small and awaited: they must not wait for company. Without it mail is only slower.
        let _ = stream.set_nodelay(true);
        let (open, connection) = shared.counts.connected();
        let mut connection = Self {
            session: ServerSession::new(shared.session.clone()),
            stream: Some(Stream::Plain(stream)),
            input: BytesMut::new(),
            client: Client {
                peer,
                connection,
                accepted: 0,
                tls: None,
                xforward: Vec::new(),
            },
            transaction: None,
            stop,
            begun: 0,
            draws: Draws::default(),
            at_connect: None,
            pending: None,
            answers: Vec::new(),
            between: false,
            read_rate: None,
            shared,
            _open: open,
        };
        connection.at_connect = connection.strike(At::Connect, None);
        connection
    }

    /// For how long the script wants no further connections.
    pub(crate) fn refusal(&self) -> Option<Duration> {
        match self.at_connect.as_ref()?.fault {
            Fault::Refuse(time) => Some(time),
            _ => None,
        }
    }

    /// Serves until the session or the connection ends.
    pub(crate) async fn serve(mut self) {
        let number = self.client.connection;
        match self.converse().await {
            Ok(reason) => tracing::debug!(connection = number, ?reason, "The connection is closed."),
            Err(error) => tracing::debug!(connection = number, %error, "The connection is lost."),
        }
    }

    async fn converse(&mut self) -> Result<CloseReason, Lost> {
        if let Some(strike) = self.at_connect.take() {
            self.inject(strike.fault, Usual::Said).await?;
        }
        self.meet(At::Greeting, Usual::Said).await?;
        loop {
            match self.session.poll(&mut self.input) {
                ServerEvent::NeedInput => {
                    self.flush().await?;
                    if std::mem::take(&mut self.between) && self.input.is_empty() {
                        self.between_messages().await?;
                    }
                    self.read().await?;
                }
                ServerEvent::Greeted => {
                    self.transaction = None;
                    self.greeted().await?;
                }
                ServerEvent::Reset => {
                    self.transaction = None;
                    self.meet(At::Rset, Usual::Said).await?;
                }
                ServerEvent::Mail(mail) => self.mail(mail).await?,
                ServerEvent::Rcpt(rcpt) => self.recipient(rcpt).await?,
                ServerEvent::Data => self.data().await?,
                ServerEvent::Body(piece) => {
                    if let Some(transaction) = &mut self.transaction {
                        transaction.piece(piece).await;
                    }
                    self.in_body(false).await?;
                }
                ServerEvent::BodyEnd(end) => self.dot(end).await?,
                ServerEvent::Xforward(attributes) => self.xforward(attributes),
                // Never offered.
                ServerEvent::Xclient(_) => self.session.answer(out_of_step()),
                ServerEvent::StartTls => {
                    if self.meet(At::StartTls, Usual::Said).await? {
                        self.flush().await?;
                        self.handshake().await?;
                    }
                }
                ServerEvent::Close(reason) => {
                    if reason == CloseReason::Quit {
                        self.meet(At::Quit, Usual::Said).await?;
                    }
                    self.flush().await?;
                    self.farewell(reason != CloseReason::Quit).await;
                    return Ok(reason);
                }
            }
        }
    }

    async fn mail(&mut self, mail: MailFrom) -> Result<(), Lost> {
        self.begun += 1;
        self.transaction = Some(Transaction::begin(mail));
        if let Some(strike) = self.strike(At::Mail, None) {
            return self
                .inject(strike.fault, Usual::Asked(Transaction::ok_mail()))
                .await
                .map(drop);
        }
        let reply = match &self.transaction {
            Some(transaction) => transaction.mail(&self.shared),
            None => out_of_step(),
        };
        self.session.answer(reply);
        Ok(())
    }

    async fn recipient(&mut self, rcpt: RcptTo) -> Result<(), Lost> {
        let strike = self.strike(At::Rcpt, Some(&rcpt.address));
        let usual = match &self.transaction {
            Some(_) if strike.is_some() => Transaction::ok_rcpt(),
            Some(transaction) => transaction.rcpt(&self.shared, &rcpt),
            None => out_of_step(),
        };
        let taken = match strike {
            Some(strike) => self.inject(strike.fault, Usual::Asked(usual)).await?,
            None => self.meet_plainly(usual),
        };
        if let (true, Some(transaction)) = (taken, &mut self.transaction) {
            transaction.add(rcpt);
        }
        Ok(())
    }

    async fn data(&mut self) -> Result<(), Lost> {
        let strike = self.strike(At::Data, None);
        let usual = match &self.transaction {
            Some(_) if strike.is_some() => Transaction::go_on(),
            Some(transaction) => transaction.data(&self.shared),
            None => out_of_step(),
        };
        let go_on = match strike {
            Some(strike) => self.inject(strike.fault, Usual::Asked(usual)).await?,
            None => self.meet_plainly(usual),
        };
        if let (true, Some(transaction)) = (go_on, &mut self.transaction) {
            transaction.begin_body(&self.shared);
        }
        Ok(())
    }

    /// Gives the usual reply; true when it is what the client hopes for.
    fn meet_plainly(&mut self, reply: Reply) -> bool {
        let hoped = reply.is_positive() || reply.is_intermediate();
        self.session.answer(reply);
        hoped
    }

    /// Keeps the message; what its sender should hear.
    pub(crate) async fn end(&mut self, end: BodyEnd) -> Reply {
        let Some(transaction) = self.transaction.take() else {
            return out_of_step();
        };
        let helo = self.session.helo().unwrap_or_default().to_owned();
        let esmtp = self.session.is_esmtp();
        let reply = transaction
            .end(&self.shared, &mut self.client, helo, esmtp, end)
            .await;
        if !self.shared.options.latency.is_zero() {
            tokio::time::sleep(self.shared.options.latency).await;
        }
        reply
    }

    /// Writes what the session has to say, in one write.
    pub(crate) async fn flush(&mut self) -> Result<(), Lost> {
        let output = self.session.output().split();
        let stream = self.stream.as_mut().ok_or(Lost::HungUp)?;
        if output.is_empty() {
            return Ok(());
        }
        timeout(WRITE_TIMEOUT, stream.write(&output))
            .await
            .map_err(|_| Lost::TimedOut("reading a reply"))??;
        self.told();
        Ok(())
    }

    /// The answers in the output have gone out.
    pub(crate) fn told(&mut self) {
        for (id, accepted) in self.answers.drain(..) {
            self.shared.counts.answered(&id, accepted);
        }
    }

    /// Waits for octets, or for the server's end, which the session then tells the client.
    async fn read(&mut self) -> Result<(), Lost> {
        let in_body = self.transaction.as_ref().is_some_and(Transaction::in_body);
        self.input
            .reserve(if in_body { READ_BODY } else { READ_COMMANDS });
        let stopping = *self.stop.borrow();
        let stream = self.stream.as_mut().ok_or(Lost::HungUp)?;
        // A tenth of a second's worth at a time.
        let most = self
            .read_rate
            .map_or(usize::MAX, |rate| (rate as usize / 10).max(1));
        let read = timeout(
            self.shared.options.idle_timeout,
            stream.read_some(&mut self.input, most),
        );
        let read = tokio::select! {
            read = read => Some(read),
            _ = self.stop.wait_for(|stop| *stop), if !stopping => None,
        };
        match read {
            None => self.session.shutdown(),
            Some(Ok(Ok(0))) => return Err(Lost::HungUp),
            Some(Ok(octets)) => {
                let octets = octets?;
                if let Some(rate) = self.read_rate {
                    let octets = u32::try_from(octets).unwrap_or(u32::MAX);
                    tokio::time::sleep(Duration::from_secs(1) * octets / rate).await;
                }
            }
            Some(Err(_)) => {
                Reply::new(421, "4.4.2 Error: timeout exceeded").write_to(self.session.output());
                self.flush().await?;
                return Err(Lost::Idle);
            }
        }
        Ok(())
    }

    async fn handshake(&mut self) -> Result<(), Lost> {
        let acceptor = self.before_handshake().await;
        if acceptor.is_err() {
            self.shared.counts.tls(false);
        }
        let (Some(Stream::Plain(stream)), acceptor) = (self.stream.take(), acceptor?) else {
            // The session takes STARTTLS only once.
            return Err(Lost::HungUp);
        };
        let accepted = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
        let accepted = accepted
            .map_err(|_| Lost::TimedOut("the TLS handshake"))
            .and_then(|a| Ok(a?));
        self.shared.counts.tls(accepted.is_ok());
        let stream = accepted?;
        let tls = stream.get_ref().1;
        let debug = |value: Option<&dyn std::fmt::Debug>| value.map(|v| format!("{v:?}")).unwrap_or_default();
        self.client.tls = Some(TlsRecord {
            version: debug(tls.protocol_version().as_ref().map(|v| v as _)),
            cipher: debug(
                tls.negotiated_cipher_suite()
                    .map(|suite| suite.suite())
                    .as_ref()
                    .map(|s| s as _),
            ),
            server_name: tls.server_name().map(str::to_owned),
        });
        self.client.xforward.clear();
        self.transaction = None;
        self.stream = Some(Stream::Tls(Box::new(stream)));
        self.session.tls_started();
        Ok(())
    }

    /// Attributes hold until they are given again (Postfix, XFORWARD_README).
    fn xforward(&mut self, attributes: Vec<(String, String)>) {
        let kept = &mut self.client.xforward;
        for (name, value) in attributes {
            match kept
                .iter()
                .position(|(other, _)| other.eq_ignore_ascii_case(&name))
            {
                Some(at) => kept[at].1 = value,
                None if kept.len() < MAX_XFORWARD => kept.push((name, value)),
                None => {}
            }
        }
    }
}

/// The session keeps commands in order; should it ever not, the client is told to come again.
fn out_of_step() -> Reply {
    Reply::new(451, "4.3.0 The session is out of step")
}
