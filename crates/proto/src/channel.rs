//! One client channel over all replicas of the policy service.
//!
//! A headless Service gives the address of each ready pod, and HTTP/2 would stay with the first one for ever. The
//! name is therefore looked up again every few seconds, and calls are spread over what it gives. A look-up that
//! fails changes nothing: addresses that were good are kept until a look-up says otherwise.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc::Sender;
use tonic::transport::channel::Change;
use tonic::transport::{Channel, Endpoint};

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

/// A channel over every address that the name has, now and later. Must be called within a tokio runtime; the
/// look-ups end when the channel and all its clones are dropped.
pub fn connect(address: PolicyAddress) -> Channel {
    let (channel, changes) = Channel::balance_channel(16);
    tokio::spawn(follow(address, changes));
    channel
}

async fn follow(address: PolicyAddress, changes: Sender<Change<SocketAddr, Endpoint>>) {
    let mut known: HashSet<SocketAddr> = HashSet::new();
    loop {
        match lookup(&address).await {
            Ok(found) => {
                let gone: Vec<SocketAddr> = known.difference(&found).copied().collect();
                for replica in gone {
                    known.remove(&replica);
                    if changes.send(Change::Remove(replica)).await.is_err() {
                        return;
                    }
                }
                for replica in found {
                    if known.insert(replica)
                        && changes
                            .send(Change::Insert(replica, endpoint(replica)))
                            .await
                            .is_err()
                    {
                        return;
                    }
                }
            }
            Err(error) => tracing::debug!(%address, error, "The policy service's name has no address now."),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOKUP_EVERY) => {}
            () = changes.closed() => return,
        }
    }
}

async fn lookup(address: &PolicyAddress) -> Result<HashSet<SocketAddr>, String> {
    let addresses = tokio::net::lookup_host((address.host.as_str(), address.port));
    match tokio::time::timeout(LOOKUP_TIMEOUT, addresses).await {
        Ok(Ok(found)) => Ok(found.collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the look-up took too long".to_owned()),
    }
}

fn endpoint(replica: SocketAddr) -> Endpoint {
    Endpoint::from_shared(format!("http://{replica}"))
        .expect("a socket address always makes a valid URI")
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
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
