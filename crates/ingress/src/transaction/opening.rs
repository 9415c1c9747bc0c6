//! A connection on which the next hop has answered MAIL.

use tdc_smtp::{MailFrom, Reply};

use super::Client;
use crate::listener::Shared;
use crate::nexthop::NextHopError;
use crate::nexthop::connection::Connection;

/// A connection on which the next hop has answered MAIL.
pub(super) async fn open(
    shared: &Shared,
    client: &Client,
    mail: &MailFrom,
) -> Result<(Connection, Reply), NextHopError> {
    let hop = shared.pool.get().await?;
    let reused = hop.reused;
    match greet(hop, client, mail).await {
        // The server has closed an idle connection just now: that is not the message's affair.
        Err(error) if reused => {
            tracing::debug!(%error, "An idle connection to the next hop is gone; opening another.");
            greet(shared.pool.dial().await?, client, mail).await
        }
        Ok((_, reply)) if reused && reply.code() == 421 => {
            greet(shared.pool.dial().await?, client, mail).await
        }
        other => other,
    }
}

async fn greet(
    mut hop: Connection,
    client: &Client,
    mail: &MailFrom,
) -> Result<(Connection, Reply), NextHopError> {
    let offered = hop.extensions();
    let (address, port) = (address_literal(client), client.peer.port().to_string());
    let all = [
        ("NAME", "[UNAVAILABLE]"),
        ("ADDR", address.as_str()),
        ("PORT", port.as_str()),
        ("PROTO", if client.esmtp { "ESMTP" } else { "SMTP" }),
        ("HELO", client.helo.as_str()),
        ("SOURCE", "REMOTE"),
    ];
    let attributes: Vec<(&str, &str)> = all
        .into_iter()
        .filter(|(name, _)| offered.xforward.iter().any(|taken| taken == name))
        .collect();
    let takes = |param: &String| {
        let name = param.split('=').next().unwrap_or(param);
        (!name.eq_ignore_ascii_case("SIZE") || offered.size.is_some())
            && (!name.eq_ignore_ascii_case("BODY") || offered.eight_bit_mime)
    };
    let params: Vec<String> = mail.params.iter().filter(|param| takes(param)).cloned().collect();
    if !attributes.is_empty() {
        // A refusal costs the next hop's log the client's name, and the message nothing.
        hop.xforward(&attributes).await?;
    }
    let reply = hop.mail(&mail.address, &params).await?;
    Ok((hop, reply))
}

fn address_literal(client: &Client) -> String {
    match client.peer.ip().to_canonical() {
        std::net::IpAddr::V4(ip) => ip.to_string(),
        std::net::IpAddr::V6(ip) => format!("IPV6:{ip}"),
    }
}
