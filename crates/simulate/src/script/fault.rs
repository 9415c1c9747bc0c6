//! What a rule does: the grammar of `do`, and which fault fits which stage.

use std::time::Duration;

use serde_json::Value;
use tdc_smtp::{Extensions, Reply};
use tdc_yaml::{Data, Node};

use super::fields::{Fields, Place, Problems, items, shown, text, time, whole};
use super::{At, BadCertificate, Fault, OnlyVersion, Then, TlsFault};
use crate::config::offer_keyword;

/// The alerts of RFC 8446 section 6 that a server may have a reason to send.
const ALERTS: [(&str, u8); 10] = [
    ("close_notify", 0),
    ("unexpected_message", 10),
    ("handshake_failure", 40),
    ("bad_certificate", 42),
    ("unknown_ca", 48),
    ("access_denied", 49),
    ("protocol_version", 70),
    ("internal_error", 80),
    ("unrecognized_name", 112),
    ("no_application_protocol", 120),
];
/// What can be done, for messages.
const FAULTS: &str = "close, reset, stall, garbage, pass, or one of {reply: 451 TEXT}, {half: TEXT}, {raw: TEXT}, \
                      {stall: TIME}, {slow: OCTETS}, {refuse: TIME}, {without: KEYWORDS}, {with: KEYWORDS}, \
                      {tls: VERSION}, {certificate: KIND}, {alert: NAME}";

/// Reads `do`.
pub(super) fn fault(place: Place<'_>, path: &str, at: &[At], problems: &mut Problems) -> Option<Fault> {
    let before = problems.found.len();
    let fault = match &place.node.data {
        Data::Mapping(_) => mapping(place, path, at, problems),
        _ => {
            let word = word(place.node);
            if word.is_none() {
                let problem = format!("is {}; write {FAULTS}", shown(place.node));
                problems.add(place.line, path, problem);
            }
            word
        }
    }?;
    for at in at {
        if let Some(problem) = misfit(&fault, *at) {
            problems.add(place.line, path, problem);
        }
    }
    (problems.found.len() == before).then_some(fault)
}

fn word(node: &Node) -> Option<Fault> {
    match text(node)?.as_str() {
        "close" => Some(Fault::Close),
        "reset" => Some(Fault::Reset),
        "garbage" => Some(Fault::Garbage),
        "pass" => Some(Fault::Pass),
        "stall" => Some(Fault::Stall {
            time: None,
            then: Then::GoOn,
        }),
        _ => None,
    }
}

/// Everything that a mapping may hold.
#[derive(Default)]
struct Parts {
    reply: Option<Reply>,
    half: Option<String>,
    raw: Option<String>,
    stall: Option<Option<Duration>>,
    slow: Option<u32>,
    refuse: Option<Duration>,
    without: Option<Vec<String>>,
    with: Option<Vec<String>>,
    version: Option<OnlyVersion>,
    certificate: Option<BadCertificate>,
    alert: Option<u8>,
    then: Option<Then>,
}

fn mapping(place: Place<'_>, path: &str, at: &[At], problems: &mut Problems) -> Option<Fault> {
    let before = problems.found.len();
    let mut fields = Fields::of(place.node, place.line, path, problems)?;
    let parts = parts(&mut fields, problems);
    fields.finish(problems);
    if problems.found.len() > before {
        return None;
    }
    let fault = parts.fault(at);
    if fault.is_none() {
        problems.add(place.line, path, format!("does not fit together; write {FAULTS}"));
    }
    fault
}

fn parts(fields: &mut Fields<'_>, problems: &mut Problems) -> Parts {
    let reply = "write a code from 200 to 599 and text, as 451 4.3.0 Later; raw writes anything";
    let keyword = "write EHLO keywords, as [PIPELINING, SIZE 1000]";
    Parts {
        reply: fields.read("reply", problems, reply, self::reply),
        half: fields.text("half", problems),
        raw: fields.text("raw", problems),
        stall: fields.read(
            "stall",
            problems,
            "write a length of time, as 5s, or forever",
            |node| match text(node)?.as_str() {
                "forever" => Some(None),
                _ => time(node).map(Some),
            },
        ),
        slow: fields.read("slow", problems, "write octets a second, from 1", |node| {
            whole(node)
                .and_then(|rate| u32::try_from(rate).ok())
                .filter(|rate| *rate > 0)
        }),
        refuse: fields.time("refuse", problems),
        without: fields.read("without", problems, keyword, |node| keywords(node, false)),
        with: fields.read("with", problems, keyword, |node| keywords(node, true)),
        version: fields.read(
            "tls",
            problems,
            "write the only version: \"1.1\", \"1.2\" or \"1.3\"",
            |node| match text(node)?.as_str() {
                "1.1" => Some(OnlyVersion::V1_1),
                "1.2" => Some(OnlyVersion::V1_2),
                "1.3" => Some(OnlyVersion::V1_3),
                _ => None,
            },
        ),
        certificate: fields.read(
            "certificate",
            problems,
            "write expired, not-yet-valid, wrong-name or unknown-ca",
            |node| match text(node)?.as_str() {
                "expired" => Some(BadCertificate::Expired),
                "not-yet-valid" => Some(BadCertificate::NotYetValid),
                "wrong-name" => Some(BadCertificate::WrongName),
                "unknown-ca" => Some(BadCertificate::UnknownCa),
                _ => None,
            },
        ),
        alert: fields.read(
            "alert",
            problems,
            &format!("write one of {}", ALERTS.map(|(name, _)| name).join(", ")),
            |node| {
                let text = text(node)?;
                ALERTS
                    .iter()
                    .find(|(name, _)| *name == text)
                    .map(|(_, code)| *code)
            },
        ),
        then: fields.read(
            "then",
            problems,
            "write close, reset, stall or go-on",
            |node| match text(node)?.as_str() {
                "close" => Some(Then::Close),
                "reset" => Some(Then::Reset),
                "stall" => Some(Then::Stall),
                "go-on" => Some(Then::GoOn),
                _ => None,
            },
        ),
    }
}

impl Parts {
    /// The one fault that these parts are; None when they are none or several.
    fn fault(self, at: &[At]) -> Option<Fault> {
        // In the middle of a message a session cannot go on after a reply; after 421 it must not (RFC 5321 section 3.8).
        let mut closes = at.contains(&At::Body);
        let alone = self.lacks_others(true);
        let (slow, then) = (self.slow, self.then);
        match (&self.reply, &self.half, &self.raw) {
            (None, None, None) => self.without_text(),
            _ if !alone => None,
            (Some(reply), None, None) => {
                closes |= reply.code() == 421;
                Some(Fault::Reply {
                    reply: reply.clone(),
                    slow,
                    then: then.unwrap_or(if closes { Then::Close } else { Then::GoOn }),
                })
            }
            (None, Some(text), None) => Some(Fault::Raw {
                octets: text.clone().into_bytes(),
                slow,
                then: then.unwrap_or(Then::Stall),
            }),
            (None, None, Some(text)) => Some(Fault::Raw {
                octets: text.clone().into_bytes(),
                slow,
                then: then.unwrap_or(if closes { Then::Close } else { Then::GoOn }),
            }),
            _ => None,
        }
    }

    /// No parts but those of text and its modifiers.
    fn lacks_others(&self, with_modifiers: bool) -> bool {
        let Self {
            reply: _,
            half: _,
            raw: _,
            stall,
            slow,
            refuse,
            without,
            with,
            version,
            certificate,
            alert,
            then,
        } = self;
        stall.is_none()
            && refuse.is_none()
            && without.is_none()
            && with.is_none()
            && version.is_none()
            && certificate.is_none()
            && alert.is_none()
            && (with_modifiers || (slow.is_none() && then.is_none()))
    }

    fn without_text(mut self) -> Option<Fault> {
        let fault = if let Some(time) = self.stall.take() {
            let then = self.then.take().unwrap_or_default();
            Fault::Stall { time, then }
        } else if let Some(rate) = self.slow.take() {
            Fault::Slow(rate)
        } else if let Some(time) = self.refuse.take() {
            Fault::Refuse(time)
        } else if let Some(alert) = self.alert.take() {
            Fault::Alert(alert)
        } else if self.without.is_some() || self.with.is_some() {
            Fault::Keywords {
                without: self.without.take().unwrap_or_default(),
                with: self.with.take().unwrap_or_default(),
            }
        } else if self.version.is_some() || self.certificate.is_some() {
            Fault::Tls(TlsFault {
                version: self.version.take(),
                certificate: self.certificate.take(),
            })
        } else {
            return None;
        };
        self.lacks_others(false).then_some(fault)
    }
}

/// `451 4.3.0 Later`, several lines of it, or a list whose first item has the code.
fn reply(node: &Node) -> Option<Reply> {
    let lines = items(node).into_iter().map(text).collect::<Option<Vec<_>>>()?;
    let first = lines.first()?;
    let (code, first) = first.split_once(' ').unwrap_or((first, ""));
    let code: u16 = code.parse().ok().filter(|code| (200..=599).contains(code))?;
    let first = std::iter::once(first.to_owned());
    Some(Reply::multi(code, first.chain(lines.into_iter().skip(1))))
}

/// Keywords that the servers know; `SIZE 1000` has its limit when it is offered.
fn keywords(node: &Node, offered: bool) -> Option<Vec<String>> {
    items(node)
        .into_iter()
        .map(|item| {
            let Data::Scalar(Value::String(keyword)) = &item.data else {
                return None;
            };
            let plain = offered || !keyword.contains(' ');
            let known = offer_keyword(&mut Extensions::default(), keyword, offered).is_ok();
            (plain && known).then(|| keyword.clone())
        })
        .collect()
}

/// Why a fault cannot happen at a stage.
fn misfit(fault: &Fault, at: At) -> Option<String> {
    let early = matches!(at, At::Connect);
    let (fits, problem) = match fault {
        Fault::Pass | Fault::Close | Fault::Reset | Fault::Stall { .. } => return None,
        Fault::Refuse(_) => (early, "can only refuse at connect"),
        Fault::Keywords { .. } => (at == At::Ehlo, "can only change EHLO keywords at ehlo"),
        Fault::Tls(_) | Fault::Alert(_) | Fault::Garbage => {
            (at == At::Handshake, "can only spoil the handshake at handshake")
        }
        Fault::Slow(_) => (
            !early && !matches!(at, At::Handshake | At::Between),
            "needs a reply or a body to be slow with",
        ),
        Fault::Reply { then, .. } | Fault::Raw { then, .. } => {
            if at == At::Body && *then == Then::GoOn {
                return Some(
                    "cannot go on behind a reply in the middle of a message; write then: close".to_owned(),
                );
            }
            (
                !early && at != At::Handshake,
                "cannot reply here; at greeting and later a server speaks, in the handshake TLS does",
            )
        }
    };
    (!fits).then(|| format!("does not fit at: {at}: it {problem}"))
}
