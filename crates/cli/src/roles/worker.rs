//! `tdc worker`

use std::sync::Arc;

use tdc_delivery::{Deps, WorkerConfig, WorkerMetrics};
use tdc_proto::v1::Node;
use tdc_proto::watch;
use tdc_queue::IdSource;

use crate::args::{DeliveryArgs, WorkerArgs};
use crate::error::CliError;
use crate::process::Process;

pub(crate) async fn run(args: WorkerArgs) -> Result<(), CliError> {
    let process = Process::start("worker", &args.common).await?;
    let queue = process.redis("worker/queue", &args.redis.redis).await?;
    let channel = args.policy.connect().await?;
    let node = Node {
        name: process.instance.clone(),
        role: "worker".to_owned(),
    };
    let (snapshots, _) = watch::watch_snapshots(channel, node);
    let known = snapshots.clone();
    process.watch_check(process.health.check("worker/policy"), move || {
        let known = known.borrow().is_some();
        async move {
            if known {
                Ok(())
            } else {
                Err("no policy snapshot has arrived yet".to_owned())
            }
        }
    });
    let config = config(&process, &args.delivery, args.grace);
    let deps = Deps {
        ids: Arc::new(IdSource::start(queue.clone()).await),
        queue,
        snapshots,
        mail_log: process.guard.mail_log(),
        metrics: WorkerMetrics::register(&process.metrics),
    };
    tracing::info!(consumer = config.consumer, "Delivering copies.");
    tdc_delivery::run(config, deps, process.shutdown.clone()).await;
    process.end().await;
    Ok(())
}

/// A worker of this process. Its name at the queue is never used twice: a process that is started again must not
/// answer for the entries of the one before it.
pub(crate) fn config(process: &Process, args: &DeliveryArgs, grace: std::time::Duration) -> WorkerConfig {
    let nonce = tdc_queue::EntryKey::new("").id;
    let mut config = WorkerConfig::new(format!("{}-{nonce}", process.instance), process.hostname.clone());
    config.resolver = args.resolver;
    config.memory = args.delivery_memory;
    config.grace = grace;
    config
}
