//! One SMTP connection to the next hop.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tdc_smtp::{ClientConfig, ClientError, ClientEvent, ClientSession, ClientTls, Extensions, Reply};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{NextHopConfig, NextHopError, write};

/// Octets of the body that are held back before they are written, so that a message of ordinary size goes out in
/// one write together with its final dot.
const HOLD: usize = 64 * 1024;
/// Room made in the input buffer for one read; replies are short.
const READ: usize = 4 * 1024;

/// An open connection whose greeting, EHLO and reply are done.
pub(crate) struct Connection {
    stream: TcpStream,
    session: ClientSession,
    input: BytesMut,
    held: Vec<Bytes>,
    held_len: usize,
    timeout: Duration,
    /// When it was put into the pool.
    pub(crate) idle_since: Instant,
    /// It has carried a transaction before: its loss may only mean that the server closes idle connections.
    pub(crate) reused: bool,
}

impl Connection {
    /// Connects to the first address that accepts, and says EHLO.
    pub(crate) async fn dial(config: &NextHopConfig) -> Result<Self, NextHopError> {
        let stream = connect(config).await?;
        let session = ClientSession::new(ClientConfig {
            helo: config.helo.clone(),
            tls: ClientTls::Never,
        });
        let mut connection = Self {
            stream,
            session,
            input: BytesMut::new(),
            held: Vec::new(),
            held_len: 0,
            timeout: config.timeout,
            idle_since: Instant::now(),
            reused: false,
        };
        match connection.next_event().await? {
            ClientEvent::Ready => Ok(connection),
            _ => Err(NextHopError::Closed),
        }
    }

    /// What the server offers.
    pub(crate) fn extensions(&self) -> &Extensions {
        self.session.extensions()
    }

    /// Tells the server who the client is (XFORWARD), for the transaction that follows.
    pub(crate) async fn xforward(&mut self, attributes: &[(&str, &str)]) -> Result<Reply, NextHopError> {
        self.session.xforward(attributes);
        self.reply().await
    }

    pub(crate) async fn mail(&mut self, address: &str, params: &[String]) -> Result<Reply, NextHopError> {
        self.session.mail(address, params)?;
        self.reply().await
    }

    pub(crate) async fn rcpt(&mut self, address: &str, params: &[String]) -> Result<Reply, NextHopError> {
        self.session.rcpt(address, params)?;
        self.reply().await
    }

    pub(crate) async fn data(&mut self) -> Result<Reply, NextHopError> {
        self.session.data();
        self.reply().await
    }

    /// Takes a piece of the body; writes when enough has come together.
    pub(crate) async fn body(&mut self, chunk: &Bytes) -> Result<(), NextHopError> {
        self.session.body(chunk, &mut self.held);
        self.held_len += chunk.len();
        if self.held_len < HOLD {
            return Ok(());
        }
        self.write_held().await
    }

    /// Sends the final dot, and waits for what the server makes of the message.
    pub(crate) async fn finish(&mut self) -> Result<Reply, NextHopError> {
        self.session.end_body(&mut self.held);
        self.write_held().await?;
        self.reply().await
    }

    /// Ends the transaction without a message.
    pub(crate) async fn reset(&mut self) -> Result<Reply, NextHopError> {
        self.session.rset();
        self.reply().await
    }

    /// Says goodbye without waiting for the answer.
    pub(crate) async fn quit(mut self) {
        self.session.quit();
        let output = self.session.output().split();
        let _ = tokio::time::timeout(Duration::from_secs(1), self.stream.write_all(&output)).await;
    }

    /// True while the server has neither closed the connection nor said anything unasked (a 421, say).
    pub(crate) fn is_quiet(&self) -> bool {
        let mut byte = [0_u8; 1];
        match self.stream.try_read(&mut byte) {
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            Ok(_) => false,
        }
    }

    async fn write_held(&mut self) -> Result<(), NextHopError> {
        self.held_len = 0;
        let written = write::write_all(&mut self.stream, &mut self.held);
        let result = tokio::time::timeout(self.timeout, written).await;
        self.held.clear();
        result.map_err(|_| NextHopError::Timeout(self.timeout))??;
        Ok(())
    }

    async fn reply(&mut self) -> Result<Reply, NextHopError> {
        match self.next_event().await? {
            ClientEvent::Reply { reply, .. } => Ok(reply),
            _ => Err(NextHopError::Closed),
        }
    }

    async fn next_event(&mut self) -> Result<ClientEvent, NextHopError> {
        let deadline = tokio::time::Instant::now() + self.timeout;
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
                    output.clear();
                }
                self.input.reserve(READ);
                self.stream.read_buf(&mut self.input).await
            };
            let read = tokio::time::timeout_at(deadline, exchange).await;
            if read.map_err(|_| NextHopError::Timeout(self.timeout))?? == 0 {
                return Err(NextHopError::Closed);
            }
        }
    }
}

async fn connect(config: &NextHopConfig) -> Result<TcpStream, NextHopError> {
    let failed = |reason: String| NextHopError::Connect {
        address: config.address.clone(),
        reason,
    };
    let addresses = tokio::time::timeout(config.connect_timeout, tokio::net::lookup_host(&config.address))
        .await
        .map_err(|_| failed("the look-up of its name took too long".to_owned()))?
        .map_err(|error| failed(error.to_string()))?;
    let mut reason = "its name has no address".to_owned();
    for address in addresses {
        match tokio::time::timeout(config.connect_timeout, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => reason = format!("{address}: {error}"),
            Err(_) => reason = format!("{address}: no connection within {:?}", config.connect_timeout),
        }
    }
    Err(failed(reason))
}
