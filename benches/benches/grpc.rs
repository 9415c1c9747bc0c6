//! `Evaluate`: a call over loopback with a batch of envelopes, and its parts.
//!
//! `cargo bench -p tdc-benches --bench grpc`. The figures are for a batch, the items for its envelopes.

use std::sync::Arc;
use std::time::Duration;

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use prost::Message as _;
use tdc_benches::table::{envelope, snapshot};
use tdc_core::Envelope;
use tdc_core::evaluator::Decision;
use tdc_policy::{PolicyMetrics, PolicyServer, Store};
use tdc_proto::v1;
use tdc_proto::v1::policy_service_client::PolicyServiceClient;
use tdc_telemetry::{Metrics, Trigger};
use tokio::runtime::Runtime;
use tokio::sync::watch;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

/// Envelopes in one call.
const BATCHES: [usize; 4] = [1, 10, 40, 200];
/// Policies in the table.
const POLICIES: usize = 1_000;

fn main() {
    divan::main();
}

fn request(batch: usize) -> v1::EvaluateRequest {
    let envelopes = (0..batch).map(|at| (&envelope(at % POLICIES, 1)).into());
    v1::EvaluateRequest {
        envelopes: envelopes.collect(),
        ..v1::EvaluateRequest::default()
    }
}

#[divan::bench(args = BATCHES)]
fn call(bencher: Bencher<'_, '_>, batch: usize) {
    let runtime = Runtime::new().expect("a runtime");
    let (trigger, shutdown) = Trigger::new();
    let (mut client, server) = runtime.block_on(async {
        let store = Store::default();
        let metrics = PolicyMetrics::new(&Metrics::new("policy"));
        let address = "127.0.0.1:0".parse().expect("an address");
        let server = PolicyServer::bind(address, store, metrics).await.expect("a port");
        let address = server.local_addr().expect("an address");
        let (_snapshots, receiver) = watch::channel(Some(Arc::new(snapshot(POLICIES, 10))));
        let server = tokio::spawn(server.run(receiver, shutdown));
        let mut client = PolicyServiceClient::connect(format!("http://{address}"))
            .await
            .expect("it listens");
        // It listens before it has the table.
        for _ in 0..1000 {
            if client.evaluate(request(1)).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (client, server)
    });
    let request = request(batch);
    bencher.counter(ItemsCount::new(batch)).bench_local(|| {
        let answer = runtime
            .block_on(client.evaluate(request.clone()))
            .expect("a decision");
        assert_eq!(answer.into_inner().decisions.len(), batch);
    });
    drop(client);
    trigger.start();
    let _ = runtime.block_on(server);
}

#[divan::bench(args = BATCHES)]
fn decode_envelopes(bencher: Bencher<'_, '_>, batch: usize) {
    let wire = request(batch).encode_to_vec();
    bencher.counter(ItemsCount::new(batch)).bench_local(|| {
        let request = v1::EvaluateRequest::decode(black_box(&wire[..])).expect("a request");
        request
            .envelopes
            .into_iter()
            .map(Envelope::from)
            .collect::<Vec<_>>()
    });
}

#[divan::bench(args = BATCHES)]
fn encode_decisions(bencher: Bencher<'_, '_>, batch: usize) {
    let snapshot = snapshot(POLICIES, 10);
    let decisions: Vec<Decision> = (0..batch)
        .map(|at| snapshot.evaluate(&envelope(at % POLICIES, 1)))
        .collect();
    bencher.counter(ItemsCount::new(batch)).bench_local(|| {
        let decisions = black_box(&decisions).iter().map(Into::into).collect();
        let version = Some((&snapshot.version).into());
        v1::EvaluateResponse { decisions, version }.encode_to_vec()
    });
}
