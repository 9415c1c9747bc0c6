//! `tdc policy test` and `tdc policy show`: what the policies do, and why; from files or from a running service.
//!
//! Both ways end in the same table and the same words: a service is asked for its snapshot as well as for its
//! decision, and the two must be of one version. Each replica numbers its own, so all is asked of one of them.

mod explain;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tdc_core::evaluator::{Decision, Snapshot};
use tdc_core::policy::SnapshotVersion;
use tdc_core::{Envelope, Mailbox, ReversePath};
use tdc_proto::channel::{self, PolicyAddress};
use tdc_proto::v1::policy_service_client::PolicyServiceClient;
use tdc_proto::{MAX_MESSAGE, convert, v1};
use tonic::transport::Channel;

use crate::args::GrpcTlsArgs;
use crate::error::CliError;
use crate::say;

/// How long a service may take for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How often a service is asked again when its table changed between two questions.
const TRIES: usize = 5;

/// Where the table is.
#[derive(Debug, Args)]
pub(crate) struct PolicySourceArgs {
    /// Directory of YAML files with the resources
    #[arg(
        long,
        env = "TDC_CONFIG",
        value_name = "DIR",
        required_unless_present = "server"
    )]
    pub(crate) config: Option<PathBuf>,
    /// Asks a running policy service instead
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "config")]
    pub(crate) server: Option<PolicyAddress>,
    #[command(flatten)]
    pub(crate) tls: GrpcTlsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyTestArgs {
    /// MAIL FROM; empty or <> is the null sender
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) from: String,
    /// RCPT TO, separated by commas
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', required = true)]
    pub(crate) to: Vec<String>,
    #[command(flatten)]
    pub(crate) source: PolicySourceArgs,
}

/// Says who takes each recipient, and why.
pub(crate) async fn test(args: PolicyTestArgs) -> Result<(), CliError> {
    let from = args.from.trim().trim_start_matches('<').trim_end_matches('>');
    let envelope = Envelope {
        sender: ReversePath::new(from),
        recipients: args.to.iter().map(|to| Mailbox::new(to.trim())).collect(),
    };
    let (snapshot, decision) = match (&args.source.server, &args.source.config) {
        (Some(server), _) => {
            Service::at(server.clone(), &args.source.tls)
                .await?
                .decide(&envelope)
                .await?
        }
        (None, Some(dir)) => {
            let snapshot = read(dir)?;
            let decision = snapshot.evaluate(&envelope);
            (snapshot, decision)
        }
        (None, None) => return Err(nowhere()),
    };
    say(explain::decision(&snapshot.table, &envelope, &decision));
    Ok(())
}

/// Shows the table.
pub(crate) async fn show(args: PolicySourceArgs) -> Result<(), CliError> {
    let snapshot = match (&args.server, &args.config) {
        (Some(server), _) => Service::at(server.clone(), &args.tls).await?.snapshot().await?,
        (None, Some(dir)) => read(dir)?,
        (None, None) => return Err(nowhere()),
    };
    say(explain::table(&snapshot.table));
    Ok(())
}

fn nowhere() -> CliError {
    CliError::text("give --config DIR or --server HOST:PORT")
}

fn read(dir: &Path) -> Result<Snapshot, CliError> {
    let objects = tdc_api::load_dir(dir)
        .map_err(|errors| CliError::new(format!("--config {}", dir.display()), format!("\n{errors}")))?;
    let compiled = tdc_api::compile(&objects);
    Snapshot::new(SnapshotVersion::default(), compiled.table)
        .map_err(|error| CliError::text(error.to_string()))
}

/// One replica of a running policy service.
struct Service {
    address: String,
    client: PolicyServiceClient<Channel>,
}

impl Service {
    async fn at(address: PolicyAddress, tls: &GrpcTlsArgs) -> Result<Self, CliError> {
        let mut tls = tls.client(&address).await?;
        let failed = |why: String| CliError::new(format!("the policy service at {address}"), why);
        let mut last = "its name has no address".to_owned();
        for replica in channel::replicas(&address).await.map_err(failed)? {
            let endpoint =
                channel::endpoint(replica, tls.as_mut()).map_err(|error| failed(error.to_string()))?;
            match endpoint.connect().await {
                Ok(channel) => {
                    let client = PolicyServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
                    return Ok(Self {
                        address: address.to_string(),
                        client,
                    });
                }
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    let why = error
                        .source()
                        .map_or_else(|| error.to_string(), ToString::to_string);
                    last = format!("{replica}: {why}");
                }
            }
        }
        Err(failed(last))
    }

    fn failed(&self, why: impl std::fmt::Display) -> CliError {
        CliError::new(format!("the policy service at {}", self.address), why)
    }

    /// One answer, in time.
    async fn answer<T>(&self, call: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, CliError> {
        tokio::time::timeout(ANSWER_WITHIN, call)
            .await
            .map_err(|_| self.failed(format_args!("does not answer within {ANSWER_WITHIN:?}")))?
            .map_err(|status| self.failed(status.message()))
    }

    /// The snapshot in force. A stream that does not say who it is is no peer that must have the snapshot.
    async fn snapshot(&self) -> Result<Snapshot, CliError> {
        let mut client = self.client.clone();
        let message = self
            .answer(async {
                let mut stream = client.watch_snapshot(tokio_stream::pending()).await?.into_inner();
                stream.message().await
            })
            .await?
            .ok_or_else(|| self.failed("has no table yet"))?;
        let (version, table) = convert::snapshot_from_proto(message).map_err(|error| self.failed(error))?;
        Snapshot::new(version, table).map_err(|error| self.failed(error))
    }

    /// Its decision, and the snapshot that it comes from.
    async fn decide(&self, envelope: &Envelope) -> Result<(Snapshot, Decision), CliError> {
        for _ in 0..TRIES {
            let mut client = self.client.clone();
            let request = v1::EvaluateRequest {
                envelopes: vec![envelope.into()],
                ..v1::EvaluateRequest::default()
            };
            let response = self.answer(client.evaluate(request)).await?.into_inner();
            let version = response.version.map(SnapshotVersion::from);
            let decision = (response.decisions.into_iter().next())
                .ok_or_else(|| self.failed("answered with no decision"))?;
            let decision = Decision::try_from(decision).map_err(|error| self.failed(error))?;
            let snapshot = self.snapshot().await?;
            if version.as_ref() == Some(&snapshot.version) {
                return Ok((snapshot, decision));
            }
        }
        Err(self.failed("changes its table faster than it can be asked"))
    }
}
