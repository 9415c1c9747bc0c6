//! A connection on which the next hop has answered MAIL.
//!
//! What always holds: a connection that broke while it was idle, and a host that breaks before it has answered MAIL,
//! cost the client nothing as long as another connection or host is there. XFORWARD, MAIL and the recipients that the
//! client has already named leave in one write where the next hop takes pipelined commands.

use std::collections::VecDeque;

use tdc_smtp::{Ahead, ClientError, Extensions, MailFrom, RcptTo, Reply, Verb};

use crate::client::Client;
use crate::listener::Shared;
use crate::nexthop::NextHopError;
use crate::nexthop::connection::Connection;

/// Octets of one XFORWARD value as xtext: all of a command stay below 1,024 (Postfix takes 2,048).
const MAX_XFORWARD: usize = 255;

/// What came of MAIL.
pub(super) struct Opened {
    pub(super) hop: Connection,
    /// The next hop's answer to MAIL.
    pub(super) reply: Reply,
    pub(super) sent: SentAhead,
}

/// What the next hop has already heard of, and whose answers are still to be read.
#[derive(Debug, Default)]
pub(super) struct SentAhead {
    pub(super) recipients: VecDeque<RcptTo>,
    /// DATA, behind all of them.
    pub(super) data: bool,
}

impl SentAhead {
    pub(super) fn is_empty(&self) -> bool {
        self.recipients.is_empty() && !self.data
    }
}

/// Passes MAIL on, and the recipients that are known to follow.
pub(super) async fn open(
    shared: &Shared,
    client: &Client,
    mid: u64,
    mail: &MailFrom,
    ahead: &Ahead,
) -> Result<Opened, NextHopError> {
    let pool = &shared.pool;
    let mut hop = pool.get().await?;
    let mut others = pool.hosts().saturating_sub(1);
    loop {
        let (reused, error) = (hop.reused, greet(&mut hop, client, mid, mail, ahead).await);
        let error = match error {
            Ok((reply, sent)) if reply.code() != 421 || (!reused && others == 0) => {
                return Ok(Opened { hop, reply, sent });
            }
            Ok((reply, _)) => NextHopError::Refused(reply),
            Err(error @ NextHopError::Protocol(ClientError::Injection)) => return Err(error),
            Err(error) => error,
        };
        if reused {
            // The server has closed an idle connection just now: that is not the message's affair.
            tracing::debug!(%error, "An idle connection to the next hop is gone; opening another.");
        } else {
            pool.failed(&hop, &error);
            if others == 0 {
                return Err(error);
            }
            others -= 1;
        }
        hop = pool.dial().await?;
    }
}

async fn greet(
    hop: &mut Connection,
    client: &Client,
    mid: u64,
    mail: &MailFrom,
    ahead: &Ahead,
) -> Result<(Reply, SentAhead), NextHopError> {
    let offered = hop.extensions().clone();
    if let Some(extension) = missing(mail, &offered) {
        tracing::warn!(
            extension,
            "The next hop no longer offers what the client was offered; the client has to try again."
        );
        let reply = Reply::new(451, "4.3.0 Error: the mail server changed, try again later");
        return Ok((reply, SentAhead::default()));
    }
    for command in xforward(client, mid, &offered) {
        let attributes: Vec<(&str, &str)> = command
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        hop.xforward(&attributes);
        if !offered.pipelining {
            hop.reply().await?;
        }
    }
    let takes = |param: &String| {
        let name = param.split('=').next().unwrap_or(param);
        (!name.eq_ignore_ascii_case("SIZE") || offered.size.is_some())
            && (!name.eq_ignore_ascii_case("BODY") || offered.eight_bit_mime)
    };
    let params: Vec<String> = mail.params.iter().filter(|param| takes(param)).cloned().collect();
    hop.mail(&mail.address, &params)?;
    let sent = send_ahead(hop, ahead, &offered)?;
    loop {
        // A refused XFORWARD costs the next hop's log the client's name, and the message nothing.
        let (to, reply) = hop.reply().await?;
        if to == Verb::Mail {
            return Ok((reply, sent));
        }
    }
}

/// Queues what the client has said already, as far as the next hop takes it so.
pub(super) fn send_ahead(
    hop: &mut Connection,
    ahead: &Ahead,
    offered: &Extensions,
) -> Result<SentAhead, NextHopError> {
    let mut sent = SentAhead::default();
    if !offered.pipelining {
        return Ok(sent);
    }
    for rcpt in &ahead.recipients {
        if !offered.dsn && !rcpt.params.is_empty() {
            return Ok(sent);
        }
        hop.rcpt(&rcpt.address, &rcpt.params)?;
        sent.recipients.push_back(rcpt.clone());
    }
    if ahead.data {
        hop.data();
        sent.data = true;
    }
    Ok(sent)
}

/// An extension that the message needs and the next hop does not offer (any more).
fn missing(mail: &MailFrom, offered: &Extensions) -> Option<&'static str> {
    let uses = |names: &[&str]| {
        mail.params.iter().any(|param| {
            let name = param.split('=').next().unwrap_or(param);
            names.iter().any(|known| name.eq_ignore_ascii_case(known))
        })
    };
    if mail.smtputf8 && !offered.smtputf8 {
        return Some("SMTPUTF8");
    }
    (!offered.dsn && uses(&["RET", "ENVID"])).then_some("DSN")
}

/// The commands that say who the client is, in the two groups in which Postfix sends them.
fn xforward(client: &Client, mid: u64, offered: &Extensions) -> Vec<Vec<(&'static str, String)>> {
    let (whence, how): (Vec<_>, Vec<_>) = client
        .xforward(mid)
        .into_iter()
        .partition(|(name, _)| matches!(*name, "NAME" | "ADDR" | "PORT"));
    let groups = [whence, how];
    groups
        .into_iter()
        .map(|group| {
            group
                .into_iter()
                .filter(|(name, _)| offered.xforward.iter().any(|taken| taken == name))
                .map(|(name, value)| (name, bounded(&value)))
                .collect::<Vec<_>>()
        })
        .filter(|group| !group.is_empty())
        .collect()
}

/// As much of a value as stays within [`MAX_XFORWARD`] once it is written as xtext.
fn bounded(value: &str) -> String {
    let mut room = MAX_XFORWARD;
    value
        .chars()
        .take_while(|c| {
            let plain = c.is_ascii_graphic() && !matches!(c, '+' | '=');
            let cost = if plain { 1 } else { 3 * c.len_utf8() };
            room.checked_sub(cost).inspect(|left| room = *left).is_some()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_bounded_and_only_those_that_are_taken() {
        let client = Client {
            icid: 1,
            peer: "[2001:db8::1]:4711".parse().unwrap(),
            helo: "ü".repeat(100),
            esmtp: true,
            name: None,
            forwarded: None,
        };
        let offer = |names: &[&str]| Extensions {
            xforward: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Extensions::default()
        };
        let all = [
            "NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE", "OTHER",
        ];
        let text = |groups: Vec<Vec<(&str, String)>>| {
            let words = groups.iter().map(|group| {
                let words: Vec<String> = group
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                words.join(" ")
            });
            words.collect::<Vec<_>>().join("|")
        };
        let helo = "ü".repeat(42);
        let cases = [
            (
                &all[..],
                format!(
                    "NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::1 PORT=4711|PROTO=ESMTP HELO={helo} IDENT=7 SOURCE=REMOTE"
                ),
                "all; a name of 42 times 6 octets",
            ),
            (&["HELO"], format!("HELO={helo}"), "one group"),
            (
                &["ADDR", "SOURCE"],
                "ADDR=IPV6:2001:db8::1|SOURCE=REMOTE".to_owned(),
                "two",
            ),
            (&[], String::new(), "none"),
        ];
        for (names, expected, why) in cases {
            assert_eq!(text(xforward(&client, 7, &offer(names))), expected, "{why}");
        }
    }
}
