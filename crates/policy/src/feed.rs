//! From compiled objects to numbered snapshots.
//!
//! What always holds: the sequence grows with each snapshot; a table that cannot be compiled never replaces one that
//! could; a table that is equal to the one in force is no new snapshot, so that nobody is woken for nothing.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tdc_api::Compiled;
use tdc_core::evaluator::Snapshot;
use tdc_core::policy::SnapshotVersion;
use tokio::sync::watch;

use crate::metrics::PolicyMetrics;

/// Numbers the snapshots of one process.
#[derive(Clone, Debug)]
pub struct Feed {
    instance: Arc<str>,
    sequence: u64,
    last: Option<Arc<Snapshot>>,
    metrics: PolicyMetrics,
}

impl Feed {
    /// `name` is the process's own: the pod's name, say. Each run gets an instance of its own.
    pub fn new(name: &str, metrics: PolicyMetrics) -> Self {
        let started = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_millis());
        Self {
            instance: format!("{name}-{started:x}").into(),
            sequence: 0,
            last: None,
            metrics,
        }
    }

    /// Makes the next snapshot; `None` when the table cannot be used, which is logged, or is the one before.
    pub fn next(&mut self, compiled: &Compiled) -> Option<Arc<Snapshot>> {
        let unusable = compiled
            .verdicts
            .iter()
            .filter(|verdict| !verdict.is_good())
            .count();
        self.metrics.unusable(unusable);
        if self
            .last
            .as_ref()
            .is_some_and(|last| last.table == compiled.table)
        {
            return None;
        }
        let version = SnapshotVersion {
            instance: self.instance.clone(),
            sequence: self.sequence + 1,
        };
        match Snapshot::new(version, compiled.table.clone()) {
            Ok(snapshot) => {
                self.sequence += 1;
                let (policies, intakes) = (snapshot.table.policies.len(), snapshot.table.intakes.len());
                self.metrics.published(self.sequence, policies, intakes);
                tracing::info!(version = %snapshot.version, policies, intakes, unusable, "A policy snapshot is in force.");
                let snapshot = Arc::new(snapshot);
                self.last = Some(snapshot.clone());
                Some(snapshot)
            }
            Err(error) => {
                tracing::error!(%error, "The policy table cannot be used; going on with the one before it.");
                None
            }
        }
    }

    /// Follows a source of compiled objects for as long as somebody receives. `compiled` finds them in what the source
    /// gives; `None`: there are none yet.
    pub fn follow<T: Clone + Send + Sync + 'static>(
        mut self,
        mut source: watch::Receiver<T>,
        compiled: impl Fn(&T) -> Option<&Compiled> + Send + 'static,
    ) -> watch::Receiver<Option<Arc<Snapshot>>> {
        let first = compiled(&source.borrow_and_update()).and_then(|compiled| self.next(compiled));
        let (sender, receiver) = watch::channel(first);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    changed = source.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
                let objects = source.borrow_and_update().clone();
                // Making the index of thousands of policies takes a while; calls are served meanwhile.
                let next = tokio::task::block_in_place(|| self.next(compiled(&objects)?));
                if let Some(snapshot) = next {
                    sender.send_replace(Some(snapshot));
                }
            }
        });
        receiver
    }
}
