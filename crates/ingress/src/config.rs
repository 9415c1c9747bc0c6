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
    /// What happens to mail while there is no snapshot that could say it.
    pub failure_policy: FailurePolicy,
    /// After the signal to stop, how long connections are still accepted.
    pub drain_delay: Duration,
    /// After the signal to stop, how long running transactions may take.
    pub grace: Duration,
}

impl IngressConfig {
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
