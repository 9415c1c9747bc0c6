//! What holds for an ingress process, and what it works with.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tdc_core::headers::MAX_HEADER_SECTION;
use tdc_core::policy::FailurePolicy;
use tdc_queue::{IdSource, JournalQueue};
use tdc_smtp::BareLf;
use tdc_telemetry::MailLog;

use crate::evaluate::Evaluation;
use crate::metrics::IngressMetrics;
use crate::nexthop::NextHopConfig;
use crate::tls::TlsFiles;

/// Added to the time that the next hop may take for the end of a message before an entry counts as in doubt: COMMIT
/// takes its time too.
const IN_DOUBT_MARGIN: Duration = Duration::from_secs(20);

/// One address that is listened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Where.
    pub address: SocketAddr,
    /// Every connection begins with a PROXY header.
    pub proxy: bool,
    /// TLS begins with the connection (behind the PROXY header, if there is one).
    pub tls: bool,
}

impl ListenerConfig {
    /// SMTP in the clear, with STARTTLS where there is a certificate.
    pub fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            proxy: false,
            tls: false,
        }
    }
}

/// How much a client may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time, of all clients. 421.
    pub connections: usize,
    /// Connections at a time, of one client network. 421.
    pub connections_per_network: usize,
    /// Connections of one client network in a minute; 0: no limit. 421.
    pub connection_rate: u32,
    /// Bits of an IPv4 address that make a client network.
    pub prefix_v4: u8,
    /// Bits of an IPv6 address that make a client network.
    pub prefix_v6: u8,
    /// Messages of one connection. 421.
    pub messages: u32,
    /// Recipients of one message. 452.
    pub recipients: usize,
    /// Octets of a command line. 500.
    pub line: usize,
    /// Octets of a header section. 552.
    pub header: u64,
    /// `Received` fields from which on a message is taken to be in a loop (Postfix's `hopcount_limit`). 554.
    pub hops: usize,
    /// Errors of one connection before each further reply to one is delayed.
    pub soft_errors: u32,
    /// How long.
    pub error_delay: Duration,
    /// Errors of one connection. 421.
    pub errors: u32,
    /// Commands that do nothing before each further one counts as an error.
    pub junk: u32,
    /// Octets of all messages on their way that may be held at a time. 452.
    pub memory: u64,
    /// How long one command may take, and how far ahead the octets of a message may buy time. 421.
    pub timeout: Duration,
    /// Octets of a message that buy one second; 0: the whole message must arrive within `timeout`.
    pub data_rate: u64,
    /// How long a connection may last; a message that has begun may take as long again. 421.
    pub lifetime: Duration,
    /// How long the PROXY header may take.
    pub proxy_timeout: Duration,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 2000,
            connections_per_network: 1000,
            connection_rate: 0,
            prefix_v4: 32,
            prefix_v6: 64,
            messages: 10_000,
            recipients: 1000,
            line: 2048,
            header: MAX_HEADER_SECTION as u64,
            hops: 50,
            soft_errors: 10,
            error_delay: Duration::from_secs(1),
            errors: 20,
            junk: 100,
            memory: 512 * 1024 * 1024,
            timeout: Duration::from_secs(300),
            data_rate: 500,
            lifetime: Duration::from_secs(3600),
            proxy_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// Settings of one ingress process.
#[derive(Clone)]
pub struct IngressConfig {
    /// The name in the greeting.
    pub hostname: String,
    /// Where it listens; at least one.
    pub listeners: Vec<ListenerConfig>,
    /// The largest message in octets, counted after decoding.
    pub max_size: u64,
    /// The other limits.
    pub limits: Limits,
    /// What to do with a bare LF.
    pub bare_lf: BareLf,
    /// Ends a session in which octets wait behind a command that must be the last of its group.
    pub forbid_unauth_pipelining: bool,
    /// Who may send; everyone else gets 554.
    pub allow_from: Vec<IpNet>,
    /// Load balancers whose PROXY headers count.
    pub proxy_from: Vec<IpNet>,
    /// Proxies that may name the client with XCLIENT and XFORWARD.
    pub xclient_from: Vec<IpNet>,
    /// Where messages go.
    pub next_hop: NextHopConfig,
    /// STARTTLS is offered when there is a certificate.
    pub tls: Option<TlsFiles>,
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
    /// The usual settings, on a port of loopback that the system chooses.
    pub fn new(hostname: impl Into<String>, next_hop: NextHopConfig) -> Self {
        Self {
            hostname: hostname.into(),
            listeners: vec![ListenerConfig::plain(SocketAddr::from(([127, 0, 0, 1], 0)))],
            max_size: 50 * 1024 * 1024,
            limits: Limits::default(),
            bare_lf: BareLf::Normalize,
            forbid_unauth_pipelining: true,
            allow_from: vec![ipnet::Ipv4Net::default().into(), ipnet::Ipv6Net::default().into()],
            proxy_from: Vec::new(),
            xclient_from: Vec::new(),
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
        holds(&self.allow_from, peer)
    }

    /// True when a PROXY header of that peer counts.
    pub fn is_balancer(&self, peer: IpAddr) -> bool {
        holds(&self.proxy_from, peer)
    }

    /// True when that peer may say who the client is.
    pub fn is_trusted_proxy(&self, peer: IpAddr) -> bool {
        holds(&self.xclient_from, peer)
    }
}

fn holds(networks: &[IpNet], peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    networks.iter().any(|network| network.contains(&peer))
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
        for (peer, expected) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("::1", true),
        ] {
            assert_eq!(holds(&networks, peer.parse().unwrap()), expected, "{peer}");
        }
    }
}
