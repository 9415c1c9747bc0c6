//! The bare connection below the session: what is read, written and ended there.

use bytes::{BufMut as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::connection::{Connection, LINGER, Stream};

impl Connection {
    /// Ends the sending side; a client that is still sending must not have the last words overtaken by a reset: its
    /// side is read until it ends, for a moment.
    pub(crate) async fn farewell(&mut self, wait: bool) {
        let Some(mut stream) = self.stream.take() else {
            return;
        };
        let farewell = async {
            stream.shutdown().await?;
            self.input.clear();
            while wait && stream.read(&mut self.input).await? > 0 {
                self.input.clear();
            }
            Ok::<(), std::io::Error>(())
        };
        // The conversation is over; how the farewell went changes nothing.
        let _ = timeout(LINGER, farewell).await;
    }
}

impl Stream {
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    async fn read(&mut self, input: &mut BytesMut) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read_buf(input).await,
            Self::Tls(stream) => stream.read_buf(input).await,
        }
    }

    /// Reads at most so many octets.
    pub(crate) async fn read_some(&mut self, input: &mut BytesMut, most: usize) -> std::io::Result<usize> {
        let mut input = input.limit(most);
        match self {
            Self::Plain(stream) => stream.read_buf(&mut input).await,
            Self::Tls(stream) => stream.read_buf(&mut input).await,
        }
    }

    pub(crate) async fn write(&mut self, output: &[u8]) -> std::io::Result<()> {
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
