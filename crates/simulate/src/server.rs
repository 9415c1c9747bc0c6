//! The listener, the accept loop, the orderly end.
//!
//! What always holds: once [`bind`] returns, connections are queued by the system and [`Server::run`] serves them;
//! each runs in its own task and fails alone. After the shutdown began no connection is accepted, those without a
//! transaction hear 421, the others may finish theirs within the grace; then the last report is written.

use std::future::Future;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tdc_smtp::{Reply, ServerConfig};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::SimulateError;
use crate::body::{Body, Budget, Keep, MEMORY_BUDGET};
use crate::config::{Common, IntakeConfig, MailboxConfig, SimulateConfig};
use crate::connection::Connection;
use crate::refuse::{Refuse, Stage};
use crate::report::{Report, ReportHandle};
use crate::script::{self, At, Fault, Script, Watched};
use crate::store::Store;
use crate::tls::{Acceptors, TlsError};

/// The report's file is looked after this often; it is written when something changed.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// Pause after the first failed accept; it doubles up to [`ACCEPT_PAUSE_MAX`].
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest pause between failed accepts (no file descriptors left, for example).
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Copies that are read back from their files and checked at the same time: each needs memory for the whole message.
const LARGE_CHECKS: usize = 2;
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// What all connections of a server share.
pub(crate) struct Shared {
    pub(crate) options: Common,
    pub(crate) session: Arc<ServerConfig>,
    pub(crate) tls: Option<Acceptors>,
    pub(crate) script: Watched,
    pub(crate) is_intake: bool,
    pub(crate) counts: ReportHandle,
    pub(crate) large_checks: Semaphore,
    rules: Vec<Arc<dyn Refuse>>,
    store: Option<Arc<Store>>,
    budget: Budget,
    unstored: AtomicU64,
}

impl Shared {
    /// A body for the next message, with its number.
    pub(crate) fn body(&self) -> Body {
        let (number, keep) = match (&self.store, self.is_intake) {
            (Some(store), _) => (store.number(), Keep::Store(store.clone())),
            (None, true) => (self.unstored.fetch_add(1, Ordering::Relaxed) + 1, Keep::Memory),
            (None, false) => (self.unstored.fetch_add(1, Ordering::Relaxed) + 1, Keep::Count),
        };
        Body::new(number, keep, &self.budget)
    }

    /// Puts a script in force, unless it wants what this server cannot do.
    pub(crate) fn take_script(&self, script: Script) -> Result<(), TlsError> {
        check_script(&script, self.tls.as_ref())?;
        self.counts.script(script.seed, script.names());
        self.script.set(script);
        Ok(())
    }

    /// The first refusal of the rules.
    pub(crate) fn refusal(&self, stage: Stage<'_>) -> Option<Reply> {
        self.rules.iter().find_map(|rule| rule.refuse(stage))
    }
}

/// A simulator that listens, and serves once it is [run](Server::run).
#[must_use = "a server serves nobody until it is run"]
pub struct Server {
    listener: TcpListener,
    local_addr: SocketAddr,
    ca: Option<String>,
    shared: Shared,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

/// Opens the store, loads or makes the certificate, writes the first report, and listens.
///
/// # Errors
/// When one of these is not possible.
pub async fn bind(config: impl Into<SimulateConfig>) -> Result<Server, SimulateError> {
    let config = config.into();
    let prepared = spawn_blocking(move || prepare(config)).await;
    let (shared, ca) = prepared.expect("preparing a server does not panic, and nobody aborts it")?;
    let addr = shared.options.listen;
    let fault = |source| SimulateError::Listen { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(fault)?;
    let local_addr = listener.local_addr().map_err(fault)?;
    Ok(Server {
        listener,
        local_addr,
        ca,
        shared,
    })
}

/// Everything that needs the disk.
fn prepare(config: SimulateConfig) -> Result<(Shared, Option<String>), SimulateError> {
    let (common, mut extensions, tls, tls_required, is_intake) = match config {
        SimulateConfig::Mailbox(MailboxConfig {
            common,
            extensions,
            tls,
        }) => (common, extensions, tls, false, false),
        SimulateConfig::Intake(IntakeConfig {
            common,
            extensions,
            tls,
            require_tls,
        }) => (common, extensions, Some(tls), require_tls, true),
    };
    let files = tls.map(|source| source.load()).transpose()?;
    let ca = files.as_ref().and_then(|files| files.ca.clone());
    let acceptors = files.map(Acceptors::new).transpose()?;
    extensions.starttls = acceptors.is_some();
    let counts = ReportHandle::new(if is_intake { "intake" } else { "mailbox" }, is_intake);
    let shared = Shared {
        session: Arc::new(ServerConfig {
            hostname: common.hostname.clone(),
            extensions,
            bare_lf: common.bare_lf,
            tls_required,
            ..ServerConfig::default()
        }),
        tls: acceptors,
        script: Watched::default(),
        is_intake,
        counts,
        large_checks: Semaphore::new(LARGE_CHECKS),
        rules: common
            .rejections
            .iter()
            .map(|rule| Arc::new(rule.clone()) as Arc<dyn Refuse>)
            .collect(),
        store: common
            .store
            .as_deref()
            .map(Store::open)
            .transpose()?
            .map(Arc::new),
        budget: Budget::new(MEMORY_BUDGET),
        unstored: AtomicU64::new(0),
        options: common,
    };
    if let Some(script) = &shared.options.script {
        shared.take_script(script.clone())?;
    }
    if let Some(path) = &shared.options.report {
        write_report(&shared.counts, path)?;
    }
    Ok((shared, ca))
}

/// Every certificate that a script wants must be there before it is in force.
fn check_script(script: &Script, tls: Option<&Acceptors>) -> Result<(), TlsError> {
    for rule in &script.rules {
        let wants_tls = rule
            .at
            .iter()
            .any(|at| matches!(at, At::StartTls | At::Handshake));
        match (tls, &rule.fault) {
            (None, _) if wants_tls => return Err(TlsError::NoCertificate(rule.name.clone())),
            (Some(tls), Fault::Tls(fault)) => drop(tls.acceptor(*fault)?),
            _ => {}
        }
    }
    Ok(())
}

fn write_report(counts: &ReportHandle, path: &Path) -> Result<Report, SimulateError> {
    let fault = |source| SimulateError::File {
        action: "write",
        path: path.to_owned(),
        source,
    };
    counts.write(path).map_err(fault)
}

impl Server {
    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The CA that clients should trust, as PEM; None without TLS, or when the folder has none.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca.as_deref()
    }

    /// The counts, to be looked at while the server runs.
    #[must_use]
    pub fn report(&self) -> ReportHandle {
        self.shared.counts.clone()
    }

    /// Adds a rule, asked after the earlier ones.
    pub fn with_rule(mut self, rule: Arc<dyn Refuse>) -> Self {
        self.shared.rules.push(rule);
        self
    }

    /// Serves until `shutdown` completes; then ends within the grace, and returns the last counts.
    ///
    /// # Errors
    /// When the last report cannot be written.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<Report, SimulateError> {
        let Self {
            listener,
            local_addr,
            shared,
            ..
        } = self;
        let shared = Arc::new(shared);
        let server = if shared.is_intake { "intake" } else { "mailbox" };
        tracing::info!(server, listen = %local_addr, "The simulator listens.");
        let (stop, stopped) = watch::channel(false);
        let reporter = tokio::spawn(keep_report(shared.clone(), stopped.clone()));
        let follower = tokio::spawn(script::follow(shared.clone(), stopped.clone()));
        let mut connections = JoinSet::new();
        tokio::select! {
            () = accept_all(listener, local_addr, &shared, &stopped, &mut connections) => {}
            () = shutdown => {}
        }
        // Receivers live in the reporter, so that there is always someone to tell.
        stop.send_replace(true);
        let all = async { while connections.join_next().await.is_some() {} };
        if timeout(shared.options.grace, all).await.is_err() {
            tracing::warn!(
                server,
                open = connections.len(),
                "The grace is over; connections are cut."
            );
            connections.shutdown().await;
        }
        follower.abort();
        finish_report(&shared, reporter).await
    }
}

/// Accepts until it is dropped.
async fn accept_all(
    mut listener: TcpListener,
    local_addr: SocketAddr,
    shared: &Arc<Shared>,
    stopped: &watch::Receiver<bool>,
    connections: &mut JoinSet<()>,
) {
    let mut pause = ACCEPT_PAUSE_MIN;
    loop {
        let accepted = tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if connections.len() >= shared.options.max_connections => {
                shared.counts.connection_refused();
                turn_away(stream);
            }
            Ok((stream, peer)) => {
                pause = ACCEPT_PAUSE_MIN;
                let connection = Connection::new(shared.clone(), stream, peer, stopped.clone());
                let refusal = connection.refusal();
                connections.spawn(connection.serve());
                if let Some(time) = refusal {
                    drop(listener);
                    listener = refuse(local_addr, time).await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "A connection could not be accepted.");
                sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
}

/// Keeps the address without listening, so that connections are refused, then listens again.
async fn refuse(addr: SocketAddr, time: Duration) -> TcpListener {
    let until = Instant::now() + time;
    loop {
        let bound = || {
            let socket = match addr {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            }?;
            socket.set_reuseaddr(true)?;
            socket.bind(addr)?;
            Ok::<_, io::Error>(socket)
        };
        let listening = match bound() {
            Ok(socket) => {
                sleep_until(until).await;
                socket.listen(BACKLOG)
            }
            Err(error) => Err(error),
        };
        match listening {
            Ok(listener) => return listener,
            Err(error) => {
                tracing::warn!(%error, %addr, "The address cannot be listened on again yet.");
                sleep(ACCEPT_PAUSE_MAX).await;
            }
        }
    }
}

/// Says 421 without waiting: a new socket has room for one line.
fn turn_away(stream: TcpStream) {
    let reply = Reply::new(421, "4.3.2 Too many connections");
    let said = stream
        .into_std()
        .and_then(|mut stream| write!(stream, "{reply}\r\n"));
    if let Err(error) = said {
        tracing::debug!(%error, "A surplus connection was closed without a word.");
    }
}

/// Writes the report when something changed, until the server stops.
async fn keep_report(shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let Some(path) = shared.options.report.clone() else {
        return;
    };
    let mut written = 0;
    let mut failing = false;
    while timeout(REPORT_EVERY, stopped.wait_for(|stopped| *stopped))
        .await
        .is_err()
    {
        let version = shared.counts.version();
        if version == written {
            continue;
        }
        written = version;
        let (counts, path) = (shared.counts.clone(), path.clone());
        let result = spawn_blocking(move || counts.write(&path))
            .await
            .map_err(io::Error::other)
            .flatten();
        if let (Err(error), false) = (&result, failing) {
            tracing::warn!(%error, "The report cannot be written; it is tried again.");
        }
        failing = result.is_err();
    }
}

/// The last report, once nobody else writes it.
async fn finish_report(shared: &Arc<Shared>, reporter: JoinHandle<()>) -> Result<Report, SimulateError> {
    if let Err(error) = reporter.await {
        tracing::warn!(%error, "The report's writer ended early.");
    }
    let shared = shared.clone();
    let written = spawn_blocking(move || match &shared.options.report {
        Some(path) => write_report(&shared.counts, path),
        None => Ok(shared.counts.snapshot()),
    });
    written
        .await
        .expect("writing a report does not panic, and nobody aborts it")
}
