//! `ThreatDefenseConnector`: the settings that hold for all policies of a namespace.
//!
//! Every field has a default, and the defaults here, in the schema and in `tdc_core::policy::Connector` are the same
//! (a test says so): a namespace without this object behaves like one with an empty `spec`.

#![expect(
    unreachable_pub,
    reason = "KubeSchema puts a copy of each `pub struct` into a function"
)]
#![expect(
    clippy::duplicated_attributes,
    reason = "each `printcolumn` has a type and a path of its own"
)]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::status::ObjectStatus;
use crate::syntax;

/// The global settings. One a namespace counts, the oldest; others are Accepted=False with reason Conflicted.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "tdc.dev",
    version = "v1alpha1",
    kind = "ThreatDefenseConnector",
    namespaced,
    status = "ObjectStatus",
    derive = "PartialEq",
    category = "tdc",
    shortname = "tdconn",
    doc = "Global settings of the Threat Defense Connector in this namespace. The oldest object counts.",
    selectable = ".spec.defaultIntake",
    printcolumn(name = "Enabled", type_ = "boolean", json_path = ".spec.enabled"),
    printcolumn(name = "Intake", type_ = "string", json_path = ".spec.defaultIntake"),
    printcolumn(name = "Failure", type_ = "string", json_path = ".spec.failurePolicy"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#
    ),
    printcolumn(
        name = "Accepted-Reason",
        type_ = "string",
        priority = 1,
        json_path = r#".status.conditions[?(@.type=="Accepted")].reason"#
    ),
    printcolumn(
        name = "Refs-Reason",
        type_ = "string",
        priority = 1,
        json_path = r#".status.conditions[?(@.type=="ResolvedRefs")].reason"#
    ),
    printcolumn(
        name = "Programmed-Reason",
        type_ = "string",
        priority = 1,
        json_path = r#".status.conditions[?(@.type=="Programmed")].reason"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("self.defaultJournaling != 'Global' || has(self.defaultIntake)")
        .message("defaultJournaling Global needs defaultIntake; name an IntakeAddress there, or use Disabled")
        .field_path(".defaultJournaling")
)]
#[serde(rename_all = "camelCase")]
pub struct ThreatDefenseConnectorSpec {
    /// False stops all journaling at once: mail goes on, nothing is copied. Default: true.
    #[serde(default = "yes")]
    pub enabled: bool,

    /// Name of the IntakeAddress, in this namespace, that policies with journaling mode Global use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = syntax::rule(syntax::OBJECT_NAME))]
    pub default_intake: Option<String>,

    /// The last row of the policy table: what happens to recipients that no MailPolicy takes. Global journals them
    /// to defaultIntake. Default: Disabled.
    #[serde(default)]
    pub default_journaling: DefaultJournaling,

    /// What happens to mail whose copy is due and cannot be made. Fail: its sender gets 451 and keeps the message;
    /// Ignore: it is relayed without a copy, counted and logged. Default: Fail.
    #[serde(default)]
    pub failure_policy: FailurePolicy,

    /// How long a copy may wait and be tried, counted from the acceptance of its message. Default: 120s, bounds: 1s
    /// to 24h.
    #[serde(default = "queue_lifetime")]
    #[schemars(length(min = 2, max = 28))]
    #[x_kube(validation = syntax::duration_rule(24))]
    pub queue_lifetime: String,

    /// What is kept of a copy that could not be delivered.
    #[serde(default)]
    pub dead_letter: DeadLetter,

    /// Name of the header that tells the intake the IP address of the sending host. It is added to the copy, never
    /// to the original. Default: X-IronPort-RemoteIP.
    #[serde(default = "sender_ip_header")]
    #[schemars(length(min = 1, max = 76))]
    #[x_kube(validation = syntax::rule(syntax::HEADER_NAME))]
    pub sender_ip_header: String,

    /// Which messages count as clean. Only clean messages are journaled.
    #[serde(default)]
    pub clean: Clean,
}

/// What happens to recipients that no policy takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DefaultJournaling {
    /// They are not journaled.
    #[default]
    Disabled,
    /// They are journaled to the default intake.
    Global,
}

/// What happens to mail whose copy is due and cannot be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailurePolicy {
    /// 451: the sender keeps the message and tries again.
    #[default]
    Fail,
    /// The message goes on without a copy; that is counted and logged.
    Ignore,
}

/// What is kept of a copy that could not be delivered.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// Drop keeps the metadata only; Retain keeps the body too, so that the copy can be replayed. Default: Drop.
    #[serde(default)]
    pub mode: DeadLetterMode,

    /// How long it is kept. Default: 24h, bounds: 1s to 720h.
    #[serde(default = "retention")]
    #[schemars(length(min = 2, max = 28))]
    #[x_kube(validation = syntax::duration_rule(720))]
    pub retention: String,
}

/// See [`DeadLetter::mode`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeadLetterMode {
    /// Metadata only.
    #[default]
    Drop,
    /// The body stays, so that the copy can be replayed.
    Retain,
}

/// Which messages count as clean.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Clean {
    /// A message with a header that matches one of these is relayed and not journaled. At most 64 rules. Default:
    /// none, so that every message counts as clean.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub not_clean_headers: Vec<HeaderRule>,
}

/// A header, and what its value looks like in a message that is not clean.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderRule {
    /// The header's name, compared without case.
    #[schemars(length(min = 1, max = 76))]
    #[x_kube(validation = syntax::rule(syntax::HEADER_NAME))]
    pub name: String,

    /// A regular expression (RE2 syntax), searched in the header's unfolded value. Case matters unless it starts
    /// with (?i). Write ^ and $ to match the whole value.
    #[schemars(length(min = 1, max = 1024))]
    pub pattern: String,
}

fn yes() -> bool {
    true
}

fn queue_lifetime() -> String {
    "120s".into()
}

fn retention() -> String {
    "24h".into()
}

fn sender_ip_header() -> String {
    tdc_core::policy::DEFAULT_SENDER_IP_HEADER.into()
}

impl Default for DeadLetter {
    fn default() -> Self {
        Self {
            mode: DeadLetterMode::default(),
            retention: retention(),
        }
    }
}
