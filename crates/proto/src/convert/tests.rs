//! What is sent arrives; what is not known is refused.

use std::time::Duration;

use tdc_core::Mailbox;
use tdc_core::evaluator::{CopyPlan, Decision, RecipientVerdict};
use tdc_core::pattern::Pattern;

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
                left_out: 2,
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
