//! Scripts: which faults a server has, at which stage, and how often.
//!
//! A [`Script`] is a list of rules. At each stage of a connection the server asks the rules in their order; the first
//! that fits strikes ([`Faults`]). What always holds: the same script with the same seed does the same to the same
//! connection, whatever other connections do meanwhile, as long as no rule counts (`times`, `after`, `attempt`); a
//! script that is not understood completely is not used at all.
//!
//! The format is documented in docs/simulate.md.

mod decide;
mod fault;
mod fields;
mod read;
mod watch;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tdc_smtp::Reply;

pub(crate) use decide::{Draws, Strike};
pub use decide::{Faults, Situation};
pub use tdc_yaml::{FileError, FileErrors};
pub(crate) use watch::{Watched, follow};

/// Where a rule strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// A connection was accepted, nothing was said.
    Connect,
    /// The greeting.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS, up to its reply.
    StartTls,
    /// The TLS handshake.
    Handshake,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, or the first BDAT.
    Data,
    /// While the message arrives.
    Body,
    /// The end of the message, before its reply.
    Dot,
    /// RSET.
    Rset,
    /// QUIT.
    Quit,
    /// After the reply to a message, before the next command.
    Between,
}

impl At {
    /// All stages, in the order of a session.
    pub const ALL: [Self; 13] = [
        Self::Connect,
        Self::Greeting,
        Self::Ehlo,
        Self::StartTls,
        Self::Handshake,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Body,
        Self::Dot,
        Self::Rset,
        Self::Quit,
        Self::Between,
    ];

    /// As scripts spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
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
            Self::Rset => "rset",
            Self::Quit => "quit",
            Self::Between => "between",
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a server does wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: later rules are not asked.
    Pass,
    /// Another reply than the usual one.
    Reply {
        /// That reply.
        reply: Reply,
        /// Written at so many octets a second.
        slow: Option<u32>,
        /// What follows.
        then: Then,
    },
    /// Octets instead of a reply: half a line, or what is not SMTP.
    Raw {
        /// As they go out.
        octets: Vec<u8>,
        /// Written at so many octets a second.
        slow: Option<u32>,
        /// What follows.
        then: Then,
    },
    /// The connection is closed, as by a process that dies.
    Close,
    /// The connection is reset (RST).
    Reset,
    /// Nothing is said and nothing is read.
    Stall {
        /// For how long; None: until the client gives up.
        time: Option<Duration>,
        /// What follows.
        then: Then,
    },
    /// The usual reply, at so many octets a second; in the body: reading at that speed.
    Slow(u32),
    /// The connection is reset and nothing listens for that long: new connections are refused.
    Refuse(Duration),
    /// Other EHLO keywords than the usual ones.
    Keywords {
        /// These are not offered.
        without: Vec<String>,
        /// These are.
        with: Vec<String>,
    },
    /// A handshake with another version or certificate.
    Tls(TlsFault),
    /// A TLS alert (RFC 8446 section 6) instead of a handshake.
    Alert(u8),
    /// Octets that are not TLS instead of a handshake.
    Garbage,
}

/// What follows a fault that does not end the connection by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Then {
    /// The session goes on.
    #[default]
    GoOn,
    /// The connection is closed.
    Close,
    /// The connection is reset.
    Reset,
    /// Nothing more is said until the client gives up.
    Stall,
}

/// How a handshake differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsFault {
    /// The only version; None: 1.2 and 1.3.
    pub version: Option<OnlyVersion>,
    /// The certificate; None: the good one.
    pub certificate: Option<BadCertificate>,
}

/// The only TLS version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnlyVersion {
    /// TLS 1.1: too old for everyone. Only its ServerHello is spoken, which no client may go on after.
    V1_1,
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// A certificate that should not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BadCertificate {
    /// It ended yesterday.
    Expired,
    /// It begins tomorrow.
    NotYetValid,
    /// It is for `wrong-name.invalid`.
    WrongName,
    /// Another CA signed it.
    UnknownCa,
}

/// A range of numbers, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// The first.
    pub from: u64,
    /// The last.
    pub to: u64,
}

/// What else must be true for a rule to fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct When {
    /// The connection's number on this server, from 1.
    pub connection: Option<Numbers>,
    /// The message's number on its connection, from 1; before the first MAIL it is 0.
    pub message: Option<Numbers>,
    /// How often this message (at `body` and `dot`) or this recipient (at `rcpt`) has come to this server.
    pub attempt: Option<Numbers>,
    /// `user@example.com`, `user@`, `@example.com`, `*`: this recipient, or one of the accepted ones.
    pub recipient: Option<String>,
    /// The same for the sender; the null sender is the empty text.
    pub sender: Option<String>,
    /// TLS runs, or not.
    pub tls: Option<bool>,
    /// At `body`: so many octets of the message have arrived (1: with its first).
    pub octets: Option<u64>,
    /// At `between`: the client has been silent for so long.
    pub idle: Option<Duration>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// In the report.
    pub name: String,
    /// At these stages.
    pub at: Vec<At>,
    /// Further conditions.
    pub when: When,
    /// Fits in so many of all cases, from 0 to 1.
    pub odds: f64,
    /// The first so many cases are let go.
    pub after: u64,
    /// Strikes at most so often.
    pub times: Option<u64>,
    /// At `dot`: the message is kept and counted although its answer is spoilt.
    pub keep: bool,
    /// What happens.
    pub fault: Fault,
}

/// A whole script.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    /// Where it came from: a file that is looked at again, or None.
    pub path: Option<PathBuf>,
    /// Of the odds; the report shows it.
    pub seed: u64,
    /// The script names no seed.
    pub random_seed: bool,
    /// In the order in which they are asked.
    pub rules: Vec<Rule>,
}

impl Script {
    /// The same rules; a seed that was chosen at random does not count.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.rules == other.rules && (self.seed == other.seed || self.random_seed && other.random_seed)
    }

    /// Every rule's name, for a report that shows zeros too.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| rule.name.as_str())
    }
}
