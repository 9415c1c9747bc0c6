//! Open connections to the next hop, and what each host offers.
//!
//! What always holds: a connection on which the server has said something unasked, or that it has closed, is never
//! handed out, and neither is one that is too old; the newest idle connection is used first, so that the others age
//! and are closed. Connections go to the first host that is not down: when it comes back, those to the others are
//! left to age. What is offered to clients is what every host offers of which that is known, so that a fail-over
//! finds no host that cannot take what was promised.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tdc_smtp::Extensions;
use tokio::sync::watch;

use super::connection::Connection;
use super::hosts::Hosts;
use super::{HostPort, NextHopConfig, NextHopError, NextHopMetrics, dial};

/// How long a client's greeting may wait until it is known what the next hop offers.
const LEARN: Duration = Duration::from_secs(2);
/// How often idle connections are looked at.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    config: NextHopConfig,
    metrics: NextHopMetrics,
    hosts: Hosts,
    /// For each host, the newest last.
    idle: Mutex<Vec<Vec<Connection>>>,
    /// For each host.
    offers: Vec<ArcSwapOption<Extensions>>,
    common: watch::Sender<Known>,
}

/// What is known of the hosts' offers.
#[derive(Clone, Debug, Default)]
struct Known {
    /// All hosts were asked once, whether they answered or not.
    asked: bool,
    /// What all of them offer that have answered.
    offer: Option<Arc<Extensions>>,
}

impl Pool {
    /// Begins to ask the hosts what they offer, and goes on to look after idle connections.
    pub(crate) fn new(config: NextHopConfig, metrics: NextHopMetrics) -> Self {
        let count = config.hosts.len();
        let shared = Arc::new(Shared {
            config,
            metrics,
            hosts: Hosts::new(count),
            idle: Mutex::new((0..count).map(|_| Vec::new()).collect()),
            offers: (0..count).map(|_| ArcSwapOption::empty()).collect(),
            common: watch::channel(Known::default()).0,
        });
        tokio::spawn(look_after(Arc::downgrade(&shared)));
        Self { shared }
    }

    /// How many hosts there are.
    pub(crate) fn hosts(&self) -> usize {
        self.shared.config.hosts.len()
    }

    /// An idle connection to the host that comes first, or a new one to the first that takes it.
    pub(crate) async fn get(&self) -> Result<Connection, NextHopError> {
        let shared = &self.shared;
        let first = shared.hosts.order(Instant::now()).first().copied().unwrap_or(0);
        while let Some(mut connection) = shared.take_idle(first) {
            if shared.is_fresh(&connection) {
                if connection.is_quiet() {
                    shared.count(first, "reused");
                    return Ok(connection);
                }
                shared.count(first, "gone");
            }
            tokio::spawn(connection.quit());
        }
        self.dial().await
    }

    /// A new connection to the first host that takes it.
    pub(crate) async fn dial(&self) -> Result<Connection, NextHopError> {
        let mut last = NextHopError::Closed;
        for host in self.shared.hosts.order(Instant::now()) {
            match self.shared.dial(host).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A new connection to that host failed before it was of use.
    pub(crate) fn failed(&self, connection: &Connection, error: &dyn std::fmt::Display) {
        self.shared.failed(connection.host, error);
    }

    /// Takes a connection back on which no transaction is open.
    pub(crate) fn put(&self, mut connection: Connection) {
        connection.idle_since = Instant::now();
        connection.reused = true;
        if let Some(surplus) = self.shared.keep(connection) {
            tokio::spawn(surplus.quit());
        }
    }

    /// What the hosts offer; `None` while none can be asked.
    pub(crate) async fn extensions(&self) -> Option<Arc<Extensions>> {
        let mut common = self.shared.common.subscribe();
        let known = common.wait_for(|known| known.asked || known.offer.is_some());
        let known = tokio::time::timeout(LEARN, known).await;
        known.ok()?.ok()?.offer.clone()
    }

    /// Closes every idle connection.
    pub(crate) async fn close(&self) {
        let idle: Vec<Connection> = self.shared.lock().iter_mut().flat_map(std::mem::take).collect();
        for connection in idle {
            connection.quit().await;
        }
    }
}

impl Shared {
    fn host(&self, at: usize) -> &HostPort {
        &self.config.hosts[at]
    }

    fn count(&self, at: usize, result: &'static str) {
        self.metrics.connection(self.host(at), result);
    }

    async fn dial(&self, at: usize) -> Result<Connection, NextHopError> {
        let host = self.host(at);
        match dial::dial(&self.config, at, host).await {
            Ok(connection) => {
                self.count(at, "opened");
                self.metrics.up(host, true);
                if self.hosts.works(at) {
                    tracing::info!(%host, "The next hop is back.");
                }
                self.learn(at, connection.extensions());
                Ok(connection)
            }
            Err(error) => {
                self.failed(at, &error);
                Err(error)
            }
        }
    }

    fn failed(&self, at: usize, error: &dyn std::fmt::Display) {
        let host = self.host(at);
        self.count(at, "failed");
        self.metrics.up(host, false);
        if self.hosts.failed(at, Instant::now()) {
            tracing::warn!(%host, %error, "The next hop does not take connections; it is left for a while.");
        }
    }

    /// Remembers what a host offers.
    fn learn(&self, at: usize, offered: &Extensions) {
        if self.offers[at].load().as_deref() == Some(offered) {
            return;
        }
        tracing::info!(host = %self.host(at), ?offered, "Learnt what the next hop offers.");
        self.offers[at].store(Some(Arc::new(offered.clone())));
        let known = self.offers.iter().filter_map(ArcSwapOption::load_full);
        let common = known.fold(None, |common: Option<Extensions>, next| match common {
            Some(common) => Some(common.intersection(&next)),
            None => Some((*next).clone()),
        });
        self.common
            .send_modify(|known| known.offer = common.map(Arc::new));
    }

    fn is_fresh(&self, connection: &Connection) -> bool {
        connection.idle_since.elapsed() < self.config.max_idle
            && connection.opened.elapsed() < self.config.max_age
    }

    fn take_idle(&self, at: usize) -> Option<Connection> {
        let mut idle = self.lock();
        let taken = idle[at].pop();
        self.metrics.idle(idle.iter().map(Vec::len).sum());
        taken
    }

    /// Keeps it, or gives it back when there is no room or it is too old.
    fn keep(&self, connection: Connection) -> Option<Connection> {
        let mut idle = self.lock();
        let of_host = &mut idle[connection.host];
        if of_host.len() >= self.config.keep || connection.opened.elapsed() >= self.config.max_age {
            return Some(connection);
        }
        of_host.push(connection);
        self.metrics.idle(idle.iter().map(Vec::len).sum());
        None
    }

    /// Closes idle connections that nobody used for long, or that the server has closed.
    fn tidy(&self) {
        let mut old = Vec::new();
        let mut idle = self.lock();
        for of_host in idle.iter_mut() {
            let (keep, close): (Vec<_>, Vec<_>) = std::mem::take(of_host)
                .into_iter()
                .map(|mut connection| (self.is_fresh(&connection) && connection.is_quiet(), connection))
                .partition(|(keep, _)| *keep);
            *of_host = keep.into_iter().map(|(_, connection)| connection).collect();
            old.extend(close.into_iter().map(|(_, connection)| connection));
        }
        self.metrics.idle(idle.iter().map(Vec::len).sum());
        drop(idle);
        for connection in old {
            tokio::spawn(connection.quit());
        }
    }

    /// Asks each host what it offers, and whether it is there.
    async fn refresh(&self) {
        let asked = (0..self.config.hosts.len()).map(|at| async move {
            // A failure is noted by `dial`.
            if let Ok(connection) = self.dial(at).await
                && let Some(surplus) = self.keep(connection)
            {
                surplus.quit().await;
            }
        });
        futures::future::join_all(asked).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<Connection>>> {
        // The lists are in order even if a holder panicked: each change is one push, pop or assignment.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the hosts now and then, more often while nothing is known; looks after idle connections. Ends with the pool.
async fn look_after(shared: Weak<Shared>) {
    let mut tick = tokio::time::interval(TIDY_EVERY);
    let mut asked: Option<Instant> = None;
    loop {
        tick.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        shared.tidy();
        let known = shared.common.borrow().offer.is_some();
        let due = asked.is_none_or(|at| !known || at.elapsed() >= shared.config.refresh);
        if due {
            shared.refresh().await;
            shared.common.send_modify(|known| known.asked = true);
            asked = Some(Instant::now());
        }
    }
}
