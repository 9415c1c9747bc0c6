//! One trace a message, through the queue, as a collector sees it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::stage::{Options, Stage, wait_for};

/// Spans with the service that sent them.
type Spans = Arc<Mutex<Vec<(String, Span)>>>;

struct Collector(Spans);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let service = attributes
                .into_iter()
                .find(|attribute| attribute.key == "service.name")
                .map(|attribute| format!("{:?}", attribute.value))
                .unwrap_or_default();
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0
                .lock()
                .unwrap()
                .extend(spans.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[test]
fn one_trace_from_the_first_command_to_the_intake() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let spans = Spans::default();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let service = TraceServiceServer::new(Collector(spans.clone()));
    let server = tonic::transport::Server::builder().add_service(service);
    runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let env = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", "200".to_owned()),
    ];
    let stage = Stage::build(Options {
        env,
        ..Options::default()
    });
    assert!(stage.swaks("a@x.example", "ann@company.example", None).0);
    stage.intake(1);

    let expected = [
        ("smtp.transaction", "ingress"),
        ("policy.Evaluate", "ingress"),
        ("tdc.policy.v1.PolicyService/Evaluate", "policy"),
        ("queue.prepare", "ingress"),
        ("relay", "ingress"),
        ("queue.commit", "ingress"),
        ("journal.deliver", "worker"),
    ];
    let trace = wait_for("the whole trace", || {
        let spans = spans.lock().unwrap();
        let root = spans
            .iter()
            .find(|(_, span)| span.name == "smtp.transaction")?
            .1
            .trace_id
            .clone();
        let trace: Vec<_> = spans
            .iter()
            .filter(|(_, span)| span.trace_id == root)
            .cloned()
            .collect();
        expected
            .iter()
            .all(|(name, _)| trace.iter().any(|(_, span)| span.name == *name))
            .then_some(trace)
    });
    let by_id: HashMap<_, _> = trace
        .iter()
        .map(|(_, span)| (span.span_id.clone(), span.name.clone()))
        .collect();
    for (name, service) in expected {
        let (sender, span) = trace.iter().find(|(_, span)| span.name == name).unwrap();
        assert!(sender.contains(service), "{name} comes from {service}: {sender}");
        let parent = by_id.get(&span.parent_span_id).map(String::as_str);
        let wanted = match name {
            "smtp.transaction" => None,
            "tdc.policy.v1.PolicyService/Evaluate" => Some("policy.Evaluate"),
            _ => Some("smtp.transaction"),
        };
        assert_eq!(parent, wanted, "the parent of {name}");
        let attributes = format!("{:?}", span.attributes);
        assert!(
            !attributes.contains('@'),
            "no address in the attributes of {name}: {attributes}"
        );
    }
}
