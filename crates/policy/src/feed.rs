//! From compiled objects to numbered snapshots.
//!
//! What always holds: the sequence grows with each snapshot, and a table that cannot be compiled never replaces one
//! that could.

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
            metrics,
        }
    }

    /// Makes the next snapshot; `None` when the table cannot be used, which is logged.
    pub fn next(&mut self, compiled: &Compiled) -> Option<Arc<Snapshot>> {
        let version = SnapshotVersion {
            instance: self.instance.clone(),
            sequence: self.sequence + 1,
        };
        match Snapshot::new(version, compiled.table.clone()) {
            Ok(snapshot) => {
                self.sequence += 1;
                let unusable = compiled
                    .verdicts
                    .iter()
                    .filter(|verdict| !verdict.is_good())
                    .count();
                let (policies, intakes) = (snapshot.table.policies.len(), snapshot.table.intakes.len());
                self.metrics.published(self.sequence, policies, intakes, unusable);
                tracing::info!(version = %snapshot.version, policies, intakes, unusable, "A policy snapshot is in force.");
                Some(Arc::new(snapshot))
            }
            Err(error) => {
                tracing::error!(%error, "The policy table cannot be used; going on with the one before it.");
                None
            }
        }
    }

    /// Follows a source of compiled objects for as long as somebody receives.
    pub fn follow<T: Send + Sync + 'static>(
        mut self,
        mut source: watch::Receiver<Arc<T>>,
        compiled: impl Fn(&T) -> &Compiled + Send + 'static,
    ) -> watch::Receiver<Option<Arc<Snapshot>>> {
        let first = self.next(compiled(&source.borrow_and_update()));
        let (sender, receiver) = watch::channel(first);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    changed = source.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
                let objects = source.borrow_and_update().clone();
                if let Some(snapshot) = self.next(compiled(&objects)) {
                    sender.send_replace(Some(snapshot));
                }
            }
        });
        receiver
    }
}
