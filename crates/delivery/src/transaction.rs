//! One message over one connection: `MAIL`, `RCPT`, `DATA`, the copy, the final dot (RFC 5321 section 3.3).
//!
//! What the intake cannot take (8-bit content, SMTPUTF8, the size) is said before anything is sent. With PIPELINING
//! the three commands leave in one write (RFC 2920). From the moment when the final dot may have left, every failure
//! is [`Outcome::NoAnswer`]: the intake may have the message.

use tdc_core::address::domain_key;
use tdc_core::journal::Wrapped;
use tdc_core::outcome::{Outcome, Stage};
use tdc_core::policy::Intake;
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

/// The parameters of `MAIL`, or why the copy cannot be sent here.
fn parameters(offered: &Extensions, copy: &Wrapped, smtputf8: bool) -> Result<Vec<String>, Outcome> {
    let mut params = Vec::new();
    match offered.size {
        Some(limit) if limit > 0 && copy.size > limit => {
            return Err(Outcome::Unsuitable(format!(
                "the copy has {} octets, the intake takes {limit} (SIZE)",
                copy.size
            )));
        }
        Some(_) => params.push(format!("SIZE={}", copy.size)),
        None => {}
    }
    if copy.eight_bit {
        if !offered.eight_bit_mime {
            return Err(Outcome::Unsuitable(
                "the copy has 8-bit content, the intake does not offer 8BITMIME".into(),
            ));
        }
        params.push("BODY=8BITMIME".into());
    }
    if smtputf8 {
        if !offered.smtputf8 {
            return Err(Outcome::Unsuitable(
                "the copy has addresses in UTF-8, the intake does not offer SMTPUTF8".into(),
            ));
        }
        params.push("SMTPUTF8".into());
    }
    Ok(params)
}

/// The address for `RCPT`: its domain as A-labels when that makes all of it ASCII.
fn forward_path(intake: &Intake) -> String {
    let address = &intake.address;
    if address.as_str().is_ascii() || !address.local_part().is_ascii() {
        return address.as_str().to_owned();
    }
    format!("{}@{}", address.local_part(), domain_key(address.domain()))
}

/// Sends one copy. Afterwards the link is as good as before when [`reusable`] says so.
pub(crate) async fn send(link: &mut Link, copy: &Wrapped, smtputf8: bool, budget: Budget) -> Sent {
    let path = forward_path(&link.intake);
    let smtputf8 = smtputf8 || !path.is_ascii();
    link.stage = Stage::Mail;
    let params = match parameters(link.session.extensions(), copy, smtputf8) {
        Ok(params) => params,
        Err(outcome) => return Sent::Done(outcome),
    };
    match envelope(link, &path, &params, budget).await {
        Ok(None) => {}
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
            let left = left && !matches!(outcome, Outcome::Expired | Outcome::Unsuitable(_));
            return if left {
                Sent::Stale(outcome)
            } else {
                Sent::Done(outcome)
            };
        }
    }
    Sent::Done(match content(link, copy, budget).await {
        Ok(reply) if reply.is_positive() => Outcome::Delivered(reply.to_string()),
        Ok(reply) => replied(Stage::Dot, &reply),
        Err(fault) => fault.outcome(link.stage),
    })
}

/// Envelope up to the 354; `Some`: the first reply that ended it.
async fn envelope(
    link: &mut Link,
    path: &str,
    params: &[String],
    budget: Budget,
) -> Result<Option<Outcome>, Fault> {
    let limit = link.timeouts.command;
    let pipelining = link.session.extensions().pipelining;
    link.session.mail("", params)?;
    if pipelining {
        link.session.rcpt(path, &[])?;
        link.session.data();
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
    link.stage = Stage::Data;
    if !pipelining {
        if bad.is_some() {
            return Ok(bad);
        }
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

/// The message and its final dot.
async fn content(link: &mut Link, copy: &Wrapped, budget: Budget) -> Result<Reply, Fault> {
    link.stage = Stage::Body;
    let mut pieces = Vec::new();
    for part in &copy.parts {
        link.session.body(part, &mut pieces);
        if let Err(fault) = link.write_pieces(&mut pieces, budget).await {
            return Err(link.last_words().await.unwrap_or(fault));
        }
    }
    if let Err(fault) = link.flush(budget).await {
        return Err(link.last_words().await.unwrap_or(fault));
    }
    link.session.end_body(&mut pieces);
    link.stage = Stage::Dot;
    link.write_pieces(&mut pieces, budget).await?;
    link.flush(budget).await?;
    link.reply(link.timeouts.final_dot, budget).await
}

/// Whether the next message may use the connection, and whether it needs `RSET` first.
pub(crate) fn reusable(link: &Link, outcome: &Outcome) -> Option<Reset> {
    if link.session.pending() > 0 {
        return None;
    }
    match outcome {
        Outcome::Delivered(_) => Some(Reset::No),
        Outcome::Unsuitable(_) => Some(Reset::No),
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
    use super::parameters;
    use bytes::Bytes;
    use tdc_core::journal::Wrapped;
    use tdc_core::outcome::Outcome;
    use tdc_smtp::Extensions;

    #[test]
    fn what_the_intake_must_offer() {
        let copy = |eight_bit| Wrapped {
            parts: vec![Bytes::new()],
            size: 100,
            eight_bit,
        };
        let offers = |size, eight_bit_mime, smtputf8| Extensions {
            size,
            eight_bit_mime,
            smtputf8,
            ..Extensions::default()
        };
        let cases = [
            (
                offers(None, false, false),
                false,
                false,
                Some(""),
                "plain to a plain server",
            ),
            (
                offers(Some(0), false, false),
                false,
                false,
                Some("SIZE=100"),
                "SIZE without a limit",
            ),
            (
                offers(Some(100), true, true),
                true,
                true,
                Some("SIZE=100 BODY=8BITMIME SMTPUTF8"),
                "all",
            ),
            (offers(Some(99), true, true), false, false, None, "too large"),
            (
                offers(None, false, true),
                true,
                false,
                None,
                "8-bit without 8BITMIME",
            ),
            (
                offers(None, true, false),
                false,
                true,
                None,
                "UTF-8 without SMTPUTF8",
            ),
            (
                offers(None, true, true),
                false,
                false,
                Some(""),
                "nothing that is not needed",
            ),
        ];
        for (offered, eight_bit, smtputf8, params, why) in cases {
            match (parameters(&offered, &copy(eight_bit), smtputf8), params) {
                (Ok(found), Some(expected)) => assert_eq!(found.join(" "), expected, "{why}"),
                (Err(Outcome::Unsuitable(_)), None) => {}
                (found, _) => panic!("{why}: {found:?}"),
            }
        }
    }
}
