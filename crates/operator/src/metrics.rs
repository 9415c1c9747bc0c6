//! What the operator counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tdc_telemetry::Metrics;

/// The metrics of one operator; cheap to clone.
#[derive(Clone, Debug)]
pub struct OperatorMetrics {
    pub(crate) leader: Gauge,
    pub(crate) objects: Gauge,
    pub(crate) not_accepted: Gauge,
    pub(crate) not_programmed: Gauge,
    pub(crate) unreachable: Gauge,
    pub(crate) policy_replicas: Gauge,
    pub(crate) clients: Gauge,
    pub(crate) status_writes: Counter,
    pub(crate) status_failures: Counter,
    pub(crate) events: Counter,
    pub(crate) orphans: Gauge,
    pub(crate) consumers_removed: Counter,
    pub(crate) queues_removed: Counter,
    watch_errors: Counter,
    watch_broken: Gauge,
}

impl OperatorMetrics {
    /// Registers them, each as `tdc_operator_…`.
    pub fn new(metrics: &Metrics) -> Self {
        let scope = metrics.scope("operator");
        Self {
            leader: scope.gauge("leader", "1 in the operator that holds the lease and writes"),
            objects: scope.gauge("objects", "Resources of the three kinds"),
            not_accepted: scope.gauge("objects_not_accepted", "Resources that are not accepted or do not resolve"),
            not_programmed: scope.gauge("objects_not_programmed", "Resources that do not show Programmed=True"),
            unreachable: scope.gauge("intakes_unreachable", "Intakes whose last probe failed"),
            policy_replicas: scope.gauge("policy_replicas", "Replicas of the policy service"),
            clients: scope.gauge("policy_clients", "Ingresses and workers that watch a policy replica"),
            status_writes: scope.counter("status_writes", "Statuses written to the Kubernetes API"),
            status_failures: scope.counter("status_write_failures", "Statuses that could not be written, and will be"),
            events: scope.counter("events", "Events written to the Kubernetes API"),
            orphans: scope.gauge(
                "orphaned_copies",
                "Copies in the queue whose intake does not exist any more; they wait for it until they expire",
            ),
            consumers_removed: scope.counter("consumers_removed", "Dead workers removed from the queue"),
            queues_removed: scope.counter("queues_removed", "Empty queues of removed intakes that were cleared away"),
            watch_errors: scope.counter("watch_errors", "Errors of the watches on the Kubernetes API"),
            watch_broken: scope.gauge("watch_broken", "1 while the resources cannot be watched"),
        }
    }

    /// Takes down how the watches on the Kubernetes API are.
    pub fn watches(&self, errors: u64, broken: bool) {
        self.watch_errors
            .inc_by(errors.saturating_sub(self.watch_errors.get()));
        self.watch_broken.set(i64::from(broken));
    }
}
