//! `tdc operator`: says on every resource what became of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tdc_cluster::Cluster;
use tdc_delivery::Prober;
use tdc_operator::janitor::Housekeeping;
use tdc_operator::{Deps, OperatorConfig, OperatorMetrics, Probe, Queue};
use tdc_queue::{Janitor, QueueError, RedisOptions, RedisQueue};

use crate::args::{CommonArgs, GrpcTlsArgs, duration};
use crate::cluster::ClusterArgs;
use crate::error::CliError;
use crate::process::Process;
use tdc_proto::channel::PolicyAddress;

/// The port of hosts that an MX look-up finds.
const SMTP_PORT: u16 = 25;
/// The pause before the queue is asked for again at start; statuses are written meanwhile.
const QUEUE_AGAIN: Duration = Duration::from_secs(5);

/// Flags of `tdc operator`.
#[derive(Debug, Args)]
pub(crate) struct OperatorArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// The policy service; every address of the name is asked who acts on what
    #[arg(long, env = "TDC_POLICY", value_name = "HOST:PORT")]
    pub(crate) policy: PolicyAddress,
    #[command(flatten)]
    pub(crate) tls: GrpcTlsArgs,
    /// The queue, which is kept clean: redis://HOST:PORT/DB; absent: it is not
    #[arg(long, env = "TDC_REDIS", value_name = "URL")]
    pub(crate) redis: Option<String>,
    /// How often an intake that answers is probed
    #[arg(long, env = "TDC_PROBE_EVERY", default_value = "5m", value_parser = duration, value_name = "TIME")]
    pub(crate) probe_every: Duration,
    /// A name server for the intakes' MX and addresses; the default is the system's
    #[arg(long, env = "TDC_RESOLVER", value_name = "ADDR:PORT")]
    pub(crate) resolver: Option<SocketAddr>,
    /// How often the queue is looked after
    #[arg(long, env = "TDC_HOUSEKEEPING_EVERY", default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub(crate) housekeeping_every: Duration,
    /// A worker's name at the queue is removed when it held and asked for nothing for this long
    #[arg(long, env = "TDC_DEAD_AFTER", default_value = "1h", value_parser = duration, value_name = "TIME")]
    pub(crate) dead_after: Duration,
    /// The empty queue of a removed intake is cleared away after this long
    #[arg(long, env = "TDC_FORGET_AFTER", default_value = "720h", value_parser = duration, value_name = "TIME")]
    pub(crate) forget_after: Duration,
}

pub(crate) async fn run(args: OperatorArgs) -> Result<(), CliError> {
    let process = Process::start("operator", &args.common).await?;
    let metrics = OperatorMetrics::new(&process.metrics);
    let (connection, scope) = args.cluster.connect().await?;
    tracing::info!(?scope, "Watching the resources of a Kubernetes cluster.");
    let cluster = Cluster::watch(&connection.client, scope);
    watch_resources(&process, &cluster, metrics.clone());
    let queue = match &args.redis {
        Some(url) => Some(queue(url).await?),
        None => None,
    };
    // Never used twice: an operator that is started again must not take the lease of the one before for its own.
    let nonce = tdc_queue::EntryKey::new("").id;
    let config = OperatorConfig {
        identity: format!("{}-{nonce}", process.instance),
        namespace: connection.namespace.clone(),
        policy: args.policy.clone(),
        probe_every: args.probe_every,
        housekeeping: Housekeeping {
            every: args.housekeeping_every,
            dead_after: args.dead_after,
            forget_after: args.forget_after,
        },
    };
    let deps = Deps {
        client: connection.client,
        cluster,
        tls: args.tls.client(&args.policy).await?,
        probe: prober(&process.hostname, args.resolver),
        queue,
        metrics,
    };
    let result = tdc_operator::run(config, deps, process.shutdown.clone()).await;
    process.end().await;
    result.map_err(|error| CliError::new("the operator", error))
}

fn prober(helo: &str, resolver: Option<SocketAddr>) -> Probe {
    let prober = Arc::new(Prober::new(helo, resolver, SMTP_PORT));
    Arc::new(move |intake| {
        let prober = prober.clone();
        Box::pin(async move { prober.probe(intake).await })
    })
}

/// The queue once it answers; a wrong setting ends the process at once.
async fn queue(url: &str) -> Result<Queue, CliError> {
    let first = match RedisQueue::connect(url, RedisOptions::default()).await {
        Err(error) if !matches!(error, QueueError::Unavailable(_)) => {
            return Err(CliError::new("cannot use the queue (--redis)", error));
        }
        found => found,
    };
    let url = url.to_owned();
    Ok(Box::pin(async move {
        let mut found = first;
        loop {
            match found {
                Ok(queue) => return Arc::new(queue) as Arc<dyn Janitor>,
                Err(error) => {
                    tracing::warn!(%error, "The queue cannot be looked after; trying again.");
                }
            }
            tokio::time::sleep(QUEUE_AGAIN).await;
            found = RedisQueue::connect(&url, RedisOptions::default()).await;
        }
    }))
}

/// Ready when the resources were listed once; whether it holds the lease says nothing about readiness.
fn watch_resources(process: &Process, cluster: &Cluster, metrics: OperatorMetrics) {
    let cluster = cluster.clone();
    let compiled = cluster.compiled();
    process.watch_check(process.health.check("operator/resources"), move || {
        let known = compiled.borrow().is_some();
        let trouble = cluster.trouble();
        metrics.watches(cluster.errors(), trouble.is_some());
        async move {
            if known {
                return Ok(());
            }
            Err(match trouble {
                Some(trouble) => format!("the resources cannot be watched: {trouble}"),
                None => "the resources are being listed".to_owned(),
            })
        }
    });
}
