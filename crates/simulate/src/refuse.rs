//! The hook that decides at each stage whether a client is turned away.
//!
//! A server asks every rule at every stage and sends the first reply it gets; without one it goes on. Rules are pure:
//! they see the stage and answer at once. Injected faults of other kinds belong behind the same question.

use std::str::FromStr;

use tdc_smtp::Reply;

/// Where a transaction stands when the rules are asked.
#[derive(Clone, Copy, Debug)]
pub enum Stage<'a> {
    /// `MAIL FROM` with this address (empty: the null sender).
    Mail(&'a str),
    /// `RCPT TO` with this address.
    Rcpt(&'a str),
    /// `DATA`, or the first `BDAT`; the accepted recipients.
    Data(&'a [&'a str]),
    /// The end of data; the accepted recipients.
    BodyEnd(&'a [&'a str]),
}

/// A rule that may turn a client away.
pub trait Refuse: Send + Sync {
    /// The negative reply to give at this stage, or None to go on.
    fn refuse(&self, stage: Stage<'_>) -> Option<Reply>;
}

/// At which stage a [`Rejection`] strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectAt {
    /// In reply to `MAIL FROM` with a matching address.
    Mail,
    /// In reply to `RCPT TO` with a matching address.
    Rcpt,
    /// In reply to `DATA`, when an accepted recipient matches.
    Data,
    /// In reply to the end of data, when an accepted recipient matches.
    BodyEnd,
}

/// One fixed rule: this address, this reply.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// At which stage it strikes.
    pub at: RejectAt,
    /// Whom it strikes: `user@example.com`, `user@`, `@example.com`, or `*` for everyone; in any case.
    pub address: String,
    /// What the client hears.
    pub reply: Reply,
}

/// A rule on the command line that is not `ADDR=CODE TEXT`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a refusal: write ADDR=CODE TEXT with a code from 400 to 599, as in `bad@example.com=550 5.1.1 No such user`"
)]
pub struct RejectionSyntax(pub String);

impl Rejection {
    /// Reads `ADDR=CODE TEXT` (the text may be missing) as a rule for one stage.
    ///
    /// # Errors
    /// When there is no address, or no code from 400 to 599 behind the `=`.
    pub fn parse(at: RejectAt, rule: &str) -> Result<Self, RejectionSyntax> {
        let syntax = || RejectionSyntax(rule.chars().take(120).collect());
        // A local part may hold `=` itself: the rule is split where a code follows.
        let (address, reply) = rule
            .match_indices('=')
            .filter_map(|(at, _)| Some((&rule[..at], reply(&rule[at + 1..])?)))
            .next()
            .ok_or_else(syntax)?;
        if address.is_empty() {
            return Err(syntax());
        }
        Ok(Self {
            at,
            address: address.to_owned(),
            reply,
        })
    }

    fn matches(&self, address: &str) -> bool {
        matches(&self.address, address)
    }
}

/// Does an address fit `user@example.com`, `user@`, `@example.com` or `*`, in any case?
pub(crate) fn matches(rule: &str, address: &str) -> bool {
    if rule == "*" {
        return true;
    }
    let part = match address.rfind('@') {
        Some(at) if rule.starts_with('@') => &address[at..],
        Some(at) if rule.ends_with('@') => &address[..=at],
        _ => address,
    };
    part.eq_ignore_ascii_case(rule)
}

impl Refuse for Rejection {
    fn refuse(&self, stage: Stage<'_>) -> Option<Reply> {
        let strikes = match (self.at, stage) {
            (RejectAt::Mail, Stage::Mail(address)) | (RejectAt::Rcpt, Stage::Rcpt(address)) => {
                self.matches(address)
            }
            (RejectAt::Data, Stage::Data(recipients)) | (RejectAt::BodyEnd, Stage::BodyEnd(recipients)) => {
                recipients.iter().any(|recipient| self.matches(recipient))
            }
            _ => false,
        };
        strikes.then(|| self.reply.clone())
    }
}

/// `CODE` or `CODE TEXT` with a negative code and printable text.
fn reply(text: &str) -> Option<Reply> {
    let (code, text) = text
        .split_once(' ')
        .unwrap_or((text, "Refused by a rule of the simulator"));
    let negative = code.len() == 3 && (code.starts_with('4') || code.starts_with('5'));
    let printable = text.chars().all(|c| !c.is_control());
    let code = u16::from_str(code).ok().filter(|_| negative && printable)?;
    Some(Reply::new(code, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_written() {
        let rows = [
            (
                "a@x=550 5.1.1 No such user",
                Some(("a@x", "550 5.1.1 No such user")),
                "the usual form",
            ),
            (
                "a=b@x=450 4.2.0 a=550 b",
                Some(("a=b@x", "450 4.2.0 a=550 b")),
                "`=` in the address and the text",
            ),
            (
                "@x=451",
                Some(("@x", "451 Refused by a rule of the simulator")),
                "no text",
            ),
            ("*=421 4.3.2 Busy", Some(("*", "421 4.3.2 Busy")), "everyone"),
            ("a@x=250 Ok", None, "a positive code refuses nobody"),
            ("a@x=55 x", None, "a code has three digits"),
            ("a@x=5555 x", None, "a code has three digits"),
            ("a@x=5\u{e9} x", None, "a code is digits"),
            ("=550 x", None, "no address"),
            ("a@x=550 x\r\n250 y", None, "nothing may start a line of its own"),
            ("", None, "nothing"),
        ];
        for (rule, want, why) in rows {
            let got = Rejection::parse(RejectAt::Rcpt, rule).ok();
            let got = got
                .as_ref()
                .map(|rule| (rule.address.clone(), rule.reply.to_string()));
            let want = want.map(|(address, reply)| (address.to_owned(), reply.to_owned()));
            assert_eq!(got, want, "{rule}: {why}");
        }
    }

    #[test]
    fn rules_strike_at_their_stage_and_address_only() {
        let rule = |at, address: &str| Rejection {
            at,
            address: address.to_owned(),
            reply: Reply::new(550, "no"),
        };
        let rows = [
            (
                rule(RejectAt::Rcpt, "A@X.example"),
                Stage::Rcpt("a@x.EXAMPLE"),
                true,
                "any case",
            ),
            (
                rule(RejectAt::Rcpt, "a@x.example"),
                Stage::Rcpt("b@x.example"),
                false,
                "another user",
            ),
            (
                rule(RejectAt::Rcpt, "a@x.example"),
                Stage::Mail("a@x.example"),
                false,
                "another stage",
            ),
            (
                rule(RejectAt::Rcpt, "@x.example"),
                Stage::Rcpt("q@x.example"),
                true,
                "a domain",
            ),
            (
                rule(RejectAt::Rcpt, "@x.example"),
                Stage::Rcpt("q@y.x.example"),
                false,
                "a sub-domain is another",
            ),
            (
                rule(RejectAt::Rcpt, "a@"),
                Stage::Rcpt("a@anywhere.example"),
                true,
                "a local part",
            ),
            (
                rule(RejectAt::Rcpt, "a@"),
                Stage::Rcpt("ba@anywhere.example"),
                false,
                "the whole local part",
            ),
            (
                rule(RejectAt::Mail, "*"),
                Stage::Mail(""),
                true,
                "everyone includes the null sender",
            ),
            (
                rule(RejectAt::Data, "b@x"),
                Stage::Data(&["a@x", "b@x"]),
                true,
                "one recipient of several",
            ),
            (
                rule(RejectAt::Data, "b@x"),
                Stage::BodyEnd(&["b@x"]),
                false,
                "another stage",
            ),
            (
                rule(RejectAt::BodyEnd, "b@x"),
                Stage::BodyEnd(&["b@x"]),
                true,
                "after the final dot",
            ),
        ];
        for (rule, stage, want, why) in rows {
            assert_eq!(rule.refuse(stage).is_some(), want, "{rule:?} {stage:?}: {why}");
        }
    }
}
