//! What a policy service counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tdc_telemetry::Metrics;

/// The metrics of one policy service; cheap to clone.
#[derive(Clone, Debug)]
pub struct PolicyMetrics {
    evaluations: Counter,
    calls: Counter,
    handshakes_failed: Counter,
    snapshot: Gauge,
    policies: Gauge,
    intakes: Gauge,
    unusable: Gauge,
    peers: Gauge,
    rejected: Counter,
    watch_errors: Counter,
    watch_broken: Gauge,
}

impl PolicyMetrics {
    /// Registers them, each as `tdc_policy_…`.
    pub fn new(metrics: &Metrics) -> Self {
        let scope = metrics.scope("policy");
        Self {
            evaluations: scope.counter("evaluations", "Envelopes evaluated for ingress"),
            calls: scope.counter("evaluate_calls", "Evaluate calls answered"),
            handshakes_failed: scope.counter(
                "tls_handshakes_failed",
                "Connections refused: no TLS, or no certificate that is trusted",
            ),
            snapshot: scope.gauge("snapshot_sequence", "Sequence number of the snapshot in force"),
            policies: scope.gauge("policies", "Mail policies in the snapshot"),
            intakes: scope.gauge("intakes", "Intake addresses in the snapshot"),
            unusable: scope.gauge(
                "objects_unusable",
                "Objects that are not accepted or do not resolve",
            ),
            peers: scope.gauge("peers", "Ingresses and workers that watch the snapshots"),
            rejected: scope.counter(
                "snapshots_rejected",
                "Times that an ingress or worker said that it cannot apply a snapshot",
            ),
            watch_errors: scope.counter("watch_errors", "Errors of the watches on the Kubernetes API"),
            watch_broken: scope.gauge(
                "watch_broken",
                "1 while the resources cannot be watched, and the last table stays in force",
            ),
        }
    }

    pub(crate) fn evaluated(&self, envelopes: u64) {
        self.calls.inc();
        self.evaluations.inc_by(envelopes);
    }

    pub(crate) fn handshake_failed(&self) {
        self.handshakes_failed.inc();
    }

    /// Takes down how the watches on the Kubernetes API are.
    pub fn watches(&self, errors: u64, broken: bool) {
        self.watch_errors
            .inc_by(errors.saturating_sub(self.watch_errors.get()));
        self.watch_broken.set(i64::from(broken));
    }

    pub(crate) fn peers(&self, peers: usize) {
        self.peers.set(peers as i64);
    }

    pub(crate) fn rejected(&self) {
        self.rejected.inc();
    }

    pub(crate) fn unusable(&self, objects: usize) {
        self.unusable.set(objects as i64);
    }

    pub(crate) fn published(&self, sequence: u64, policies: usize, intakes: usize) {
        self.snapshot.set(sequence as i64);
        self.policies.set(policies as i64);
        self.intakes.set(intakes as i64);
    }
}
