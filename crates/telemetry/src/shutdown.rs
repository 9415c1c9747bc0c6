//! How a process is told to stop.
//!
//! A [`Trigger`] starts the shutdown, once and for good; every clone of its [`Shutdown`] learns of it and agrees on
//! when it was, so that all parts of a process count the same grace period.

use std::future::pending;
use std::io::{self, Write as _};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Starts a shutdown. When the last clone is dropped without that, the shutdown never starts.
#[derive(Clone, Debug)]
#[must_use = "without its trigger a shutdown never starts"]
pub struct Trigger {
    started: watch::Sender<Option<Instant>>,
}

/// Learns of a shutdown. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown {
    started: watch::Receiver<Option<Instant>>,
}

impl Trigger {
    /// A trigger and what it triggers.
    pub fn new() -> (Self, Shutdown) {
        let (sender, receiver) = watch::channel(None);
        (Self { started: sender }, Shutdown { started: receiver })
    }

    /// Starts the shutdown; says whether it was this call that did.
    pub fn start(&self) -> bool {
        self.started.send_if_modified(|started| {
            let first = started.is_none();
            started.get_or_insert_with(Instant::now);
            first
        })
    }
}

impl Shutdown {
    /// A shutdown that never starts: for commands that end by themselves.
    pub fn never() -> Self {
        Trigger::new().1
    }

    /// Waits for the start of the shutdown; returns at once after it. Safe to drop at any point.
    pub async fn started(&self) {
        // An error means that no trigger is left.
        if self.started.clone().wait_for(Option::is_some).await.is_err() {
            pending::<()>().await;
        }
    }

    /// Whether the shutdown has started.
    pub fn is_started(&self) -> bool {
        self.started.borrow().is_some()
    }

    /// When `grace` after the start of the shutdown is over; `None` before the start.
    pub fn deadline(&self, grace: Duration) -> Option<Instant> {
        // A grace period beyond what a clock can hold is no limit.
        self.started
            .borrow()
            .and_then(|started| started.checked_add(grace))
    }

    /// Waits until `grace` after the start of the shutdown is over. Safe to drop at any point.
    pub async fn expired(&self, grace: Duration) {
        self.started().await;
        match self.deadline(grace) {
            Some(deadline) => sleep_until(deadline).await,
            None => pending().await,
        }
    }
}

/// A signal this soon after the first is the same one: `timeout` and some supervisors send it to the process and to its
/// group.
const REPEAT: Duration = Duration::from_millis(250);

/// Listens for SIGTERM and SIGINT: the first one starts the shutdown, a second one (not within [`REPEAT`] of the first)
/// ends the process at once with exit code 1. Must be called within a Tokio runtime.
///
/// # Errors
/// When a signal handler cannot be installed.
pub fn signals() -> io::Result<(Trigger, Shutdown)> {
    let (trigger, shutdown) = Trigger::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let starter = trigger.clone();
    tokio::spawn(async move {
        let name = next(&mut terminate, &mut interrupt).await;
        tracing::info!(
            signal = name,
            "Shutting down; a second signal ends the process at once."
        );
        starter.start();
        let first = Instant::now();
        loop {
            let name = next(&mut terminate, &mut interrupt).await;
            if first.elapsed() >= REPEAT {
                abort(name);
            }
        }
    });
    Ok((trigger, shutdown))
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a second signal asks for exactly this: no flush, no drain"
)]
fn abort(signal: &str) -> ! {
    // Not through the log: its thread would not get to write the line. A closed standard error changes nothing.
    let _ = writeln!(
        io::stderr(),
        "tdc: second signal ({signal}); ending at once, transactions are cut off"
    );
    std::process::exit(1)
}

#[cfg(test)]
mod tests {
    use super::{Shutdown, Trigger};
    use std::time::Duration;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn all_clones_agree_on_the_start() {
        let (trigger, shutdown) = Trigger::new();
        let clone = shutdown.clone();
        let waiter = tokio::spawn(async move {
            clone.started().await;
            clone.deadline(Duration::from_secs(30))
        });
        assert!(!shutdown.is_started());
        assert_eq!(shutdown.deadline(Duration::ZERO), None);

        assert!(trigger.start());
        let start = Instant::now();
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(!trigger.start(), "the first start counts");

        assert!(shutdown.is_started());
        assert_eq!(waiter.await.unwrap(), Some(start + Duration::from_secs(30)));
        shutdown.expired(Duration::from_secs(30)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(30));
        // Long over: at once.
        shutdown.expired(Duration::from_secs(1)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(30));
        assert_eq!(
            shutdown.deadline(Duration::MAX),
            None,
            "no limit rather than a panic"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_trigger_it_never_starts() {
        let shutdown = Shutdown::never();
        let year = Duration::from_secs(31_536_000);
        assert!(tokio::time::timeout(year, shutdown.started()).await.is_err());
        assert!(!shutdown.is_started());
    }
}
