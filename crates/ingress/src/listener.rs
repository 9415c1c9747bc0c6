//! Accepts connections, and stops in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tdc_core::maillog::MailEvent;
use tdc_queue::Series;
use tdc_smtp::{Extensions, Reply, ServerConfig, ServerSession};
use tdc_telemetry::{Shutdown, Trigger};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::config::{Deps, IngressConfig};
use crate::nexthop::pool::Pool;
use crate::session::Session;

/// The first pause after `accept` failed (no descriptors left, say); doubled each time.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) config: IngressConfig,
    pub(crate) deps: Deps,
    pub(crate) pool: Pool,
    /// Starts when sessions are to end at their next command boundary.
    pub(crate) stop_sessions: Shutdown,
}

/// An ingress that listens.
pub struct Ingress {
    listener: TcpListener,
    shared: Arc<Shared>,
    stop: Trigger,
}

impl Ingress {
    /// Listens.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(address: SocketAddr, config: IngressConfig, deps: Deps) -> io::Result<Self> {
        let listener = listen(address)?;
        let pool = Pool::new(config.next_hop.clone(), deps.metrics.next_hop.clone());
        let (stop, stop_sessions) = Trigger::new();
        let shared = Arc::new(Shared {
            config,
            deps,
            pool,
            stop_sessions,
        });
        Ok(Self {
            listener,
            shared,
            stop,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the shutdown, then as long as running transactions need, but no longer than the grace.
    ///
    /// After the signal connections are still accepted for the drain delay, since their senders may not have heard
    /// yet that this process leaves. Then nothing more is accepted, and each session ends with 421 at its next
    /// command outside of a transaction.
    pub async fn run(self, shutdown: Shutdown) {
        let Self {
            listener,
            shared,
            stop,
        } = self;
        let permits = Arc::new(Semaphore::new(shared.config.max_connections));
        let mut sessions = JoinSet::new();
        let mut pause = BACKOFF_MIN;
        let drained = drained(shutdown, shared.config.drain_delay);
        tokio::pin!(drained);
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        pause = BACKOFF_MIN;
                        let permit = permits.clone().try_acquire_owned().ok();
                        sessions.spawn(client(shared.clone(), stream, peer, permit));
                    }
                    Err(error) if is_passing(&error) => {}
                    Err(error) => {
                        tracing::error!(%error, "Connections cannot be accepted now.");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(BACKOFF_MAX);
                    }
                },
                Some(_) = sessions.join_next() => {}
                () = &mut drained => break,
            }
        }
        drop(listener);
        stop.start();
        let all = async { while sessions.join_next().await.is_some() {} };
        if tokio::time::timeout(shared.config.grace, all).await.is_err() {
            tracing::warn!(
                sessions = sessions.len(),
                "The grace is over; closing sessions in the middle of a message."
            );
            sessions.shutdown().await;
        }
        shared.pool.close().await;
    }
}

async fn drained(shutdown: Shutdown, delay: Duration) {
    shutdown.started().await;
    tokio::time::sleep(delay).await;
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

/// The client went away before it was accepted.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

async fn client(
    shared: Arc<Shared>,
    mut stream: TcpStream,
    peer: SocketAddr,
    permit: Option<OwnedSemaphorePermit>,
) {
    let metrics = shared.deps.metrics.clone();
    if permit.is_none() {
        metrics.refused_connection();
        turn_away(
            &mut stream,
            &Reply::new(421, "4.7.0 Error: too many connections, try again later"),
        )
        .await;
        return;
    }
    let _ = stream.set_nodelay(true);
    let icid = shared.deps.ids.next(Series::Icid);
    let local = stream.local_addr().unwrap_or(peer);
    shared
        .deps
        .mail_log
        .emit(&MailEvent::Connected { icid, local, peer });
    let _open = metrics.connected();
    if !shared.config.allows(peer.ip()) {
        let reason = "not in the networks that may send";
        shared.deps.mail_log.emit(&MailEvent::Refused { icid, reason });
        metrics.refused_connection();
        turn_away(&mut stream, &Reply::new(554, "5.7.1 Access denied")).await;
        shared.deps.mail_log.emit(&MailEvent::Closed { icid });
        return;
    }
    let server = ServerSession::new(Arc::new(offer(&shared).await));
    Session::new(shared, icid, peer, server).serve(stream).await;
    drop(permit);
}

async fn turn_away(stream: &mut TcpStream, reply: &Reply) {
    let mut output = BytesMut::new();
    reply.write_to(&mut output);
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.write_all(&output)).await;
}

/// What EHLO offers: what this gateway can do, as far as the next hop can do it too.
async fn offer(shared: &Shared) -> ServerConfig {
    let config = &shared.config;
    let hop = shared
        .pool
        .extensions()
        .await
        .map(|known| (*known).clone())
        .unwrap_or_default();
    let size = match hop.size {
        Some(limit @ 1..) => limit.min(config.max_size),
        _ => config.max_size,
    };
    let extensions = Extensions {
        pipelining: true,
        size: Some(size),
        eight_bit_mime: hop.eight_bit_mime,
        enhanced_status_codes: hop.enhanced_status_codes,
        starttls: config.tls.is_some(),
        chunking: true,
        smtputf8: hop.smtputf8,
        dsn: hop.dsn,
        requiretls: false,
        xforward: Vec::new(),
    };
    ServerConfig {
        hostname: config.hostname.clone(),
        extensions,
        max_recipients: config.max_recipients,
        bare_lf: config.bare_lf,
        tls_required: config.tls_required && config.tls.is_some(),
        ..ServerConfig::default()
    }
}
