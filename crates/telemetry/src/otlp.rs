//! The way of the spans out of the process: the OTLP exporter, its environment variables and its counts.
//!
//! What always holds: a span that ends is queued or dropped, at once. The queue is bounded
//! (`OTEL_BSP_MAX_QUEUE_SIZE`); it counts a span until its export is over, so that every span is counted as exactly one
//! of exported, failed and dropped. The connection to the collector lives on a runtime of its own with one thread:
//! the batch processor blocks its own thread on it, so neither export nor shutdown ever needs a thread that carries
//! mail, however few of them there are.

use std::env;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor,
};
use tokio::runtime::Runtime;

/// Spans that may wait for their export, by OpenTelemetry's specification of `OTEL_BSP_MAX_QUEUE_SIZE`.
const MAX_QUEUE: usize = 2048;

/// Why the exporter cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// A variable has a value that this program cannot do.
    #[error("{variable}={value:?} is not supported: use {allowed}")]
    Unsupported {
        /// The variable.
        variable: &'static str,
        /// What it says.
        value: String,
        /// What it may say.
        allowed: &'static str,
    },
    /// The certificate file cannot be read.
    #[error("{variable}: cannot read {path:?}")]
    Certificate {
        /// The variable.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The endpoint or another setting is malformed.
    #[error("the OTLP exporter cannot be set up; check the OTEL_EXPORTER_OTLP_* variables")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// No thread for the exporter.
    #[error("cannot start the thread of the OTLP exporter")]
    Runtime(#[from] io::Error),
}

/// What became of the sampled spans so far.
#[derive(Debug, Default)]
pub(crate) struct SpanStats {
    pub(crate) exported: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) dropped: AtomicU64,
    waiting: AtomicUsize,
    away: AtomicBool,
}

/// The pipeline of one process.
pub(crate) struct Traces {
    pub(crate) provider: SdkTracerProvider,
    pub(crate) stats: Arc<SpanStats>,
    _runtime: Background,
}

impl Traces {
    /// Sets the pipeline up as the environment asks; `None` when it asks for none. Connects later, by itself.
    pub(crate) fn from_env(role: &str, instance: &str) -> Result<Option<Self>, OtlpError> {
        if !enabled()? {
            return Ok(None);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("tdc-otlp")
            .enable_all()
            .build()?;
        let runtime = Background(Some(runtime));
        let stats = Arc::new(SpanStats::default());
        let exporter = {
            let _entered = runtime.0.as_ref().map(Runtime::enter);
            let mut builder = opentelemetry_otlp::SpanExporter::builder().with_tonic();
            if let Some(tls) = tls()? {
                builder = builder.with_tls_config(tls);
            }
            builder
                .with_protocol(opentelemetry_otlp::Protocol::Grpc)
                .build()?
        };
        let max_queue = max_queue();
        let batch = BatchSpanProcessor::builder(Counted {
            inner: exporter,
            stats: Arc::clone(&stats),
        })
        .with_batch_config(
            BatchConfigBuilder::default()
                .with_max_queue_size(max_queue)
                .build(),
        )
        .build();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource(role, instance))
            .with_span_processor(Bounded {
                inner: batch,
                stats: Arc::clone(&stats),
                max_queue,
            })
            .build();
        Ok(Some(Self {
            provider,
            stats,
            _runtime: runtime,
        }))
    }

    /// Sends what is waiting, at most for `limit`, and ends the pipeline. Says whether everything was sent.
    pub(crate) async fn shutdown(self, limit: Duration) -> bool {
        let provider = self.provider.clone();
        // It blocks its thread, and must not block one that the calling task shares.
        let work = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(limit).is_ok());
        work.await.unwrap_or(false)
    }
}

/// A runtime that may be dropped anywhere: a plain one panics when that happens within another runtime.
struct Background(Option<Runtime>);

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn var(name: &str) -> Option<String> {
    // By the specification an empty variable is an unset one.
    env::var(name)
        .ok()
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty())
}

/// Of a signal's own variable and the general one, the first that is set, with its name.
fn signal_var(own: &'static str, general: &'static str) -> Option<(&'static str, String)> {
    [own, general]
        .into_iter()
        .find_map(|name| Some((name, var(name)?)))
}

fn endpoint() -> Option<String> {
    signal_var(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    )
    .map(|(_, value)| value)
}

fn enabled() -> Result<bool, OtlpError> {
    if var("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(false);
    }
    match var("OTEL_TRACES_EXPORTER").as_deref() {
        Some("none") => return Ok(false),
        None | Some("otlp") => {}
        Some(value) => {
            return Err(OtlpError::Unsupported {
                variable: "OTEL_TRACES_EXPORTER",
                value: value.to_owned(),
                allowed: "otlp or none",
            });
        }
    }
    if endpoint().is_none() {
        return Ok(false);
    }
    match signal_var(
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
    ) {
        Some((variable, value)) if value != "grpc" => Err(OtlpError::Unsupported {
            variable,
            value,
            allowed: "grpc",
        }),
        _ => Ok(true),
    }
}

/// For `https://` endpoints: the certificate authorities of the named file, or those of the system.
fn tls() -> Result<Option<ClientTlsConfig>, OtlpError> {
    if !endpoint().is_some_and(|endpoint| endpoint.to_ascii_lowercase().starts_with("https:")) {
        return Ok(None);
    }
    let config = ClientTlsConfig::new();
    match signal_var(
        "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
    ) {
        Some((variable, path)) => {
            let path = PathBuf::from(path);
            let pem = std::fs::read(&path).map_err(|source| OtlpError::Certificate {
                variable,
                path,
                source,
            })?;
            Ok(Some(config.ca_certificate(Certificate::from_pem(pem))))
        }
        None => Ok(Some(config.with_native_roots())),
    }
}

fn max_queue() -> usize {
    // The specification asks to ignore what cannot be read.
    let size = var("OTEL_BSP_MAX_QUEUE_SIZE").and_then(|value| value.parse().ok());
    size.filter(|size| *size > 0).unwrap_or(MAX_QUEUE)
}

/// `OTEL_SERVICE_NAME` over `OTEL_RESOURCE_ATTRIBUTES` over what we know ourselves.
fn resource(role: &str, instance: &str) -> Resource {
    let mut builder = Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", format!("tdc-{role}")),
            KeyValue::new("service.namespace", "tdc"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", instance.to_owned()),
        ])
        .with_detectors(&[
            Box::new(TelemetryResourceDetector),
            Box::new(EnvResourceDetector::new()),
        ]);
    if let Some(name) = var("OTEL_SERVICE_NAME") {
        builder = builder.with_service_name(name);
    }
    builder.build()
}

/// Lets at most `max_queue` spans wait, so that the inner queue, which has that size, never overflows unseen.
#[derive(Debug)]
struct Bounded<P> {
    inner: P,
    stats: Arc<SpanStats>,
    max_queue: usize,
}

impl<P: SpanProcessor> SpanProcessor for Bounded<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        if self.stats.waiting.fetch_add(1, Ordering::Relaxed) < self.max_queue {
            self.inner.on_end(span);
        } else {
            self.stats.waiting.fetch_sub(1, Ordering::Relaxed);
            self.stats.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Counts the exports of its inner exporter, and logs when they begin to fail and when they work again.
struct Counted<E> {
    inner: E,
    stats: Arc<SpanStats>,
}

impl<E> fmt::Debug for Counted<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counted")
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let result = self.inner.export(batch).await;
        let stats = &self.stats;
        stats.waiting.fetch_sub(count, Ordering::Relaxed);
        let (counter, away) = match &result {
            Ok(()) => (&stats.exported, false),
            Err(_) => (&stats.failed, true),
        };
        counter.fetch_add(count as u64, Ordering::Relaxed);
        match (stats.away.swap(away, Ordering::Relaxed), &result) {
            (false, Err(error)) => {
                tracing::warn!(%error, "Spans cannot be exported; they are dropped and counted until that works again.");
            }
            (true, Ok(())) => tracing::info!("Spans are exported again."),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
