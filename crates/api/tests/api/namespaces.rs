//! Several namespaces in one table, and objects that cannot be read.

use std::collections::BTreeMap;
use std::sync::Arc;

use tdc_api::{Compiled, Kind, Objects, Reason, Unreadable, compile, compile_namespaces};
use tdc_core::policy::Journaling;

use crate::support::{document, load};

const INTAKE: &str = "{ address: x@intake.example }";

fn objects(documents: &[String]) -> Objects {
    load(&documents.concat()).unwrap()
}

fn policy(name: &str, order: i32, journaling: &str) -> String {
    document(
        "MailPolicy",
        name,
        &format!("{{ order: {order}, journaling: {journaling} }}"),
    )
}

fn connector(spec: &str) -> String {
    document("ThreatDefenseConnector", "default", spec)
}

/// In each namespace the objects say so, as those of a cluster do.
fn cluster(namespaces: &[(&str, Vec<String>)]) -> BTreeMap<String, Objects> {
    let place = |(name, documents): &(&str, Vec<String>)| {
        let mut objects = objects(documents);
        let namespace = Some((*name).to_owned());
        for object in &mut objects.connectors {
            Arc::make_mut(object).metadata.namespace.clone_from(&namespace);
        }
        for object in &mut objects.intakes {
            Arc::make_mut(object).metadata.namespace.clone_from(&namespace);
        }
        for object in &mut objects.policies {
            Arc::make_mut(object).metadata.namespace.clone_from(&namespace);
        }
        ((*name).to_owned(), objects)
    };
    namespaces.iter().map(place).collect()
}

fn policies(compiled: &Compiled) -> Vec<(String, String)> {
    let shown = |journaling: &Journaling| match journaling {
        Journaling::Disabled => "-".to_owned(),
        Journaling::Intake(name) => name.to_string(),
        Journaling::Unresolved(why) => format!("! {why}"),
    };
    let policies = compiled.table.policies.iter();
    policies
        .map(|policy| (policy.object.name.to_string(), shown(&policy.journaling)))
        .collect()
}

#[test]
fn references_stay_in_their_namespace_and_names_are_qualified() {
    let namespaces = cluster(&[
        (
            "a",
            vec![
                connector("{ defaultIntake: eu, failurePolicy: Ignore, queueLifetime: 60s }"),
                document("IntakeAddress", "eu", INTAKE),
                policy("one", 20, "{ mode: Global }"),
                policy("two", 10, "{ mode: Custom, intake: us }"),
            ],
        ),
        (
            "b",
            vec![
                connector("{ defaultIntake: us }"),
                document("IntakeAddress", "us", INTAKE),
                policy("one", 15, "{ mode: Global }"),
            ],
        ),
        (
            "c",
            vec![
                connector("{ enabled: false, defaultIntake: eu }"),
                document("IntakeAddress", "eu", INTAKE),
                policy("off", 5, "{ mode: Global }"),
            ],
        ),
    ]);
    let compiled = compile_namespaces(&namespaces, "b");
    let found = policies(&compiled);
    let names: Vec<_> = found.iter().map(|(name, to)| (&**name, &**to)).collect();
    assert_eq!(names[0], ("c/off", "-"), "its connector is disabled");
    assert_eq!(names[1].0, "a/two");
    assert!(
        names[1].1.starts_with("! there is no IntakeAddress us"),
        "{names:?}"
    );
    assert_eq!(names[2..], [("b/one", "b/us"), ("a/one", "a/eu")]);
    let intakes: Vec<&str> = compiled
        .table
        .intakes
        .iter()
        .map(|intake| &*intake.name)
        .collect();
    assert_eq!(intakes, ["a/eu", "b/us", "c/eu"]);

    let connector = &compiled.table.connector;
    assert_eq!(
        &*connector.object.name, "b/default",
        "the home namespace speaks for whole messages"
    );
    assert_eq!(connector.queue_lifetime.as_secs(), 120, "not what a says");
    let message = |namespace: &str| {
        let mut verdicts = compiled.verdicts.iter();
        let found = verdicts.find(|v| v.kind == Kind::ThreatDefenseConnector && v.namespace == namespace);
        found.unwrap().accepted.message.clone()
    };
    assert!(
        message("a").contains("comes from the connector of namespace b"),
        "{}",
        message("a")
    );
    assert_eq!(message("b"), "Its settings are in use.");
    assert_eq!(compiled.verdicts.len(), 10);
}

#[test]
fn the_home_namespace_may_be_empty() {
    let namespaces = cluster(&[("a", vec![policy("one", 1, "{ mode: Disabled }")])]);
    let compiled = compile_namespaces(&namespaces, "nowhere");
    assert_eq!(compiled.table.connector, tdc_core::policy::Connector::default());
    assert_eq!(policies(&compiled), [("a/one".to_owned(), "-".to_owned())]);
}

#[test]
fn an_object_that_cannot_be_read_is_visible_and_stops_nobody() {
    let mut objects = objects(&[
        policy("custom", 10, "{ mode: Custom, intake: strange }"),
        policy("fine", 20, "{ mode: Disabled }"),
    ]);
    let metadata = kube::core::ObjectMeta {
        name: Some("strange".into()),
        uid: Some("u".into()),
        generation: Some(3),
        ..Default::default()
    };
    objects.unreadable.push(Unreadable {
        kind: Kind::IntakeAddress,
        metadata,
        error: "unknown variant `Holographic`".into(),
    });
    let compiled = compile(&objects);
    assert_eq!(compiled.table.policies.len(), 2);
    let verdict = |name: &str| compiled.verdicts.iter().find(|v| v.name == name).unwrap();
    let strange = verdict("strange");
    assert_eq!(
        (strange.accepted.status, strange.accepted.reason),
        (false, Reason::Unreadable)
    );
    assert_eq!(strange.generation, 3);
    assert!(
        strange.accepted.message.contains("Holographic"),
        "{}",
        strange.accepted.message
    );
    assert_eq!(verdict("custom").resolved_refs.reason, Reason::IntakeNotAccepted);
    assert!(verdict("fine").is_good());
}
