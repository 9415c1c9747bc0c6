//! The compiled evaluator equals a reference written straight from the rules.

use std::sync::Arc;

use proptest::prelude::*;

use super::{Decision, Snapshot};
use crate::address::{Mailbox, ReversePath};
use crate::envelope::Envelope;
use crate::pattern::Pattern;
use crate::policy::*;

fn intake(name: &str) -> Intake {
    Intake {
        name: name.into(),
        object: ObjectRef::default(),
        address: Mailbox::new("x@intake.example"),
        format: Format::Raw,
        route: None,
        tls: IntakeTls {
            mode: TlsMode::Verify,
            min_version: TlsVersion::V1_2,
            server_name: None,
            ca_bundle: "".into(),
        },
        connections: Connections {
            min: 3,
            max: 50,
            messages_per_connection: 10,
        },
        retry: Retry {
            transient: 1,
            network: 1,
            tls: 0,
        },
    }
}

fn table(policies: Vec<Policy>, default: Journaling) -> PolicyTable {
    PolicyTable {
        connector: Connector {
            default_journaling: default,
            ..Connector::default()
        },
        intakes: vec![intake("i0"), intake("i1")],
        policies,
    }
}

fn policy(name: &str, rows: Vec<Row>, journaling: Journaling) -> Policy {
    let object = ObjectRef {
        name: name.into(),
        ..ObjectRef::default()
    };
    Policy {
        object,
        order: 0,
        rows,
        journaling,
    }
}

fn snapshot(table: PolicyTable) -> Snapshot {
    Snapshot::new(SnapshotVersion::default(), table).unwrap()
}

fn envelope(sender: &str, recipients: &[&str]) -> Envelope {
    Envelope {
        sender: ReversePath::new(sender),
        recipients: recipients.iter().map(|r| Mailbox::new(*r)).collect(),
    }
}

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::parse(text).unwrap()).collect()
}

fn to(any_of: &[&str]) -> Row {
    let condition = RecipientCondition {
        any_of: patterns(any_of),
        ..RecipientCondition::default()
    };
    Row {
        recipients: Some(condition),
        ..Row::default()
    }
}

fn from(any_of: &[&str]) -> Row {
    Row {
        senders: Some(SenderCondition {
            any_of: patterns(any_of),
            none_of: Vec::new(),
        }),
        ..Row::default()
    }
}

#[test]
fn groups_recipients_into_one_copy_for_each_intake() {
    let intake = |name: &str| Journaling::Intake(name.into());
    let snapshot = snapshot(table(
        vec![
            policy("vip", vec![to(&["ceo@x.example"])], intake("i1")),
            policy("off", vec![to(&["hr@"])], Journaling::Disabled),
            policy("law", vec![from(&["@law.example"])], intake("i0")),
            policy(
                "broken",
                vec![to(&["b@"])],
                Journaling::Unresolved("no such intake".into()),
            ),
            policy("gone", vec![to(&["g@"])], intake("i9")),
        ],
        intake("i1"),
    ));
    let decision = snapshot.evaluate(&envelope(
        "a@law.example",
        &["ceo@x.example", "hr@x.example", "z@x.example"],
    ));
    let copies: Vec<_> = decision
        .copies
        .iter()
        .map(|c| (&*c.intake, &c.recipients[..]))
        .collect();
    assert_eq!(
        copies,
        [("i1", &[0][..]), ("i0", &[2][..])],
        "a sender's policy takes the remaining recipients"
    );
    let decision = snapshot.evaluate(&envelope("a@x", &["z@x", "b@x", "g@x", "ceo@x.example", "z@x"]));
    let copies: Vec<_> = decision
        .copies
        .iter()
        .map(|c| (&*c.intake, c.recipients.clone()))
        .collect();
    assert_eq!(
        copies,
        [("i1", vec![0, 3])],
        "a mailbox named twice is listed once, one copy for two policies"
    );
    assert_eq!(decision.copies[0].policies, [Arc::from("vip")]);
    assert_eq!(
        decision.unresolved().map(|(at, _)| at).collect::<Vec<_>>(),
        [1, 2]
    );
}

#[test]
fn a_disabled_connector_makes_no_copy() {
    let mut table = table(Vec::new(), Journaling::Intake("i0".into()));
    table.connector.enabled = false;
    assert!(
        snapshot(table)
            .evaluate(&envelope("a@x", &["b@y"]))
            .copies
            .is_empty()
    );
}

// ---- The reference: a direct reading of the rules, without any index. ----

fn reference(table: &PolicyTable, envelope: &Envelope) -> Vec<(Option<usize>, Option<usize>)> {
    let taken_by = |recipient: &Mailbox| {
        for (at, policy) in table.policies.iter().enumerate() {
            if policy.rows.is_empty() {
                return (Some(at), None);
            }
            for (number, row) in policy.rows.iter().enumerate() {
                if row_takes(row, envelope, recipient) {
                    return (Some(at), Some(number));
                }
            }
        }
        (None, None)
    };
    envelope.recipients.iter().map(taken_by).collect()
}

fn row_takes(row: &Row, envelope: &Envelope, recipient: &Mailbox) -> bool {
    let any = |patterns: &[Pattern], mailbox: &Mailbox| patterns.iter().any(|p| p.matches(mailbox));
    let mut conditions = Vec::new();
    if let Some(condition) = &row.senders {
        let ReversePath::Mailbox(sender) = &envelope.sender else {
            return false;
        };
        let named = condition.any_of.is_empty() || any(&condition.any_of, sender);
        conditions.push(named && !any(&condition.none_of, sender));
    }
    if let Some(condition) = &row.recipients {
        if any(&condition.none_of, recipient) {
            return false;
        }
        let named = condition.any_of.is_empty() || any(&condition.any_of, recipient);
        let all = condition
            .all_of
            .iter()
            .all(|p| envelope.recipients.iter().any(|r| p.matches(r)));
        conditions.push(named && all);
    }
    match row.combine {
        _ if conditions.is_empty() => true,
        Combine::All => conditions.iter().all(|holds| *holds),
        Combine::Any => conditions.iter().any(|holds| *holds),
    }
}

const LOCALS: [&str; 4] = ["a", "B", "\"c@d\"", "é"];
const DOMAINS: [&str; 6] = [
    "x.example",
    "X.Example.",
    "s.x.example",
    "bücher.example",
    "example",
    "",
];

fn any_address() -> impl Strategy<Value = String> {
    (0..LOCALS.len(), 0..DOMAINS.len()).prop_map(|(local, domain)| match DOMAINS[domain] {
        "" => LOCALS[local].to_owned(),
        domain => format!("{}@{domain}", LOCALS[local]),
    })
}

fn any_pattern() -> impl Strategy<Value = Pattern> {
    let text = (0..4_u8, 0..LOCALS.len(), 0..DOMAINS.len() - 1).prop_map(|(kind, local, domain)| {
        let (local, domain) = (LOCALS[local], DOMAINS[domain]);
        match kind {
            0 => format!("{local}@{domain}"),
            1 => format!("{local}@"),
            2 => format!("@{domain}"),
            _ => format!("@.{domain}"),
        }
    });
    text.prop_map(|text| Pattern::parse(&text).unwrap())
}

fn some_patterns() -> impl Strategy<Value = Vec<Pattern>> {
    prop::collection::vec(any_pattern(), 0..3)
}

fn any_row() -> impl Strategy<Value = Row> {
    let senders =
        (some_patterns(), some_patterns()).prop_map(|(any_of, none_of)| SenderCondition { any_of, none_of });
    let recipients =
        (some_patterns(), some_patterns(), some_patterns()).prop_map(|(any_of, all_of, none_of)| {
            RecipientCondition {
                any_of,
                all_of,
                none_of,
            }
        });
    (
        prop::option::of(senders),
        prop::option::of(recipients),
        any::<bool>(),
    )
        .prop_map(|(senders, recipients, any)| Row {
            senders,
            recipients,
            combine: if any { Combine::Any } else { Combine::All },
            left_out: 0,
        })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    (prop::collection::vec(any_row(), 0..3), 0..4_u8).prop_map(|(rows, journaling)| {
        let journaling = match journaling {
            0 => Journaling::Disabled,
            1 => Journaling::Unresolved("because".into()),
            n => Journaling::Intake(format!("i{}", n - 2).into()),
        };
        policy("p", rows, journaling)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn compiled_equals_reference(
        policies in prop::collection::vec(any_policy(), 0..8),
        sender in prop_oneof![1 => Just(String::new()), 4 => any_address()],
        recipients in prop::collection::vec(any_address(), 1..5),
    ) {
        let policies: Vec<Policy> = policies.into_iter().enumerate().map(|(at, mut policy)| {
            policy.object.name = at.to_string().into();
            policy
        }).collect();
        let table = table(policies, Journaling::Intake("i0".into()));
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        let envelope = envelope(&sender, &recipients);
        let expected = reference(&table, &envelope);
        let decision = snapshot(table).evaluate(&envelope);
        let found: Vec<_> = decision
            .recipients
            .iter()
            .map(|v| (v.policy.as_ref().map(|name| name.parse::<usize>().unwrap()), v.row))
            .collect();
        prop_assert_eq!(found, expected);
        copies_are_consistent(&decision, &envelope)?;
    }
}

fn copies_are_consistent(decision: &Decision, envelope: &Envelope) -> Result<(), TestCaseError> {
    for (at, verdict) in decision.recipients.iter().enumerate() {
        let listing: Vec<_> = decision
            .copies
            .iter()
            .filter(|c| {
                c.recipients
                    .iter()
                    .any(|r| envelope.recipients[*r] == envelope.recipients[at])
            })
            .map(|c| c.intake.clone())
            .collect();
        match &verdict.journaling {
            Journaling::Intake(name) => prop_assert_eq!(listing, vec![name.clone()]),
            _ => prop_assert!(listing.is_empty()),
        }
    }
    Ok(())
}
