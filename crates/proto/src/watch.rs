//! The client side of `WatchSnapshot`: the newest snapshot, kept through every outage.
//!
//! What always holds: a snapshot is replaced only by another that could be read and compiled; the loss of the stream
//! never takes it away. How long the service has been out of reach is known ([`Contact::staleness`]), so that the
//! reader can decide when old is too old. The service hears of each snapshot whether it was applied.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tdc_core::evaluator::Snapshot;
use tdc_core::policy::SnapshotVersion;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::v1::policy_service_client::PolicyServiceClient;
use crate::{MAX_MESSAGE, convert, v1};

/// The first pause before the stream is opened again; doubled each time, with jitter.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Receives each snapshot; `None` until the first.
pub type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// How fresh the snapshot is.
#[derive(Clone, Debug)]
pub struct Contact(watch::Receiver<LastContact>);

#[derive(Clone, Copy, Debug)]
enum LastContact {
    Connected,
    LostAt(Instant),
}

impl Contact {
    /// A contact that is never lost: for a table that is read from files of this machine.
    pub fn always() -> Self {
        Self(watch::channel(LastContact::Connected).1)
    }

    /// How long the policy service has been out of reach; zero while the stream is open.
    pub fn staleness(&self) -> Duration {
        match *self.0.borrow() {
            LastContact::Connected => Duration::ZERO,
            LastContact::LostAt(at) => at.elapsed(),
        }
    }
}

/// Watches the policy service for as long as a receiver exists.
pub fn watch_snapshots(channel: Channel, node: v1::Node) -> (Snapshots, Contact) {
    let (snapshots, receiver) = watch::channel(None);
    let (contact, contact_receiver) = watch::channel(LastContact::LostAt(Instant::now()));
    let mut watcher = Watcher {
        channel,
        node,
        snapshots,
        contact,
    };
    tokio::spawn(async move { watcher.run().await });
    (receiver, Contact(contact_receiver))
}

struct Watcher {
    channel: Channel,
    node: v1::Node,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    contact: watch::Sender<LastContact>,
}

impl Watcher {
    async fn run(&mut self) {
        let mut pause = BACKOFF_MIN;
        while !self.snapshots.is_closed() {
            let result = self.follow().await;
            if let LastContact::Connected = *self.contact.borrow() {
                pause = BACKOFF_MIN;
            }
            self.contact.send_if_modified(|last| {
                let was_connected = matches!(last, LastContact::Connected);
                if was_connected {
                    *last = LastContact::LostAt(Instant::now());
                }
                was_connected
            });
            match result {
                Ok(()) => tracing::debug!("The policy service ended the snapshot stream; opening it again."),
                Err(status) => tracing::info!(
                    code = ?status.code(),
                    reason = status.message(),
                    "The snapshot stream is lost; going on with the last good snapshot."
                ),
            }
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }

    /// One stream, from its opening to its end.
    async fn follow(&self) -> Result<(), tonic::Status> {
        let mut client =
            PolicyServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let (requests, outgoing) = mpsc::channel(4);
        let hello = v1::WatchRequest {
            node: Some(self.node.clone()),
            applied: self
                .snapshots
                .borrow()
                .as_ref()
                .map(|snapshot| (&snapshot.version).into()),
            ..v1::WatchRequest::default()
        };
        // The channel has room: this is its first message.
        let _ = requests.send(hello).await;
        let mut stream = client
            .watch_snapshot(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        self.contact.send_replace(LastContact::Connected);
        loop {
            let snapshot = tokio::select! {
                message = stream.message() => match message? {
                    Some(snapshot) => snapshot,
                    None => return Ok(()),
                },
                () = self.snapshots.closed() => return Ok(()),
            };
            let answer = self.apply(snapshot);
            if requests.send(answer).await.is_err() {
                return Ok(());
            }
        }
    }

    fn apply(&self, snapshot: v1::Snapshot) -> v1::WatchRequest {
        let version = snapshot.version.clone();
        let mut answer = v1::WatchRequest {
            node: Some(self.node.clone()),
            ..v1::WatchRequest::default()
        };
        match compile(snapshot) {
            Ok(compiled) => {
                tracing::info!(
                    version = %compiled.version,
                    policies = compiled.table.policies.len(),
                    intakes = compiled.table.intakes.len(),
                    "Applied a policy snapshot."
                );
                self.snapshots.send_replace(Some(Arc::new(compiled)));
                answer.applied = version;
            }
            Err(error) => {
                let text = version.clone().map(SnapshotVersion::from).unwrap_or_default();
                tracing::error!(
                    version = %text,
                    error,
                    "Rejected a policy snapshot; going on with the one before it."
                );
                answer.rejected = version;
                answer.error = error;
            }
        }
        answer
    }
}

fn compile(snapshot: v1::Snapshot) -> Result<Snapshot, String> {
    let (version, table) = convert::snapshot_from_proto(snapshot).map_err(|error| error.to_string())?;
    Snapshot::new(version, table).map_err(|error| error.to_string())
}
