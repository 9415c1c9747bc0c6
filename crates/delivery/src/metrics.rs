//! The worker's metrics, `tdc_worker_*`. Labels are intakes and closed sets; never an address, never a message.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tdc_telemetry::{Counters, Gauges, Histograms, Metrics};

/// From acceptance to delivery, in seconds: a good intake takes parts of a second, a copy lives 120 s.
const DELIVERY_BUCKETS: &[f64] = &[
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 90.0, 120.0,
];

/// `{intake="…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfIntake {
    pub(crate) intake: String,
}

/// `{intake="…",class="…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfClass {
    pub(crate) intake: String,
    pub(crate) class: &'static str,
}

/// `{intake="…",state="…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfState {
    pub(crate) intake: String,
    pub(crate) state: &'static str,
}

/// What a worker counts. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct WorkerMetrics {
    pub(crate) attempts: Counters<OfClass>,
    pub(crate) deliveries: Counters<OfClass>,
    pub(crate) connections: Gauges<OfIntake>,
    pub(crate) target: Gauges<OfIntake>,
    pub(crate) leased: Gauges<OfIntake>,
    pub(crate) opened: Counters<OfClass>,
    pub(crate) delay: Histograms<OfIntake>,
    pub(crate) entries: Gauges<OfState>,
    pub(crate) oldest: Family<OfIntake, Gauge<f64, AtomicU64>>,
    pub(crate) swept: Counters<OfClass>,
    pub(crate) lost_claims: Counters<OfIntake>,
    pub(crate) stuck: Counters<OfIntake>,
}

impl WorkerMetrics {
    /// Registers everything under `tdc_worker_`; once for each process.
    pub fn register(metrics: &Metrics) -> Self {
        let scope = metrics.scope("worker");
        Self {
            attempts: scope.counters(
                "attempts",
                "Attempts to deliver a copy, by intake and class of their outcome",
            ),
            deliveries: scope.counters(
                "deliveries",
                "Copies that ended here, by intake and how: delivered, 5xx, dns, tls, network, other, possible_delivery, \
                 expired",
            ),
            connections: scope.gauges(
                "connections",
                "Connections of this process to the intake, with those being opened",
            ),
            target: scope.gauges(
                "connections_target",
                "Connections to the intake that all workers together should have now",
            ),
            leased: scope.gauges(
                "connections_leased",
                "Connections to the intake that all workers together have leased",
            ),
            opened: scope.counters(
                "connections_opened",
                "Connections tried, by intake and class: ready, or the class of the failure",
            ),
            delay: scope.histograms(
                "acceptance_to_delivery_seconds",
                "From the acceptance of a message to the answer of the intake to its copy",
                DELIVERY_BUCKETS,
            ),
            entries: scope.gauges(
                "queue_entries",
                "Copies in the queue, by intake and state: ready, in_flight, retrying, prepared",
            ),
            oldest: scope.register(
                "queue_oldest_seconds",
                "Age of the oldest copy in the queue, by intake",
                Family::default(),
            ),
            swept: scope.counters(
                "swept",
                "Copies moved by the housekeeping of this worker, by intake and class: promoted, in_doubt, expired",
            ),
            lost_claims: scope.counters(
                "lost_claims",
                "Attempts whose entry another worker had taken over when they ended, by intake",
            ),
            stuck: scope.counters(
                "stuck",
                "Deliveries that were given up because none of their limits had ended them: always 0, or a defect",
            ),
        }
    }
}
