//! `IntakeAddress`: where copies go, in which format, and how they are delivered.

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

/// A Message Intake Address of a threat-defense service, and the way to it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "tdc.dev",
    version = "v1alpha1",
    kind = "IntakeAddress",
    plural = "intakeaddresses",
    namespaced,
    status = "ObjectStatus",
    derive = "PartialEq",
    category = "tdc",
    shortname = "intake",
    doc = "A Message Intake Address: where copies of mail go, in which format, and how they are delivered.",
    selectable = ".spec.address",
    selectable = ".spec.format",
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.address"),
    printcolumn(name = "Format", type_ = "string", json_path = ".spec.format"),
    printcolumn(
        name = "Reachable",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Reachable")].status"#
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
        name = "Reachable-Reason",
        type_ = "string",
        priority = 1,
        json_path = r#".status.conditions[?(@.type=="Reachable")].reason"#
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
pub struct IntakeAddressSpec {
    /// The mailbox that copies are sent to, as the threat-defense service shows it, for example
    /// b5986efe-374c-47a5-aade-b8d98847e1a6@intake.example. It never appears in an original message.
    #[schemars(length(min = 3, max = 254))]
    #[x_kube(validation = syntax::rule(syntax::MAILBOX))]
    pub address: String,

    /// JournalReport: an Exchange-style journal report with the original attached byte for byte. Raw: the original
    /// with X-CSE-* headers before it. Default: JournalReport.
    #[serde(default)]
    pub format: Format,

    /// A fixed host to deliver to. Default: the MX hosts of the address's domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,

    /// What is asked of TLS on the way to the intake.
    #[serde(default)]
    pub tls: Tls,

    /// How many connections to the intake, counted over all workers.
    #[serde(default)]
    pub connections: Connections,

    /// How often an attempt is repeated, by what went wrong.
    #[serde(default)]
    pub retry: Retry,
}

/// The format in which a copy travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Format {
    /// An Exchange-style journal report around the original.
    #[default]
    JournalReport,
    /// The original with `X-CSE-*` headers before it.
    Raw,
}

/// A fixed host instead of an MX look-up.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// A host name or an IP address (IPv6 without brackets).
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = syntax::rule(syntax::HOST))]
    pub host: String,

    /// A TCP port, 1 to 65535. Default: 25.
    #[serde(default = "smtp_port")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,
}

/// What is asked of TLS on the way to an intake.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("self.mode == 'Verify' || !has(self.serverName) || size(self.serverName) == 0")
        .message("serverName is only used with mode Verify; remove it, or set mode: Verify")
        .field_path(".serverName"),
    validation = Rule::new("self.mode == 'Verify' || !has(self.caBundle) || size(self.caBundle) == 0")
        .message("caBundle is only used with mode Verify; remove it, or set mode: Verify")
        .field_path(".caBundle")
)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Verify: STARTTLS, and the certificate must be valid for the server's name. Encrypt: STARTTLS with any
    /// certificate. None: no TLS; the copy travels in the clear. Default: Verify.
    #[serde(default)]
    pub mode: TlsMode,

    /// The lowest TLS version that is accepted, "1.2" or "1.3" (with quotes). Default: "1.2".
    #[serde(default)]
    pub min_version: TlsVersion,

    /// The name that the certificate must carry. Only with mode Verify. Default: the host that was connected to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = syntax::rule(syntax::HOST_OR_EMPTY))]
    pub server_name: Option<String>,

    /// PEM certificates of the authorities to trust instead of the system's, at most 256 KiB. Only with mode Verify.
    /// Default: the system's authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 262_144))]
    pub ca_bundle: Option<String>,
}

/// See [`Tls::mode`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// STARTTLS, and the certificate must be valid for the name.
    #[default]
    Verify,
    /// STARTTLS, whatever the certificate.
    Encrypt,
    /// No TLS.
    None,
}

/// See [`Tls::min_version`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V1_3,
}

/// Limits on the connections to an intake, for all workers together.
#[derive(KubeSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("self.min <= self.max")
    .message("min must not be greater than max; lower min or raise max")
    .field_path(".min"))]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// While copies wait, at least this many connections, but no more than there are copies; 1 to 1000. Default: 3.
    #[serde(default = "min_connections")]
    #[schemars(range(min = 1, max = 1000))]
    pub min: i32,

    /// Never more than this many connections; 1 to 1000. Default: 50.
    #[serde(default = "max_connections")]
    #[schemars(range(min = 1, max = 1000))]
    pub max: i32,

    /// A connection is closed after this many copies; 1 to 10000. Default: 10.
    #[serde(default = "messages_per_connection")]
    #[schemars(range(min = 1, max = 10_000))]
    pub messages_per_connection: i32,
}

/// How often an attempt is repeated, by what went wrong. The lifetime of a copy ends all repetition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// After a 4xx reply, or 503 or 552; 0 to 10. Default: 1.
    #[serde(default = "once")]
    #[schemars(range(min = 0, max = 10))]
    pub transient: i32,

    /// After a connection that was refused, reset or timed out, and after DNS trouble that may pass; 0 to 10.
    /// Default: 1.
    #[serde(default = "once")]
    #[schemars(range(min = 0, max = 10))]
    pub network: i32,

    /// After TLS could not be negotiated; 0 to 10. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10))]
    pub tls: i32,
}

fn smtp_port() -> i32 {
    25
}

fn min_connections() -> i32 {
    3
}

fn max_connections() -> i32 {
    50
}

fn messages_per_connection() -> i32 {
    10
}

fn once() -> i32 {
    1
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            min: min_connections(),
            max: max_connections(),
            messages_per_connection: messages_per_connection(),
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            transient: once(),
            network: once(),
            tls: 0,
        }
    }
}
