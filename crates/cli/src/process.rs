//! What every long-running command has in common: log, metrics, health, and an orderly end.

use std::sync::Arc;
use std::time::Duration;

use tdc_queue::{JournalQueue, MemoryOptions, MemoryQueue, QueueError, RedisOptions, RedisQueue};
use tdc_telemetry::{Check, Config, Guard, HealthState, Metrics, Shutdown};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::args::CommonArgs;
use crate::error::CliError;

/// How often readiness is looked at.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// How often until it is there for the first time: a pod that waits longer than its work takes makes upgrades slow.
const CHECK_AT_START: Duration = Duration::from_millis(50);

/// A running process.
pub(crate) struct Process {
    pub(crate) guard: Guard,
    pub(crate) metrics: Metrics,
    pub(crate) health: HealthState,
    pub(crate) shutdown: Shutdown,
    pub(crate) instance: String,
    pub(crate) hostname: String,
    admin: Option<JoinHandle<()>>,
}

impl Process {
    /// Sets everything up; signals are taken from here on.
    pub(crate) async fn start(role: &'static str, args: &CommonArgs) -> Result<Self, CliError> {
        let (_, shutdown) = tdc_telemetry::signals().map_err(|e| CliError::new("cannot take signals", e))?;
        let hostname = args.hostname.clone().unwrap_or_else(system_hostname);
        let instance = args
            .instance
            .clone()
            .unwrap_or_else(|| format!("{hostname}-{}", std::process::id()));
        let config = Config {
            role,
            log_format: args.log_format,
            log_filter: args.log.clone(),
            instance: instance.clone(),
        };
        let guard = tdc_telemetry::init(&config).map_err(|e| CliError::text(e.to_string()))?;
        let metrics = Metrics::new(role);
        guard.observe(&metrics);
        let health = HealthState::new();
        let mut process = Self {
            guard,
            metrics,
            health,
            shutdown,
            instance,
            hostname,
            admin: None,
        };
        if let Some(address) = args.admin_listen {
            process.serve_admin(address).await?;
        }
        tracing::info!(
            role,
            version = env!("CARGO_PKG_VERSION"),
            instance = process.instance,
            "Starting."
        );
        Ok(process)
    }

    async fn serve_admin(&mut self, address: std::net::SocketAddr) -> Result<(), CliError> {
        let failed = |error| CliError::new(format!("cannot listen on {address} (--admin-listen)"), error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        tracing::info!(%address, "Serving health and metrics.");
        let serve = tdc_telemetry::serve(
            listener,
            self.health.clone(),
            self.metrics.clone(),
            self.shutdown.clone(),
        );
        self.admin = Some(tokio::spawn(async move {
            if let Err(error) = serve.await {
                tracing::error!(%error, "Health and metrics are not served any more.");
            }
        }));
        Ok(())
    }

    /// Sets a check by asking again and again.
    pub(crate) fn watch_check<F>(&self, check: Check, ask: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        tokio::spawn(ask_again_and_again(check, ask, self.shutdown.clone()));
    }

    /// Readiness depends on the queue.
    pub(crate) fn watch_queue(&self, name: &'static str, queue: &Arc<dyn JournalQueue>) {
        let queue = queue.clone();
        self.watch_check(self.health.check(name), move || {
            let queue = queue.clone();
            async move { queue.check().await.map_err(|error| error.to_string()) }
        });
    }

    /// The end: the last lines and spans leave.
    pub(crate) async fn end(self) {
        tracing::info!("Stopped.");
        if let Some(admin) = self.admin {
            admin.abort();
        }
        self.guard.shutdown().await;
    }
}

impl Process {
    /// The queue behind a URL, on which readiness depends from now on. A queue that does not answer yet is waited for,
    /// since whoever starts everything at once (Kubernetes) does not start it in order; one that may never be used
    /// (an old version, an eviction policy) ends the process.
    pub(crate) async fn redis(
        &self,
        name: &'static str,
        url: &str,
    ) -> Result<Arc<dyn JournalQueue>, CliError> {
        let check = self.health.check(name);
        let queue: Arc<dyn JournalQueue> = loop {
            match RedisQueue::connect(url, RedisOptions::default()).await {
                Ok(queue) => break Arc::new(queue),
                Err(error @ QueueError::Unavailable(_)) => {
                    check.fail(error.to_string());
                    tracing::warn!(%error, "The queue does not answer yet; waiting for it.");
                }
                Err(error) => return Err(CliError::new("cannot use the queue (--redis)", error)),
            }
            tokio::select! {
                () = tokio::time::sleep(CHECK_EVERY) => {}
                () = self.shutdown.started() => return Err(CliError::text("stopped while waiting for the queue")),
            }
        };
        let asked = queue.clone();
        self.watch_check(check, move || {
            let queue = asked.clone();
            async move { queue.check().await.map_err(|error| error.to_string()) }
        });
        Ok(queue)
    }
}

async fn ask_again_and_again<F>(check: Check, ask: impl Fn() -> F, shutdown: Shutdown)
where
    F: Future<Output = Result<(), String>>,
{
    let mut pause = CHECK_AT_START;
    loop {
        match ask().await {
            Ok(()) => {
                check.ok();
                pause = CHECK_EVERY;
            }
            Err(reason) => check.fail(reason),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.started() => return,
        }
    }
}

/// The queue behind a URL.
pub(crate) async fn redis(url: &str) -> Result<Arc<dyn JournalQueue>, CliError> {
    Ok(Arc::new(redis_queue(url).await?))
}

/// The same, with its dead letters.
pub(crate) async fn redis_queue(url: &str) -> Result<RedisQueue, CliError> {
    let queue = RedisQueue::connect(url, RedisOptions::default()).await;
    queue.map_err(|error| CliError::new("cannot use the queue (--redis)", error))
}

/// The queue of a process of its own.
pub(crate) fn memory() -> Arc<dyn JournalQueue> {
    Arc::new(MemoryQueue::new(MemoryOptions::default()))
}

fn system_hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() {
        "localhost".to_owned()
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tdc_telemetry::{HealthState, Shutdown};
    use tokio::time::Instant;

    use super::{CHECK_AT_START, CHECK_EVERY, ask_again_and_again};

    #[tokio::test(start_paused = true)]
    async fn what_is_there_a_moment_after_the_start_is_seen_at_once_and_later_less_often() {
        let health = HealthState::new();
        let asked = Arc::new(AtomicU32::new(0));
        let count = asked.clone();
        let ask = move || {
            let number = count.fetch_add(1, Ordering::Relaxed);
            async move { (number > 0).then_some(()).ok_or_else(|| "not yet".to_owned()) }
        };
        let begun = Instant::now();
        tokio::spawn(ask_again_and_again(health.check("test"), ask, Shutdown::never()));
        while !health.is_ready() {
            tokio::time::sleep(CHECK_AT_START / 10).await;
        }
        assert!(begun.elapsed() <= CHECK_AT_START * 2, "{:?}", begun.elapsed());
        let before = asked.load(Ordering::Relaxed);
        tokio::time::sleep(CHECK_EVERY * 3).await;
        assert!(asked.load(Ordering::Relaxed) - before <= 4);
    }
}
