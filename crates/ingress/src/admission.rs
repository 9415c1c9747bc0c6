//! A new connection until it may speak SMTP: a place, the PROXY header, the limits of its network, whether it may send.
//!
//! What always holds: each step has a time limit; a connection that is turned away hears why where it can (not in front
//! of a TLS handshake), costs one reply, and is counted by its reason.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tdc_core::maillog::MailEvent;
use tdc_queue::Series;
use tdc_smtp::{Extensions, Reply, ServerConfig, ServerSession};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client;
use crate::config::ListenerConfig;
use crate::gate::{Denied, Pass};
use crate::listener::Shared;
use crate::proxied::{self, Prefixed, Proxied};
use crate::session::{Identity, Session};

/// How long the last reply to a client that is turned away may take.
const LAST_WORD: Duration = Duration::from_secs(5);
/// How long to wait for a client to close its side after our last reply, so that the reply is not lost to the reset
/// that unread octets cause.
const LINGER: Duration = Duration::from_secs(1);
/// Octets of it that are read and forgotten meanwhile.
const LINGER_OCTETS: usize = 256 * 1024;

/// Why a client may not speak.
pub(crate) struct Refusal {
    pub(crate) reply: Reply,
    /// As it stands in the metric.
    pub(crate) reason: &'static str,
    /// As it stands in the mail log.
    pub(crate) text: &'static str,
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        let (text, reason, logged) = match denied {
            Denied::Connections => (
                "4.7.0 Error: too many connections, try again later",
                "connections",
                "too many connections",
            ),
            Denied::NetworkConnections => (
                "4.7.0 Error: too many connections from your network",
                "network_connections",
                "too many connections from its network",
            ),
            Denied::NetworkRate => (
                "4.7.0 Error: your network connects too often",
                "network_rate",
                "too many connections in a minute from its network",
            ),
        };
        Self {
            reply: Reply::new(421, text),
            reason,
            text: logged,
        }
    }
}

/// Whether this client may send: its network's limits, then `--allow-from`.
pub(crate) fn admit(shared: &Shared, pass: &Pass, peer: SocketAddr) -> Result<(), Refusal> {
    pass.identify(peer.ip(), Instant::now())?;
    if shared.config.allows(peer.ip()) {
        return Ok(());
    }
    Err(Refusal {
        reply: Reply::new(554, "5.7.1 Access denied"),
        reason: "network",
        text: "not in the networks that may send",
    })
}

/// Serves one connection to its end.
pub(crate) async fn client(
    shared: Arc<Shared>,
    listener: ListenerConfig,
    mut stream: TcpStream,
    peer: SocketAddr,
) {
    let pass = match shared.gate.enter(Instant::now()) {
        Ok(pass) => pass,
        Err(denied) => {
            let refusal = Refusal::from(denied);
            shared.deps.metrics.refused_connection(refusal.reason);
            if !listener.tls {
                turn_away(&mut stream, &refusal.reply).await;
            }
            return;
        }
    };
    let _ = stream.set_nodelay(true);
    let mut identity = Identity {
        icid: 0,
        local: stream.local_addr().unwrap_or(peer),
        peer,
        trusted: shared.config.is_trusted_proxy(peer.ip()),
        name: None,
        forwarded: None,
    };
    let mut input = BytesMut::new();
    if listener.proxy {
        match proxy(&shared, &pass, &mut stream, peer, &mut input).await {
            Some(Proxied { addresses }) => {
                (identity.peer, identity.local) = addresses.unwrap_or((peer, identity.local));
                identity.trusted = shared.config.is_trusted_proxy(identity.peer.ip());
            }
            None => {
                if !listener.tls {
                    turn_away(&mut stream, &Reply::new(421, "4.7.0 No PROXY protocol header")).await;
                }
                return;
            }
        }
    }
    let admitted = admit(&shared, &pass, identity.peer);
    identity.icid = shared.deps.ids.next(Series::Icid);
    greet(&shared, &identity, admitted.as_ref().err());
    if let Err(refusal) = admitted {
        drop(pass);
        if !listener.tls {
            turn_away(&mut stream, &refusal.reply).await;
        }
        let icid = identity.icid;
        shared.deps.mail_log.emit(&MailEvent::Closed { icid });
        return;
    }
    let _open = shared.deps.metrics.connected();
    let server = ServerSession::new(Arc::new(offer(&shared, identity.trusted).await));
    let session = Session::new(shared, pass, identity, server);
    if listener.tls {
        session.serve_tls(Prefixed::new(input, stream)).await;
    } else {
        session.serve(input, stream).await;
    }
}

/// Logs a connection, and what became of it.
pub(crate) fn greet(shared: &Shared, identity: &Identity, refusal: Option<&Refusal>) {
    let icid = identity.icid;
    shared.deps.mail_log.emit(&MailEvent::Connected {
        icid,
        local: identity.local,
        peer: identity.peer,
        host: identity.name.clone(),
    });
    match refusal {
        None => shared.deps.mail_log.emit(&MailEvent::Accepted { icid }),
        Some(refusal) => {
            shared.deps.metrics.refused_connection(refusal.reason);
            let reason = refusal.text;
            shared.deps.mail_log.emit(&MailEvent::Refused { icid, reason });
        }
    }
}

/// The PROXY header; `None`, after one line in the log, when the connection is to be closed.
async fn proxy(
    shared: &Shared,
    pass: &Pass,
    stream: &mut TcpStream,
    peer: SocketAddr,
    input: &mut BytesMut,
) -> Option<Proxied> {
    if !shared.config.is_balancer(peer.ip()) {
        shared.deps.metrics.refused_connection("proxy_network");
        tracing::warn!(%peer, "Refused: this listener is for PROXY headers, and the peer is not in --proxy-from.");
        return None;
    }
    let limit = shared.config.limits.proxy_timeout;
    let header = tokio::select! {
        header = tokio::time::timeout(limit, proxied::read_header(stream, input)) => header,
        () = pass.evicted() => return None,
    };
    match header {
        Ok(Ok(proxied)) => Some(proxied),
        Ok(Err(error)) => {
            shared.deps.metrics.refused_connection("proxy_header");
            tracing::warn!(%peer, %error, "Refused a connection on the listener for PROXY headers.");
            None
        }
        Err(_) => {
            shared.deps.metrics.refused_connection("proxy_timeout");
            tracing::warn!(%peer, ?limit, "Refused: no complete PROXY header within the time for it.");
            None
        }
    }
}

async fn turn_away(stream: &mut TcpStream, reply: &Reply) {
    let mut output = BytesMut::new();
    reply.write_to(&mut output);
    let last = async {
        if stream.write_all(&output).await.is_ok() {
            linger(stream).await;
        }
    };
    let _ = tokio::time::timeout(LAST_WORD, last).await;
}

/// Closes our side, and gives the client a moment to read what was said.
pub(crate) async fn linger(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let drain = async {
        let mut scratch = [0_u8; 1024];
        let mut octets = 0;
        while let Ok(read @ 1..) = stream.read(&mut scratch).await {
            octets += read;
            if octets > LINGER_OCTETS {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, drain).await;
}

/// What EHLO offers: what this gateway can do, as far as the next hop can do it too.
async fn offer(shared: &Shared, trusted: bool) -> ServerConfig {
    let (config, limits) = (&shared.config, &shared.config.limits);
    let hop = shared
        .pool
        .extensions()
        .await
        .map(|known| (*known).clone())
        .unwrap_or_default();
    let size = match hop.size {
        Some(limit @ 1..) => limit.min(config.max_size),
        _ => config.max_size,
    };
    let names = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned());
        if trusted { names.collect() } else { Vec::new() }
    };
    let extensions = Extensions {
        pipelining: true,
        size: Some(size),
        eight_bit_mime: hop.eight_bit_mime,
        enhanced_status_codes: hop.enhanced_status_codes,
        starttls: shared.tls.is_some(),
        chunking: true,
        smtputf8: hop.smtputf8,
        dsn: hop.dsn,
        requiretls: false,
        xforward: names(client::XFORWARD),
        xclient: names(client::XCLIENT),
    };
    ServerConfig {
        hostname: config.hostname.clone(),
        extensions,
        max_line: limits.line,
        max_recipients: limits.recipients,
        max_header: limits.header,
        max_messages: limits.messages,
        soft_errors: limits.soft_errors,
        max_errors: limits.errors,
        max_junk: limits.junk,
        bare_lf: config.bare_lf,
        tls_required: config.tls_required && shared.tls.is_some(),
        forbid_unauth_pipelining: config.forbid_unauth_pipelining,
    }
}
