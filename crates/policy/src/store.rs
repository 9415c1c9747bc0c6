//! The snapshot that is served, and who has it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tdc_core::evaluator::Snapshot;
use tdc_core::policy::SnapshotVersion;
use tdc_proto::{convert, v1};
use tokio::sync::watch;

use crate::metrics::PolicyMetrics;

/// What is kept of a client's words about a snapshot that it rejects, in characters.
const MAX_ERROR: usize = 1000;

/// A snapshot, and the message that carries it.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) message: v1::Snapshot,
}

/// Holds the newest snapshot and the peers. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    current: watch::Sender<Option<Arc<Published>>>,
    peers: Arc<Mutex<Peers>>,
}

/// Streams, by a number of their own: a client that reconnects may have two for a moment.
#[derive(Default)]
struct Peers {
    next: u64,
    streams: BTreeMap<u64, v1::Peer>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            current: watch::channel(None).0,
            peers: Arc::default(),
        }
    }
}

impl Store {
    /// Serves a snapshot from now on.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let message = convert::snapshot_to_proto(&snapshot.version, &snapshot.table);
        self.current
            .send_replace(Some(Arc::new(Published { snapshot, message })));
    }

    /// What is served now.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.current
            .borrow()
            .as_ref()
            .map(|published| published.snapshot.clone())
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<Published>>> {
        self.current.subscribe()
    }

    /// A client opened a stream; it is listed until the guard is dropped.
    pub(crate) fn join(&self, metrics: PolicyMetrics) -> PeerGuard {
        let mut peers = self.lock();
        let id = peers.next;
        peers.next += 1;
        peers.streams.insert(id, v1::Peer::default());
        PeerGuard {
            id,
            store: self.clone(),
            metrics,
        }
    }

    /// Everyone who watches.
    pub fn peers(&self) -> Vec<v1::Peer> {
        named(&self.lock()).cloned().collect()
    }

    /// The version that is served.
    pub fn version(&self) -> Option<SnapshotVersion> {
        self.snapshot().map(|snapshot| snapshot.version.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Peers> {
        // Each change is one insertion or removal, so the list is in order even if a holder panicked.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open stream.
pub(crate) struct PeerGuard {
    id: u64,
    store: Store,
    metrics: PolicyMetrics,
}

impl PeerGuard {
    /// Takes down what the client says of itself.
    pub(crate) fn heard(&self, request: v1::WatchRequest) {
        let mut peers = self.store.lock();
        let Some(peer) = peers.streams.get_mut(&self.id) else {
            return;
        };
        peer.node = request.node.or(peer.node.take());
        if request.applied.is_some() {
            peer.applied = request.applied;
            peer.rejected = None;
            peer.error.clear();
        }
        if let Some(rejected) = request.rejected {
            self.metrics.rejected();
            peer.error = request.error.chars().take(MAX_ERROR).collect();
            tracing::warn!(
                node = peer.node.as_ref().map(|node| &*node.name),
                version = %SnapshotVersion::from(rejected.clone()),
                error = peer.error,
                "A client cannot apply the snapshot; it goes on with the one before."
            );
            peer.rejected = Some(rejected);
        }
        self.metrics.peers(named(&peers).count());
    }
}

impl Drop for PeerGuard {
    fn drop(&mut self) {
        let mut peers = self.store.lock();
        peers.streams.remove(&self.id);
        self.metrics.peers(named(&peers).count());
    }
}

/// Those that said who they are. A stream without a name only looks: it is nobody that must have the snapshot.
fn named(peers: &Peers) -> impl Iterator<Item = &v1::Peer> {
    peers.streams.values().filter(|peer| peer.node.is_some())
}
