//! A small SMTP client for the demonstration.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use tdc_smtp::{ClientConfig, ClientEvent, ClientSession, ClientTls, Reply};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::messages::Sample;
use crate::error::CliError;

/// Sends one message on a connection of its own; the reply to its final dot.
pub(super) async fn send(server: SocketAddr, sample: &Sample) -> Result<Reply, CliError> {
    let failed =
        |what: &str, why: &dyn std::fmt::Display| CliError::new(format!("{}: {what}", sample.name), why);
    let stream = TcpStream::connect(server)
        .await
        .map_err(|e| failed("connect", &e))?;
    stream.set_nodelay(true).map_err(|e| failed("connect", &e))?;
    let session = ClientSession::new(ClientConfig {
        helo: "sender.partner.example".into(),
        tls: ClientTls::Never,
    });
    let mut client = Client {
        stream,
        session,
        input: BytesMut::new(),
    };
    client.event().await.map_err(|e| failed("greeting", &e))?;
    let mut params = vec![format!("SIZE={}", sample.bytes.len())];
    if sample.eight_bit {
        params.push("BODY=8BITMIME".to_owned());
    }
    client
        .session
        .mail(sample.from, &params)
        .map_err(|e| failed("MAIL", &e))?;
    client.expect("MAIL", 2).await.map_err(|e| failed("MAIL", &e))?;
    for to in sample.to {
        client.session.rcpt(to, &[]).map_err(|e| failed("RCPT", &e))?;
        client.expect("RCPT", 2).await.map_err(|e| failed("RCPT", &e))?;
    }
    client.session.data();
    client.expect("DATA", 3).await.map_err(|e| failed("DATA", &e))?;
    let mut pieces = Vec::new();
    client
        .session
        .body(&Bytes::copy_from_slice(&sample.bytes), &mut pieces);
    client.session.end_body(&mut pieces);
    for piece in pieces {
        client
            .stream
            .write_all(&piece)
            .await
            .map_err(|e| failed("body", &e))?;
    }
    let reply = client
        .expect("the message", 2)
        .await
        .map_err(|e| failed("final dot", &e))?;
    client.session.quit();
    let _ = client.event().await;
    Ok(reply)
}

struct Client {
    stream: TcpStream,
    session: ClientSession,
    input: BytesMut,
}

impl Client {
    async fn expect(&mut self, what: &str, class: u16) -> Result<Reply, CliError> {
        match self.event().await? {
            ClientEvent::Reply { reply, .. } if reply.code() / 100 == class => Ok(reply),
            ClientEvent::Reply { reply, .. } => Err(CliError::new(format!("{what} was answered"), reply)),
            other => Err(CliError::new("the session is out of step", format!("{other:?}"))),
        }
    }

    async fn event(&mut self) -> Result<ClientEvent, CliError> {
        loop {
            match self
                .session
                .poll(&mut self.input)
                .map_err(|e| CliError::text(e.to_string()))?
            {
                ClientEvent::NeedInput => {}
                event => return Ok(event),
            }
            let output = self.session.output().split();
            self.stream
                .write_all(&output)
                .await
                .map_err(|e| CliError::text(e.to_string()))?;
            let read = self
                .stream
                .read_buf(&mut self.input)
                .await
                .map_err(|e| CliError::text(e.to_string()))?;
            if read == 0 {
                return Err(CliError::text("the server closed the connection"));
            }
        }
    }
}
