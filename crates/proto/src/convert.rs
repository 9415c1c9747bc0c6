//! Between the generated types and `tdc-core`.
//!
//! Writing never fails. Reading is strict: a value that this version does not know makes the whole message unusable
//! (the watcher then rejects the snapshot and keeps the one it has), because acting on half a table could journal
//! mail that nobody asked for, or lose a copy.

use std::sync::Arc;
use std::time::Duration;

use tdc_core::evaluator::{CopyPlan, Decision, RecipientVerdict};
use tdc_core::pattern::Pattern;
use tdc_core::policy as core;
use tdc_core::{Envelope, Mailbox, ReversePath};
use thiserror::Error;

use crate::v1;

/// A message that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {problem}")]
pub struct ConvertError {
    /// Which field, as a path.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

fn error(field: &str, problem: impl Into<String>) -> ConvertError {
    ConvertError {
        field: field.to_owned(),
        problem: problem.into(),
    }
}

fn required<T>(value: Option<T>, field: &str) -> Result<T, ConvertError> {
    value.ok_or_else(|| error(field, "is missing"))
}

fn unknown(field: &str, value: i32) -> ConvertError {
    error(
        field,
        format!("has the unknown value {value}; the sender is newer than this process"),
    )
}

// ---- Evaluate ----

impl From<&Envelope> for v1::Envelope {
    fn from(envelope: &Envelope) -> Self {
        Self {
            sender: envelope.sender.as_str().to_owned(),
            recipients: envelope
                .recipients
                .iter()
                .map(|r| r.as_str().to_owned())
                .collect(),
        }
    }
}

impl From<v1::Envelope> for Envelope {
    fn from(envelope: v1::Envelope) -> Self {
        Self {
            sender: ReversePath::new(&envelope.sender),
            recipients: envelope.recipients.into_iter().map(Mailbox::new).collect(),
        }
    }
}

impl From<&Decision> for v1::Decision {
    fn from(decision: &Decision) -> Self {
        let recipient = |verdict: &RecipientVerdict| v1::RecipientVerdict {
            policy: verdict.policy.as_ref().map(|name| name.to_string()),
            row: verdict.row.map(|row| row as u32),
            journaling: Some((&verdict.journaling).into()),
        };
        let copy = |plan: &CopyPlan| v1::CopyPlan {
            intake: plan.intake.to_string(),
            policies: plan.policies.iter().map(|name| name.to_string()).collect(),
            recipients: plan.recipients.iter().map(|at| *at as u32).collect(),
        };
        Self {
            recipients: decision.recipients.iter().map(recipient).collect(),
            copies: decision.copies.iter().map(copy).collect(),
        }
    }
}

impl TryFrom<v1::Decision> for Decision {
    type Error = ConvertError;

    fn try_from(decision: v1::Decision) -> Result<Self, ConvertError> {
        let count = decision.recipients.len();
        let recipient = |verdict: v1::RecipientVerdict| {
            Ok(RecipientVerdict {
                policy: verdict.policy.map(Arc::from),
                row: verdict.row.map(|row| row as usize),
                journaling: journaling(verdict.journaling, "recipients.journaling")?,
            })
        };
        let copy = |plan: v1::CopyPlan| {
            if plan.recipients.iter().any(|at| *at as usize >= count) {
                return Err(error(
                    "copies.recipients",
                    "names a recipient that is not in the envelope",
                ));
            }
            Ok(CopyPlan {
                intake: plan.intake.into(),
                policies: plan.policies.into_iter().map(Arc::from).collect(),
                recipients: plan.recipients.into_iter().map(|at| at as usize).collect(),
            })
        };
        Ok(Self {
            recipients: decision
                .recipients
                .into_iter()
                .map(recipient)
                .collect::<Result<_, _>>()?,
            copies: decision.copies.into_iter().map(copy).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&core::Journaling> for v1::Journaling {
    fn from(journaling: &core::Journaling) -> Self {
        use v1::journaling::To;
        let to = match journaling {
            core::Journaling::Disabled => To::Disabled(v1::journaling::Disabled {}),
            core::Journaling::Intake(name) => To::Intake(name.to_string()),
            core::Journaling::Unresolved(why) => To::Unresolved(why.to_string()),
        };
        Self { to: Some(to) }
    }
}

fn journaling(value: Option<v1::Journaling>, field: &str) -> Result<core::Journaling, ConvertError> {
    use v1::journaling::To;
    match required(value.and_then(|journaling| journaling.to), field)? {
        To::Disabled(_) => Ok(core::Journaling::Disabled),
        To::Intake(name) => Ok(core::Journaling::Intake(name.into())),
        To::Unresolved(why) => Ok(core::Journaling::Unresolved(why.into())),
    }
}

// ---- Snapshot ----

impl From<&core::SnapshotVersion> for v1::SnapshotVersion {
    fn from(version: &core::SnapshotVersion) -> Self {
        Self {
            instance: version.instance.to_string(),
            sequence: version.sequence,
        }
    }
}

impl From<v1::SnapshotVersion> for core::SnapshotVersion {
    fn from(version: v1::SnapshotVersion) -> Self {
        Self {
            instance: version.instance.into(),
            sequence: version.sequence,
        }
    }
}

/// Writes a snapshot.
pub fn snapshot_to_proto(version: &core::SnapshotVersion, table: &core::PolicyTable) -> v1::Snapshot {
    v1::Snapshot {
        version: Some(version.into()),
        connector: Some((&table.connector).into()),
        intakes: table.intakes.iter().map(Into::into).collect(),
        policies: table.policies.iter().map(Into::into).collect(),
    }
}

/// Reads a snapshot.
///
/// # Errors
/// When a field is missing, or has a value that this version does not know.
pub fn snapshot_from_proto(
    snapshot: v1::Snapshot,
) -> Result<(core::SnapshotVersion, core::PolicyTable), ConvertError> {
    let version = required(snapshot.version, "version")?.into();
    let mut intakes = snapshot
        .intakes
        .into_iter()
        .map(intake)
        .collect::<Result<Vec<core::Intake>, ConvertError>>()?;
    intakes.sort_by(|a, b| a.name.cmp(&b.name));
    let table = core::PolicyTable {
        connector: connector(required(snapshot.connector, "connector")?)?,
        intakes,
        policies: snapshot
            .policies
            .into_iter()
            .map(policy)
            .collect::<Result<_, _>>()?,
    };
    Ok((version, table))
}

impl From<&core::ObjectRef> for v1::ObjectRef {
    fn from(object: &core::ObjectRef) -> Self {
        Self {
            name: object.name.to_string(),
            uid: object.uid.to_string(),
            generation: object.generation,
        }
    }
}

fn object(value: Option<v1::ObjectRef>) -> core::ObjectRef {
    let value = value.unwrap_or_default();
    core::ObjectRef {
        name: value.name.into(),
        uid: value.uid.into(),
        generation: value.generation,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<&core::Connector> for v1::Connector {
    fn from(connector: &core::Connector) -> Self {
        let failure_policy = match connector.failure_policy {
            core::FailurePolicy::Fail => v1::FailurePolicy::Fail,
            core::FailurePolicy::Ignore => v1::FailurePolicy::Ignore,
        };
        let dead_letter_mode = match connector.dead_letter.mode {
            core::DeadLetterMode::Drop => v1::DeadLetterMode::Drop,
            core::DeadLetterMode::Retain => v1::DeadLetterMode::Retain,
        };
        let rule = |rule: &core::HeaderRule| v1::HeaderRule {
            name: rule.name.to_string(),
            pattern: rule.pattern.to_string(),
        };
        Self {
            object: Some((&connector.object).into()),
            enabled: connector.enabled,
            default_journaling: Some((&connector.default_journaling).into()),
            failure_policy: failure_policy.into(),
            queue_lifetime_ms: millis(connector.queue_lifetime),
            dead_letter_mode: dead_letter_mode.into(),
            dead_letter_retention_ms: millis(connector.dead_letter.retention),
            sender_ip_header: connector.sender_ip_header.to_string(),
            not_clean_headers: connector.not_clean_headers.iter().map(rule).collect(),
        }
    }
}

fn connector(connector: v1::Connector) -> Result<core::Connector, ConvertError> {
    let failure_policy = match connector.failure_policy() {
        v1::FailurePolicy::Fail => core::FailurePolicy::Fail,
        v1::FailurePolicy::Ignore => core::FailurePolicy::Ignore,
        v1::FailurePolicy::Unspecified => {
            return Err(unknown("connector.failure_policy", connector.failure_policy));
        }
    };
    let mode = match connector.dead_letter_mode() {
        v1::DeadLetterMode::Drop => core::DeadLetterMode::Drop,
        v1::DeadLetterMode::Retain => core::DeadLetterMode::Retain,
        v1::DeadLetterMode::Unspecified => {
            return Err(unknown("connector.dead_letter_mode", connector.dead_letter_mode));
        }
    };
    let rule = |rule: v1::HeaderRule| core::HeaderRule {
        name: rule.name.into(),
        pattern: rule.pattern.into(),
    };
    Ok(core::Connector {
        object: object(connector.object),
        enabled: connector.enabled,
        default_journaling: journaling(connector.default_journaling, "connector.default_journaling")?,
        failure_policy,
        queue_lifetime: Duration::from_millis(connector.queue_lifetime_ms),
        dead_letter: core::DeadLetter {
            mode,
            retention: Duration::from_millis(connector.dead_letter_retention_ms),
        },
        sender_ip_header: connector.sender_ip_header.into(),
        not_clean_headers: connector.not_clean_headers.into_iter().map(rule).collect(),
    })
}

fn texts(patterns: &[Pattern]) -> Vec<String> {
    patterns.iter().map(ToString::to_string).collect()
}

fn patterns(texts: &[String], field: &str) -> Result<Vec<Pattern>, ConvertError> {
    texts
        .iter()
        .map(|text| Pattern::parse(text).map_err(|e| error(field, e.to_string())))
        .collect()
}

impl From<&core::Policy> for v1::Policy {
    fn from(policy: &core::Policy) -> Self {
        let row = |row: &core::Row| v1::Row {
            senders: row.senders.as_ref().map(|condition| v1::SenderCondition {
                any_of: texts(&condition.any_of),
                none_of: texts(&condition.none_of),
            }),
            recipients: row.recipients.as_ref().map(|condition| v1::RecipientCondition {
                any_of: texts(&condition.any_of),
                all_of: texts(&condition.all_of),
                none_of: texts(&condition.none_of),
            }),
            combine: match row.combine {
                core::Combine::All => v1::Combine::All.into(),
                core::Combine::Any => v1::Combine::Any.into(),
            },
        };
        Self {
            object: Some((&policy.object).into()),
            order: policy.order,
            rows: policy.rows.iter().map(row).collect(),
            journaling: Some((&policy.journaling).into()),
        }
    }
}

fn policy(policy: v1::Policy) -> Result<core::Policy, ConvertError> {
    Ok(core::Policy {
        object: object(policy.object),
        order: policy.order,
        rows: policy.rows.into_iter().map(row).collect::<Result<_, _>>()?,
        journaling: journaling(policy.journaling, "policies.journaling")?,
    })
}

fn row(row: v1::Row) -> Result<core::Row, ConvertError> {
    let combine = match row.combine() {
        v1::Combine::All => core::Combine::All,
        v1::Combine::Any => core::Combine::Any,
        v1::Combine::Unspecified => return Err(unknown("policies.rows.combine", row.combine)),
    };
    let senders = |condition: v1::SenderCondition| {
        Ok(core::SenderCondition {
            any_of: patterns(&condition.any_of, "policies.rows.senders.any_of")?,
            none_of: patterns(&condition.none_of, "policies.rows.senders.none_of")?,
        })
    };
    let recipients = |condition: v1::RecipientCondition| {
        Ok(core::RecipientCondition {
            any_of: patterns(&condition.any_of, "policies.rows.recipients.any_of")?,
            all_of: patterns(&condition.all_of, "policies.rows.recipients.all_of")?,
            none_of: patterns(&condition.none_of, "policies.rows.recipients.none_of")?,
        })
    };
    Ok(core::Row {
        senders: row.senders.map(senders).transpose()?,
        recipients: row.recipients.map(recipients).transpose()?,
        combine,
    })
}

impl From<&core::Intake> for v1::Intake {
    fn from(intake: &core::Intake) -> Self {
        let format = match intake.format {
            core::Format::JournalReport => v1::Format::JournalReport,
            core::Format::Raw => v1::Format::Raw,
        };
        let mode = match intake.tls.mode {
            core::TlsMode::Verify => v1::TlsMode::Verify,
            core::TlsMode::Encrypt => v1::TlsMode::Encrypt,
            core::TlsMode::None => v1::TlsMode::None,
        };
        let min_version = match intake.tls.min_version {
            core::TlsVersion::V1_2 => v1::TlsVersion::TlsVersion12,
            core::TlsVersion::V1_3 => v1::TlsVersion::TlsVersion13,
        };
        Self {
            object: Some((&intake.object).into()),
            name: intake.name.to_string(),
            address: intake.address.as_str().to_owned(),
            format: format.into(),
            route: intake.route.as_ref().map(|route| v1::Route {
                host: route.host.to_string(),
                port: u32::from(route.port),
            }),
            tls: Some(v1::IntakeTls {
                mode: mode.into(),
                min_version: min_version.into(),
                server_name: intake.tls.server_name.as_ref().map(|name| name.to_string()),
                ca_bundle: intake.tls.ca_bundle.to_string(),
            }),
            connections: Some(v1::Connections {
                min: intake.connections.min,
                max: intake.connections.max,
                messages_per_connection: intake.connections.messages_per_connection,
            }),
            retry: Some(v1::Retry {
                transient: intake.retry.transient,
                network: intake.retry.network,
                tls: intake.retry.tls,
            }),
        }
    }
}

fn intake(intake: v1::Intake) -> Result<core::Intake, ConvertError> {
    let format = match intake.format() {
        v1::Format::JournalReport => core::Format::JournalReport,
        v1::Format::Raw => core::Format::Raw,
        v1::Format::Unspecified => return Err(unknown("intakes.format", intake.format)),
    };
    let route = |route: v1::Route| {
        let port = u16::try_from(route.port).map_err(|_| error("intakes.route.port", "is no TCP port"))?;
        Ok(core::Route {
            host: route.host.into(),
            port,
        })
    };
    let connections = required(intake.connections, "intakes.connections")?;
    let retry = required(intake.retry, "intakes.retry")?;
    Ok(core::Intake {
        name: intake.name.into(),
        object: object(intake.object),
        address: Mailbox::new(intake.address),
        format,
        route: intake.route.map(route).transpose()?,
        tls: tls(required(intake.tls, "intakes.tls")?)?,
        connections: core::Connections {
            min: connections.min,
            max: connections.max,
            messages_per_connection: connections.messages_per_connection,
        },
        retry: core::Retry {
            transient: retry.transient,
            network: retry.network,
            tls: retry.tls,
        },
    })
}

fn tls(tls: v1::IntakeTls) -> Result<core::IntakeTls, ConvertError> {
    let mode = match tls.mode() {
        v1::TlsMode::Verify => core::TlsMode::Verify,
        v1::TlsMode::Encrypt => core::TlsMode::Encrypt,
        v1::TlsMode::None => core::TlsMode::None,
        v1::TlsMode::Unspecified => return Err(unknown("intakes.tls.mode", tls.mode)),
    };
    let min_version = match tls.min_version() {
        v1::TlsVersion::TlsVersion12 => core::TlsVersion::V1_2,
        v1::TlsVersion::TlsVersion13 => core::TlsVersion::V1_3,
        v1::TlsVersion::Unspecified => return Err(unknown("intakes.tls.min_version", tls.min_version)),
    };
    Ok(core::IntakeTls {
        mode,
        min_version,
        server_name: tls.server_name.map(Arc::from),
        ca_bundle: tls.ca_bundle.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> core::PolicyTable {
        let pattern = |text: &str| Pattern::parse(text).unwrap();
        let object = |name: &str| core::ObjectRef {
            name: name.into(),
            uid: "u-1".into(),
            generation: 7,
        };
        core::PolicyTable {
            connector: core::Connector {
                object: object("default"),
                enabled: false,
                default_journaling: core::Journaling::Intake("a".into()),
                failure_policy: core::FailurePolicy::Ignore,
                queue_lifetime: Duration::from_millis(1500),
                dead_letter: core::DeadLetter {
                    mode: core::DeadLetterMode::Retain,
                    retention: Duration::from_secs(60),
                },
                sender_ip_header: "X-Ip".into(),
                not_clean_headers: vec![core::HeaderRule {
                    name: "X-Spam".into(),
                    pattern: "^y".into(),
                }],
            },
            intakes: vec![core::Intake {
                name: "a".into(),
                object: object("a"),
                address: Mailbox::new("x@intake.example"),
                format: core::Format::Raw,
                route: Some(core::Route {
                    host: "mx.example".into(),
                    port: 2525,
                }),
                tls: core::IntakeTls {
                    mode: core::TlsMode::Encrypt,
                    min_version: core::TlsVersion::V1_3,
                    server_name: Some("mx".into()),
                    ca_bundle: "pem".into(),
                },
                connections: core::Connections {
                    min: 1,
                    max: 2,
                    messages_per_connection: 3,
                },
                retry: core::Retry {
                    transient: 4,
                    network: 5,
                    tls: 6,
                },
            }],
            policies: vec![core::Policy {
                object: object("p"),
                order: -3,
                rows: vec![core::Row {
                    senders: Some(core::SenderCondition {
                        any_of: vec![pattern("@.bücher.example")],
                        none_of: vec![pattern("a@")],
                    }),
                    recipients: Some(core::RecipientCondition {
                        any_of: vec![pattern("b@c.example")],
                        all_of: vec![pattern("@d.example")],
                        none_of: vec![pattern("e@")],
                    }),
                    combine: core::Combine::Any,
                }],
                journaling: core::Journaling::Unresolved("because".into()),
            }],
        }
    }

    #[test]
    fn a_snapshot_arrives_as_it_was_sent() {
        let version = core::SnapshotVersion {
            instance: "policy-0".into(),
            sequence: 9,
        };
        let sent = snapshot_to_proto(&version, &table());
        assert_eq!(snapshot_from_proto(sent), Ok((version, table())));
    }

    #[test]
    fn what_is_not_known_makes_the_snapshot_unusable() {
        type Spoil = fn(&mut v1::Snapshot);
        let cases: [(Spoil, &str); 5] = [
            (|s| s.version = None, "version"),
            (
                |s| s.connector.as_mut().unwrap().failure_policy = 99,
                "connector.failure_policy",
            ),
            (|s| s.intakes[0].format = 99, "intakes.format"),
            (
                |s| s.intakes[0].route.as_mut().unwrap().port = 70_000,
                "intakes.route.port",
            ),
            (
                |s| {
                    s.policies[0].rows[0]
                        .senders
                        .as_mut()
                        .unwrap()
                        .any_of
                        .push("*".into());
                },
                "policies.rows.senders.any_of",
            ),
        ];
        for (spoil, field) in cases {
            let mut sent = snapshot_to_proto(&core::SnapshotVersion::default(), &table());
            spoil(&mut sent);
            assert_eq!(snapshot_from_proto(sent).unwrap_err().field, field);
        }
    }

    #[test]
    fn a_decision_arrives_as_it_was_sent() {
        let decision = Decision {
            recipients: vec![RecipientVerdict {
                policy: Some("p".into()),
                row: Some(2),
                journaling: core::Journaling::Intake("a".into()),
            }],
            copies: vec![CopyPlan {
                intake: "a".into(),
                policies: vec!["p".into()],
                recipients: vec![0],
            }],
        };
        let mut sent = v1::Decision::from(&decision);
        assert_eq!(Decision::try_from(sent.clone()), Ok(decision));
        sent.copies[0].recipients.push(1);
        assert_eq!(Decision::try_from(sent).unwrap_err().field, "copies.recipients");
    }
}
