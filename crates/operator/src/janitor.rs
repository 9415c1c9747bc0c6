//! Keeps the queue clean: dead workers' names, and the queues of intakes that were removed.
//!
//! What always holds: nothing that could still be delivered is touched. Copies of a removed intake stay where they
//! are; they are delivered when the intake comes back within their lifetime, and end as expired, counted and among the
//! dead letters, when it does not. That they are there is told: in the log, by an event on the removed intake, and by
//! `tdc_operator_orphaned_copies`. A queue is cleared away only when it has been empty for longer than any dead letter
//! is kept; a worker's name only when it holds no entry. If the operator dies at any point, the next round does what
//! is left.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tdc_api::{Compiled, Kind};
use tdc_cluster::{Cluster, Key, Scope};
use tdc_queue::{Janitor, QueueError};

use crate::Queue;
use crate::metrics::OperatorMetrics;
use crate::writer::Herald;

/// How the queue is kept clean.
#[derive(Clone, Copy, Debug)]
pub struct Housekeeping {
    /// Between two rounds.
    pub every: Duration,
    /// A worker's name that held nothing and asked for nothing for this long is removed.
    pub dead_after: Duration,
    /// The empty queue of an intake that does not exist is cleared away after this long.
    pub forget_after: Duration,
}

impl Default for Housekeeping {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(10),
            // Workers ask every second; an hour without is a worker that is gone.
            dead_after: Duration::from_secs(3600),
            // The longest time that `spec.deadLetter.retention` allows.
            forget_after: Duration::from_secs(720 * 3600),
        }
    }
}

/// Rounds for ever.
pub(crate) async fn run(
    housekeeping: Housekeeping,
    queue: Option<Queue>,
    cluster: Cluster,
    herald: Herald,
    metrics: OperatorMetrics,
) -> Infallible {
    let Some(queue) = queue else {
        return std::future::pending().await;
    };
    let mut keeper = Keeper {
        housekeeping,
        queue: queue.await,
        qualified: matches!(cluster.scope(), Scope::All { .. }),
        herald,
        metrics,
        known: BTreeMap::new(),
        told: BTreeSet::new(),
    };
    let mut compiled = cluster.compiled();
    loop {
        let newest = compiled.borrow_and_update().clone();
        if let Some(compiled) = newest
            && let Err(error) = keeper.round(&compiled).await
        {
            tracing::warn!(%error, "The queue could not be looked after; trying again.");
        }
        tokio::select! {
            () = tokio::time::sleep(keeper.housekeeping.every) => {}
            // A removed intake is told of at once.
            changed = compiled.changed() => if changed.is_err() {
                return std::future::pending().await;
            },
        }
    }
}

struct Keeper {
    housekeeping: Housekeeping,
    queue: Arc<dyn Janitor>,
    /// Names in the queue begin with their namespace.
    qualified: bool,
    herald: Herald,
    metrics: OperatorMetrics,
    /// Every intake that was seen, by the name of its queue: for the event when it is gone.
    known: BTreeMap<String, (Key, String)>,
    /// Removed intakes with copies of which it was said.
    told: BTreeSet<String>,
}

impl Keeper {
    async fn round(&mut self, compiled: &Compiled) -> Result<(), QueueError> {
        let mut present = BTreeSet::new();
        for verdict in compiled
            .verdicts
            .iter()
            .filter(|verdict| verdict.kind == Kind::IntakeAddress)
        {
            // One that is not accepted exists all the same: its queue is not an orphan.
            let name = if self.qualified {
                format!("{}/{}", verdict.namespace, verdict.name)
            } else {
                verdict.name.clone()
            };
            let key = Key {
                kind: verdict.kind,
                namespace: verdict.namespace.clone(),
                name: verdict.name.clone(),
            };
            self.known.insert(name.clone(), (key, verdict.uid.clone()));
            present.insert(name);
        }
        let mut orphans = 0;
        for intake in self.queue.intakes().await? {
            let removed = self
                .queue
                .remove_dead_consumers(&intake, self.housekeeping.dead_after)
                .await?;
            self.metrics.consumers_removed.inc_by(removed);
            if present.contains(&intake) {
                self.told.remove(&intake);
                continue;
            }
            orphans += self.orphan(&intake).await?;
        }
        self.metrics
            .orphans
            .set(i64::try_from(orphans).unwrap_or(i64::MAX));
        Ok(())
    }

    /// The queue of an intake that does not exist; returns how many copies wait there.
    async fn orphan(&mut self, intake: &str) -> Result<u64, QueueError> {
        let stats = self.queue.stats(intake).await?;
        let copies = stats.ready + stats.in_flight + stats.retrying + stats.prepared;
        if copies == 0 {
            self.told.remove(intake);
            if self.queue.forget(intake, self.housekeeping.forget_after).await? {
                tracing::info!(intake, "Cleared away the empty queue of a removed intake.");
                self.metrics.queues_removed.inc();
            }
        } else if self.told.insert(intake.to_owned()) {
            let note = format!(
                "IntakeAddress {intake} was removed while {copies} copies wait for it; they are delivered when it \
                 comes back in time, and expire, counted and among the dead letters, when it does not"
            );
            tracing::warn!(intake, copies, "{note}.");
            if let Some((key, uid)) = self.known.get(intake) {
                self.herald.warn(key, uid, "CopiesWaiting", &note).await;
            }
        }
        Ok(copies)
    }
}
