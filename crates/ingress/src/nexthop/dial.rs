//! Opens a connection to one host: every address of its name in order, then greeting, EHLO and TLS.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tdc_smtp::{ClientError, ClientEvent, ClientTls};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::connection::Connection;
use super::{HostPort, NextHopConfig, NextHopError};

/// Octets that nobody acknowledges for this long end the connection: a host that vanished without a word is noticed
/// before a sender loses its patience.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// An idle connection is probed after this time, and then in these steps.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(5));

/// A connection that is ready for MAIL. `at` is the host's place among the hosts.
pub(super) async fn dial(
    config: &NextHopConfig,
    at: usize,
    host: &HostPort,
) -> Result<Connection, NextHopError> {
    let tls = config.tls.session();
    match set_up(config, at, host, tls).await {
        Err(error @ NextHopError::Tls { .. }) if tls == ClientTls::IfOffered => {
            tracing::warn!(%error, "Going on in the clear; --next-hop-tls verify refuses that.");
            set_up(config, at, host, ClientTls::Never).await
        }
        other => other,
    }
}

async fn set_up(
    config: &NextHopConfig,
    at: usize,
    host: &HostPort,
    tls: ClientTls,
) -> Result<Connection, NextHopError> {
    let no_tls = |reason: String| NextHopError::Tls {
        host: host.clone(),
        reason,
    };
    let stream = connect(config, host).await?;
    let mut connection = Connection::new(stream, at, config, tls);
    loop {
        let event = connection.set_up_event().await.map_err(|error| match error {
            NextHopError::Protocol(
                error @ (ClientError::TlsNotOffered
                | ClientError::TlsRefused(_)
                | ClientError::DataBehindStartTls),
            ) => no_tls(error.to_string()),
            other => other,
        })?;
        match event {
            ClientEvent::Ready => return Ok(connection),
            ClientEvent::StartTls => {
                let settings = config.tls.handshake(host.host());
                let (client, name) = settings
                    .ok_or_else(|| no_tls("it is off".to_owned()))?
                    .map_err(|error| no_tls(error.to_string()))?;
                connection = connection.secure(client, name).await.map_err(no_tls)?;
            }
            ClientEvent::NeedInput | ClientEvent::Reply { .. } => return Err(NextHopError::Closed),
        }
    }
}

/// A socket to the first address that accepts.
async fn connect(config: &NextHopConfig, host: &HostPort) -> Result<TcpStream, NextHopError> {
    let failed = |reason: String| NextHopError::Connect {
        host: host.clone(),
        reason,
    };
    let limit = config.deadlines.connect;
    let addresses = timeout(limit, tokio::net::lookup_host((host.host(), host.port())))
        .await
        .map_err(|_| failed(format!("no answer about its name within {limit:?}")))?
        .map_err(|error| failed(error.to_string()))?;
    let mut reason = "its name has no address".to_owned();
    for address in addresses {
        match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                prepare(&stream)?;
                return Ok(stream);
            }
            Ok(Err(error)) => reason = format!("{address}: {error}"),
            Err(_) => reason = format!("{address}: no connection within {limit:?}"),
        }
    }
    Err(failed(reason))
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    // Commands are small and waited for; without this each would wait for an acknowledgement first.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE.0)
        .with_interval(KEEPALIVE.1)
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)
}
