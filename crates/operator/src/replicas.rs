//! Asks every replica of the policy service what it serves and who has acknowledged it.
//!
//! What always holds: replicas are looked up by name again and again, so that new ones are asked and gone ones are
//! not waited for; one that does not answer never holds up the others. The operator looks without a name of its own,
//! so that it is no client that must have the snapshot.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tdc_proto::channel::{self, PolicyAddress};
use tdc_proto::tls::ClientTls;
use tdc_proto::v1::policy_service_client::PolicyServiceClient;
use tdc_proto::{MAX_MESSAGE, convert, v1};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tonic::Status;

use crate::rollout::Rollout;

/// How often the name is looked up.
const LOOKUP_EVERY: Duration = Duration::from_secs(3);
/// How often a replica is asked who has which version.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How long it may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// The pause before a replica that failed is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// What is known of the replicas. The questions end when it is dropped.
pub(crate) struct Replicas {
    shared: Arc<Shared>,
    changed: watch::Receiver<u64>,
    _tasks: JoinSet<()>,
}

struct Shared {
    rollout: Mutex<Rollout>,
    changed: watch::Sender<u64>,
}

impl Shared {
    fn rollout(&self) -> MutexGuard<'_, Rollout> {
        // Each change is made as a whole: the rollout is in order even if a holder panicked.
        self.rollout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn news(&self, news: bool) {
        if news {
            self.changed.send_modify(|n| *n += 1);
        }
    }
}

impl Replicas {
    /// Starts to ask. Must be called within a tokio runtime.
    pub(crate) fn ask(address: PolicyAddress, tls: Option<ClientTls>) -> Self {
        let (changed, receiver) = watch::channel(0);
        let shared = Arc::new(Shared {
            rollout: Mutex::default(),
            changed,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(lookups(address, tls, shared.clone()));
        Self {
            shared,
            changed: receiver,
            _tasks: tasks,
        }
    }

    /// Changes with every news.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// What is known now.
    pub(crate) fn rollout(&self) -> MutexGuard<'_, Rollout> {
        self.shared.rollout()
    }
}

async fn lookups(address: PolicyAddress, tls: Option<ClientTls>, shared: Arc<Shared>) {
    let mut tasks = JoinSet::new();
    let mut asked: HashMap<SocketAddr, AbortHandle> = HashMap::new();
    loop {
        match channel::replicas(&address).await {
            Ok(found) => {
                asked.retain(|replica, task| {
                    let stays = found.contains(replica);
                    if !stays {
                        task.abort();
                    }
                    stays
                });
                let news = shared.rollout().these(found.iter().copied());
                shared.news(news);
                for replica in found {
                    asked
                        .entry(replica)
                        .or_insert_with(|| tasks.spawn(follow(replica, tls.clone(), shared.clone())));
                }
            }
            Err(error) => {
                let news = shared.rollout().lost(format!("{address}: {error}"));
                shared.news(news);
            }
        }
        while tasks.try_join_next().is_some() {}
        tokio::time::sleep(LOOKUP_EVERY).await;
    }
}

/// One replica, for ever.
async fn follow(replica: SocketAddr, mut tls: Option<ClientTls>, shared: Arc<Shared>) {
    loop {
        let why = match channel::endpoint(replica, tls.as_mut()) {
            Ok(endpoint) => {
                let client =
                    PolicyServiceClient::new(endpoint.connect_lazy()).max_decoding_message_size(MAX_MESSAGE);
                match tokio::try_join!(
                    snapshots(replica, client.clone(), &shared),
                    peers(replica, client, &shared)
                ) {
                    Ok(_) => "it ended the stream".to_owned(),
                    Err(status) => format!("{replica}: {}", status.message()),
                }
            }
            Err(error) => format!("{replica}: {error}"),
        };
        tracing::debug!(%replica, why, "A policy replica cannot be asked now.");
        let news = shared.rollout().trouble(replica, why);
        shared.news(news);
        tokio::time::sleep(PAUSE).await;
    }
}

/// What it serves, until the stream ends.
async fn snapshots(
    replica: SocketAddr,
    mut client: PolicyServiceClient<tonic::transport::Channel>,
    shared: &Shared,
) -> Result<(), Status> {
    let mut stream = client.watch_snapshot(tokio_stream::pending()).await?.into_inner();
    while let Some(message) = stream.message().await? {
        let (version, table) =
            convert::snapshot_from_proto(message).map_err(|error| Status::internal(error.to_string()))?;
        tracing::debug!(%replica, %version, "A policy replica serves a snapshot.");
        shared.rollout().serves(replica, version, table);
        shared.news(true);
    }
    Err(Status::unavailable("it ended the stream of snapshots"))
}

/// Who has which version, again and again.
async fn peers(
    replica: SocketAddr,
    mut client: PolicyServiceClient<tonic::transport::Channel>,
    shared: &Shared,
) -> Result<(), Status> {
    loop {
        let mut request = tonic::Request::new(v1::ListPeersRequest {});
        request.set_timeout(ANSWER_WITHIN);
        let response = tokio::time::timeout(ANSWER_WITHIN, client.list_peers(request))
            .await
            .map_err(|_| Status::deadline_exceeded("it does not answer"))??;
        let news = shared.rollout().watched_by(replica, response.into_inner().peers);
        shared.news(news);
        tokio::time::sleep(ASK_EVERY).await;
    }
}
