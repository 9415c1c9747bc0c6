//! What every object says about itself: conditions after the Kubernetes API conventions.
//!
//! The set of condition types and of reasons is closed, so that a script or an alert can rely on it.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::syntax;

/// The configuration is good enough to act on.
pub const ACCEPTED: &str = "Accepted";
/// Every object that it refers to exists and can be used.
pub const RESOLVED_REFS: &str = "ResolvedRefs";
/// Every policy replica, ingress and worker acts on this generation.
pub const PROGRAMMED: &str = "Programmed";
/// The intake's server answers, and its TLS is as asked: the last probe said so.
pub const REACHABLE: &str = "Reachable";

/// The status of each of the three kinds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    /// The generation that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,

    /// Accepted, ResolvedRefs, Programmed; on IntakeAddress also Reachable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// `metav1.Condition`, with the bounds that upstream gives it.
fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": { "type": "string", "maxLength": 316, "pattern": syntax::CONDITION_TYPE,
                    "description": "Accepted, ResolvedRefs, Programmed or Reachable." },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"],
                    "description": "Whether it holds." },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0,
                    "description": "The generation that this condition speaks of." },
                "lastTransitionTime": { "type": "string", "format": "date-time", "maxLength": 64,
                    "description": "When status last changed." },
                "reason": { "type": "string", "minLength": 1, "maxLength": 1024, "pattern": syntax::CONDITION_REASON,
                    "description": "Why, in one CamelCase word of a closed set." },
                "message": { "type": "string", "maxLength": 32768,
                    "description": "Why, for a person: what is wrong, where, and what to do." }
            }
        }
    })
}

/// Why a condition holds or not: the closed set of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// `Accepted`: the object is in use.
    Accepted,
    /// `ResolvedRefs`: every reference resolves, or there is none.
    ResolvedRefs,
    /// An older connector of the namespace counts, or another intake has the same name.
    Conflicted,
    /// An address pattern or a regular expression cannot be read.
    InvalidPattern,
    /// The intake's mailbox cannot be read.
    InvalidAddress,
    /// `caBundle` holds no certificate that can be used.
    InvalidCertificate,
    /// Another field has a value that cannot be used.
    InvalidValue,
    /// There is no intake of that name.
    IntakeNotFound,
    /// The intake of that name is not accepted itself.
    IntakeNotAccepted,
    /// Mode Global, and the connector names no default intake.
    DefaultIntakeNotSet,
    /// This version of the program cannot read the object.
    Unreadable,
    /// `Programmed`: every policy replica, ingress and worker acts on this generation.
    Programmed,
    /// Some policy replica, ingress or worker has not acknowledged this generation yet.
    Pending,
    /// An ingress or worker said that it cannot apply the table.
    Rejected,
    /// The object is not in use as it is written; see the other conditions.
    NotInUse,
    /// No policy replica can be asked who has what.
    PolicyUnavailable,
    /// `Reachable`: the intake answered, and its TLS is as asked.
    Reachable,
    /// The intake was not probed: it is not accepted, or the probe has not ended yet.
    NotProbed,
    /// The intake's name has no host: DNS says so, or does not answer.
    NotResolved,
    /// No connection to any host of the intake, or it broke.
    ConnectFailed,
    /// The intake's TLS is not what is asked: not offered, another version, a certificate that does not verify.
    TlsFailed,
    /// The intake's server does not want to talk to us.
    Refused,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::Accepted,
        Self::ResolvedRefs,
        Self::Conflicted,
        Self::InvalidPattern,
        Self::InvalidAddress,
        Self::InvalidCertificate,
        Self::InvalidValue,
        Self::IntakeNotFound,
        Self::IntakeNotAccepted,
        Self::DefaultIntakeNotSet,
        Self::Unreadable,
        Self::Programmed,
        Self::Pending,
        Self::Rejected,
        Self::NotInUse,
        Self::PolicyUnavailable,
        Self::Reachable,
        Self::NotProbed,
        Self::NotResolved,
        Self::ConnectFailed,
        Self::TlsFailed,
        Self::Refused,
    ];

    /// The CamelCase word that stands in the condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::Conflicted => "Conflicted",
            Self::InvalidPattern => "InvalidPattern",
            Self::InvalidAddress => "InvalidAddress",
            Self::InvalidCertificate => "InvalidCertificate",
            Self::InvalidValue => "InvalidValue",
            Self::IntakeNotFound => "IntakeNotFound",
            Self::IntakeNotAccepted => "IntakeNotAccepted",
            Self::DefaultIntakeNotSet => "DefaultIntakeNotSet",
            Self::Unreadable => "Unreadable",
            Self::Programmed => "Programmed",
            Self::Pending => "Pending",
            Self::Rejected => "Rejected",
            Self::NotInUse => "NotInUse",
            Self::PolicyUnavailable => "PolicyUnavailable",
            Self::Reachable => "Reachable",
            Self::NotProbed => "NotProbed",
            Self::NotResolved => "NotResolved",
            Self::ConnectFailed => "ConnectFailed",
            Self::TlsFailed => "TlsFailed",
            Self::Refused => "Refused",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
