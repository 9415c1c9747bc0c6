//! Where an intake's hosts are: a fixed route, or the MX hosts of the address's domain (RFC 5321 section 5.1).
//!
//! Answers that will stay (no such domain, null MX) and trouble that may pass (SERVFAIL, no answer) are different
//! outcomes, because only the second is tried again. Addresses are looked up host by host, when their turn comes: a
//! broken backup host never spoils an attempt that the first host would have taken. Answers are kept for their TTL,
//! within bounds; failures are not kept.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tdc_core::address::domain_key;
use tdc_core::outcome::Outcome;
use tdc_core::policy::Intake;

/// MX hosts that one attempt looks at; Gmail has 5.
const MAX_HOSTS: usize = 16;
/// Addresses of one host that one attempt tries; Postfix's `smtp_mx_address_limit` is 5 for all hosts together.
const MAX_ADDRESSES: usize = 8;
/// How long to wait for one answer of a name server.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Answers are kept for their TTL, but at least so long: an intake that gets many connections is not looked up for each.
const KEPT_AT_LEAST: Duration = Duration::from_secs(5);
/// And no longer than this, so that a mistyped TTL of weeks does no harm.
const KEPT_AT_MOST: Duration = Duration::from_secs(3600);
/// That there is no such name ends a copy at once; it must not be believed for long after it was put right.
const ABSENCE_KEPT_AT_MOST: Duration = Duration::from_secs(15);

/// One host to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Its name without a trailing dot, or an IP address: what its certificate is checked against by default.
    pub(crate) host: Arc<str>,
    /// The TCP port.
    pub(crate) port: u16,
    /// The name is complete: no search domain is tried.
    absolute: bool,
}

/// Finds hosts and their addresses.
pub(crate) struct Resolver {
    /// The reason when there is none.
    dns: Result<TokioResolver, String>,
    mx_port: u16,
    limit: Duration,
}

impl Resolver {
    /// Asks `server`, or the name servers of `/etc/resolv.conf`. Without either, only IP addresses can be reached;
    /// that shows in the outcome of the first attempt that needs a name. One look-up takes at most `limit`.
    pub(crate) fn new(server: Option<SocketAddr>, mx_port: u16, limit: Duration) -> Self {
        let dns = build(server).map_err(|error| error.to_string());
        Self { dns, mx_port, limit }
    }

    /// The hosts to try, in order.
    pub(crate) async fn targets(&self, intake: &Intake) -> Result<Vec<Target>, Outcome> {
        if let Some(route) = &intake.route {
            return Ok(vec![Target {
                host: route.host.clone(),
                port: route.port,
                absolute: false,
            }]);
        }
        let domain = intake.address.domain();
        if let Some(literal) = address_literal(domain) {
            return Ok(vec![self.target(&literal.to_string())]);
        }
        let domain = domain_key(domain);
        let name = absolute(&domain).ok_or_else(|| no_name(&domain))?;
        let records = match self.lookup(name, RecordType::MX).await {
            Ok(records) => records,
            Err(Missing::NoRecords) => return Ok(vec![self.target(&domain)]),
            Err(Missing::NoDomain) => return Err(hard(&domain, "MX", "NXDomain")),
            Err(Missing::Soft(why)) => return Err(Outcome::DnsSoft(format!("{domain} MX - {why}"))),
        };
        let mut hosts: Vec<(u16, Name)> = records
            .into_iter()
            .filter_map(|data| match data {
                RData::MX(mx) => Some((mx.preference, mx.exchange)),
                _ => None,
            })
            .collect();
        // RFC 7505: one record, preference 0, the root as its host.
        if matches!(&hosts[..], [(_, host)] if host.is_root()) {
            return Err(Outcome::NullMx);
        }
        // Equal preferences in random order, as RFC 5321 section 5.1 wants it: the sort is stable.
        fastrand::shuffle(&mut hosts);
        hosts.sort_by_key(|(preference, _)| *preference);
        let hosts = hosts.into_iter().filter(|(_, host)| !host.is_root());
        Ok(hosts
            .take(MAX_HOSTS)
            .map(|(_, host)| self.target(&host.to_ascii()))
            .collect())
    }

    fn target(&self, host: &str) -> Target {
        Target {
            host: host.strip_suffix('.').unwrap_or(host).into(),
            port: self.mx_port,
            absolute: true,
        }
    }

    /// The addresses of one host, IPv4 before IPv6; never empty.
    pub(crate) async fn addresses(&self, target: &Target) -> Result<Vec<SocketAddr>, Outcome> {
        let host = &*target.host;
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Ok(ip) = bare.unwrap_or(host).parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, target.port)]);
        }
        let name = if target.absolute {
            absolute(host)
        } else {
            Name::from_utf8(host).ok()
        };
        let name = name.ok_or_else(|| no_name(host))?;
        let (v4, v6) = tokio::join!(
            self.lookup(name.clone(), RecordType::A),
            self.lookup(name, RecordType::AAAA)
        );
        let mut found = Vec::new();
        let mut worst = Missing::NoRecords;
        for answer in [v4, v6] {
            match answer {
                Ok(records) => found.extend(records.iter().filter_map(RData::ip_addr)),
                Err(missing) => worst = worst.or(missing),
            }
        }
        if !found.is_empty() {
            found.truncate(MAX_ADDRESSES);
            return Ok(found
                .into_iter()
                .map(|ip| SocketAddr::new(ip, target.port))
                .collect());
        }
        Err(match worst {
            Missing::NoRecords => hard(host, "A", "NoAddress"),
            Missing::NoDomain => hard(host, "A", "NXDomain"),
            Missing::Soft(why) => Outcome::DnsSoft(format!("{host} A - {why}")),
        })
    }

    async fn lookup(&self, name: Name, kind: RecordType) -> Result<Vec<RData>, Missing> {
        let dns = self.dns.as_ref().map_err(|why| Missing::Soft(why.clone()))?;
        match tokio::time::timeout(self.limit, dns.lookup(name, kind)).await {
            Err(_) => Err(Missing::Soft("Timeout".into())),
            Ok(Err(error)) => Err(Missing::from(&error)),
            Ok(Ok(lookup)) => {
                let records = lookup.answers().iter().map(|record| record.data.clone());
                let records: Vec<RData> = records.filter(|data| data.record_type() == kind).collect();
                if records.is_empty() {
                    return Err(Missing::NoRecords);
                }
                Ok(records)
            }
        }
    }
}

/// Why there is no record.
enum Missing {
    /// The name exists, and has none of that type.
    NoRecords,
    /// The name does not exist.
    NoDomain,
    /// Nobody can say now.
    Soft(String),
}

impl Missing {
    /// Of two answers about one host, the one that speaks for trying again.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (soft @ Self::Soft(_), _) | (_, soft @ Self::Soft(_)) => soft,
            (Self::NoDomain, _) | (_, Self::NoDomain) => Self::NoDomain,
            (Self::NoRecords, Self::NoRecords) => Self::NoRecords,
        }
    }
}

impl From<&NetError> for Missing {
    fn from(error: &NetError) -> Self {
        match error {
            NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
                ResponseCode::NXDomain => Self::NoDomain,
                ResponseCode::NoError => Self::NoRecords,
                code => Self::Soft(code_name(code)),
            },
            NetError::Dns(DnsError::ResponseCode(code)) => Self::Soft(code_name(*code)),
            NetError::Timeout => Self::Soft("Timeout".into()),
            other => Self::Soft(other.to_string()),
        }
    }
}

/// As the original spells them.
fn code_name(code: ResponseCode) -> String {
    match code {
        ResponseCode::ServFail => "ServFail".into(),
        ResponseCode::Refused => "Refused".into(),
        other => other.to_str().to_owned(),
    }
}

/// The text of the original, with its two spaces.
fn hard(name: &str, kind: &str, why: &str) -> Outcome {
    Outcome::DnsHard(format!("DNS Hard Error looking up {name} ({kind}):  {why}"))
}

fn no_name(host: &str) -> Outcome {
    hard(host, "MX", "not a domain name")
}

fn absolute(host: &str) -> Option<Name> {
    let mut name = Name::from_utf8(host).ok().filter(|name| !name.is_root())?;
    name.set_fqdn(true);
    Some(name)
}

/// `[192.0.2.1]` or `[IPv6:2001:db8::1]` as a domain (RFC 5321 section 4.1.3).
fn address_literal(domain: &str) -> Option<IpAddr> {
    let inner = domain.strip_prefix('[')?.strip_suffix(']')?;
    let v6 = inner
        .get(..5)
        .filter(|tag| tag.eq_ignore_ascii_case("IPv6:"))
        .and_then(|_| inner.get(5..));
    v6.unwrap_or(inner).parse().ok()
}

fn build(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match server {
        None => TokioResolver::builder_tokio()?,
        Some(server) => {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            let server = NameServerConfig::new(server.ip(), true, connections.into());
            let config = ResolverConfig::from_name_servers(vec![server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let options = builder.options_mut();
    options.timeout = ANSWER_WITHIN;
    options.attempts = 2;
    options.use_hosts_file = ResolveHosts::Always;
    options.positive_min_ttl = Some(KEPT_AT_LEAST);
    options.positive_max_ttl = Some(KEPT_AT_MOST);
    options.negative_max_ttl = Some(ABSENCE_KEPT_AT_MOST);
    builder.build()
}
