//! Spans on their way from `init` to a collector.
//!
//! The subscriber and the variables are those of a process, so each case runs in a process of its own: this test
//! binary again, with the one ignored test `child`, and the variables of the case.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: one that cannot go on has failed"
)]

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use tdc_core::maillog::MailEvent;
use tdc_telemetry::{Config, InitError, LogFormat, Metrics, current_traceparent, init, set_parent};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const ADDRESS: &str = "cfo@finance.example";

/// What the process under test does; the results go to standard output as `name=value`.
#[test]
#[ignore = "the other tests run it, each in a process of its own"]
fn child() {
    let Ok(spans) = std::env::var("TDC_TEST_SPANS") else {
        return;
    };
    let spans: usize = spans.parse().unwrap();
    // The smallest runtime there is: nothing of the export may need another thread of it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let config = Config {
            role: "worker",
            log_format: LogFormat::Json,
            log_filter: "info".into(),
            instance: "worker-0".into(),
        };
        let guard = match init(&config) {
            Ok(guard) => guard,
            Err(error) => return println!("\ninit={error}"),
        };
        assert!(matches!(init(&config), Err(InitError::AlreadySet)));
        let metrics = Metrics::new("worker");
        guard.observe(&metrics);
        for _ in 0..spans {
            let span = tracing::info_span!(target: "tdc_delivery", "journal.deliver", attempt = 1);
            set_parent(&span, &format!("00-{TRACE}-{PARENT}-01"), "");
            assert_eq!(
                span.is_disabled(),
                !guard.is_tracing(),
                "a span is made to be exported"
            );
            let _entered = span.enter();
            let _other = tracing::info_span!(target: "h2::client", "poll").entered();
            tracing::warn!(to = ADDRESS, "An event must not leave through a span.");
            guard.mail_log().emit(&MailEvent::Closed { icid: 5 });
            println!("\ntraceparent={}", current_traceparent().0);
        }
        println!("\ntracing={}", guard.is_tracing());
        guard.shutdown().await;
        for line in metrics
            .encode()
            .lines()
            .filter(|line| line.starts_with("tdc_worker_trace_spans_total"))
        {
            println!("\n{line}");
        }
    });
}

/// Runs `child` with the variables; the time limit only keeps a hang from being one.
async fn run(spans: usize, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_")) {
        command.env_remove(name);
    }
    command
        .env("TDC_TEST_SPANS", spans.to_string())
        .envs(variables.iter().copied());
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    let output: Output = tokio::time::timeout(Duration::from_secs(60), command.output())
        .await
        .expect("it ends by itself")
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn value<'a>(text: &'a str, name: &str) -> &'a str {
    let find = |line: &'a str| line.strip_prefix(name)?.strip_prefix('=');
    text.lines()
        .find_map(find)
        .unwrap_or_else(|| panic!("{name} is missing in\n{text}"))
}

fn spans(text: &str, result: &str) -> u64 {
    let prefix = format!("tdc_worker_trace_spans_total{{result=\"{result}\"}} ");
    let find = |line: &str| line.strip_prefix(&prefix)?.parse().ok();
    text.lines()
        .find_map(find)
        .unwrap_or_else(|| panic!("{prefix} is missing in\n{text}"))
}

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ResourceSpans>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().extend(request.into_inner().resource_spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start(tls: Option<Identity>) -> (Self, SocketAddr) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = Server::builder();
        if let Some(identity) = tls {
            server = server
                .tls_config(ServerTlsConfig::new().identity(identity))
                .unwrap();
        }
        let server = server.add_service(TraceServiceServer::new(collector.clone()));
        let connections = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(server.serve_with_incoming(connections));
        (collector, address)
    }

    fn received(&self) -> Vec<ResourceSpans> {
        self.0.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn a_span_arrives_with_its_trace_its_resource_and_nothing_else() {
    let (collector, address) = Collector::start(None).await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &format!("http://{address}")),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test,service.namespace=mail",
        ),
    ];
    let text = run(1, &variables).await;
    assert_eq!(value(&text, "tracing"), "true");

    let received = collector.received();
    assert_eq!(received.len(), 1, "{received:?}");
    let attributes = &received[0].resource.as_ref().unwrap().attributes;
    let attribute = |key: &str| {
        let found = attributes.iter().find(|attribute| attribute.key == key);
        match found
            .and_then(|attribute| attribute.value.clone())
            .and_then(|value| value.value)
        {
            Some(Value::StringValue(text)) => text,
            other => panic!("{key}: {other:?}"),
        }
    };
    for (key, expected) in [
        ("service.name", "tdc-worker"),
        ("service.instance.id", "worker-0"),
        ("service.namespace", "mail"),
        ("deployment.environment.name", "test"),
        ("telemetry.sdk.language", "rust"),
    ] {
        assert_eq!(attribute(key), expected, "{key}");
    }
    let spans: Vec<_> = received[0]
        .scope_spans
        .iter()
        .flat_map(|scope| &scope.spans)
        .collect();
    assert_eq!(spans.len(), 1, "the span of another crate stays here: {spans:?}");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let span = spans[0];
    assert_eq!(span.name, "journal.deliver");
    assert_eq!(
        (hex(&span.trace_id).as_str(), hex(&span.parent_span_id).as_str()),
        (TRACE, PARENT)
    );
    assert!(span.attributes.iter().any(|attribute| attribute.key == "attempt"));
    assert!(
        !format!("{received:?}").contains(ADDRESS),
        "no address leaves: {received:?}"
    );

    // The same ids stand in both logs and in what goes on to the next process.
    let span_id = hex(&span.span_id);
    assert_eq!(value(&text, "traceparent"), format!("00-{TRACE}-{span_id}-01"));
    for (member, expected) in [("event", "closed"), ("to", ADDRESS)] {
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let line = lines
            .into_iter()
            .find(|line| line[member] == expected)
            .expect("both logs are on standard output");
        assert_eq!(
            (line["trace_id"].as_str(), line["span_id"].as_str()),
            (Some(TRACE), Some(span_id.as_str()))
        );
    }
}

#[tokio::test]
async fn the_name_of_the_service_can_be_given() {
    let (collector, address) = Collector::start(None).await;
    let endpoint = format!("http://{address}");
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_SERVICE_NAME", "journal"),
    ];
    let text = run(3, &variables).await;
    assert_eq!(
        (
            spans(&text, "exported"),
            spans(&text, "failed"),
            spans(&text, "dropped")
        ),
        (3, 0, 0)
    );
    assert!(format!("{:?}", collector.received()).contains("StringValue(\"journal\")"));
}

#[tokio::test]
async fn nothing_is_exported_when_the_environment_says_so() {
    let (collector, address) = Collector::start(None).await;
    let endpoint = format!("http://{address}");
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str());
    let cases: [(&[_], bool, &str); 4] = [
        (&[], false, "no endpoint"),
        (&[endpoint, ("OTEL_SDK_DISABLED", "True")], false, "switched off"),
        (
            &[endpoint, ("OTEL_TRACES_EXPORTER", "none")],
            false,
            "no exporter",
        ),
        (
            &[endpoint, ("OTEL_TRACES_SAMPLER", "always_off")],
            true,
            "nothing is sampled",
        ),
    ];
    for (variables, tracing, why) in cases {
        let text = run(2, variables).await;
        assert_eq!(value(&text, "tracing"), tracing.to_string(), "{why}");
        let expected = if tracing { "-00" } else { "" };
        assert!(value(&text, "traceparent").ends_with(expected), "{why}\n{text}");
        assert_eq!(collector.received(), [], "{why}");
    }
}

#[tokio::test]
async fn a_collector_that_is_away_or_asleep_costs_spans_and_nothing_else() {
    let away = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // Takes connections, by way of the kernel, and never says a word.
    let asleep = TcpListener::bind("127.0.0.1:0").unwrap();
    for (address, why) in [(away, "away"), (asleep.local_addr().unwrap(), "asleep")] {
        let endpoint = format!("http://{address}");
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "60000"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "4"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2"),
        ];
        let text = run(50, &variables).await;
        assert_eq!(spans(&text, "exported"), 0, "{why}");
        assert!(
            spans(&text, "dropped") > 0,
            "{why}: a full queue makes nobody wait\n{text}"
        );
        let (lost, waiting) = (spans(&text, "dropped") + spans(&text, "failed"), 4);
        assert!(
            (50 - waiting..=50).contains(&lost),
            "{why}: every span is counted or waits\n{text}"
        );
        assert_eq!(
            text.lines()
                .filter(|line| line.contains("\"event\":\"closed\""))
                .count(),
            50,
            "{why}"
        );
    }
}

#[tokio::test]
async fn settings_that_cannot_be_met_are_refused_with_the_reason() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");
    let cases: [(&[_], &str); 4] = [
        (
            &[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")],
            "OTEL_EXPORTER_OTLP_PROTOCOL=\"http/protobuf\" is not supported: use grpc",
        ),
        (
            &[endpoint, ("OTEL_TRACES_EXPORTER", "zipkin")],
            "OTEL_TRACES_EXPORTER=\"zipkin\" is not supported: use otlp or none",
        ),
        (
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[:4317")],
            "check the OTEL_EXPORTER_OTLP_* variables",
        ),
        (
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:4317"),
                ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nonexistent/ca.pem"),
            ],
            "OTEL_EXPORTER_OTLP_CERTIFICATE: cannot read \"/nonexistent/ca.pem\"",
        ),
    ];
    for (variables, reason) in cases {
        let text = run(1, variables).await;
        assert!(value(&text, "init").contains(reason), "{reason}\n{text}");
    }
}

#[tokio::test]
async fn an_https_collector_is_verified() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let identity = Identity::from_pem(own.cert.pem(), own.signing_key.serialize_pem());
    let (collector, address) = Collector::start(Some(identity)).await;
    let endpoint = format!("https://localhost:{}", address.port());
    let folder = tempfile::tempdir().unwrap();
    for (certificate, exported, why) in [(&other, 0, "not its certificate"), (&own, 1, "its certificate")] {
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, certificate.cert.pem()).unwrap();
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", path.to_str().unwrap()),
        ];
        let text = run(1, &variables).await;
        assert_eq!(spans(&text, "exported"), exported, "{why}\n{text}");
        assert_eq!(collector.received().len() as u64, exported, "{why}");
    }
}
