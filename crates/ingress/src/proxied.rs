//! What a load balancer says in front of a connection (the PROXY protocol), and the octets behind it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use tdc_smtp::proxy::MAX_V2;
use tdc_smtp::{ProxyStatus, proxy_header};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// A header that was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Proxied {
    /// The client and the address that it connected to; `None`: the balancer speaks for itself (a health check), or
    /// does not know. Then the connection's own addresses count, as the specification wants it.
    pub(crate) addresses: Option<(SocketAddr, SocketAddr)>,
}

/// Why there is none.
#[derive(Debug, Error)]
pub(crate) enum ProxyError {
    #[error("it does not begin with a PROXY header")]
    Missing,
    #[error("its PROXY header cannot be used: {0}")]
    Invalid(&'static str),
    #[error("it closed the connection before its PROXY header was complete")]
    Closed,
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

/// Reads the header; what is behind it stays in `input`. Reads at most [`MAX_V2`] octets, and may read for as long as the
/// caller lets it.
pub(crate) async fn read_header(
    stream: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
) -> Result<Proxied, ProxyError> {
    input.reserve(MAX_V2);
    loop {
        match proxy_header(input) {
            ProxyStatus::Incomplete => {}
            ProxyStatus::NotProxy => return Err(ProxyError::Missing),
            ProxyStatus::Invalid(why) => return Err(ProxyError::Invalid(why)),
            ProxyStatus::Header {
                consumed,
                source,
                destination,
            } => {
                input.advance(consumed);
                return Ok(Proxied {
                    addresses: source.zip(destination),
                });
            }
        }
        if stream.read_buf(input).await? == 0 {
            return Err(ProxyError::Closed);
        }
    }
}

/// A connection of which the first octets have been read already.
pub(crate) struct Prefixed<S> {
    prefix: BytesMut,
    stream: S,
}

impl<S> Prefixed<S> {
    pub(crate) fn new(prefix: BytesMut, stream: S) -> Self {
        Self { prefix, stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.prefix.len().min(buf.remaining());
        let octets = self.prefix.split_to(count);
        buf.put_slice(&octets);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    async fn read(wire: &[u8], step: usize) -> (Result<Proxied, ProxyError>, Vec<u8>) {
        let (mut near, mut far) = tokio::io::duplex(64);
        let wire = wire.to_vec();
        let writer = tokio::spawn(async move {
            for piece in wire.chunks(step) {
                // The reader may have heard enough.
                let _ = far.write_all(piece).await;
                tokio::task::yield_now().await;
            }
        });
        let mut input = BytesMut::new();
        let proxied = read_header(&mut near, &mut input).await;
        let mut rest = Vec::new();
        if proxied.is_ok() {
            Prefixed::new(input, near).read_to_end(&mut rest).await.unwrap();
        } else {
            drop(near);
        }
        writer.await.unwrap();
        (proxied, rest)
    }

    #[tokio::test]
    async fn what_is_behind_the_header_is_kept_at_any_split() {
        let header = b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 25\r\n";
        let v2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
        for step in [1, 2, 7, 50, 1000] {
            let (proxied, rest) = read(&[header, b"EHLO c\r\n".as_slice()].concat(), step).await;
            let (client, local) = proxied.unwrap().addresses.unwrap();
            assert_eq!(
                (client.to_string(), local.to_string()),
                ("192.0.2.1:12345".into(), "198.51.100.2:25".into())
            );
            assert_eq!(rest, b"EHLO c\r\n");
            let (proxied, rest) = read(&[v2, b"QUIT\r\n".as_slice()].concat(), step).await;
            assert_eq!(
                (proxied.unwrap().addresses, rest),
                (None, b"QUIT\r\n".to_vec()),
                "LOCAL"
            );
            assert!(matches!(
                read(b"EHLO c\r\n", step).await.0,
                Err(ProxyError::Missing)
            ));
            assert!(matches!(
                read(&header[..20], step).await.0,
                Err(ProxyError::Closed)
            ));
            assert!(matches!(
                read(b"PROXY nonsense\r\n", step).await.0,
                Err(ProxyError::Invalid(_))
            ));
        }
    }
}
