//! Calls to the policy service over one stream: what a call of its own costs (headers, a task at each end) is more than
//! the decision.
//!
//! What always holds: an answer belongs to the request before it. A stream on which one did not come is dropped, so that
//! it cannot be taken for that to the next request. A stream lasts [`LIFE`]: the next one goes to whatever replica the
//! channel finds, so that replicas that were added get their share, and one that stops waits for none of them longer
//! than for any other call.

use std::time::Duration;

use tdc_proto::v1::policy_service_client::PolicyServiceClient;
use tdc_proto::{MAX_MESSAGE, v1};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// How long a stream is used: less than the 5 s that a policy service gives its calls when it stops.
pub(crate) const LIFE: Duration = Duration::from_secs(3);

/// The way to the policy service.
pub(crate) struct Calls {
    client: PolicyServiceClient<Channel>,
    life: Duration,
    open: Option<Open>,
}

/// A stream on which every request has its answer.
struct Open {
    requests: mpsc::Sender<v1::EvaluateRequest>,
    answers: Streaming<v1::EvaluateResponse>,
    until: Instant,
}

impl Calls {
    pub(crate) fn new(channel: Channel, life: Duration) -> Self {
        Self {
            client: PolicyServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
            life,
            open: None,
        }
    }

    /// Returns when the open stream is not to be used any more; never, when there is none.
    pub(crate) async fn aged(&self) {
        match &self.open {
            Some(open) => sleep_until(open.until).await,
            None => std::future::pending().await,
        }
    }

    /// Leaves the open stream, on which nothing is under way.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    /// One call. May be cancelled: its stream is dropped then. `request` is called again when the stream turns out to
    /// have ended before.
    ///
    /// # Errors
    /// What the service says; that it cannot be reached; that it ends a new stream without an answer.
    pub(crate) async fn ask(
        &mut self,
        request: impl Fn() -> v1::EvaluateRequest,
    ) -> Result<v1::EvaluateResponse, Status> {
        if let Some(mut open) = self.open.take().filter(|open| Instant::now() < open.until)
            && open.requests.send(request()).await.is_ok()
            && let Ok(answer) = open.answer().await
        {
            self.open = Some(open);
            return Ok(answer);
        }
        let (requests, outgoing) = mpsc::channel(1);
        // There is room: it is the first.
        let _ = requests.try_send(request());
        let answers = self.client.evaluate_stream(ReceiverStream::new(outgoing)).await?;
        let mut open = Open {
            requests,
            answers: answers.into_inner(),
            until: Instant::now() + self.life,
        };
        let answer = open.answer().await?;
        self.open = Some(open);
        Ok(answer)
    }
}

impl Open {
    async fn answer(&mut self) -> Result<v1::EvaluateResponse, Status> {
        let answer = self.answers.message().await?;
        answer.ok_or_else(|| Status::unavailable("the policy service has ended the stream"))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::{Stream, StreamExt as _};
    use tdc_proto::v1::policy_service_server::{PolicyService, PolicyServiceServer};
    use tokio::task::JoinHandle;
    use tokio::time::{sleep, timeout};
    use tonic::transport::{Endpoint, Server, server::TcpIncoming};
    use tonic::{Request, Response};

    use super::*;

    type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

    /// Answers with as many decisions as there are envelopes; how it does so stands in the first one's sender.
    #[derive(Clone, Default)]
    struct Fake {
        streams: Arc<AtomicUsize>,
    }

    #[tonic::async_trait]
    impl PolicyService for Fake {
        type EvaluateStreamStream = Answers<v1::EvaluateResponse>;
        type WatchSnapshotStream = Answers<v1::Snapshot>;

        async fn evaluate(
            &self,
            _: Request<v1::EvaluateRequest>,
        ) -> Result<Response<v1::EvaluateResponse>, Status> {
            Err(Status::unimplemented(""))
        }

        async fn evaluate_stream(
            &self,
            requests: Request<Streaming<v1::EvaluateRequest>>,
        ) -> Result<Response<Self::EvaluateStreamStream>, Status> {
            self.streams.fetch_add(1, Ordering::SeqCst);
            let requests = requests.into_inner().take_while(|request| {
                let ends = request.as_ref().is_ok_and(|it| it.envelopes[0].sender == "end");
                std::future::ready(!ends)
            });
            let answers = requests.then(async |request| {
                let request = request?;
                match &*request.envelopes[0].sender {
                    "late" => sleep(Duration::from_millis(300)).await,
                    "fail" => return Err(Status::unavailable("no table")),
                    _ => {}
                }
                let decisions = vec![v1::Decision::default(); request.envelopes.len()];
                Ok(v1::EvaluateResponse {
                    decisions,
                    version: None,
                })
            });
            Ok(Response::new(Box::pin(answers)))
        }

        async fn watch_snapshot(
            &self,
            _: Request<Streaming<v1::WatchRequest>>,
        ) -> Result<Response<Self::WatchSnapshotStream>, Status> {
            Err(Status::unimplemented(""))
        }

        async fn list_peers(
            &self,
            _: Request<v1::ListPeersRequest>,
        ) -> Result<Response<v1::ListPeersResponse>, Status> {
            Err(Status::unimplemented(""))
        }
    }

    async fn start(life: Duration) -> (Calls, Arc<AtomicUsize>, JoinHandle<()>) {
        let fake = Fake::default();
        let streams = fake.streams.clone();
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let server = Server::builder().add_service(PolicyServiceServer::new(fake));
        let server = tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        (Calls::new(endpoint.connect_lazy(), life), streams, server)
    }

    /// How many decisions came; `None` for an error.
    async fn ask(calls: &mut Calls, sender: &str, envelopes: usize) -> Option<usize> {
        let request = || v1::EvaluateRequest {
            envelopes: vec![
                v1::Envelope {
                    sender: sender.to_owned(),
                    recipients: Vec::new(),
                };
                envelopes
            ],
            ..v1::EvaluateRequest::default()
        };
        let answer = calls.ask(request).await.ok()?;
        Some(answer.decisions.len())
    }

    #[tokio::test]
    async fn calls_share_a_stream_until_it_ends() {
        let (mut calls, streams, server) = start(Duration::from_secs(60)).await;
        let cases = [
            ("good", 1, Some(1), 1, "the first opens it"),
            ("good", 1000, Some(1000), 1, "the next goes over it"),
            ("fail", 1, None, 2, "asked again on another, which fails as well"),
            ("good", 2, Some(2), 3, "a new one"),
            ("end", 1, None, 4, "the service ends it, and a new one"),
            ("good", 3, Some(3), 5, "and again"),
            ("good", 4, Some(4), 5, "which is kept"),
        ];
        for (sender, envelopes, expected, opened, why) in cases {
            assert_eq!(ask(&mut calls, sender, envelopes).await, expected, "{why}");
            assert_eq!(streams.load(Ordering::SeqCst), opened, "{why}");
        }
        calls.close();
        assert_eq!(ask(&mut calls, "good", 1).await, Some(1));
        assert_eq!(streams.load(Ordering::SeqCst), 6, "closed");
        server.abort();
    }

    #[tokio::test]
    async fn an_answer_that_is_late_is_not_taken_for_the_next() {
        let (mut calls, streams, server) = start(Duration::from_secs(60)).await;
        assert_eq!(ask(&mut calls, "good", 1).await, Some(1));
        let late = timeout(Duration::from_millis(50), ask(&mut calls, "late", 7)).await;
        assert!(late.is_err());
        assert_eq!(ask(&mut calls, "good", 2).await, Some(2));
        assert_eq!(streams.load(Ordering::SeqCst), 2);
        server.abort();
    }

    #[tokio::test]
    async fn an_old_stream_is_not_used() {
        let (mut calls, streams, server) = start(Duration::from_millis(1)).await;
        for opened in 1..=3 {
            assert_eq!(ask(&mut calls, "good", 1).await, Some(1));
            calls.aged().await;
            assert_eq!(streams.load(Ordering::SeqCst), opened);
        }
        server.abort();
    }
}
