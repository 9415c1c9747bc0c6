//! The driver of one client's connection: reads, lets the state machine decide what was said, writes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tdc_core::maillog::MailEvent;
use tdc_smtp::{CloseReason, MailFrom, Reply, ServerEvent, ServerSession};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::listener::Shared;
use crate::transaction::{Client, Transaction};

/// Room made in the input buffer for one read.
const READ: usize = 32 * 1024;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// How a run of the session ended.
enum Exit {
    Closed,
    Lost,
    StartTls,
}

/// One client.
pub(crate) struct Session {
    shared: Arc<Shared>,
    icid: u64,
    peer: SocketAddr,
    server: ServerSession,
    input: BytesMut,
    transaction: Option<Transaction>,
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, icid: u64, peer: SocketAddr, server: ServerSession) -> Self {
        Self {
            shared,
            icid,
            peer,
            server,
            input: BytesMut::new(),
            transaction: None,
        }
    }

    /// Serves the client to the end of its connection.
    pub(crate) async fn serve(mut self, mut stream: TcpStream) {
        let exit = match self.run(&mut stream).await {
            Ok(Exit::StartTls) => self.serve_tls(stream).await,
            other => other,
        };
        if let Some(transaction) = self.transaction.take() {
            transaction.cancel().await;
        }
        let event = match exit {
            Ok(Exit::Closed) => MailEvent::Closed { icid: self.icid },
            Ok(Exit::Lost | Exit::StartTls) | Err(_) => MailEvent::Lost { icid: self.icid },
        };
        self.shared.deps.mail_log.emit(&event);
    }

    async fn serve_tls(&mut self, stream: TcpStream) -> io::Result<Exit> {
        let Some(config) = self.shared.config.tls.clone() else {
            return Ok(Exit::Lost);
        };
        if let Some(transaction) = self.transaction.take() {
            transaction.cancel().await;
        }
        let accept = TlsAcceptor::from(config).accept(stream);
        let mut stream = match tokio::time::timeout(HANDSHAKE, accept).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let reason = error.to_string();
                self.shared.deps.mail_log.emit(&MailEvent::TlsRefused {
                    icid: self.icid,
                    reason,
                });
                return Ok(Exit::Lost);
            }
            Err(_) => return Ok(Exit::Lost),
        };
        let (_, tls) = stream.get_ref();
        let protocol = tls
            .protocol_version()
            .map(|v| format!("{v:?}").replace('_', "."))
            .unwrap_or_default();
        let cipher = tls
            .negotiated_cipher_suite()
            .map(|s| format!("{:?}", s.suite()))
            .unwrap_or_default();
        self.shared.deps.mail_log.emit(&MailEvent::TlsAccepted {
            icid: self.icid,
            protocol,
            cipher,
        });
        self.server.tls_started();
        self.run(&mut stream).await
    }

    async fn run(&mut self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<Exit> {
        loop {
            match self.server.poll(&mut self.input) {
                ServerEvent::NeedInput => {
                    self.flush(stream).await?;
                    if !self.read(stream).await? {
                        return Ok(Exit::Lost);
                    }
                }
                ServerEvent::Greeted | ServerEvent::Reset => {
                    if let Some(transaction) = self.transaction.take() {
                        transaction.cancel().await;
                    }
                }
                ServerEvent::Mail(mail) => self.mail(mail).await,
                ServerEvent::Rcpt(rcpt) => {
                    let reply = match &mut self.transaction {
                        Some(transaction) => {
                            let ahead = if transaction.wants_ahead() {
                                self.server.recipients_ahead(&self.input)
                            } else {
                                Vec::new()
                            };
                            transaction.rcpt(rcpt, &ahead).await
                        }
                        None => out_of_step(),
                    };
                    self.server.answer(reply);
                }
                ServerEvent::Data => {
                    let reply = match &mut self.transaction {
                        Some(transaction) => transaction.data(self.server.in_chunks()).await,
                        None => out_of_step(),
                    };
                    self.server.answer(reply);
                }
                ServerEvent::Body(piece) => {
                    if let Some(transaction) = &mut self.transaction {
                        transaction.piece(&piece).await;
                    }
                }
                ServerEvent::BodyEnd(end) => {
                    let reply = match self.transaction.take() {
                        Some(transaction) => transaction.finish(end).await,
                        None => out_of_step(),
                    };
                    tdc_failpoint::hit("ingress.before_reply");
                    self.server.answer(reply);
                }
                ServerEvent::Xforward(_) => {}
                ServerEvent::StartTls => {
                    self.flush(stream).await?;
                    return Ok(Exit::StartTls);
                }
                ServerEvent::Close(reason) => {
                    self.shared.deps.metrics.closed(reason);
                    if reason == CloseReason::ProxyHeader {
                        tracing::warn!(peer = %self.peer, "A client sent a PROXY header to a listener that takes none.");
                    }
                    self.flush(stream).await?;
                    let _ = stream.shutdown().await;
                    return Ok(Exit::Closed);
                }
            }
        }
    }

    async fn mail(&mut self, mail: MailFrom) {
        let client = Client {
            icid: self.icid,
            peer: self.peer,
            helo: self.server.helo().unwrap_or_default().to_owned(),
            esmtp: self.server.is_esmtp(),
        };
        let ahead = self.server.recipients_ahead(&self.input);
        let (reply, transaction) = Transaction::begin(&self.shared, client, mail, &ahead).await;
        self.transaction = transaction;
        self.server.answer(reply);
    }

    /// Writes all replies that have come together.
    async fn flush(&mut self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let output = self.server.output();
        if output.is_empty() {
            return Ok(());
        }
        let timeout = self.shared.config.client_timeout;
        let write = async {
            stream.write_all(output).await?;
            stream.flush().await
        };
        tokio::time::timeout(timeout, write)
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
        output.clear();
        tdc_failpoint::hit("ingress.replied");
        Ok(())
    }

    /// Reads once; false when the client is gone or silent for too long.
    async fn read(&mut self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<bool> {
        self.input.reserve(READ);
        let timeout = self.shared.config.client_timeout;
        let stopping = self.shared.stop_sessions.is_started();
        tokio::select! {
            biased;
            read = stream.read_buf(&mut self.input) => Ok(read? > 0),
            () = self.shared.stop_sessions.started(), if !stopping => {
                self.server.shutdown();
                Ok(true)
            }
            () = tokio::time::sleep(timeout) => {
                Reply::new(421, "4.4.2 Error: timeout exceeded").write_to(self.server.output());
                self.flush(stream).await?;
                Ok(false)
            }
        }
    }
}

/// The session asks for a step of a transaction that is not there; it cannot be, but a reply must be.
fn out_of_step() -> Reply {
    Reply::new(451, "4.3.0 Error: the transaction is gone, try again later")
}
