//! The registry of one process, and the names in it.
//!
//! A metric of a role is called `tdc_<role>_<thing>_<unit>`; counters get `_total` when they are written, so their
//! name here has none. Units are base units: `_seconds`, `_bytes`. A label has a closed, small set of values; never a
//! message, an address or a peer.

use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use crate::otlp::SpanStats;
use crate::output::OutputStats;
use crate::process;

/// Bucket bounds for times, in seconds: from a call on the same machine to the lifetime of a copy.
pub const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 180.0,
];

/// The upper bounds of a histogram's buckets, ascending; the unbounded one is added.
#[derive(Clone, Copy, Debug)]
pub struct Buckets(pub &'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// A counter for each set of labels.
pub type Counters<L> = Family<L, Counter>;
/// A gauge for each set of labels.
pub type Gauges<L> = Family<L, Gauge>;
/// A histogram for each set of labels.
pub type Histograms<L> = Family<L, Histogram, Buckets>;

/// What a set of labels must be able to do; `#[derive(EncodeLabelSet)]` of [`crate::prometheus_client`] and the usual
/// derives give it.
pub trait Labels: EncodeLabelSet + Clone + Hash + Eq + fmt::Debug + Send + Sync + 'static {}
impl<L: EncodeLabelSet + Clone + Hash + Eq + fmt::Debug + Send + Sync + 'static> Labels for L {}

/// The registry of one process. Cheap to clone; metrics may be registered at any time.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<RwLock<Registry>>,
    role: &'static str,
}

impl Metrics {
    /// The media type of [`Metrics::encode`].
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// A registry that holds `tdc_build_info`, whose labels are the version and the role, and the usual `process_*`
    /// metrics. `role` is the one of [`crate::Config`].
    pub fn new(role: &'static str) -> Self {
        let mut registry = Registry::default();
        let build = Info::new([("role", role), ("version", env!("CARGO_PKG_VERSION"))]);
        registry.register(
            "tdc_build",
            "The program's version and the role of this process",
            build,
        );
        registry.register_collector(Box::new(process::Collector));
        Self {
            registry: Arc::new(RwLock::new(registry)),
            role,
        }
    }

    /// The metrics of one role: their names begin with `tdc_<role>_`. A process may have several roles; within a role
    /// every name is to be registered once.
    pub fn scope(&self, role: &str) -> Scope {
        Scope {
            registry: Arc::clone(&self.registry),
            prefix: format!("tdc_{role}_"),
        }
    }

    /// All metrics in the text form of OpenMetrics 1.0.
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        // Writing to a String cannot fail, and our own collector does not.
        let _ = text::encode(&mut out, &registry);
        out
    }

    pub(crate) fn observe_telemetry(&self, lines: Arc<OutputStats>, spans: Option<Arc<SpanStats>>) {
        let prefix = format!("tdc_{}_", self.role);
        let collector = process::Telemetry { prefix, lines, spans };
        self.registry
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .register_collector(Box::new(collector));
    }
}

/// Registers the metrics of one role. `name` is what follows the role's prefix, `help` a sentence without its stop.
#[derive(Clone, Debug)]
pub struct Scope {
    registry: Arc<RwLock<Registry>>,
    prefix: String,
}

impl Scope {
    /// Registers any other metric of [`crate::prometheus_client`].
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        let mut registry = self.registry.write().unwrap_or_else(PoisonError::into_inner);
        registry.register(format!("{}{name}", self.prefix), help, metric.clone());
        metric
    }

    /// A counter; written as `<name>_total`.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.register(name, help, Counter::default())
    }

    /// A gauge of whole numbers.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default())
    }

    /// A histogram with the given upper bounds, for times [`SECONDS`].
    pub fn histogram(&self, name: &str, help: &str, buckets: &'static [f64]) -> Histogram {
        self.register(name, help, Buckets(buckets).new_metric())
    }

    /// A counter for each set of labels; written as `<name>_total`.
    pub fn counters<L: Labels>(&self, name: &str, help: &str) -> Counters<L> {
        self.register(name, help, Family::default())
    }

    /// A gauge of whole numbers for each set of labels.
    pub fn gauges<L: Labels>(&self, name: &str, help: &str) -> Gauges<L> {
        self.register(name, help, Family::default())
    }

    /// A histogram for each set of labels.
    pub fn histograms<L: Labels>(&self, name: &str, help: &str, buckets: &'static [f64]) -> Histograms<L> {
        self.register(name, help, Family::new_with_constructor(Buckets(buckets)))
    }
}

#[cfg(test)]
mod tests {
    use super::{Metrics, SECONDS};
    use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};

    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
    enum Class {
        Good,
    }

    #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
    struct ByClass {
        class: Class,
    }

    #[test]
    fn names_units_and_values_are_as_registered() {
        let metrics = Metrics::new("standalone");
        let scope = metrics.scope("ingress");
        scope.counter("connections", "Connections accepted").inc_by(3);
        scope.gauge("sessions", "Sessions open now").set(-2);
        scope
            .histogram("relay_seconds", "Time in the relay", SECONDS)
            .observe(0.3);
        scope
            .counters::<ByClass>("outcomes", "Outcomes")
            .get_or_create(&ByClass { class: Class::Good })
            .inc();
        scope
            .gauges::<ByClass>("depth", "Depth")
            .get_or_create(&ByClass { class: Class::Good })
            .set(7);
        let times = scope.histograms::<ByClass>("age_seconds", "Age", &[1.0]);
        times.get_or_create(&ByClass { class: Class::Good }).observe(2.0);
        // Another role of the same process, registered later.
        metrics
            .scope("worker")
            .counter("connections", "Connections opened")
            .inc();

        let text = metrics.encode();
        for line in [
            "# HELP tdc_ingress_connections Connections accepted.",
            "tdc_ingress_connections_total 3",
            "tdc_worker_connections_total 1",
            "tdc_ingress_sessions -2",
            "tdc_ingress_relay_seconds_bucket{le=\"0.5\"} 1",
            "tdc_ingress_relay_seconds_bucket{le=\"0.25\"} 0",
            "tdc_ingress_outcomes_total{class=\"Good\"} 1",
            "tdc_ingress_depth{class=\"Good\"} 7",
            "tdc_ingress_age_seconds_bucket{le=\"+Inf\",class=\"Good\"} 1",
            concat!(
                "tdc_build_info{role=\"standalone\",version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1"
            ),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn the_process_measures_itself() {
        let text = Metrics::new("test").encode();
        let value = |name: &str| -> f64 {
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_else(|| panic!("{name}\n{text}"));
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes ") > 100_000.0);
        assert!(value("process_cpu_seconds_total ") >= 0.0);
        assert!(value("process_open_fds ") >= 3.0);
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs_f64();
        let started = value("process_start_time_seconds ");
        assert!(
            started <= now + 2.0 && started > now - 86_400.0,
            "{started} {now}"
        );
    }
}
