//! The operator: says on every resource what became of it.
//!
//! It compiles the resources with the same function as the policy service, asks every policy replica what it serves
//! and who has acknowledged it, probes the intakes, and writes what it finds as conditions and events.
//!
//! What always holds:
//! - One operator writes, the one that holds the lease ([`lease`]); it ends when it loses it. The others watch, ready
//!   to take over. Mail never depends on any of them.
//! - `lastTransitionTime` moves only when `status` does; an object whose status already says the truth is not written
//!   again, so that nothing here can cause a storm of writes; conditions speak of the generation that was judged.
//! - `Programmed` is true only by acknowledgement: every ready policy replica serves the object as it compiles here,
//!   and every ingress and worker that watches one has said that it applied it ([`rollout`]).
//! - Nothing is written to the cluster but `status`, events and the lease; nothing is removed from the queue that
//!   could still be delivered ([`janitor`]).
//!
//! | room | holds |
//! |---|---|
//! | [`rollout`] | who has what: pure |
//! | [`conditions`] | what an object must show: pure |
//! | `replicas`, `probe` | the questions to policy replicas and intakes |
//! | `reconcile`, `writer` | the loop, and what it writes |
//! | [`lease`], [`janitor`] | who writes; what is cleared away in Redis |

pub mod conditions;
pub mod janitor;
pub mod lease;
mod metrics;
mod probe;
mod reconcile;
mod replicas;
pub mod rollout;
mod writer;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tdc_cluster::{Client, Cluster};
use tdc_proto::channel::PolicyAddress;
use tdc_proto::tls::ClientTls;
use tdc_queue::Janitor;
use tdc_telemetry::Shutdown;
use thiserror::Error;

pub use metrics::OperatorMetrics;
pub use probe::{Probe, Probed};

use crate::janitor::Housekeeping;
use crate::lease::{Lease, Lost};
use crate::probe::Probes;
use crate::reconcile::Reconciler;
use crate::replicas::Replicas;
use crate::writer::Writer;

/// How an operator runs.
#[derive(Clone, Debug)]
pub struct OperatorConfig {
    /// Names this run in the lease and in events; unique.
    pub identity: String,
    /// Where the lease is.
    pub namespace: String,
    /// The policy service; every address of the name is asked.
    pub policy: PolicyAddress,
    /// How often an intake that answers is probed.
    pub probe_every: Duration,
    /// How the queue is kept clean.
    pub housekeeping: Housekeeping,
}

/// The queue, once it answers: statuses do not wait for it.
pub type Queue = Pin<Box<dyn Future<Output = Arc<dyn Janitor>> + Send>>;

/// What an operator works with.
pub struct Deps {
    /// The API server.
    pub client: Client,
    /// The resources.
    pub cluster: Cluster,
    /// How to prove who we are to the policy service.
    pub tls: Option<ClientTls>,
    /// Looks whether an intake can be reached.
    pub probe: Probe,
    /// The queue; absent: nobody keeps it clean.
    pub queue: Option<Queue>,
    /// What is counted.
    pub metrics: OperatorMetrics,
}

/// Why an operator ended by itself.
#[derive(Debug, Error)]
pub enum OperatorError {
    /// Somebody else may write now.
    #[error("{0}; ending, so that two operators never write at the same time")]
    Lost(#[from] Lost),
    /// A part of it ended, which is a defect.
    #[error("the reconciler ended by itself")]
    Ended,
}

/// Waits for the lease, then writes until the shutdown.
///
/// # Errors
/// When the lease is lost. The process must end then.
pub async fn run(config: OperatorConfig, deps: Deps, shutdown: Shutdown) -> Result<(), OperatorError> {
    let Deps {
        client,
        cluster,
        tls,
        probe,
        queue,
        metrics,
    } = deps;
    let mut lease = Lease::new(client.clone(), &config.namespace, &config.identity);
    tokio::select! {
        () = lease.acquire() => {}
        () = shutdown.started() => return Ok(()),
    }
    metrics.leader.set(1);
    let writer = Writer::new(client, &config.identity, metrics.clone());
    let housekeeping = janitor::run(
        config.housekeeping,
        queue,
        cluster.clone(),
        writer.herald(),
        metrics.clone(),
    );
    let reconciler = Reconciler::new(
        cluster,
        Replicas::ask(config.policy, tls),
        Probes::new(probe, config.probe_every),
        writer,
        metrics.clone(),
    );
    let result = tokio::select! {
        () = reconciler.run() => Err(OperatorError::Ended),
        never = housekeeping => match never {},
        lost = lease.hold() => Err(lost.into()),
        () = shutdown.started() => {
            Ok(())
        }
    };
    metrics.leader.set(0);
    if !matches!(result, Err(OperatorError::Lost(_))) {
        lease.release().await;
    }
    result
}
