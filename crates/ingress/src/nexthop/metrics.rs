//! What is counted about the connections to the next hop. The label `host` is one of the configured hosts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::gauge::Gauge;
use tdc_telemetry::{Counters, Gauges, Scope};

use super::HostPort;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Host {
    host: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HostResult {
    host: String,
    result: &'static str,
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct NextHopMetrics {
    connections: Counters<HostResult>,
    up: Gauges<Host>,
    idle: Gauge,
}

impl NextHopMetrics {
    pub(crate) fn new(scope: &Scope) -> Self {
        Self {
            connections: scope.counters(
                "next_hop_connections",
                "Connections to the next hop, by host and result: opened, reused, gone (found closed before reuse), failed",
            ),
            up: scope.gauges("next_hop_up", "1 while the host takes connections, 0 while it is left alone"),
            idle: scope.gauge("next_hop_connections_idle", "Open connections to the next hop that wait for a message"),
        }
    }

    pub(super) fn connection(&self, host: &HostPort, result: &'static str) {
        let label = HostResult {
            host: host.to_string(),
            result,
        };
        self.connections.get_or_create(&label).inc();
    }

    pub(super) fn up(&self, host: &HostPort, up: bool) {
        let label = Host {
            host: host.to_string(),
        };
        self.up.get_or_create(&label).set(up.into());
    }

    pub(super) fn idle(&self, count: usize) {
        self.idle.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
