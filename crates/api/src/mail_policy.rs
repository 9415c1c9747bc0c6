//! `MailPolicy`: whose mail, and where it is journaled to.
//!
//! The bounds let a namespace hold 10,000 policies with 100 patterns in each list, and keep one object under etcd's
//! limit of 1.5 MiB: at most 1000 rows, 1000 patterns a list, 320 characters a pattern.

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

/// Which mail is journaled where. Policies are tried in ascending order; for each recipient the first that matches
/// decides.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "tdc.dev",
    version = "v1alpha1",
    kind = "MailPolicy",
    plural = "mailpolicies",
    namespaced,
    status = "ObjectStatus",
    derive = "PartialEq",
    category = "tdc",
    shortname = "mpol",
    doc = "Which incoming mail is journaled, and to which IntakeAddress.",
    selectable = ".spec.journaling.mode",
    selectable = ".spec.journaling.intake",
    printcolumn(name = "Order", type_ = "integer", json_path = ".spec.order"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.journaling.mode"),
    printcolumn(name = "Intake", type_ = "string", json_path = ".spec.journaling.intake"),
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
#[serde(rename_all = "camelCase")]
pub struct MailPolicySpec {
    /// Policies are tried in ascending order; among equals the oldest comes first, then the first by name.
    /// -1000000000 to 1000000000. Default: 1000.
    #[serde(default = "default_order")]
    #[schemars(range(min = -1_000_000_000, max = 1_000_000_000))]
    pub order: i32,

    /// Whom the policy takes: any matching row selects it. At most 1000 rows. Default: no rows, which takes everyone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub users: Vec<UserRow>,

    /// Where the mail that it takes is journaled to.
    pub journaling: Journaling,
}

/// One row: a condition on the envelope sender, on the recipients, or on both.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.senders) || has(self.recipients)")
    .message("a row needs senders or recipients; to take everyone, leave users out"))]
#[serde(rename_all = "camelCase")]
pub struct UserRow {
    /// The envelope sender. Default: any sender. The null sender (of bounces) only matches rows without this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub senders: Option<Senders>,

    /// The accepted envelope recipients. Default: any recipient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipients: Option<Recipients>,

    /// All: both conditions must hold. Any: one suffices. Default: All.
    #[serde(default)]
    pub combine: Combine,
}

/// A condition on the envelope sender.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.anyOf) || has(self.noneOf)")
    .message("senders needs anyOf or noneOf; for any sender, leave senders out"))]
#[serde(rename_all = "camelCase")]
pub struct Senders {
    /// At least one must match. Patterns: user@example.com, user@, @example.com, @.example.com (sub-domains only);
    /// case does not matter. At most 1000. Default: none, which takes any sender but the null sender.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 2, max = 320), regex(pattern = syntax::PATTERN)))]
    pub any_of: Vec<String>,

    /// None may match. Patterns as in anyOf, at most 1000. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 2, max = 320), regex(pattern = syntax::PATTERN)))]
    pub none_of: Vec<String>,
}

/// A condition on the recipients.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.anyOf) || has(self.allOf) || has(self.noneOf)")
    .message("recipients needs anyOf, allOf or noneOf; for any recipient, leave recipients out"))]
#[serde(rename_all = "camelCase")]
pub struct Recipients {
    /// The recipient must match at least one. Patterns: user@example.com, user@, @example.com, @.example.com
    /// (sub-domains only); case does not matter. At most 1000. Default: none, which takes any recipient.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 2, max = 320), regex(pattern = syntax::PATTERN)))]
    pub any_of: Vec<String>,

    /// The message must be addressed to all of these: each must match some accepted recipient. Patterns as in anyOf,
    /// at most 1000. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 2, max = 320), regex(pattern = syntax::PATTERN)))]
    pub all_of: Vec<String>,

    /// A recipient that matches one of these is not taken by this row; a later row or policy may take it. Patterns as
    /// in anyOf, at most 1000. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 2, max = 320), regex(pattern = syntax::PATTERN)))]
    pub none_of: Vec<String>,
}

/// How the conditions of a row go together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Combine {
    /// Both must hold.
    #[default]
    All,
    /// One suffices.
    Any,
}

/// Where mail is journaled to.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("self.mode != 'Custom' || has(self.intake)")
        .message("mode Custom needs intake; name an IntakeAddress there, or use Global")
        .field_path(".mode"),
    validation = Rule::new("self.mode == 'Custom' || !has(self.intake)")
        .message("intake is only used with mode Custom; remove it, or set mode: Custom")
        .field_path(".intake")
)]
#[serde(rename_all = "camelCase")]
pub struct Journaling {
    /// Disabled: not journaled. Global: to the connector's defaultIntake. Custom: to intake.
    pub mode: JournalingMode,

    /// Name of an IntakeAddress in this namespace. Required with mode Custom, forbidden otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = syntax::rule(syntax::OBJECT_NAME))]
    pub intake: Option<String>,
}

/// See [`Journaling::mode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum JournalingMode {
    /// Not journaled.
    Disabled,
    /// To the connector's default intake.
    Global,
    /// To the intake that the policy names.
    Custom,
}

/// Behind the policies that state a small order, and before those that state a large one.
fn default_order() -> i32 {
    1000
}
