//! One message over one connection: `MAIL`, `RCPT`, the copy, and its end (RFC 5321 section 3.3).
//!
//! What the intake cannot take (8-bit content, SMTPUTF8, the size) is said before anything is sent. With PIPELINING
//! the commands leave in one write (RFC 2920).
//!
//! Where CHUNKING is offered the copy leaves as one `BDAT … LAST` (RFC 3030): one round trip less than `DATA` without
//! PIPELINING, no search for dots, and its exact octets. It leaves only once the envelope is accepted, although the RFC
//! allows more: so an intake never holds a whole message before that, and a connection that breaks there leaves no
//! doubt. Otherwise it leaves by `DATA`, its dots doubled, and with a line end behind its last line if that has none.
//!
//! From the moment when the final dot may have left (the last octet of the chunk, with `BDAT`), every failure is
//! [`Outcome::NoAnswer`]: the intake may have the message.

use tdc_core::journal::{Wrapped, ascii_address};
use tdc_core::outcome::{Need, Outcome, Stage};
use tdc_failpoint::hit;
use tdc_smtp::{Extensions, Reply};

use crate::link::{Budget, Fault, Link, replied};

/// What became of the message on this connection.
#[derive(Debug)]
pub(crate) enum Sent {
    /// The attempt is over.
    Done(Outcome),
    /// The server had left the connection before it saw the message: use another, the message has lost nothing.
    Stale(Outcome),
}

/// How the end of the message is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// `DATA`, and a line that is a dot.
    Dot,
    /// `BDAT`, counted.
    Chunk,
}

impl Framing {
    fn of(offered: &Extensions) -> Self {
        if offered.chunking { Self::Chunk } else { Self::Dot }
    }
}

/// The parameters of `MAIL`, or why the copy cannot be sent here.
fn parameters(
    offered: &Extensions,
    copy: &Wrapped,
    framing: Framing,
    path: &str,
) -> Result<Vec<String>, Outcome> {
    let lacks = |need, detail: &str| {
        Err(Outcome::Unsuitable {
            need,
            detail: detail.to_owned(),
        })
    };
    let mut params = Vec::new();
    // RFC 1870 section 6.1: with the line ends, without the dots that the encoding adds.
    let ended = framing == Framing::Chunk || copy.ends_in_crlf();
    let size = copy.size + if ended { 0 } else { 2 };
    match offered.size {
        Some(limit) if limit > 0 && size > limit => {
            let detail = format!("the copy has {size} octets, the intake takes {limit} (SIZE)");
            return lacks(Need::Size, &detail);
        }
        Some(_) => params.push(format!("SIZE={size}")),
        None => {}
    }
    if copy.eight_bit {
        if !offered.eight_bit_mime {
            return lacks(
                Need::EightBit,
                "the copy has 8-bit content, the intake does not offer 8BITMIME",
            );
        }
        params.push("BODY=8BITMIME".into());
    }
    if copy.smtputf8 || !path.is_ascii() {
        if !offered.smtputf8 {
            return lacks(
                Need::Utf8,
                "the copy has UTF-8 in its header section or address, the intake does not offer SMTPUTF8",
            );
        }
        params.push("SMTPUTF8".into());
    }
    Ok(params)
}

/// Sends one copy. Afterwards the link is as good as before when [`reusable`] says so.
pub(crate) async fn send(link: &mut Link, copy: &Wrapped, budget: Budget) -> Sent {
    let intake = link.intake.clone();
    let path = ascii_address(intake.address.as_str());
    link.stage = Stage::Mail;
    let offered = link.session.extensions();
    let framing = Framing::of(offered);
    let params = match parameters(offered, copy, framing, &path) {
        Ok(params) => params,
        Err(outcome) => return Sent::Done(outcome),
    };
    hit("delivery.mail");
    match envelope(link, &path, &params, framing, budget).await {
        Ok(None) => hit("delivery.envelope"),
        Ok(Some(outcome)) => {
            let left = link.messages > 0
                && matches!(
                    outcome,
                    Outcome::Replied {
                        stage: Stage::Mail,
                        code: 421,
                        ..
                    }
                );
            return if left {
                Sent::Stale(outcome)
            } else {
                Sent::Done(outcome)
            };
        }
        Err(fault) => {
            let left = link.messages > 0 && link.stage == Stage::Mail;
            let outcome = fault.outcome(link.stage);
            let left = left && !matches!(outcome, Outcome::Expired | Outcome::Unsuitable { .. });
            return if left {
                Sent::Stale(outcome)
            } else {
                Sent::Done(outcome)
            };
        }
    }
    Sent::Done(match content(link, copy, framing, budget).await {
        Ok(reply) if reply.is_positive() => Outcome::Delivered(reply.to_string()),
        Ok(reply) => replied(link.stage, &reply),
        Err(fault) => fault.outcome(link.stage),
    })
}

/// Envelope, up to the 354 when it ends with `DATA`; `Some`: the first reply that ended it.
async fn envelope(
    link: &mut Link,
    path: &str,
    params: &[String],
    framing: Framing,
    budget: Budget,
) -> Result<Option<Outcome>, Fault> {
    let limit = link.timeouts.command;
    let pipelining = link.session.extensions().pipelining;
    link.session.mail("", params)?;
    if pipelining {
        link.session.rcpt(path, &[])?;
        if framing == Framing::Dot {
            link.session.data();
        }
    }
    let mail = link.reply(limit, budget).await?;
    let mut bad = (!mail.is_positive()).then(|| replied(Stage::Mail, &mail));
    link.stage = Stage::Rcpt;
    if !pipelining {
        if bad.is_some() {
            return Ok(bad);
        }
        link.session.rcpt(path, &[])?;
    }
    let rcpt = match link.reply(limit, budget).await {
        // The server that said 421 has gone; its reply counts, not its absence.
        Err(_) if bad.is_some() => return Ok(bad),
        other => other?,
    };
    bad = bad.or_else(|| (!rcpt.is_positive()).then(|| replied(Stage::Rcpt, &rcpt)));
    if framing == Framing::Chunk || (bad.is_some() && !pipelining) {
        return Ok(bad);
    }
    link.stage = Stage::Data;
    if !pipelining {
        link.session.data();
    }
    let data = match link.reply(limit, budget).await {
        Err(_) if bad.is_some() => return Ok(bad),
        other => other?,
    };
    match bad {
        None if data.code() == 354 => Ok(None),
        None => Ok(Some(replied(Stage::Data, &data))),
        Some(bad) => {
            if data.code() == 354 {
                // RFC 2920 section 3.1: a server that wants data without a recipient gets an empty message.
                let mut dot = Vec::new();
                link.session.end_body(&mut dot);
                let _ = withdraw(link, &mut dot, budget).await;
            }
            Ok(Some(bad))
        }
    }
}

async fn withdraw(link: &mut Link, dot: &mut Vec<bytes::Bytes>, budget: Budget) -> Result<Reply, Fault> {
    link.write_pieces(dot, budget).await?;
    link.flush(budget).await?;
    link.reply(link.timeouts.command, budget).await
}

/// The message and its end.
async fn content(link: &mut Link, copy: &Wrapped, framing: Framing, budget: Budget) -> Result<Reply, Fault> {
    link.stage = Stage::Body;
    match body(link, copy, framing, budget).await {
        Ok(()) => {
            hit("delivery.dot_sent");
            let reply = link.reply(link.timeouts.final_dot, budget).await;
            hit("delivery.answered");
            reply
        }
        // A server that breaks off a message often says why before it closes. Only behind the end can it have said yes.
        Err(fault) => match link.last_words().await {
            Some(Ok(reply)) if reply.is_positive() && link.stage == Stage::Body => Err(fault),
            Some(said) => said,
            None => Err(fault),
        },
    }
}

async fn body(link: &mut Link, copy: &Wrapped, framing: Framing, budget: Budget) -> Result<(), Fault> {
    let mut pieces = Vec::new();
    let mut end = Vec::new();
    if framing == Framing::Chunk {
        link.session.bdat(copy.size, true);
        link.join_commands();
    }
    let last = copy.parts.iter().rposition(|part| !part.is_empty());
    for (at, part) in copy.parts.iter().enumerate() {
        match framing {
            Framing::Dot => link.session.body(part, &mut pieces),
            // The last octet is what the dot is: it leaves last.
            Framing::Chunk if Some(at) == last => {
                pieces.push(part.slice(..part.len() - 1));
                end.push(part.slice(part.len() - 1..));
            }
            Framing::Chunk => pieces.push(part.clone()),
        }
        link.write_pieces(&mut pieces, budget).await?;
        hit("delivery.body");
    }
    hit("delivery.before_dot");
    if framing == Framing::Dot {
        link.session.end_body(&mut end);
    }
    link.join(&end);
    link.stage = Stage::Dot;
    link.flush(budget).await
}

/// Whether the next message may use the connection, and whether it needs `RSET` first.
pub(crate) fn reusable(link: &Link, outcome: &Outcome) -> Option<Reset> {
    if link.broken || link.session.pending() > 0 {
        return None;
    }
    match outcome {
        Outcome::Delivered(_) => Some(Reset::No),
        Outcome::Unsuitable { .. } => Some(Reset::No),
        Outcome::Replied { code: 421, .. } => None,
        Outcome::Replied {
            stage: Stage::Mail | Stage::Rcpt | Stage::Data | Stage::Dot,
            ..
        } => Some(Reset::Yes),
        _ => None,
    }
}

/// Whether `RSET` must clear what a refused transaction has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reset {
    /// The transaction is over.
    No,
    /// It may be half done.
    Yes,
}

#[cfg(test)]
mod tests {
    use super::{Framing, parameters};
    use bytes::Bytes;
    use tdc_core::journal::Wrapped;
    use tdc_core::outcome::{Need, Outcome};
    use tdc_smtp::Extensions;

    #[test]
    fn what_the_intake_must_offer() {
        use Framing::{Chunk, Dot};
        let copy = |eight_bit, smtputf8, end: &'static str| Wrapped {
            parts: vec![Bytes::from_static(end.as_bytes())],
            size: 100,
            eight_bit,
            smtputf8,
        };
        let plain = || copy(false, false, "\r\n");
        let offers = |size, eight_bit_mime, smtputf8| Extensions {
            size,
            eight_bit_mime,
            smtputf8,
            ..Extensions::default()
        };
        let nothing = || offers(None, false, false);
        let all = |size| offers(Some(size), true, true);
        let cases = [
            (nothing(), plain(), Dot, "a@b", Ok(""), "plain to a plain server"),
            (
                offers(Some(0), false, false),
                plain(),
                Dot,
                "a@b",
                Ok("SIZE=100"),
                "SIZE without a limit",
            ),
            (
                all(100),
                copy(true, true, "\r\n"),
                Dot,
                "a@b",
                Ok("SIZE=100 BODY=8BITMIME SMTPUTF8"),
                "all",
            ),
            (all(99), plain(), Dot, "a@b", Err(Need::Size), "too large"),
            (
                all(101),
                copy(false, false, "x"),
                Dot,
                "a@b",
                Err(Need::Size),
                "too large with its line end",
            ),
            (
                all(100),
                copy(false, false, "x"),
                Chunk,
                "a@b",
                Ok("SIZE=100"),
                "no line end is added to a chunk",
            ),
            (
                offers(None, false, true),
                copy(true, false, ""),
                Dot,
                "a@b",
                Err(Need::EightBit),
                "no 8BITMIME",
            ),
            (
                offers(None, true, false),
                copy(true, true, ""),
                Dot,
                "a@b",
                Err(Need::Utf8),
                "no SMTPUTF8",
            ),
            (
                nothing(),
                plain(),
                Dot,
                "\u{fc}@b",
                Err(Need::Utf8),
                "nor for the address",
            ),
            (
                offers(None, true, true),
                plain(),
                Dot,
                "a@b",
                Ok(""),
                "nothing that is not needed",
            ),
        ];
        for (offered, copy, framing, path, expected, why) in cases {
            match (parameters(&offered, &copy, framing, path), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found.join(" "), expected, "{why}"),
                (Err(Outcome::Unsuitable { need, .. }), Err(expected)) => assert_eq!(need, expected, "{why}"),
                (found, _) => panic!("{why}: {found:?}"),
            }
        }
    }
}
