//! `tdc standalone`: ingress, policy from files, and delivery in one process.

use std::sync::Arc;
use std::time::Duration;

use tdc_api::ConfigWatcher;
use tdc_delivery::WorkerMetrics;
use tdc_ingress::IngressMetrics;
use tdc_ingress::evaluate::Evaluation;
use tdc_policy::{Feed, PolicyMetrics};
use tdc_proto::watch::Contact;
use tdc_queue::{IdSource, JournalQueue};

use crate::args::StandaloneArgs;
use crate::error::CliError;
use crate::process::{self, Process};
use crate::roles::{edge, worker};

/// How often the policy files are looked at.
pub(crate) const POLL: Duration = Duration::from_secs(1);
/// The queue's part in readiness.
const QUEUE: &str = "standalone/queue";

pub(crate) async fn run(args: StandaloneArgs) -> Result<(), CliError> {
    let process = Process::start("standalone", &args.common).await?;
    // First what a person may have got wrong: it is said at once, also when the queue is not there yet.
    let files = ConfigWatcher::start(&args.config, POLL).await.map_err(|errors| {
        CliError::new(
            format!("--config {}", args.config.display()),
            format!("\n{errors}"),
        )
    })?;
    let queue: Arc<dyn JournalQueue> = match &args.redis {
        Some(url) => process.redis(QUEUE, url).await?,
        None => {
            let queue = process::memory();
            process.watch_queue(QUEUE, &queue);
            queue
        }
    };
    let feed = Feed::new(&process.instance, PolicyMetrics::new(&process.metrics));
    let snapshots = feed.follow(files.subscribe(), |loaded| Some(&loaded.compiled));
    let ids = Arc::new(IdSource::start(queue.clone()).await);
    let deps = tdc_ingress::Deps {
        queue: queue.clone(),
        evaluation: Evaluation::local(snapshots.clone(), Contact::always(), Duration::MAX),
        ids: ids.clone(),
        mail_log: process.guard.mail_log(),
        metrics: IngressMetrics::new(&process.metrics),
    };
    let ingress = edge::bind(&args.edge, &process.hostname, deps).await?;
    let deps = tdc_delivery::Deps {
        queue,
        snapshots,
        mail_log: process.guard.mail_log(),
        metrics: WorkerMetrics::register(&process.metrics),
        ids,
    };
    let config = worker::config(&process, &args.delivery, args.edge.grace);
    let (stop_worker, worker_shutdown) = tdc_telemetry::Trigger::new();
    let worker = tokio::spawn(tdc_delivery::run(config, deps, worker_shutdown));
    ingress.run(process.shutdown.clone()).await;
    // Copies of the last messages are queued by now; the worker delivers what it has in hand, then stops.
    stop_worker.start();
    if worker.await.is_err() {
        tracing::error!("The worker ended in a panic.");
    }
    drop(files);
    process.end().await;
    Ok(())
}
