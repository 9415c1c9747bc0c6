//! From objects to the table, and what is said about each object.

use proptest::prelude::*;
use tdc_api::{Compiled, Objects, Reason, Verdict, compile};
use tdc_core::evaluator::Snapshot;
use tdc_core::policy::{DeadLetterMode, Format, Journaling, SnapshotVersion, TlsMode, TlsVersion};

use crate::support::{EXAMPLE, document, load};

const INTAKE: &str = "{ address: a@intake.example }";

fn table(documents: &[String]) -> Compiled {
    compile(&load(&documents.concat()).unwrap())
}

fn aged(kind: &str, name: &str, age: &str, spec: &str) -> String {
    document(kind, name, spec).replace(
        &format!("name: {name}"),
        &format!("name: {name}, creationTimestamp: {age:?}"),
    )
}

fn verdict<'a>(compiled: &'a Compiled, name: &str) -> &'a Verdict {
    compiled
        .verdicts
        .iter()
        .find(|verdict| verdict.name == name)
        .unwrap()
}

fn journaling<'a>(compiled: &'a Compiled, name: &str) -> &'a Journaling {
    let policies = &compiled.table.policies;
    &policies
        .iter()
        .find(|policy| &*policy.object.name == name)
        .unwrap()
        .journaling
}

#[test]
fn the_example() {
    let compiled = compile(&load(EXAMPLE).unwrap());
    let connector = &compiled.table.connector;
    assert_eq!(connector.queue_lifetime.as_secs(), 120);
    assert_eq!(connector.dead_letter.mode, DeadLetterMode::Drop);
    assert_eq!(&*connector.not_clean_headers[0].pattern, "^YES");
    let intake = compiled.table.intake("etd-eu").unwrap();
    assert_eq!(
        intake.address.as_str(),
        "b5986efe-374c-47a5-aade-b8d98847e1a6@intake.example"
    );
    assert_eq!(
        (intake.format, intake.tls.mode, intake.tls.min_version),
        (Format::JournalReport, TlsMode::Verify, TlsVersion::V1_2)
    );
    assert_eq!(
        intake.route.as_ref().map(|route| (&*route.host, route.port)),
        Some(("mx.intake.example", 25))
    );
    assert_eq!(
        (intake.connections.min, intake.connections.max, intake.retry.tls),
        (3, 50, 0)
    );
    let row = &compiled.table.policies[0].rows[0];
    assert_eq!(
        row.recipients.as_ref().unwrap().none_of[0].to_string(),
        "intern@finance.example"
    );
    let finance = verdict(&compiled, "finance");
    assert!(finance.accepted.status && !finance.resolved_refs.status);
    assert_eq!(finance.resolved_refs.reason, Reason::IntakeNotFound);
    assert!(
        matches!(journaling(&compiled, "finance"), Journaling::Unresolved(why) if why.contains("etd-finance"))
    );
}

#[test]
fn policies_go_by_order_then_age_then_name() {
    let spec = |order: i32| format!("{{ order: {order}, journaling: {{ mode: Disabled }} }}");
    let compiled = table(&[
        aged("MailPolicy", "late", "2026-03-01T00:00:00Z", &spec(10)),
        aged("MailPolicy", "early", "2026-01-01T00:00:00Z", &spec(10)),
        aged("MailPolicy", "b", "2026-02-01T00:00:00Z", &spec(10)),
        aged("MailPolicy", "a", "2026-02-01T00:00:00Z", &spec(10)),
        document("MailPolicy", "first", &spec(-1)),
        document("MailPolicy", "unnumbered", "{ journaling: { mode: Disabled } }"),
    ]);
    let names: Vec<_> = compiled
        .table
        .policies
        .iter()
        .map(|policy| &*policy.object.name)
        .collect();
    assert_eq!(names, ["first", "early", "a", "b", "late", "unnumbered"]);
}

#[test]
fn the_oldest_connector_counts() {
    let compiled = table(&[
        aged(
            "ThreatDefenseConnector",
            "a",
            "2026-02-01T00:00:00Z",
            "{ enabled: true }",
        ),
        aged(
            "ThreatDefenseConnector",
            "b",
            "2026-01-01T00:00:00Z",
            "{ enabled: false }",
        ),
        aged("ThreatDefenseConnector", "c", "2026-01-01T00:00:00Z", "{}"),
    ]);
    assert_eq!(
        &*compiled.table.connector.object.name, "b",
        "the older one, then the first by name"
    );
    assert!(!compiled.table.connector.enabled);
    for loser in ["a", "c"] {
        let accepted = &verdict(&compiled, loser).accepted;
        assert_eq!((accepted.status, accepted.reason), (false, Reason::Conflicted));
        assert!(
            accepted.message.contains("ThreatDefenseConnector b is older"),
            "{}",
            accepted.message
        );
    }
    assert!(verdict(&compiled, "b").is_good());
}

/// (connector's spec, policy's journaling, what the policy does, its ResolvedRefs)
#[test]
fn references() {
    let documents = |connector: Option<&str>, journaling: &str| {
        let mut documents = vec![
            document("IntakeAddress", "good", INTAKE),
            document(
                "IntakeAddress",
                "broken",
                "{ address: a@intake.example, tls: { caBundle: nonsense } }",
            ),
            document("MailPolicy", "p", &format!("{{ journaling: {journaling} }}")),
        ];
        documents.extend(connector.map(|spec| document("ThreatDefenseConnector", "c", spec)));
        documents
    };
    let to_good = Some("good");
    for (connector, wanted, intake, reason) in [
        (None, "{ mode: Disabled }", None, Reason::ResolvedRefs),
        (
            None,
            "{ mode: Custom, intake: good }",
            to_good,
            Reason::ResolvedRefs,
        ),
        (
            None,
            "{ mode: Custom, intake: absent }",
            None,
            Reason::IntakeNotFound,
        ),
        (
            None,
            "{ mode: Custom, intake: broken }",
            None,
            Reason::IntakeNotAccepted,
        ),
        (None, "{ mode: Global }", None, Reason::DefaultIntakeNotSet),
        (Some("{}"), "{ mode: Global }", None, Reason::DefaultIntakeNotSet),
        (
            Some("{ defaultIntake: good }"),
            "{ mode: Global }",
            to_good,
            Reason::ResolvedRefs,
        ),
        (
            Some("{ defaultIntake: absent }"),
            "{ mode: Global }",
            None,
            Reason::IntakeNotFound,
        ),
        (
            Some("{ defaultIntake: broken }"),
            "{ mode: Global }",
            None,
            Reason::IntakeNotAccepted,
        ),
        (
            Some("{ defaultIntake: absent }"),
            "{ mode: Custom, intake: good }",
            to_good,
            Reason::ResolvedRefs,
        ),
    ] {
        let compiled = table(&documents(connector, wanted));
        let resolved = &verdict(&compiled, "p").resolved_refs;
        assert_eq!(resolved.reason, reason, "{connector:?} {wanted}");
        assert_eq!(resolved.status, reason == Reason::ResolvedRefs);
        let accepted = &verdict(&compiled, "p").accepted;
        assert!(accepted.status, "it is written as it should be");
        let in_use = accepted.message.contains("in use");
        assert_eq!(
            in_use, resolved.status,
            "{connector:?} {wanted}: {}",
            accepted.message
        );
        match journaling(&compiled, "p") {
            Journaling::Intake(name) => assert_eq!(Some(&**name), intake, "{connector:?} {wanted}"),
            Journaling::Disabled => assert_eq!(wanted, "{ mode: Disabled }"),
            Journaling::Unresolved(why) => {
                assert!(!resolved.status && intake.is_none(), "{connector:?} {wanted}");
                assert!(!why.is_empty());
            }
        }
        assert_eq!(
            compiled.table.intakes.len(),
            1,
            "the broken intake is in no table"
        );
    }
}

#[test]
fn the_default_row() {
    for (spec, wanted, resolved) in [
        ("{}", Journaling::Disabled, true),
        ("{ defaultIntake: absent }", Journaling::Disabled, false),
        (
            "{ defaultIntake: good, defaultJournaling: Global }",
            Journaling::Intake("good".into()),
            true,
        ),
    ] {
        let compiled = table(&[
            document("IntakeAddress", "good", INTAKE),
            document("ThreatDefenseConnector", "c", spec),
        ]);
        assert_eq!(compiled.table.connector.default_journaling, wanted, "{spec}");
        assert_eq!(verdict(&compiled, "c").resolved_refs.status, resolved, "{spec}");
    }
    let absent = document(
        "ThreatDefenseConnector",
        "c",
        "{ defaultIntake: absent, defaultJournaling: Global }",
    );
    assert!(matches!(
        table(&[absent]).table.connector.default_journaling,
        Journaling::Unresolved(_)
    ));
}

#[test]
fn certificates() {
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = rcgen::CertificateParams::new(vec!["ca.example".into()])
        .unwrap()
        .self_signed(&key)
        .unwrap()
        .pem();
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (bundle, reason, why) in [
        (pem.clone(), Reason::Accepted, "one"),
        (pem.repeat(2), Reason::Accepted, "two"),
        ("\n".into(), Reason::Accepted, "white space is nothing"),
        ("nonsense".into(), Reason::InvalidCertificate, "no PEM"),
        (
            key.serialize_pem(),
            Reason::InvalidCertificate,
            "a key is no certificate",
        ),
        (
            pem.clone() + garbage,
            Reason::InvalidCertificate,
            "one good, one bad",
        ),
        (
            pem.replace("-----END CERTIFICATE-----", ""),
            Reason::InvalidCertificate,
            "cut off",
        ),
    ] {
        let spec = format!(
            "{{ address: a@intake.example, tls: {{ caBundle: {} }} }}",
            serde_json::to_string(&bundle).unwrap()
        );
        let compiled = table(&[document("IntakeAddress", "x", &spec)]);
        let accepted = &verdict(&compiled, "x").accepted;
        assert_eq!(accepted.reason, reason, "{why}: {}", accepted.message);
        assert_eq!(compiled.table.intake("x").is_some(), accepted.status);
        if !accepted.status {
            assert!(
                accepted.message.starts_with("spec.tls.caBundle: "),
                "{}",
                accepted.message
            );
        }
    }
}

#[test]
fn intake_addresses() {
    for (address, read, why) in [
        ("A@Intake.Example", Some("A@Intake.Example"), "as spelt"),
        (
            "a@bücher.example",
            Some("a@xn--bcher-kva.example"),
            "A-label form",
        ),
        ("a@[192.0.2.1]", Some("a@[192.0.2.1]"), "an address literal"),
        ("a@b..example", None, "an empty label"),
        ("a@.example", None, "only sub-domains"),
    ] {
        let compiled = table(&[document(
            "IntakeAddress",
            "x",
            &format!("{{ address: {address:?} }}"),
        )]);
        assert_eq!(
            compiled.table.intake("x").map(|intake| intake.address.as_str()),
            read,
            "{why}"
        );
        let reason = if read.is_some() {
            Reason::Accepted
        } else {
            Reason::InvalidAddress
        };
        assert_eq!(verdict(&compiled, "x").accepted.reason, reason, "{why}");
    }
}

#[test]
fn an_expression_that_does_not_compile_is_left_out_and_named() {
    let compiled = table(&[document(
        "ThreatDefenseConnector",
        "c",
        "{ clean: { notCleanHeaders: [{ name: A, pattern: '^ok$' }, { name: B, pattern: '(' }, { name: C, pattern: '(a{1000}){1000}' }] } }",
    )]);
    let rules = &compiled.table.connector.not_clean_headers;
    assert_eq!(rules.iter().map(|rule| &*rule.name).collect::<Vec<_>>(), ["A"]);
    let found = verdict(&compiled, "c");
    assert_eq!(
        (found.accepted.status, found.accepted.reason),
        (false, Reason::InvalidPattern)
    );
    let fields: Vec<_> = found.problems.iter().map(|problem| &*problem.field).collect();
    assert_eq!(
        fields,
        [
            "spec.clean.notCleanHeaders[1].pattern",
            "spec.clean.notCleanHeaders[2].pattern"
        ]
    );
    assert!(!found.accepted.message.contains('\n'));
    assert!(Snapshot::new(SnapshotVersion::default(), compiled.table).is_ok());
}

/// (users, rows that are left, whether the policy is in the table): an unreadable pattern never widens a policy.
#[test]
fn unreadable_patterns() {
    for (users, rows, why) in [
        (
            "[{ senders: { anyOf: [a@, BAD] } }]",
            Some(1),
            "anyOf takes fewer",
        ),
        (
            "[{ senders: { anyOf: [BAD] } }]",
            None,
            "an empty anyOf would take everyone",
        ),
        (
            "[{ senders: { anyOf: [a@], noneOf: [BAD] } }]",
            None,
            "without its noneOf it would take more",
        ),
        (
            "[{ recipients: { anyOf: [a@], allOf: [BAD] } }]",
            None,
            "without its allOf it would take more",
        ),
        (
            "[{ recipients: { noneOf: [BAD] } }, { senders: { anyOf: [b@] } }]",
            Some(1),
            "the other row stays",
        ),
        (
            "[{ senders: { anyOf: [BAD] }, recipients: { anyOf: [a@] }, combine: Any }]",
            None,
            "half a row is no row",
        ),
    ] {
        // Passes the schema's expression and is not a domain.
        let spec = format!(
            "{{ users: {}, journaling: {{ mode: Disabled }} }}",
            users.replace("BAD", "'@a..b'")
        );
        let compiled = table(&[
            document("MailPolicy", "p", &spec),
            document("MailPolicy", "q", "{ journaling: { mode: Disabled } }"),
        ]);
        let found = verdict(&compiled, "p");
        assert_eq!(
            (found.accepted.status, found.accepted.reason),
            (false, Reason::InvalidPattern),
            "{why}"
        );
        let policy = compiled
            .table
            .policies
            .iter()
            .find(|policy| &*policy.object.name == "p");
        assert_eq!(policy.map(|policy| policy.rows.len()), rows, "{why}");
        assert!(verdict(&compiled, "q").is_good(), "the others go on");
        assert_eq!(
            found.accepted.message.contains("not in use"),
            rows.is_none(),
            "{}",
            found.accepted.message
        );
    }
}

/// A row keeps its number when others before it cannot be read.
#[test]
fn rows_are_counted_as_they_are_written() {
    let users = "[{ senders: { anyOf: ['@a..b'] } }, { senders: { anyOf: [a@] } }, { senders: { anyOf: ['@a..b'] } }, \
                 { senders: { anyOf: [b@] } }]";
    let spec = format!("{{ users: {users}, journaling: {{ mode: Disabled }} }}");
    let compiled = table(&[document("MailPolicy", "p", &spec)]);
    let rows = compiled.table.policies[0].rows.iter().enumerate();
    let numbers: Vec<usize> = rows.map(|(place, row)| row.number(place)).collect();
    assert_eq!(numbers, [1, 3]);
}

fn shuffled(objects: &Objects, seed: &[usize]) -> Objects {
    fn shuffle<T>(list: &mut [T], seed: &[usize]) {
        for at in (1..list.len()).rev() {
            list.swap(at, seed[at % seed.len()] % (at + 1));
        }
    }
    let mut objects = objects.clone();
    shuffle(&mut objects.connectors, seed);
    shuffle(&mut objects.intakes, seed);
    shuffle(&mut objects.policies, seed);
    objects
}

proptest! {
    #[test]
    fn the_order_of_objects_does_not_matter(
        connectors in prop::collection::vec((0..3_u8, any::<bool>()), 0..4),
        policies in prop::collection::vec((0..3_i32, 0..3_u8, 0..4_usize), 0..12),
        seed in prop::collection::vec(0..100_usize, 1..8),
    ) {
        let mut documents = vec![document("IntakeAddress", "good", INTAKE), document("IntakeAddress", "bad", "{ address: a@b..c }")];
        for (n, (day, enabled)) in connectors.iter().enumerate() {
            let age = format!("2026-01-0{}T00:00:00Z", day + 1);
            documents.push(aged("ThreatDefenseConnector", &format!("c{n}"), &age, &format!("{{ enabled: {enabled}, defaultIntake: good }}")));
        }
        for (n, (order, day, mode)) in policies.iter().enumerate() {
            let age = format!("2026-01-0{}T00:00:00Z", day + 1);
            let mode = ["mode: Disabled", "mode: Global", "mode: Custom, intake: good", "mode: Custom, intake: bad"][*mode];
            let spec = format!("{{ order: {order}, journaling: {{ {mode} }} }}");
            documents.push(aged("MailPolicy", &format!("p{n}"), &age, &spec));
        }
        let objects = load(&documents.concat()).unwrap();
        let compiled = compile(&objects);
        prop_assert_eq!(compiled.verdicts.len(), objects.len());
        prop_assert_eq!(&compile(&shuffled(&objects, &seed)), &compiled);
        prop_assert!(Snapshot::new(SnapshotVersion::default(), compiled.table).is_ok());
    }
}
