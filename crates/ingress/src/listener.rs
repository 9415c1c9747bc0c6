//! Accepts connections, and stops in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tdc_telemetry::{Shutdown, Trigger};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::admission;
use crate::config::{Deps, IngressConfig, ListenerConfig};
use crate::gate::{Gate, GateLimits};
use crate::memory::Memory;
use crate::nexthop::pool::Pool;
use crate::shedding::{self, Shedding};
use crate::tls::{Certificate, TlsError};

/// The first pause after `accept` failed (no descriptors left, say); doubled each time.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) config: IngressConfig,
    pub(crate) deps: Deps,
    pub(crate) pool: Pool,
    pub(crate) gate: Arc<Gate>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) shedding: Shedding,
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    /// Starts when sessions are to end at their next command boundary.
    pub(crate) stop_sessions: Shutdown,
}

/// Why it does not listen.
#[derive(Debug, Error)]
pub enum BindError {
    /// An address cannot be used.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A listener for TLS, and no certificate.
    #[error("cannot listen for TLS on {0} without a certificate (--tls-cert, --tls-key)")]
    NoCertificate(SocketAddr),
}

/// An ingress that listens.
pub struct Ingress {
    listeners: Vec<(ListenerConfig, TcpListener)>,
    certificate: Option<Certificate>,
    shared: Arc<Shared>,
    stop: Trigger,
}

impl Ingress {
    /// Listens on every address of the configuration.
    ///
    /// # Errors
    /// When an address cannot be bound, or the certificate cannot be used.
    pub async fn bind(config: IngressConfig, deps: Deps) -> Result<Self, BindError> {
        let certificate = config.tls.clone().map(Certificate::load).transpose()?;
        let mut listeners = Vec::with_capacity(config.listeners.len());
        for listener in &config.listeners {
            let address = listener.address;
            if listener.tls && certificate.is_none() {
                return Err(BindError::NoCertificate(address));
            }
            let socket = listen(address).map_err(|error| BindError::Listen(address, error))?;
            let address = socket
                .local_addr()
                .map_err(|error| BindError::Listen(address, error))?;
            listeners.push((ListenerConfig { address, ..*listener }, socket));
        }
        let limits = &config.limits;
        let gate = Gate::new(GateLimits {
            connections: limits.connections,
            per_network: limits.connections_per_network,
            per_minute: limits.connection_rate,
            prefix_v4: limits.prefix_v4,
            prefix_v6: limits.prefix_v6,
        });
        let (stop, stop_sessions) = Trigger::new();
        let shared = Arc::new(Shared {
            pool: Pool::new(config.next_hop.clone(), deps.metrics.next_hop.clone()),
            memory: Memory::new(limits.memory),
            shedding: Shedding::default(),
            tls: certificate.as_ref().map(Certificate::config),
            gate,
            config,
            deps,
            stop_sessions,
        });
        Ok(Self {
            listeners,
            certificate,
            shared,
            stop,
        })
    }

    /// Where it listens, with the ports that were given for port 0; in the order of the configuration.
    pub fn listeners(&self) -> impl Iterator<Item = ListenerConfig> + '_ {
        self.listeners.iter().map(|(listener, _)| *listener)
    }

    /// Serves until the shutdown, then as long as running transactions need, but no longer than the grace.
    ///
    /// After the signal connections are still accepted for the drain delay, since their senders may not have heard
    /// yet that this process leaves. Then nothing more is accepted, and each session ends with 421 at its next
    /// command outside of a transaction.
    pub async fn run(self, shutdown: Shutdown) {
        let Self {
            listeners,
            certificate,
            shared,
            stop,
        } = self;
        let mut tasks = JoinSet::new();
        tasks.spawn(shedding::watch(shared.clone(), shutdown.clone()));
        if let Some(certificate) = certificate {
            tasks.spawn(certificate.watch(shared.deps.metrics.clone(), shutdown.clone()));
        }
        let mut accepting = JoinSet::new();
        for (listener, socket) in listeners {
            accepting.spawn(accept(shared.clone(), listener, socket, shutdown.clone()));
        }
        let mut sessions = Vec::new();
        while let Some(ended) = accepting.join_next().await {
            sessions.extend(ended);
        }
        stop.start();
        let all = async {
            for sessions in &mut sessions {
                while sessions.join_next().await.is_some() {}
            }
        };
        if tokio::time::timeout(shared.config.grace, all).await.is_err() {
            tracing::warn!(
                sessions = sessions.iter().map(JoinSet::len).sum::<usize>(),
                "The grace is over; closing sessions in the middle of a message."
            );
            for sessions in &mut sessions {
                sessions.shutdown().await;
            }
        }
        tasks.shutdown().await;
        shared.pool.close().await;
    }
}

/// Accepts until the drain delay after the shutdown is over; gives the sessions that still run.
async fn accept(
    shared: Arc<Shared>,
    listener: ListenerConfig,
    socket: TcpListener,
    shutdown: Shutdown,
) -> JoinSet<()> {
    let mut sessions = JoinSet::new();
    let mut pause = BACKOFF_MIN;
    let drained = shutdown.expired(shared.config.drain_delay);
    tokio::pin!(drained);
    loop {
        tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((stream, peer)) => {
                    pause = BACKOFF_MIN;
                    sessions.spawn(admission::client(shared.clone(), listener, stream, peer));
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    shared.deps.metrics.accept_failed();
                    tracing::error!(%error, "Connections cannot be accepted now.");
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = &mut drained => return sessions,
                    }
                    pause = (pause * 2).min(BACKOFF_MAX);
                }
            },
            Some(_) = sessions.join_next() => {}
            () = &mut drained => return sessions,
        }
    }
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
    // As many as the kernel lets wait by default (net.core.somaxconn): a client that finds no room hears nothing.
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}

/// The client went away before it was accepted.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
