//! The policy table as plain data: what a snapshot carries from the policy service to ingress and to the workers.
//!
//! References are already resolved here (`Global` has become the name of the default intake, or an explanation why
//! it could not), so that every reader of a snapshot acts on the same table. `tdc-api` makes it from resources;
//! [`crate::evaluator::Evaluator`] makes it fast.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Mailbox;
use crate::pattern::Pattern;

/// One consistent version of everything that decides about copies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyTable {
    /// The settings that hold for all policies.
    pub connector: Connector,
    /// The intakes that can be used, by name, ascending.
    pub intakes: Vec<Intake>,
    /// The policies in the order in which they are tried.
    pub policies: Vec<Policy>,
}

impl PolicyTable {
    /// The intake of that name.
    pub fn intake(&self, name: &str) -> Option<&Intake> {
        self.intakes
            .binary_search_by(|intake| (*intake.name).cmp(name))
            .ok()
            .map(|at| &self.intakes[at])
    }
}

/// Which snapshot: the process that made it, and a number that grows there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SnapshotVersion {
    /// Identifies one run of one policy process.
    pub instance: Arc<str>,
    /// Grows by one with each new snapshot of that instance.
    pub sequence: u64,
}

impl fmt::Display for SnapshotVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.instance, self.sequence)
    }
}

/// Which object, at which generation: lets a reader say what it has applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ObjectRef {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.uid`; empty for objects read from files.
    pub uid: Arc<str>,
    /// `metadata.generation`; 0 for objects read from files.
    pub generation: i64,
}

/// `ThreatDefenseConnector`: the global settings. The default is what holds when there is no such object.
#[derive(Clone, Debug, PartialEq)]
pub struct Connector {
    /// The object that these settings come from; empty when there is none.
    pub object: ObjectRef,
    /// False: nothing is journaled, mail goes on.
    pub enabled: bool,
    /// What happens to recipients that no policy took.
    pub default_journaling: Journaling,
    /// What happens to mail whose copy cannot be made.
    pub failure_policy: FailurePolicy,
    /// How long a copy may wait and be tried, counted from acceptance.
    pub queue_lifetime: Duration,
    /// What is kept of a copy that could not be delivered.
    pub dead_letter: DeadLetter,
    /// The name of the header that tells the intake the address of the sending host; added to the copy only.
    pub sender_ip_header: Arc<str>,
    /// A message one of whose headers matches is relayed and not journaled.
    pub not_clean_headers: Vec<HeaderRule>,
}

/// 120 s: what the original grants a copy (technote 221899).
pub const DEFAULT_QUEUE_LIFETIME: Duration = Duration::from_secs(120);
/// A day: long enough to repair an intake and replay.
pub const DEFAULT_DEAD_LETTER_RETENTION: Duration = Duration::from_secs(24 * 3600);
/// The header that the threat-defense service looks for by default.
pub const DEFAULT_SENDER_IP_HEADER: &str = "X-IronPort-RemoteIP";

impl Default for Connector {
    fn default() -> Self {
        Self {
            object: ObjectRef::default(),
            enabled: true,
            default_journaling: Journaling::Disabled,
            failure_policy: FailurePolicy::Fail,
            queue_lifetime: DEFAULT_QUEUE_LIFETIME,
            dead_letter: DeadLetter {
                mode: DeadLetterMode::Drop,
                retention: DEFAULT_DEAD_LETTER_RETENTION,
            },
            sender_ip_header: DEFAULT_SENDER_IP_HEADER.into(),
            not_clean_headers: Vec::new(),
        }
    }
}

/// What to do with mail whose copy is due and cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailurePolicy {
    /// `451`: the sender keeps the message and tries again.
    Fail,
    /// The message goes on without a copy; that is counted and logged.
    Ignore,
}

/// What is kept of a copy that ended without delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Metadata only, or the body too.
    pub mode: DeadLetterMode,
    /// How long it is kept.
    pub retention: Duration,
}

/// See [`DeadLetter::mode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadLetterMode {
    /// Metadata only.
    Drop,
    /// The body stays, so that the copy can be replayed.
    Retain,
}

/// A header and what its value must look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderRule {
    /// The header's name, compared without case.
    pub name: Arc<str>,
    /// A regular expression (syntax of the `regex` crate), searched in the unfolded value without its leading space.
    pub pattern: Arc<str>,
}

/// `MailPolicy`: whom it takes, and where their mail is journaled to.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The object that it comes from.
    pub object: ObjectRef,
    /// `spec.order`; the table is already sorted.
    pub order: i32,
    /// Any matching row selects the policy; none at all takes everyone.
    pub rows: Vec<Row>,
    /// What happens to the recipients that it takes.
    pub journaling: Journaling,
}

/// Where mail is journaled to, with every reference resolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Journaling {
    /// Not journaled.
    Disabled,
    /// Journaled to the intake of this name.
    Intake(Arc<str>),
    /// It should be journaled, and the intake cannot be used: its mail follows [`FailurePolicy`].
    Unresolved(Arc<str>),
}

/// One row of a policy's users: a condition on the sender and one on the recipients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Absent: any sender, the null sender too.
    pub senders: Option<SenderCondition>,
    /// Absent: any recipient.
    pub recipients: Option<RecipientCondition>,
    /// How the two go together when both are present.
    pub combine: Combine,
    /// How many rows stand before it in the policy as it is written and are not here, because they cannot be read: for
    /// its number as a person counts it, see [`Row::number`].
    pub left_out: u32,
}

impl Row {
    /// Its number in the policy as it is written, from 0, when this is its place here.
    pub fn number(&self, place: usize) -> usize {
        place + self.left_out as usize
    }
}

/// Holds for a sender that `any_of` matches (or is empty) and `none_of` does not. Never for the null sender.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SenderCondition {
    /// At least one must match; empty: any sender.
    pub any_of: Vec<Pattern>,
    /// None may match.
    pub none_of: Vec<Pattern>,
}

/// Which recipients a row takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecipientCondition {
    /// The recipient must match at least one; empty: any recipient.
    pub any_of: Vec<Pattern>,
    /// The message must be addressed to all of these: for each, some accepted recipient matches.
    pub all_of: Vec<Pattern>,
    /// A recipient that one of these matches is not taken by this row, whatever `combine` says.
    pub none_of: Vec<Pattern>,
}

/// Whether both conditions of a [`Row`] must hold, or one suffices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Combine {
    /// Both.
    #[default]
    All,
    /// At least one of those that are present.
    Any,
}

/// `IntakeAddress`: where copies go, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intake {
    /// The object's name; queues, counters and copies are kept by it.
    pub name: Arc<str>,
    /// The object that it comes from.
    pub object: ObjectRef,
    /// The Message Intake Address.
    pub address: Mailbox,
    /// The format of a copy.
    pub format: Format,
    /// Where to connect; absent: the MX hosts of the address's domain.
    pub route: Option<Route>,
    /// What is asked of TLS.
    pub tls: IntakeTls,
    /// How many connections, and how many messages on each.
    pub connections: Connections,
    /// How often an attempt is repeated.
    pub retry: Retry,
}

/// The format in which a copy travels; see [`crate::journal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// An Exchange-style journal report around the original.
    JournalReport,
    /// The original with `X-CSE-*` headers before it.
    Raw,
}

/// A fixed host instead of an MX look-up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// A host name or an IP address.
    pub host: Arc<str>,
    /// A TCP port.
    pub port: u16,
}

/// What is asked of TLS on the way to an intake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntakeTls {
    /// Verified, merely encrypted, or in the clear.
    pub mode: TlsMode,
    /// The lowest version that is accepted.
    pub min_version: TlsVersion,
    /// The name that the certificate must carry; absent: the host that was connected to.
    pub server_name: Option<Arc<str>>,
    /// PEM certificates of the authorities to trust; empty: the system's.
    pub ca_bundle: Arc<str>,
}

/// See [`IntakeTls::mode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// STARTTLS, and the certificate must be valid for the name.
    Verify,
    /// STARTTLS, whatever the certificate.
    Encrypt,
    /// No TLS.
    None,
}

/// See [`IntakeTls::min_version`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    V1_2,
    /// TLS 1.3 (RFC 8446).
    V1_3,
}

/// Limits on the connections to one intake, for all workers together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// While copies wait, at least this many, but no more than there are copies.
    pub min: u32,
    /// Never more than this many.
    pub max: u32,
    /// A connection is closed after this many copies.
    pub messages_per_connection: u32,
}

/// How often an attempt is repeated, by what went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// After a 4xx reply, or 503 or 552.
    pub transient: u32,
    /// After a connection that was refused, reset or timed out, and after DNS trouble that may pass.
    pub network: u32,
    /// After TLS could not be negotiated.
    pub tls: u32,
}
