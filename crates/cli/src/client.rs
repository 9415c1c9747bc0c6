//! A small SMTP client: sends one message on a connection of its own, for the demonstration and for `tdc send`.

use bytes::{Bytes, BytesMut};
use rustls::pki_types::ServerName;
use tdc_ingress::{HostPort, NextHopTls};
use tdc_smtp::{ClientConfig, ClientEvent, ClientSession, ClientTls, Reply};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::CliError;

/// A message and its envelope.
pub(crate) struct Mail<'a> {
    pub(crate) helo: &'a str,
    pub(crate) from: &'a str,
    pub(crate) to: &'a [&'a str],
    /// The body holds octets above 127.
    pub(crate) eight_bit: bool,
    pub(crate) bytes: Bytes,
}

/// How it went.
pub(crate) struct Sent {
    /// The reply to the final dot.
    pub(crate) reply: Reply,
    /// Over TLS.
    pub(crate) tls: bool,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

struct Client {
    stream: Box<dyn Stream>,
    session: ClientSession,
    input: BytesMut,
}

/// Sends. Every recipient must be accepted. STARTTLS is used where it is offered, whatever the certificate says: this
/// is a client of one's own server.
pub(crate) async fn send(server: &HostPort, mail: Mail<'_>) -> Result<Sent, CliError> {
    let failed = |what: &str, why: &dyn std::fmt::Display| CliError::new(what, why);
    let stream = TcpStream::connect((server.host(), server.port()))
        .await
        .map_err(|e| failed("connect", &e))?;
    stream.set_nodelay(true).map_err(|e| failed("connect", &e))?;
    let config = ClientConfig {
        helo: mail.helo.into(),
        tls: ClientTls::IfOffered,
    };
    let mut client = Client {
        stream: Box::new(stream),
        session: ClientSession::new(config),
        input: BytesMut::new(),
    };
    let mut greeted = client.event().await;
    let tls = matches!(greeted, Ok(ClientEvent::StartTls));
    if tls {
        client = client
            .start_tls(server.host())
            .await
            .map_err(|e| failed("STARTTLS", &e))?;
        greeted = client.event().await;
    }
    greeted.map_err(|e| failed("greeting", &e))?;
    let mut params = vec![format!("SIZE={}", mail.bytes.len())];
    if mail.eight_bit {
        params.push("BODY=8BITMIME".to_owned());
    }
    client
        .session
        .mail(mail.from, &params)
        .map_err(|e| failed("MAIL", &e))?;
    client.expect("MAIL", 2).await?;
    for to in mail.to {
        client.session.rcpt(to, &[]).map_err(|e| failed("RCPT", &e))?;
        client.expect("RCPT", 2).await?;
    }
    client.session.data();
    client.expect("DATA", 3).await?;
    let mut pieces = Vec::new();
    client.session.body(&mail.bytes, &mut pieces);
    client.session.end_body(&mut pieces);
    for piece in pieces {
        let written = client.stream.write_all(&piece).await;
        written.map_err(|e| failed("the message", &e))?;
    }
    let reply = client.expect("the message", 2).await?;
    client.session.quit();
    let _ = client.event().await;
    Ok(Sent { reply, tls })
}

impl Client {
    async fn start_tls(mut self, host: &str) -> Result<Self, CliError> {
        let text = |error: &dyn std::fmt::Display| CliError::text(error.to_string());
        let NextHopTls::Opportunistic(config) = NextHopTls::opportunistic().map_err(|e| text(&e))? else {
            return Err(CliError::text("TLS is off"));
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|e| text(&e))?;
        let connector = TlsConnector::from(config);
        let stream = connector.connect(name, self.stream).await.map_err(|e| text(&e))?;
        self.session.tls_started();
        Ok(Self {
            stream: Box::new(stream),
            ..self
        })
    }

    async fn expect(&mut self, what: &str, class: u16) -> Result<Reply, CliError> {
        match self.event().await.map_err(|e| CliError::new(what, e))? {
            ClientEvent::Reply { reply, .. } if reply.code() / 100 == class => Ok(reply),
            ClientEvent::Reply { reply, .. } => Err(CliError::new(format!("{what} was answered"), reply)),
            other => Err(CliError::new("the session is out of step", format!("{other:?}"))),
        }
    }

    async fn event(&mut self) -> Result<ClientEvent, CliError> {
        let text = |error: &dyn std::fmt::Display| CliError::text(error.to_string());
        loop {
            match self.session.poll(&mut self.input).map_err(|e| text(&e))? {
                ClientEvent::NeedInput => {}
                event => return Ok(event),
            }
            let output = self.session.output().split();
            self.stream.write_all(&output).await.map_err(|e| text(&e))?;
            self.stream.flush().await.map_err(|e| text(&e))?;
            let read = self
                .stream
                .read_buf(&mut self.input)
                .await
                .map_err(|e| text(&e))?;
            if read == 0 {
                return Err(CliError::text("the server closed the connection"));
            }
        }
    }
}
