//! The log and the traces of one process.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, ParseError, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};

use crate::format::{Lines, LogFormat, missing_line};
use crate::mail_log::MailLog;
use crate::metrics::Metrics;
use crate::otlp::{OtlpError, Traces};
use crate::output::Output;

/// How long the end of the process waits for the last spans, and then for the last lines.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);

/// What [`init`] needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The role of the process: `ingress`, `policy`, `worker`, `operator`, `standalone`.
    pub role: &'static str,
    /// The form of the lines on standard output.
    pub log_format: LogFormat,
    /// Directives of `tracing`'s `EnvFilter` for the program's own log: `info`, `info,tdc_queue=debug`. The mail log
    /// and the traces do not depend on it.
    pub log_filter: String,
    /// Which of the role's processes this is, as the pod's name; the resource attribute `service.instance.id`.
    pub instance: String,
}

/// Why [`init`] failed.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The log filter cannot be read.
    #[error("cannot read the log filter {filter:?}: use directives such as info or info,tdc_queue=debug")]
    Filter {
        /// As given.
        filter: String,
        /// Why.
        #[source]
        source: ParseError,
    },
    /// The span exporter cannot be set up.
    #[error(transparent)]
    Otlp(#[from] OtlpError),
    /// The log's thread cannot be started.
    #[error("cannot start the thread that writes the log")]
    Output(#[source] io::Error),
    /// `init` was called before.
    #[error("the log of this process is already set up")]
    AlreadySet,
}

/// Keeps the log and the traces of the process going.
#[must_use = "call shutdown at the end of the process, or the last spans and lines are lost"]
pub struct Guard {
    output: Output,
    format: LogFormat,
    traces: Option<Traces>,
}

/// Sets up the log and the traces of this process; call it once, early.
///
/// Everything goes to standard output: the mail log, and the program's own log. Spans go to the OTLP/gRPC collector
/// that `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` names; without one there are no traces.
/// Heeded are further: `OTEL_SDK_DISABLED`, `OTEL_TRACES_EXPORTER` (`otlp`, `none`), `OTEL_SERVICE_NAME` (default
/// `tdc-<role>`), `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER` and its `_ARG` (default `parentbased_always_on`),
/// `OTEL_BSP_*`, `OTEL_SPAN_*_LIMIT`, and of `OTEL_EXPORTER_OTLP_*` and `OTEL_EXPORTER_OTLP_TRACES_*`: `HEADERS`,
/// `TIMEOUT`, `INSECURE`, `CERTIFICATE`, `PROTOCOL` (`grpc`). Only spans of this program's own crates at level
/// `INFO` and above are exported, and no events: a log line may carry what a span must not.
///
/// # Errors
/// When the filter or a variable cannot be used, when a thread cannot be started, when called twice. A collector that
/// is not there is no error.
pub fn init(config: &Config) -> Result<Guard, InitError> {
    let filter = EnvFilter::try_new(&config.log_filter).map_err(|source| InitError::Filter {
        filter: config.log_filter.clone(),
        source,
    })?;
    let format = config.log_format;
    let output =
        Output::start(io::stdout(), move |count| missing_line(format, count)).map_err(InitError::Output)?;
    let traces = Traces::from_env(config.role, &config.instance)?;
    let spans = traces.as_ref().map(|traces| {
        tracing_opentelemetry::layer()
            .with_tracer(traces.provider.tracer("tdc"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_filter(filter_fn(is_exported))
            .boxed()
    });
    // Lines show no spans: without traces none is made, which would cost every message its names and fields.
    let lines = tracing_subscriber::fmt::layer()
        .event_format(Lines(format))
        .with_writer(output.lines())
        .with_filter(filter.and(filter_fn(is_event)))
        .boxed();
    // A list, because an optional layer that is not there would want every span.
    let layers: Vec<_> = [lines].into_iter().chain(spans).collect();
    let subscriber = tracing_subscriber::registry().with(layers);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| InitError::AlreadySet)?;
    Ok(Guard {
        output,
        format,
        traces,
    })
}

fn is_event(metadata: &Metadata<'_>) -> bool {
    metadata.is_event()
}

fn is_exported(metadata: &Metadata<'_>) -> bool {
    let krate = metadata.target().split("::").next().unwrap_or_default();
    metadata.is_span() && *metadata.level() <= Level::INFO && (krate == "tdc" || krate.starts_with("tdc_"))
}

impl Guard {
    /// The mail log on standard output.
    pub fn mail_log(&self) -> MailLog {
        MailLog::new(self.format, self.output.clone())
    }

    /// Whether spans are exported.
    pub fn is_tracing(&self) -> bool {
        self.traces.is_some()
    }

    /// Shows in `metrics` what became of the lines of the log and of the spans.
    pub fn observe(&self, metrics: &Metrics) {
        let spans = self.traces.as_ref().map(|traces| Arc::clone(&traces.stats));
        metrics.observe_telemetry(self.output.stats(), spans);
    }

    /// Sends the waiting spans, then writes the waiting lines; takes at most a few seconds, whatever the collector
    /// and the reader of standard output do. Call it last, on a runtime with its blocking threads still at work.
    pub async fn shutdown(mut self) {
        if let Some(traces) = self.traces.take()
            && !traces.shutdown(FLUSH_LIMIT).await
        {
            tracing::warn!("Not all spans could be exported before the end.");
        }
        let output = self.output.clone();
        // Nobody is left to be told when the last lines cannot be written.
        let _ = tokio::task::spawn_blocking(move || output.flush(FLUSH_LIMIT)).await;
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            output,
            format,
            traces,
        } = self;
        f.debug_struct("Guard")
            .field("output", output)
            .field("format", format)
            .field("tracing", &traces.is_some())
            .finish()
    }
}
