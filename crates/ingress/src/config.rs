//! What holds for an ingress process, and what it works with.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tdc_core::policy::FailurePolicy;
use tdc_queue::{IdSource, JournalQueue};
use tdc_smtp::BareLf;
use tdc_telemetry::MailLog;

use crate::evaluate::Evaluation;
use crate::metrics::IngressMetrics;
use crate::nexthop::NextHopConfig;

/// `Received` fields above which a message is taken to be in a loop (Postfix's `hopcount_limit`).
pub const MAX_HOPS: usize = 50;
/// Added to the time that the next hop may take for the end of a message before an entry counts as in doubt: COMMIT
/// takes its time too.
const IN_DOUBT_MARGIN: Duration = Duration::from_secs(20);

/// Settings of one ingress process.
#[derive(Clone)]
pub struct IngressConfig {
    /// The name in the greeting.
    pub hostname: String,
    /// The largest message in octets, counted after decoding.
    pub max_size: u64,
    /// The most recipients of one message.
    pub max_recipients: usize,
    /// The most connections at a time; beyond it a client gets 421.
    pub max_connections: usize,
    /// What to do with a bare LF.
    pub bare_lf: BareLf,
    /// Who may send; everyone else gets 554.
    pub allow_from: Vec<IpNet>,
    /// How long a client may be silent, and how long it may take to read a reply.
    pub client_timeout: Duration,
    /// Where messages go.
    pub next_hop: NextHopConfig,
    /// STARTTLS is offered when there is a certificate.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// STARTTLS is required before MAIL.
    pub tls_required: bool,
    /// From PREPARE on, how long until an entry is delivered as in doubt. Longer than the next hop may take to
    /// answer the final dot.
    pub in_doubt_after: Duration,
    /// What happens to mail while there was never a snapshot that could say it.
    pub failure_policy: FailurePolicy,
    /// How long each step of the queue may take before it counts as failed.
    pub queue_timeout: Duration,
    /// After the signal to stop, how long connections are still accepted.
    pub drain_delay: Duration,
    /// After the signal to stop, how long running transactions may take.
    pub grace: Duration,
}

impl IngressConfig {
    /// The usual settings.
    pub fn new(hostname: impl Into<String>, next_hop: NextHopConfig) -> Self {
        Self {
            hostname: hostname.into(),
            max_size: 50 * 1024 * 1024,
            max_recipients: 1000,
            max_connections: 2000,
            bare_lf: BareLf::Normalize,
            allow_from: vec![ipnet::Ipv4Net::default().into(), ipnet::Ipv6Net::default().into()],
            client_timeout: Duration::from_secs(300),
            in_doubt_after: next_hop.deadlines.block + next_hop.deadlines.dot + IN_DOUBT_MARGIN,
            next_hop,
            tls: None,
            tls_required: false,
            failure_policy: FailurePolicy::Fail,
            queue_timeout: Duration::from_secs(5),
            drain_delay: Duration::ZERO,
            grace: Duration::from_secs(25),
        }
    }

    /// True when a client of that address may send.
    pub fn allows(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.allow_from.iter().any(|network| network.contains(&peer))
    }
}

/// What an ingress works with.
#[derive(Clone)]
pub struct Deps {
    /// Takes the copies.
    pub queue: Arc<dyn JournalQueue>,
    /// Says which copies are due.
    pub evaluation: Evaluation,
    /// Numbers connections and messages.
    pub ids: Arc<IdSource>,
    /// The mail log.
    pub mail_log: MailLog,
    /// The metrics.
    pub metrics: IngressMetrics,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let networks: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        let allows = |peer: &str| {
            let peer = peer.parse::<IpAddr>().unwrap().to_canonical();
            networks.iter().any(|network| network.contains(&peer))
        };
        for (peer, expected) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("::1", true),
        ] {
            assert_eq!(allows(peer), expected, "{peer}");
        }
    }
}
