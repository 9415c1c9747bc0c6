//! The gRPC server: the service, health, reflection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tdc_core::evaluator::Snapshot;
use tdc_proto::tls::ServerTls;
use tdc_proto::v1::policy_service_server::PolicyServiceServer;
use tdc_proto::{MAX_MESSAGE, v1};
use tdc_telemetry::Shutdown;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::metrics::PolicyMetrics;
use crate::service::Service;
use crate::store::Store;
use crate::tls;

/// A client connects anew after this time, and so finds replicas that were added; unless another is asked for.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(300);
/// How long an old connection may finish its calls.
const MAX_CONNECTION_AGE_GRACE: Duration = Duration::from_secs(10);
/// A client that answers no HTTP/2 ping is dropped after the sum of these two.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// After the signal to stop, how long calls may take.
const GRACE: Duration = Duration::from_secs(5);

/// A policy service that listens.
pub struct PolicyServer {
    listener: TcpListener,
    store: Store,
    metrics: PolicyMetrics,
    tls: Option<ServerTls>,
    max_connection_age: Duration,
}

impl PolicyServer {
    /// Listens.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(address: SocketAddr, store: Store, metrics: PolicyMetrics) -> io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind(address).await?,
            store,
            metrics,
            tls: None,
            max_connection_age: MAX_CONNECTION_AGE,
        })
    }

    /// Lets only clients in that present a certificate of the same authorities.
    #[must_use]
    pub fn with_tls(self, tls: Option<ServerTls>) -> Self {
        Self { tls, ..self }
    }

    /// A client connects anew after this time.
    #[must_use]
    pub fn max_connection_age(mut self, age: Duration) -> Self {
        self.max_connection_age = age;
        self
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves each snapshot that comes, until the shutdown.
    ///
    /// # Errors
    /// When the transport fails.
    pub async fn run(
        self,
        mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
        shutdown: Shutdown,
    ) -> Result<(), tonic::transport::Error> {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_not_serving::<PolicyServiceServer<Service>>().await;
        let store = self.store.clone();
        let publish = tokio::spawn(async move {
            loop {
                let snapshot = snapshots.borrow_and_update().clone();
                if let Some(snapshot) = snapshot {
                    store.publish(snapshot);
                    health.set_serving::<PolicyServiceServer<Service>>().await;
                }
                if snapshots.changed().await.is_err() {
                    return;
                }
            }
        });
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .expect("the descriptors were compiled into this program");
        let service = PolicyServiceServer::new(Service {
            store: self.store,
            metrics: self.metrics.clone(),
        })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
        let stopping = shutdown.clone();
        let router = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .max_connection_age(self.max_connection_age)
            .max_connection_age_grace(MAX_CONNECTION_AGE_GRACE)
            .add_service(health_service)
            .add_service(reflection)
            .add_service(service);
        let stop = async move { stopping.started().await };
        let serve = async move {
            match self.tls {
                Some(tls) => {
                    let incoming = tls::incoming(self.listener, tls, self.metrics);
                    router.serve_with_incoming_shutdown(incoming, stop).await
                }
                None => {
                    let incoming = TcpIncoming::from(self.listener).with_nodelay(Some(true));
                    router.serve_with_incoming_shutdown(incoming, stop).await
                }
            }
        };
        // Streams to watchers have no end of their own: what is open after the grace is cut.
        let result = tokio::select! {
            result = serve => result,
            () = shutdown.expired(GRACE) => Ok(()),
        };
        publish.abort();
        result
    }
}
