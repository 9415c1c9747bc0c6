//! What the server must be: checked once, before the first copy is trusted to it.

use std::collections::HashMap;
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, TlsCertificates};
use tokio::time::timeout;
use tracing::{info, warn};

use super::link::failed;
use super::options::RedisOptions;
use crate::QueueError;

/// The oldest Redis: scripts with flags, `XAUTOCLAIM` that drops ghosts, `XPENDING … IDLE`.
const OLDEST: (u32, u32) = (7, 0);
/// Unacknowledged bytes for this long end a TCP connection: a host that vanished is noticed before the queue's lifetime.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the URL; nothing is sent yet.
pub(super) fn client(url: &str, options: &RedisOptions) -> Result<Client, QueueError> {
    let unusable = |error: redis::RedisError| {
        QueueError::Unsafe(format!(
            "the Redis URL is unusable ({}): write redis://[user:password@]host:port/0, or rediss:// for TLS",
            error.detail().unwrap_or(error.category())
        ))
    };
    let tcp = TcpSettings::default()
        .set_nodelay(true)
        .set_user_timeout(TCP_USER_TIMEOUT);
    let info = url
        .into_connection_info()
        .map_err(unusable)?
        .set_tcp_settings(tcp);
    if url.starts_with("rediss:") {
        // A process that has chosen a provider keeps its choice.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    match &options.ca_bundle {
        Some(pem) => {
            let certificates = TlsCertificates {
                client_tls: None,
                root_cert: Some(pem.clone()),
            };
            Client::build_with_tls(info, certificates).map_err(unusable)
        }
        None => Client::open(info).map_err(unusable),
    }
}

/// What the server does to keep what it acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durability {
    /// The server's version; Valkey's own, where it is one.
    pub version: String,
    /// It keeps an append-only file.
    pub append_only: bool,
    /// How often that file is forced to disk: `always`, `everysec`, `no`; `unknown` when the server does not tell.
    pub append_fsync: String,
}

impl Durability {
    /// Nothing that was acknowledged is lost when the machine loses its power.
    pub fn is_full(&self) -> bool {
        self.append_only && self.append_fsync == "always"
    }
}

/// Connects once, on a connection of its own so that the reason of a failure is told, and checks the server.
pub(super) async fn inspect(client: &Client, limit: Duration) -> Result<Durability, QueueError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(limit))
        .set_response_timeout(Some(limit));
    let ask = async {
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let info = redis::cmd("INFO").query_async::<String>(&mut connection).await?;
        let mut get = redis::cmd("CONFIG");
        get.arg("GET").arg("appendfsync");
        // Hosted servers often refuse CONFIG; that is no reason to refuse them.
        let fsync = get
            .query_async::<Vec<String>>(&mut connection)
            .await
            .unwrap_or_default();
        Ok::<_, redis::RedisError>((info, fsync.into_iter().nth(1)))
    };
    let (info, fsync) = timeout(limit, ask)
        .await
        .map_err(|_| QueueError::Unavailable(format!("no answer within {limit:?}")))?
        .map_err(failed)?;
    let info = parse(&info);
    judge(&info)?;
    let durability = Durability {
        version: match info.get("valkey_version") {
            Some(version) => format!("valkey {version}"),
            None => format!("redis {}", info.get("redis_version").unwrap_or(&"?")),
        },
        append_only: info.get("aof_enabled") == Some(&"1"),
        append_fsync: fsync.unwrap_or_else(|| "unknown".to_owned()),
    };
    Ok(durability)
}

/// Says in the log what the server does.
pub(super) fn tell(durability: &Durability) {
    let Durability {
        version,
        append_only,
        append_fsync,
    } = durability;
    info!(
        version,
        appendonly = append_only,
        appendfsync = append_fsync,
        "The queue is in Redis."
    );
    if !append_only {
        warn!("Redis keeps no append-only file: a restart loses the copies in it. Set `appendonly yes`.");
    } else if !durability.is_full() {
        warn!(
            appendfsync = append_fsync,
            "Redis does not force each write to disk: a power failure may lose about a second of copies that were \
             acknowledged. Set `appendfsync always`."
        );
    }
}

fn parse(info: &str) -> HashMap<&str, &str> {
    info.lines()
        .filter_map(|line| line.trim_end().split_once(':'))
        .collect()
}

/// Decides on the answer to `INFO`.
fn judge(info: &HashMap<&str, &str>) -> Result<(), QueueError> {
    let get = |name: &str| info.get(name).copied().unwrap_or("");
    let version = get("redis_version");
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < OLDEST {
        return Err(QueueError::Unsafe(format!(
            "this is Redis {version}: use Redis {}.{} or newer, or Valkey",
            OLDEST.0, OLDEST.1
        )));
    }
    let policy = get("maxmemory_policy");
    if policy != "noeviction" {
        return Err(QueueError::Unsafe(format!(
            "Redis has maxmemory-policy `{policy}` and would drop copies when memory is short: \
             set `maxmemory-policy noeviction`"
        )));
    }
    if get("cluster_enabled") == "1" {
        return Err(QueueError::Unsafe(
            "this is a Redis Cluster, which is not supported: use a single Redis, with replicas if you like"
                .to_owned(),
        ));
    }
    if get("role") == "slave" {
        return Err(QueueError::Unavailable(
            "this Redis is a replica and takes no writes: give the URL of the primary".to_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# Server\r\nredis_version:7.0.15\r\nmaxmemory_policy:noeviction\r\nrole:master\r\ncluster_enabled:0\r\n";

    #[test]
    fn judges_the_server() {
        for (from, to, fault) in [
            ("", "", None),
            ("7.0.15", "7.2.4", None),
            ("7.0.15", "10.0.0", None),
            // Valkey 8 says what it is compatible with.
            (
                "redis_version:7.0.15",
                "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.1",
                None,
            ),
            ("7.0.15", "6.2.14", Some("Redis 7.0 or newer")),
            ("7.0.15", "", Some("Redis 7.0 or newer")),
            (
                "noeviction",
                "allkeys-lru",
                Some("set `maxmemory-policy noeviction`"),
            ),
            ("cluster_enabled:0", "cluster_enabled:1", Some("not supported")),
            ("role:master", "role:slave", Some("URL of the primary")),
        ] {
            let text = GOOD.replace(from, to);
            let text = if from.is_empty() { GOOD } else { &text };
            match (judge(&parse(text)), fault) {
                (Ok(()), None) => {}
                (Err(error), Some(words)) => assert!(error.to_string().contains(words), "{to}: {error}"),
                (result, _) => panic!("{to}: {result:?}"),
            }
        }
    }

    #[test]
    fn a_bad_url_does_not_tell_the_password() {
        for url in [
            "http://u:secret@h/0",
            "redis//secret",
            "",
            "redis://u:secret@h:port/0",
        ] {
            let error = client(url, &RedisOptions::default()).expect_err(url).to_string();
            assert!(error.contains("redis://[user"), "{error}: says what to write");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
