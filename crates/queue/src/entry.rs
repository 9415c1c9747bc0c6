//! The queue's vocabulary: what is stored, what comes back, how an entry may end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The largest chunk of a body, in bytes: Redis answers others between two of them.
pub const MAX_CHUNK: usize = 1024 * 1024;
/// A claimed entry without a heartbeat for this long is taken over by another consumer.
pub const ABANDONED_AFTER: Duration = Duration::from_secs(15);
/// The most that is kept of a reply or an error text, in bytes.
pub const MAX_DETAIL: usize = 512;
/// A dead letter without a retention of its own stays for this long.
pub const DEAD_FOR: Duration = Duration::from_secs(24 * 3600);
/// How often a consumer says that it still works on its entries.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);

/// Names one entry: one copy of one message for one intake.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EntryKey {
    /// The intake's name.
    pub intake: Arc<str>,
    /// The delivery id: a ULID that stays the same through all attempts and travels as `X-TDC-Delivery-Id`.
    pub id: Arc<str>,
}

/// A `traceparent` as it is kept beside an entry: 55 characters, a later version's may be longer; what is no such text
/// is left out.
pub(crate) fn short(traceparent: &str) -> &str {
    if traceparent.len() <= 128 { traceparent } else { "" }
}

/// Cuts a text to [`MAX_DETAIL`] bytes, between two characters.
pub(crate) fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_DETAIL)]
}

impl EntryKey {
    /// A new entry for an intake, with an id that was never used.
    pub fn new(intake: impl Into<Arc<str>>) -> Self {
        Self {
            intake: intake.into(),
            id: ulid::Ulid::generate().to_string().into(),
        }
    }
}

/// What a worker must know of a message to make and deliver its copy.
///
/// Stored as JSON. A field that an older version did not write reads as its default, one that a newer version added is
/// passed over, so that two versions can share a queue during an upgrade.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EntryMeta {
    /// The message's id in the mail log.
    pub mid: u64,
    /// `MAIL FROM`; empty for the null sender.
    pub sender: String,
    /// The recipients that this copy lists.
    pub recipients: Vec<String>,
    /// The policies that journal it.
    pub policies: Vec<String>,
    /// The content of the `Message-ID` header, brackets included; empty when there is none.
    pub message_id: String,
    /// The address of the host that sent the message.
    pub client_ip: String,
    /// The body holds octets above 127 (`BODY=8BITMIME`).
    pub eight_bit: bool,
    /// The envelope or the headers need SMTPUTF8.
    pub smtputf8: bool,
    /// Name of the header that carries `client_ip` in the copy.
    pub sender_ip_header: String,
    /// W3C `traceparent` of the transaction; empty when it is not traced.
    pub traceparent: String,
    /// W3C `tracestate`.
    pub tracestate: String,
    /// When ingress took the message, Unix milliseconds by its own clock; for the log only.
    pub received_ms: u64,
}

/// An entry about to be prepared.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Its name.
    pub key: EntryKey,
    /// What the worker must know.
    pub meta: EntryMeta,
    /// Size of the body in bytes.
    pub size: u64,
    /// From commit on, how long it may wait and be tried.
    pub lifetime: Duration,
    /// From prepare on, how long until the sweeper commits it as in doubt.
    pub in_doubt_after: Duration,
    /// The body stays for `retention` when the entry ends undelivered (`deadLetter.mode: Retain`).
    pub retain: Option<Duration>,
}

/// What `complete`, `retry`, `release` and `heartbeat` need to find a claimed entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimRef {
    /// The entry.
    pub key: EntryKey,
    /// The implementation's own handle of this claim.
    pub token: Arc<str>,
}

/// An entry in a worker's hands.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// To answer with.
    pub claim: ClaimRef,
    /// What the worker must know.
    pub meta: EntryMeta,
    /// The body, in order.
    pub body: Vec<Bytes>,
    /// Attempts that came before and counted.
    pub attempts: u32,
    /// Time left of its lifetime when it was claimed.
    pub remaining: Duration,
    /// Time since it was committed.
    pub age: Duration,
    /// It was committed by the sweeper: ingress died before it could say whether the message was accepted.
    pub in_doubt: bool,
    /// An earlier attempt may have reached the intake (no answer to its final dot).
    pub possible_delivery: bool,
}

/// What a claim returns.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// The entries that are the consumer's now.
    pub entries: Vec<Claimed>,
    /// Entries that were found to be over their lifetime, and ended.
    pub expired: Vec<Expired>,
    /// More may be ready. When not, the queue rings for the next ones.
    pub more: bool,
}

/// An entry that the queue itself has ended because its lifetime was over: what the mail log needs of it.
///
/// `claim` and `sweep` end such entries, count them and hand each of these out exactly once, so that whoever gets it
/// logs it: also when no worker was there for longer than the entry lived, the first sweep afterwards tells of it. Its
/// size is bounded. When the answer is lost on its way the line is missing from the log; counter and dead letter stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The entry.
    pub key: EntryKey,
    /// The message's id in the mail log; 0 when it was never committed and its body was gone.
    pub mid: u64,
    /// How many recipients the copy would have listed.
    pub recipients: u32,
    /// Attempts that counted.
    pub attempts: u32,
    /// W3C `traceparent` of the transaction; empty when it is not traced.
    pub traceparent: String,
    /// It was committed by the sweeper: it is not known whether the original was accepted.
    pub in_doubt: bool,
    /// An earlier attempt may have reached the intake.
    pub possible_delivery: bool,
    /// Time since it was committed.
    pub age: Duration,
    /// Why the last attempt failed, at most [`MAX_DETAIL`] bytes; empty when there was none.
    pub detail: String,
}

/// How an entry ends. Each is a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The intake answered 2xx to the final dot.
    Delivered,
    /// It will not be tried again; the text goes to the dead letters.
    HardBounced {
        /// Which kind, a small closed set: `5xx`, `dns`, `tls`, `network`, `other`.
        class: &'static str,
        /// The intake's reply or the error, for the operator.
        detail: String,
    },
    /// No answer to the final dot, and no attempt left.
    PossibleDelivery {
        /// What happened instead of an answer.
        detail: String,
    },
    /// Its lifetime was over.
    Expired,
}

impl End {
    /// The name of its counter.
    pub fn counter(&self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::HardBounced { .. } => "hard_bounced",
            Self::PossibleDelivery { .. } => "possible_delivery",
            Self::Expired => "expired",
        }
    }

    /// The class and the text that go to the dead letters.
    pub(crate) fn reason(&self) -> (&str, &str) {
        match self {
            Self::Delivered | Self::Expired => ("", ""),
            Self::HardBounced { class, detail } => (class, bounded(detail)),
            Self::PossibleDelivery { detail } => ("", bounded(detail)),
        }
    }
}

/// Why an entry is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetryReason {
    /// The attempt failed before the final dot could have been taken.
    SoftBounce(String),
    /// The final dot was sent and not answered.
    NoAnswer(String),
}

impl RetryReason {
    /// The text, and whether the attempt may have reached the intake.
    pub(crate) fn parts(&self) -> (&str, bool) {
        match self {
            Self::SoftBounce(text) => (bounded(text), false),
            Self::NoAnswer(text) => (bounded(text), true),
        }
    }
}

/// What one round of housekeeping did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Retries made ready.
    pub promoted: u64,
    /// In-doubt entries committed.
    pub committed_in_doubt: u64,
    /// Entries ended because their lifetime was over, each told of once.
    pub expired: Vec<Expired>,
}

/// One intake's state. Gauges first, then counters, which only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Ready, not claimed.
    pub ready: u64,
    /// Claimed.
    pub in_flight: u64,
    /// Waiting for a retry.
    pub retrying: u64,
    /// Prepared, not yet committed.
    pub prepared: u64,
    /// Age of the oldest committed entry.
    pub oldest: Duration,
    /// Recipients of committed entries that have not ended (AsyncOS: active recipients; one for each copy).
    pub active_recipients: u64,
    /// Entries ever committed.
    pub committed: u64,
    /// Of these, committed by the sweeper.
    pub in_doubt: u64,
    /// Ended delivered.
    pub delivered: u64,
    /// Ended with a hard bounce.
    pub hard_bounced: u64,
    /// Ended without an answer to the final dot.
    pub possible_delivery: u64,
    /// Ended because their lifetime was over.
    pub expired: u64,
    /// Attempts that failed and were repeated.
    pub soft_bounced: u64,
    /// Entries forgotten before commit.
    pub aborted: u64,
    /// Of `hard_bounced`, how many of each kind.
    pub hard: HardBounces,
    /// Of `committed`, dead letters that were put back.
    pub replayed: u64,
    /// Dead letters removed by an operator.
    pub purged: u64,
}

/// Hard bounces by the class of their [`End::HardBounced`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardBounces {
    /// `5xx`: the intake refused for good.
    pub reply: u64,
    /// `dns`: there is no such host.
    pub dns: u64,
    /// `tls`.
    pub tls: u64,
    /// `network`: the last attempt failed below SMTP.
    pub network: u64,
    /// Any other.
    pub other: u64,
}

impl HardBounces {
    /// The count of a class.
    pub(crate) fn of(&mut self, class: &str) -> &mut u64 {
        match class {
            "5xx" => &mut self.reply,
            "dns" => &mut self.dns,
            "tls" => &mut self.tls,
            "network" => &mut self.network,
            _ => &mut self.other,
        }
    }
}

/// What became of a dead letter that should be put back into the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// It is in the queue again.
    Done,
    /// Its body was not retained, or not so long; it stays as it is.
    NoBody,
    /// There is no such dead letter (any more): it was replayed and has ended, was purged, or its time is over.
    Gone,
}

/// What stays of an entry that ended undelivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The entry.
    pub key: EntryKey,
    /// Its place among the dead letters of its intake, the implementation's own. An entry that was replayed and ended
    /// again is another dead letter, at another place.
    pub place: Arc<str>,
    /// How it ended: `hard_bounced`, `possible_delivery` or `expired`.
    pub end: String,
    /// Which kind of hard bounce; empty for other ends.
    pub class: String,
    /// The intake's last reply or the last error, at most [`MAX_DETAIL`] bytes.
    pub detail: String,
    /// Attempts that counted.
    pub attempts: u32,
    /// Size of the body in bytes.
    pub size: u64,
    /// When it ended, Unix milliseconds by the queue's clock.
    pub ended_ms: u64,
    /// How long the body is kept from then on, if it is.
    pub retain: Option<Duration>,
    /// What a worker had to know of it; `None` when that was gone before the entry was ended.
    pub meta: Option<EntryMeta>,
}

/// The kinds of ids in the mail log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Series {
    /// Injection connections.
    Icid,
    /// Messages.
    Mid,
    /// Delivery connections.
    Dcid,
}

/// Why the queue did not do it.
#[derive(Clone, Debug, Error)]
pub enum QueueError {
    /// It cannot be reached, or did not answer in time. Whether the step was done is unknown; steps may be repeated.
    #[error("the queue does not answer: {0}")]
    Unavailable(String),
    /// It has no room.
    #[error("the queue is full: {0}")]
    Full(String),
    /// The entry does not exist (any more).
    #[error("no such entry: {0}")]
    Unknown(String),
    /// It is configured in a way that would lose copies.
    #[error("{0}")]
    Unsafe(String),
    /// What came back is not what this version writes.
    #[error("the queue holds something unreadable: {0}")]
    Corrupt(String),
}
