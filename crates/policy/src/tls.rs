//! Connections of clients that have proved who they are.
//!
//! Handshakes run beside each other, each within a time and all within a number: a client that is silent, or many of
//! them, keep no other out. A client without a trusted certificate is counted, logged, and reaches no service.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tdc_proto::tls::ServerTls;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use crate::metrics::PolicyMetrics;

/// How long one handshake may take: two round trips and two signatures.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How many handshakes may run at a time; the listen queue holds the rest.
const MAX_HANDSHAKES: usize = 64;
/// After a failed `accept` (too many open files), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(crate) type Incoming = ReceiverStream<io::Result<TlsStream<TcpStream>>>;

/// Each connection whose handshake succeeded. Ends when the stream is dropped.
pub(crate) fn incoming(listener: TcpListener, tls: ServerTls, metrics: PolicyMetrics) -> Incoming {
    let (ready, incoming) = mpsc::channel(1);
    tokio::spawn(accept(listener, tls, metrics, ready));
    ReceiverStream::new(incoming)
}

async fn accept(
    listener: TcpListener,
    tls: ServerTls,
    metrics: PolicyMetrics,
    ready: mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
) {
    let places = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let accepted = tokio::select! {
            accepted = next(&listener, &places) => accepted,
            () = ready.closed() => return,
        };
        let (stream, client, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "Cannot accept a connection.");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let acceptor = TlsAcceptor::from(tls.current());
        let (ready, metrics) = (ready.clone(), metrics.clone());
        tokio::spawn(async move {
            let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await;
            drop(place);
            match handshake.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                // When the service has stopped meanwhile, the connection is dropped with it.
                Ok(stream) => drop(ready.send(Ok(stream)).await),
                Err(error) => {
                    metrics.handshake_failed();
                    tracing::warn!(%client, %error, "Refused a client of the policy service.");
                }
            }
        });
    }
}

async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, client) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, client, place))
}
