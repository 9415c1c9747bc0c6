//! What an ingress counts. No label ever depends on a message.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use tdc_smtp::{CloseReason, Limit};
use tdc_telemetry::{Counters, Gauges, Metrics};

use crate::evaluate::Source;
use crate::nexthop::NextHopMetrics;

/// Octets of a message.
const SIZES: &[f64] = &[1e3, 1e4, 1e5, 1e6, 1e7, 3e7];

/// Why a copy that was due was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skip {
    NotClean,
    Loop,
    NoPolicy,
    Unresolved,
    QueueUnavailable,
    QueueTimeout,
    QueueFull,
}

impl Skip {
    fn as_str(self) -> &'static str {
        match self {
            Self::NotClean => "not_clean",
            Self::Loop => "loop",
            Self::NoPolicy => "no_policy",
            Self::Unresolved => "unresolved",
            Self::QueueUnavailable => "queue_unavailable",
            Self::QueueTimeout => "queue_timeout",
            Self::QueueFull => "queue_full",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BySource {
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByLimit {
    limit: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCause {
    cause: &'static str,
}

/// The metrics of one ingress; cheap to clone.
#[derive(Clone, Debug)]
pub struct IngressMetrics {
    connections: Counter,
    refused: Counters<Reason>,
    limits: Counters<ByLimit>,
    accept_errors: Counter,
    memory: Gauge,
    shedding: Gauges<ByCause>,
    shed: Counters<ByCause>,
    certificates: Counters<Outcome>,
    open: Gauge,
    closed: Counters<Reason>,
    messages: Counters<Outcome>,
    sizes: Histogram,
    evaluations: Counters<BySource>,
    skipped: Counters<Reason>,
    queued: Counter,
    in_doubt: Counter,
    next_hop_failures: Counter,
    pub(crate) next_hop: NextHopMetrics,
}

/// A connection that is open as long as this lives.
pub(crate) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl IngressMetrics {
    /// Registers them, each as `tdc_ingress_…`.
    pub fn new(metrics: &Metrics) -> Self {
        let scope = metrics.scope("ingress");
        Self {
            connections: scope.counter("connections", "Client connections accepted"),
            refused: scope.counters("connections_refused", "Client connections turned away, by reason"),
            limits: scope.counters("limits_met", "Times a client met a limit, by limit"),
            accept_errors: scope.counter("accept_errors", "Times that a connection could not be accepted"),
            memory: scope.gauge("memory_held_bytes", "Room reserved for messages on their way"),
            shedding: scope.gauges("shedding", "1 while new messages are turned away, by cause"),
            shed: scope.counters("messages_shed", "Messages turned away to shed load, by cause"),
            certificates: scope.counters("certificate_reloads", "Changed certificates, by outcome"),
            open: scope.gauge("connections_open", "Client connections open now"),
            closed: scope.counters("sessions_closed", "Sessions that this side closed, by reason"),
            messages: scope.counters("messages", "Messages received to their end, by outcome"),
            sizes: scope.histogram(
                "message_size_bytes",
                "Size of messages received to their end",
                SIZES,
            ),
            evaluations: scope.counters("evaluations", "Decisions about copies, by who decided"),
            skipped: scope.counters("journal_skipped", "Copies that were due and not made, by reason"),
            queued: scope.counter("copies_queued", "Copies committed to the queue"),
            in_doubt: scope.counter(
                "copies_in_doubt",
                "Copies that could not be committed and are left to the sweeper",
            ),
            next_hop_failures: scope.counter("next_hop_failures", "Transactions that the next hop failed"),
            next_hop: NextHopMetrics::new(&scope),
        }
    }

    pub(crate) fn connected(&self) -> Open {
        self.connections.inc();
        self.open.inc();
        Open(self.open.clone())
    }

    pub(crate) fn refused_connection(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn accept_failed(&self) {
        self.accept_errors.inc();
    }

    pub(crate) fn limit(&self, limit: Limit, times: u32) {
        let name = match limit {
            Limit::Line => "line",
            Limit::Recipients => "recipients",
            Limit::DeclaredSize => "declared_size",
            Limit::SoftErrors => "soft_errors",
            Limit::Junk => "junk",
        };
        self.met(name, times);
    }

    pub(crate) fn met(&self, limit: &'static str, times: u32) {
        self.limits.get_or_create(&ByLimit { limit }).inc_by(times.into());
    }

    pub(crate) fn memory(&self, octets: u64) {
        self.memory.set(octets.try_into().unwrap_or(i64::MAX));
    }

    pub(crate) fn shedding(&self, cause: &'static str, on: bool) {
        self.shedding.get_or_create(&ByCause { cause }).set(on.into());
    }

    pub(crate) fn shed(&self, cause: &'static str) {
        self.shed.get_or_create(&ByCause { cause }).inc();
    }

    pub(crate) fn certificate(&self, outcome: &'static str) {
        self.certificates.get_or_create(&Outcome { outcome }).inc();
    }

    pub(crate) fn closed(&self, reason: CloseReason) {
        self.closed_by(match reason {
            CloseReason::Quit => "quit",
            CloseReason::TooManyErrors => "too_many_errors",
            CloseReason::TooManyMessages => "too_many_messages",
            CloseReason::UnauthorizedPipelining => "unauthorized_pipelining",
            CloseReason::EndlessLine => "endless_line",
            CloseReason::NotSmtp => "not_smtp",
            CloseReason::PlaintextBehindStartTls => "plaintext_behind_starttls",
            CloseReason::ProxyHeader => "proxy_header",
            CloseReason::BareLf => "bare_lf",
            CloseReason::Shutdown => "shutdown",
            CloseReason::Lifetime => "lifetime",
            CloseReason::Evicted => "evicted",
            CloseReason::Answered421 => "answered_421",
        });
    }

    pub(crate) fn closed_by(&self, reason: &'static str) {
        self.closed.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn message(&self, outcome: &'static str, size: u64) {
        self.messages.get_or_create(&Outcome { outcome }).inc();
        self.sizes.observe(size as f64);
    }

    pub(crate) fn evaluated(&self, source: Source) {
        self.evaluations
            .get_or_create(&BySource {
                source: source.as_str(),
            })
            .inc();
    }

    pub(crate) fn skipped(&self, skip: Skip, copies: u64) {
        self.skipped
            .get_or_create(&Reason {
                reason: skip.as_str(),
            })
            .inc_by(copies);
    }

    pub(crate) fn queued(&self, copies: u64) {
        self.queued.inc_by(copies);
    }

    pub(crate) fn in_doubt(&self, copies: u64) {
        self.in_doubt.inc_by(copies);
    }

    pub(crate) fn next_hop_failed(&self) {
        self.next_hop_failures.inc();
    }
}
