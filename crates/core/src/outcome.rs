//! How an attempt to deliver a copy may end, and what follows from it.
//!
//! The table is the original's, completed (docs/concepts.md). An attempt is one walk through all hosts of an intake
//! for one copy; it ends in exactly one [`Outcome`], and [`next`] turns that into a retry or an end.

use std::fmt;

use crate::policy::Retry;

/// Where in the SMTP session an attempt was when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Looking up hosts.
    Resolve,
    /// Opening a TCP connection.
    Connect,
    /// Waiting for the greeting.
    Greeting,
    /// `EHLO`.
    Ehlo,
    /// `STARTTLS`.
    StartTls,
    /// The TLS handshake.
    Handshake,
    /// `MAIL`.
    Mail,
    /// `RCPT`.
    Rcpt,
    /// `DATA`, up to the 354.
    Data,
    /// Sending the message, before its final dot.
    Body,
    /// The final dot is sent.
    Dot,
}

impl Stage {
    /// As it stands in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Ehlo => "ehlo",
            Self::StartTls => "starttls",
            Self::Handshake => "handshake",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Body => "body",
            Self::Dot => "dot",
        }
    }
}

/// What a copy needs that an intake may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// Room for its size (RFC 1870).
    Size,
    /// 8BITMIME (RFC 6152).
    EightBit,
    /// SMTPUTF8 (RFC 6531).
    Utf8,
    /// An address that SMTP can carry.
    Address,
}

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx to the final dot; the reply's text.
    Delivered(String),
    /// The intake replied with something else.
    Replied {
        /// Where.
        stage: Stage,
        /// The reply's code.
        code: u16,
        /// Its text.
        text: String,
    },
    /// TLS was not offered, refused, or the handshake or the certificate failed.
    Tls {
        /// Where.
        stage: Stage,
        /// What was wrong.
        detail: String,
    },
    /// Refused, reset, closed or timed out before the final dot was sent.
    Network {
        /// Where.
        stage: Stage,
        /// What happened.
        detail: String,
    },
    /// SERVFAIL or a timeout of the name servers.
    DnsSoft(String),
    /// The domain does not exist, or has no address.
    DnsHard(String),
    /// The domain takes no mail (RFC 7505).
    NullMx,
    /// The intake cannot take the copy; nothing of it was sent.
    Unsuitable {
        /// What it lacks.
        need: Need,
        /// In words.
        detail: String,
    },
    /// The final dot was sent and not answered.
    NoAnswer(String),
    /// The copy's lifetime was over.
    Expired,
}

/// What follows from an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Try again, on a fresh connection.
    Retry,
    /// It is delivered.
    Delivered,
    /// It will not be tried again.
    HardBounce,
    /// It may have been delivered.
    PossibleDelivery,
    /// Its lifetime is over.
    Expired,
}

/// The class of an outcome: the closed set of values of the metrics' `class` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Delivered.
    Delivered,
    /// 4xx, 503, 552.
    Transient,
    /// Any other 5xx, and what the intake cannot take.
    Permanent,
    /// TLS.
    Tls,
    /// Network.
    Network,
    /// Name service.
    Dns,
    /// No answer to the final dot.
    NoAnswer,
    /// Lifetime over.
    Expired,
}

impl Class {
    /// As it stands in metrics and dead letters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Transient => "4xx",
            Self::Permanent => "5xx",
            Self::Tls => "tls",
            Self::Network => "network",
            Self::Dns => "dns",
            Self::NoAnswer => "no_answer",
            Self::Expired => "expired",
        }
    }
}

impl Outcome {
    /// Its class. 503 and 552 pass, though they are 5xx: the state machines disagree, or there are too many
    /// recipients (RFC 5321 section 4.5.3.1.10); both may be gone on a fresh connection.
    pub fn class(&self) -> Class {
        match self {
            Self::Delivered(_) => Class::Delivered,
            Self::Replied { code: 503 | 552, .. } => Class::Transient,
            Self::Replied { code, .. } if *code >= 500 => Class::Permanent,
            Self::Replied { .. } => Class::Transient,
            Self::Tls { .. } => Class::Tls,
            Self::Network { .. } => Class::Network,
            Self::DnsSoft(_) | Self::DnsHard(_) | Self::NullMx => Class::Dns,
            Self::Unsuitable { .. } => Class::Permanent,
            Self::NoAnswer(_) => Class::NoAnswer,
            Self::Expired => Class::Expired,
        }
    }

    /// The enhanced status code (RFC 3463) and its fixed text, as the mail log has them.
    pub fn status(&self) -> (&'static str, &'static str) {
        match self {
            Self::Delivered(_) => ("2.0.0", "Delivered"),
            Self::Replied {
                stage: Stage::Greeting | Stage::Ehlo | Stage::StartTls,
                code,
                ..
            } => {
                let status = if *code >= 500 { "5.3.2" } else { "4.3.2" };
                (status, "Not accepting messages at this time")
            }
            Self::Replied { code, .. } if *code >= 500 => ("5.1.0", "Unknown address error"),
            Self::Replied { .. } => ("4.1.0", "Unknown address error"),
            Self::Tls { .. } => ("5.7.5", "TLS Error"),
            Self::Network { .. } | Self::NoAnswer(_) => ("4.4.0", "Other network problem"),
            Self::DnsSoft(_) => ("4.4.3", "DNS temporary failure"),
            Self::DnsHard(_) => ("5.1.2", "Bad destination host"),
            Self::NullMx => ("5.1.10", "Recipient address has null MX"),
            // RFC 3463 sections 3.2, 3.4 and 3.7; RFC 6531 section 3.7.4.2.
            Self::Unsuitable { need, .. } => match need {
                Need::Size => ("5.3.4", "Message too big for system"),
                Need::EightBit => ("5.6.3", "Conversion required but not supported"),
                Need::Utf8 => ("5.6.9", "UTF-8 header message cannot be transferred"),
                Need::Address => ("5.1.3", "Bad destination mailbox address syntax"),
            },
            Self::Expired => ("5.4.7", "Delivery expired (message too old)"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delivered(text) => write!(f, "delivered: {text}"),
            Self::Replied { stage, code, text } => write!(f, "{} was answered {code} {text}", stage.as_str()),
            Self::Tls { stage, detail } => write!(f, "TLS failed at {}: {detail}", stage.as_str()),
            Self::Network { stage, detail } => {
                write!(f, "the connection failed at {}: {detail}", stage.as_str())
            }
            Self::DnsSoft(detail) => write!(f, "the name servers do not answer: {detail}"),
            Self::DnsHard(detail) => f.write_str(detail),
            Self::NullMx => f.write_str("the domain takes no mail (null MX)"),
            Self::Unsuitable { detail, .. } => f.write_str(detail),
            Self::NoAnswer(detail) => write!(f, "no answer to the final dot: {detail}"),
            Self::Expired => f.write_str("the lifetime of the copy is over"),
        }
    }
}

/// What follows from an outcome, after `attempts_before` attempts that were already made.
pub fn next(outcome: &Outcome, attempts_before: u32, retry: &Retry) -> Next {
    let (retries, end) = match outcome.class() {
        Class::Delivered => return Next::Delivered,
        Class::Expired => return Next::Expired,
        Class::Permanent => (0, Next::HardBounce),
        Class::Transient => (retry.transient, Next::HardBounce),
        Class::Tls => (retry.tls, Next::HardBounce),
        Class::Network => (retry.network, Next::HardBounce),
        Class::Dns if matches!(outcome, Outcome::DnsSoft(_)) => (retry.network, Next::HardBounce),
        Class::Dns => (0, Next::HardBounce),
        Class::NoAnswer => (retry.network, Next::PossibleDelivery),
    };
    if attempts_before < retries {
        Next::Retry
    } else {
        end
    }
}

#[cfg(test)]
mod tests {
    use super::{Need, Next, Outcome, Stage, next};
    use crate::policy::Retry;

    const RETRY: Retry = Retry {
        transient: 1,
        network: 1,
        tls: 0,
    };

    fn replied(code: u16) -> Outcome {
        Outcome::Replied {
            stage: Stage::Rcpt,
            code,
            text: String::new(),
        }
    }

    #[test]
    fn the_table_of_the_original() {
        let network = || Outcome::Network {
            stage: Stage::Connect,
            detail: "refused".into(),
        };
        let tls = || Outcome::Tls {
            stage: Stage::Handshake,
            detail: "certificate".into(),
        };
        let cases = [
            (
                Outcome::Delivered(String::new()),
                Next::Delivered,
                Next::Delivered,
                "2xx",
            ),
            (replied(550), Next::HardBounce, Next::HardBounce, "5xx: no retry"),
            (replied(503), Next::Retry, Next::HardBounce, "503 counts as 4xx"),
            (replied(552), Next::Retry, Next::HardBounce, "552 counts as 4xx"),
            (replied(421), Next::Retry, Next::HardBounce, "4xx: one retry"),
            (replied(451), Next::Retry, Next::HardBounce, "4xx: one retry"),
            (tls(), Next::HardBounce, Next::HardBounce, "TLS: no retry"),
            (network(), Next::Retry, Next::HardBounce, "network: one retry"),
            (
                Outcome::DnsSoft("ServFail".into()),
                Next::Retry,
                Next::HardBounce,
                "soft DNS: one retry",
            ),
            (
                Outcome::DnsHard("NXDomain".into()),
                Next::HardBounce,
                Next::HardBounce,
                "NXDOMAIN: none",
            ),
            (
                Outcome::NullMx,
                Next::HardBounce,
                Next::HardBounce,
                "null MX: none",
            ),
            (
                Outcome::Unsuitable {
                    need: Need::EightBit,
                    detail: "8BITMIME".into(),
                },
                Next::HardBounce,
                Next::HardBounce,
                "cannot be taken",
            ),
            (
                Outcome::NoAnswer("timeout".into()),
                Next::Retry,
                Next::PossibleDelivery,
                "after the dot",
            ),
            (Outcome::Expired, Next::Expired, Next::Expired, "120 s"),
        ];
        for (outcome, first, second, why) in cases {
            assert_eq!(next(&outcome, 0, &RETRY), first, "first attempt, {why}");
            assert_eq!(next(&outcome, 1, &RETRY), second, "second attempt, {why}");
        }
        let never = Retry {
            transient: 0,
            network: 0,
            tls: 0,
        };
        assert_eq!(
            next(&replied(451), 0, &never),
            Next::HardBounce,
            "spec.retry is obeyed"
        );
        let often = Retry {
            transient: 3,
            network: 3,
            tls: 3,
        };
        assert_eq!(next(&tls(), 2, &often), Next::Retry, "also for TLS");
        assert_eq!(next(&Outcome::NoAnswer(String::new()), 2, &often), Next::Retry);
    }
}
