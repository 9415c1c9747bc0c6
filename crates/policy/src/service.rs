//! The gRPC service over the store.

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use tdc_core::Envelope;
use tdc_proto::v1::policy_service_server::PolicyService;
use tdc_proto::{MAX_BATCH, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use crate::metrics::PolicyMetrics;
use crate::store::{PeerGuard, Store};

/// Answers from the store.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) store: Store,
    pub(crate) metrics: PolicyMetrics,
}

#[tonic::async_trait]
impl PolicyService for Service {
    async fn evaluate(
        &self,
        request: Request<v1::EvaluateRequest>,
    ) -> Result<Response<v1::EvaluateResponse>, Status> {
        let span = evaluate_span(request.get_ref().envelopes.len());
        let metadata = request.metadata();
        tdc_telemetry::extract(&span, |key| {
            metadata.get(key).and_then(|value| value.to_str().ok())
        });
        let _entered = span.entered();
        self.decide(request.into_inner()).map(Response::new)
    }

    type EvaluateStreamStream = Pin<Box<dyn Stream<Item = Result<v1::EvaluateResponse, Status>> + Send>>;

    async fn evaluate_stream(
        &self,
        requests: Request<Streaming<v1::EvaluateRequest>>,
    ) -> Result<Response<Self::EvaluateStreamStream>, Status> {
        let service = self.clone();
        let answers = requests.into_inner().map(move |request| {
            let request = request?;
            let span = evaluate_span(request.envelopes.len());
            tdc_telemetry::set_parent(&span, &request.traceparent, &request.tracestate);
            let _entered = span.entered();
            service.decide(request)
        });
        Ok(Response::new(Box::pin(answers)))
    }

    type WatchSnapshotStream = Pin<Box<dyn Stream<Item = Result<v1::Snapshot, Status>> + Send>>;

    async fn watch_snapshot(
        &self,
        request: Request<Streaming<v1::WatchRequest>>,
    ) -> Result<Response<Self::WatchSnapshotStream>, Status> {
        let (snapshots, outgoing) = mpsc::channel(1);
        let peer = self.store.join(self.metrics.clone());
        let watch = watch(self.store.clone(), peer, request.into_inner(), snapshots);
        tokio::spawn(watch.in_current_span());
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn list_peers(
        &self,
        _request: Request<v1::ListPeersRequest>,
    ) -> Result<Response<v1::ListPeersResponse>, Status> {
        let current = self.store.version().map(|version| (&version).into());
        Ok(Response::new(v1::ListPeersResponse {
            peers: self.store.peers(),
            current,
        }))
    }
}

impl Service {
    fn decide(&self, request: v1::EvaluateRequest) -> Result<v1::EvaluateResponse, Status> {
        let envelopes = request.envelopes;
        if envelopes.len() > MAX_BATCH {
            return Err(Status::invalid_argument(format!(
                "more than {MAX_BATCH} envelopes in one request"
            )));
        }
        let snapshot = self.store.snapshot().ok_or_else(no_snapshot)?;
        self.metrics.evaluated(envelopes.len() as u64);
        let decide = |envelope| (&snapshot.evaluate(&Envelope::from(envelope))).into();
        Ok(v1::EvaluateResponse {
            decisions: envelopes.into_iter().map(decide).collect(),
            version: Some((&snapshot.version).into()),
        })
    }
}

/// One request is one span, over a stream, too.
fn evaluate_span(envelopes: usize) -> tracing::Span {
    tracing::info_span!(
        "tdc.policy.v1.PolicyService/Evaluate",
        otel.kind = "server",
        envelopes
    )
}

fn no_snapshot() -> Status {
    Status::unavailable("no policy table has been loaded yet")
}

/// One client's stream: sends the newest snapshot, listens to what became of it. A slow client skips versions.
async fn watch(
    store: Store,
    peer: PeerGuard,
    mut requests: Streaming<v1::WatchRequest>,
    snapshots: mpsc::Sender<Result<v1::Snapshot, Status>>,
) {
    let mut current = store.subscribe();
    current.mark_changed();
    loop {
        tokio::select! {
            permit = snapshots.reserve(), if current.has_changed().unwrap_or(false) => {
                let Ok(permit) = permit else { return };
                let message = current.borrow_and_update().as_ref().map(|published| published.message.clone());
                if let Some(message) = message {
                    permit.send(Ok(message));
                }
            }
            changed = current.changed(), if !current.has_changed().unwrap_or(false) => match changed {
                Ok(()) => current.mark_changed(),
                Err(_) => return,
            },
            request = requests.message() => match request {
                Ok(Some(request)) => peer.heard(request),
                Ok(None) | Err(_) => return,
            },
        }
    }
}
