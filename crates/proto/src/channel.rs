//! One client channel over all replicas of the policy service.
//!
//! A headless Service gives the address of each ready pod, and HTTP/2 would stay with the first one for ever. The
//! name is therefore looked up again every few seconds, and calls are spread over what it gives. A look-up that
//! fails changes nothing: addresses that were good are kept until a look-up says otherwise.
//!
//! With [`ClientTls`] every connection is mutual TLS; a renewed certificate replaces the connections one by one.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc::Sender;
use tonic::transport::channel::Change;
use tonic::transport::{Channel, Endpoint};

use crate::tls::ClientTls;

/// How often the name is looked up again.
const LOOKUP_EVERY: Duration = Duration::from_secs(5);
/// How long one look-up may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a TCP connection to one replica may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A replica that answers no HTTP/2 ping is noticed after the sum of these two.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Where the policy service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyAddress {
    host: String,
    port: u16,
}

/// The text is no address of a policy service.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{0}\" is no address of a policy service; write http://HOST:PORT or HOST:PORT")]
pub struct PolicyAddressError(String);

impl PolicyAddress {
    /// The name or address, without brackets: what the service's certificate must carry.
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl std::str::FromStr for PolicyAddress {
    type Err = PolicyAddressError;

    fn from_str(text: &str) -> Result<Self, PolicyAddressError> {
        let fail = || PolicyAddressError(text.to_owned());
        let rest = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let (host, port) = rest.rsplit_once(':').ok_or_else(fail)?;
        let port = port.parse().map_err(|_| fail())?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains('/') || host.contains("://") {
            return Err(fail());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl std::fmt::Display for PolicyAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A channel over every address that the name has, now and later; in the clear without `tls`. Must be called within
/// a tokio runtime; the look-ups end when the channel and all its clones are dropped.
pub fn connect(address: PolicyAddress, tls: Option<ClientTls>) -> Channel {
    let (channel, changes) = Channel::balance_channel(16);
    let replicas = Replicas {
        known: HashSet::new(),
        tls,
        changes,
    };
    tokio::spawn(follow(address, replicas));
    channel
}

/// The channel's side of what is known. Its methods fail when the channel is gone.
struct Replicas {
    known: HashSet<SocketAddr>,
    tls: Option<ClientTls>,
    changes: Sender<Change<SocketAddr, Endpoint>>,
}

/// Nobody holds the channel any more.
struct Gone;

async fn follow(address: PolicyAddress, mut replicas: Replicas) {
    loop {
        let result = match self::replicas(&address).await {
            Ok(found) => replicas.become_these(found).await,
            Err(error) => {
                tracing::debug!(%address, error, "The policy service's name has no address now.");
                Ok(())
            }
        };
        if result.is_err() || replicas.pause().await.is_err() {
            return;
        }
    }
}

impl Replicas {
    async fn become_these(&mut self, found: HashSet<SocketAddr>) -> Result<(), Gone> {
        let gone: Vec<SocketAddr> = self.known.difference(&found).copied().collect();
        for replica in gone {
            self.known.remove(&replica);
            self.send(Change::Remove(replica)).await?;
        }
        for replica in found {
            if self.known.insert(replica) {
                self.insert(replica).await?;
            }
        }
        Ok(())
    }

    /// Until the next look-up is due. Renewed certificates are put to use meanwhile.
    async fn pause(&mut self) -> Result<(), Gone> {
        let pause = tokio::time::sleep(LOOKUP_EVERY);
        tokio::pin!(pause);
        loop {
            let changes = self.changes.clone();
            tokio::select! {
                () = &mut pause => return Ok(()),
                () = changes.closed() => return Err(Gone),
                () = renewed(self.tls.as_mut()) => {
                    for replica in self.known.clone() {
                        self.send(Change::Remove(replica)).await?;
                        self.insert(replica).await?;
                    }
                }
            }
        }
    }

    async fn insert(&mut self, replica: SocketAddr) -> Result<(), Gone> {
        match endpoint(replica, self.tls.as_mut()) {
            Ok(endpoint) => self.send(Change::Insert(replica, endpoint)).await,
            Err(error) => {
                tracing::error!(%replica, %error, "A replica of the policy service cannot be used.");
                Ok(())
            }
        }
    }

    async fn send(&self, change: Change<SocketAddr, Endpoint>) -> Result<(), Gone> {
        self.changes.send(change).await.map_err(|_| Gone)
    }
}

async fn renewed(tls: Option<&mut ClientTls>) {
    match tls {
        Some(tls) => tls.changed().await,
        None => std::future::pending().await,
    }
}

/// Every address that the name has now: the replicas that are ready, with a headless Service.
///
/// # Errors
/// When the name has no address, or nobody says so in time; for a person.
pub async fn replicas(address: &PolicyAddress) -> Result<HashSet<SocketAddr>, String> {
    let addresses = tokio::net::lookup_host((address.host.as_str(), address.port));
    match tokio::time::timeout(LOOKUP_TIMEOUT, addresses).await {
        Ok(Ok(found)) => Ok(found.collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the look-up took too long".to_owned()),
    }
}

/// How to reach one replica.
///
/// # Errors
/// When the certificates cannot be used; [`ClientTls`] has checked them, so this is not expected.
pub fn endpoint(
    replica: SocketAddr,
    tls: Option<&mut ClientTls>,
) -> Result<Endpoint, tonic::transport::Error> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{replica}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    match tls {
        Some(tls) => endpoint.tls_config(tls.current()),
        None => Ok(endpoint),
    }
}

#[cfg(test)]
mod tests {
    use super::PolicyAddress;

    #[test]
    fn addresses() {
        let cases = [
            ("http://policy:9090", Some("policy:9090")),
            ("policy.tdc.svc:9090/", Some("policy.tdc.svc:9090")),
            ("[::1]:9090", Some("::1:9090")),
            ("policy", None),
            ("https://policy:9090", None),
            (":9090", None),
            ("policy:http", None),
        ];
        for (text, expected) in cases {
            let parsed = text
                .parse::<PolicyAddress>()
                .ok()
                .map(|address| address.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text}");
        }
    }
}
