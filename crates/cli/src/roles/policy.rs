//! `tdc policy`: the service, fed from a directory or from a cluster.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use tdc_api::ConfigWatcher;
use tdc_cluster::Cluster;
use tdc_core::evaluator::Snapshot;
use tdc_policy::{Feed, PolicyMetrics, PolicyServer, Store};
use tokio::sync::watch;

use crate::args::{CommonArgs, GrpcTlsArgs, duration};
use crate::cluster::ClusterArgs;
use crate::error::CliError;
use crate::policy::{self, PolicySourceArgs, PolicyTestArgs};
use crate::process::Process;
use crate::roles::standalone::POLL;

/// Flags of `tdc policy`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    pub(crate) look: Option<PolicyLook>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Serves gRPC here
    #[arg(
        long,
        env = "TDC_LISTEN",
        default_value = "127.0.0.1:9090",
        value_name = "ADDR:PORT"
    )]
    pub(crate) listen: SocketAddr,
    /// A client connects anew after this time, and so finds replicas that were added
    #[arg(long, env = "TDC_MAX_CONNECTION_AGE", default_value = "5m", value_parser = duration, value_name = "TIME")]
    pub(crate) max_connection_age: Duration,
    /// Directory of YAML files with the resources
    #[arg(
        long,
        env = "TDC_CONFIG",
        value_name = "DIR",
        required_unless_present = "kubernetes"
    )]
    pub(crate) config: Option<PathBuf>,
    /// Watches the resources in a Kubernetes cluster
    #[arg(long, env = "TDC_KUBERNETES", conflicts_with = "config")]
    pub(crate) kubernetes: bool,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(flatten)]
    pub(crate) tls: GrpcTlsArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyLook {
    /// Says which policy takes each recipient of an envelope and why, and which copies are due
    Test(PolicyTestArgs),
    /// Shows the table in the order in which it is tried
    Show(PolicySourceArgs),
}

type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// What must be kept for as long as the table is followed.
struct Source {
    _files: Option<ConfigWatcher>,
    cluster: Option<Cluster>,
}

pub(crate) async fn run(args: PolicyArgs) -> Result<(), CliError> {
    match args.look {
        Some(PolicyLook::Test(test)) => policy::test(test).await,
        Some(PolicyLook::Show(source)) => policy::show(source).await,
        None => serve(args).await,
    }
}

async fn serve(args: PolicyArgs) -> Result<(), CliError> {
    let process = Process::start("policy", &args.common).await?;
    let metrics = PolicyMetrics::new(&process.metrics);
    let feed = Feed::new(&process.instance, metrics.clone());
    let (source, snapshots) = match &args.config {
        Some(dir) => files(dir, feed).await?,
        None => cluster(&args.cluster, feed).await?,
    };
    let failed = |error: &dyn std::fmt::Display| {
        CliError::new(format!("cannot serve on {} (--listen)", args.listen), error)
    };
    let server = PolicyServer::bind(args.listen, Store::default(), metrics.clone())
        .await
        .map_err(|error| failed(&error))?
        .with_tls(args.tls.server().await?)
        .max_connection_age(args.max_connection_age);
    let address = server.local_addr().map_err(|error| failed(&error))?;
    tracing::info!(%address, "Serving policy decisions.");
    watch_table(&process, &source, &snapshots, metrics);
    server
        .run(snapshots, process.shutdown.clone())
        .await
        .map_err(|error| failed(&error))?;
    drop(source);
    process.end().await;
    Ok(())
}

async fn files(dir: &Path, feed: Feed) -> Result<(Source, Snapshots), CliError> {
    let files = ConfigWatcher::start(dir, POLL)
        .await
        .map_err(|errors| CliError::new(format!("--config {}", dir.display()), format!("\n{errors}")))?;
    let snapshots = feed.follow(files.subscribe(), |loaded| Some(&loaded.compiled));
    let source = Source {
        _files: Some(files),
        cluster: None,
    };
    Ok((source, snapshots))
}

async fn cluster(args: &ClusterArgs, feed: Feed) -> Result<(Source, Snapshots), CliError> {
    let (connection, scope) = args.connect().await?;
    tracing::info!(?scope, "Watching the resources of a Kubernetes cluster.");
    let cluster = Cluster::watch(&connection.client, scope);
    let snapshots = feed.follow(cluster.compiled(), |compiled| compiled.as_deref());
    let source = Source {
        _files: None,
        cluster: Some(cluster),
    };
    Ok((source, snapshots))
}

/// Readiness: there is a table. A cluster that is away does not end it, the table stays in force; that shows in the
/// metrics.
fn watch_table(process: &Process, source: &Source, snapshots: &Snapshots, metrics: PolicyMetrics) {
    let known = snapshots.clone();
    let cluster = source.cluster.clone();
    process.watch_check(process.health.check("policy/snapshot"), move || {
        let known = known.borrow().is_some();
        let trouble = cluster.as_ref().and_then(|cluster| {
            let trouble = cluster.trouble();
            metrics.watches(cluster.errors(), trouble.is_some());
            trouble
        });
        let reason = match (&cluster, trouble) {
            (_, Some(trouble)) => format!("there is no table: the resources cannot be watched: {trouble}"),
            (Some(_), None) => "there is no table yet: the resources are being listed".to_owned(),
            (None, None) => "the policy table cannot be used".to_owned(),
        };
        async move { if known { Ok(()) } else { Err(reason) } }
    });
}
