//! One connection: the session of `tdc-smtp` driven over a socket.
//!
//! What always holds: replies are written when the session wants input and not before, so that a pipelined batch is
//! answered in one write (RFC 2920); nothing is read while a command waits for its answer; every wait has an end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tdc_smtp::{CloseReason, Reply, ServerEvent, ServerSession};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use crate::report::OpenConnection;
use crate::server::Shared;
use crate::store::TlsRecord;
use crate::transaction::Transaction;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to read a batch of replies.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the end of the client's side is waited for after a close that it may not expect.
const LINGER: Duration = Duration::from_secs(1);
/// Octets read at once: commands, and bodies.
const READ_COMMANDS: usize = 8 * 1024;
const READ_BODY: usize = 64 * 1024;
/// XFORWARD attributes that are kept; Postfix knows eight.
const MAX_XFORWARD: usize = 16;

/// Why a connection ended without the session's consent.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("the client was silent for too long")]
    Idle,
    #[error("the client hung up")]
    HungUp,
    #[error("{0} took too long")]
    TimedOut(&'static str),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    async fn read(&mut self, input: &mut BytesMut) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read_buf(input).await,
            Self::Tls(stream) => stream.read_buf(input).await,
        }
    }

    async fn write(&mut self, output: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(output).await,
            Self::Tls(stream) => {
                stream.write_all(output).await?;
                stream.flush().await
            }
        }
    }

    async fn shutdown(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.shutdown().await,
            Self::Tls(stream) => stream.shutdown().await,
        }
    }
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
    shared: Arc<Shared>,
    stream: Option<Stream>,
    session: ServerSession,
    input: BytesMut,
    client: Client,
    transaction: Option<Transaction>,
    _open: OpenConnection,
}

impl Connection {
    pub(crate) fn new(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr) -> Self {
        // Replies are small and awaited: they must not wait for company. Without it mail is only slower.
        let _ = stream.set_nodelay(true);
        let (open, connection) = shared.counts.connected();
        Self {
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
            shared,
            _open: open,
        }
    }

    /// Serves until the session or the connection ends.
    pub(crate) async fn serve(mut self, mut stop: watch::Receiver<bool>) {
        let number = self.client.connection;
        match self.converse(&mut stop).await {
            Ok(reason) => tracing::debug!(connection = number, ?reason, "The connection is closed."),
            Err(error) => tracing::debug!(connection = number, %error, "The connection is lost."),
        }
    }

    async fn converse(&mut self, stop: &mut watch::Receiver<bool>) -> Result<CloseReason, Lost> {
        loop {
            match self.session.poll(&mut self.input) {
                ServerEvent::NeedInput => {
                    self.flush().await?;
                    self.read(stop).await?;
                }
                ServerEvent::Greeted | ServerEvent::Reset => self.transaction = None,
                ServerEvent::Mail(mail) => {
                    let (transaction, reply) = Transaction::begin(&self.shared, mail);
                    self.transaction = Some(transaction);
                    self.session.answer(reply);
                }
                ServerEvent::Rcpt(rcpt) => {
                    let reply = match &mut self.transaction {
                        Some(transaction) => transaction.recipient(&self.shared, rcpt),
                        None => out_of_step(),
                    };
                    self.session.answer(reply);
                }
                ServerEvent::Data => {
                    let reply = match &mut self.transaction {
                        Some(transaction) => transaction.data(&self.shared),
                        None => out_of_step(),
                    };
                    self.session.answer(reply);
                }
                ServerEvent::Body(piece) => {
                    if let Some(transaction) = &mut self.transaction {
                        transaction.piece(piece).await;
                    }
                }
                ServerEvent::BodyEnd(end) => {
                    let reply = match self.transaction.take() {
                        Some(transaction) => self.end(transaction, end).await,
                        None => out_of_step(),
                    };
                    self.session.answer(reply);
                }
                ServerEvent::Xforward(attributes) => self.xforward(attributes),
                ServerEvent::StartTls => {
                    self.flush().await?;
                    self.handshake().await?;
                }
                ServerEvent::Close(reason) => {
                    self.flush().await?;
                    self.close(reason).await;
                    return Ok(reason);
                }
            }
        }
    }

    async fn end(&mut self, transaction: Transaction, end: tdc_smtp::BodyEnd) -> Reply {
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
    async fn flush(&mut self) -> Result<(), Lost> {
        let output = self.session.output().split();
        let stream = self.stream.as_mut().ok_or(Lost::HungUp)?;
        if output.is_empty() {
            return Ok(());
        }
        timeout(WRITE_TIMEOUT, stream.write(&output))
            .await
            .map_err(|_| Lost::TimedOut("reading a reply"))??;
        Ok(())
    }

    /// Waits for octets, or for the server's end, which the session then tells the client.
    async fn read(&mut self, stop: &mut watch::Receiver<bool>) -> Result<(), Lost> {
        let in_body = self.transaction.as_ref().is_some_and(Transaction::in_body);
        self.input
            .reserve(if in_body { READ_BODY } else { READ_COMMANDS });
        let stopping = *stop.borrow();
        let stream = self.stream.as_mut().ok_or(Lost::HungUp)?;
        let read = timeout(self.shared.options.idle_timeout, stream.read(&mut self.input));
        let read = tokio::select! {
            read = read => Some(read),
            _ = stop.wait_for(|stop| *stop), if !stopping => None,
        };
        match read {
            None => self.session.shutdown(),
            Some(Ok(Ok(0))) => return Err(Lost::HungUp),
            Some(Ok(octets)) => drop(octets?),
            Some(Err(_)) => {
                Reply::new(421, "4.4.2 Error: timeout exceeded").write_to(self.session.output());
                self.flush().await?;
                return Err(Lost::Idle);
            }
        }
        Ok(())
    }

    async fn handshake(&mut self) -> Result<(), Lost> {
        let (Some(Stream::Plain(stream)), Some(acceptor)) = (self.stream.take(), &self.shared.tls) else {
            // The session offers STARTTLS only where there is a certificate, and only once.
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

    /// A client that is still sending must not have its last reply overtaken by a reset: its side is read until it
    /// ends, for a moment.
    async fn close(&mut self, reason: CloseReason) {
        let Some(mut stream) = self.stream.take() else {
            return;
        };
        let farewell = async {
            stream.shutdown().await?;
            self.input.clear();
            while reason != CloseReason::Quit && stream.read(&mut self.input).await? > 0 {
                self.input.clear();
            }
            Ok::<(), std::io::Error>(())
        };
        // The conversation is over; how the farewell went changes nothing.
        let _ = timeout(LINGER, farewell).await;
    }
}

/// The session keeps commands in order; should it ever not, the client is told to come again.
fn out_of_step() -> Reply {
    Reply::new(451, "4.3.0 The session is out of step")
}
