//! The resources that are given as values: objects of the release, in a cluster that knows their kinds.

use serde_json::{Value, json};

use crate::helm::{all, get, render, template_fresh, text, with_required};

const VALUES: &str = "
connector: { defaultIntake: etd-eu }
intakes: { etd-eu: { address: a@intake.example, format: Raw } }
policies: { staff: { order: 10, journaling: { mode: Global } }, hr: { order: 5, journaling: { mode: Disabled } } }
";

#[test]
fn they_are_ordinary_objects() {
    let objects = render(VALUES);
    let connector = get(&objects, "ThreatDefenseConnector", "default");
    assert_eq!(connector["spec"], json!({ "defaultIntake": "etd-eu" }));
    assert_eq!(connector["metadata"].get("annotations"), None, "no hook");
    let intake = get(&objects, "IntakeAddress", "etd-eu");
    assert_eq!(
        intake["spec"],
        json!({ "address": "a@intake.example", "format": "Raw" })
    );
    let mut policies: Vec<String> = all(&objects, "MailPolicy")
        .map(|policy| text(&policy["metadata"]["name"]))
        .collect();
    policies.sort();
    assert_eq!(policies, ["hr", "staff"]);
}

#[test]
fn a_cluster_that_does_not_know_them_is_told_apart() {
    let cases = [
        (VALUES, Some("install once without these values")),
        ("", None),
        (
            "{ crds: { enabled: false }, policies: { staff: { order: 1 } } }",
            None,
        ),
    ];
    for (values, refusal) in cases {
        let rendered = template_fresh(&with_required(values));
        match (rendered, refusal) {
            (Err(error), Some(refusal)) => assert!(error.contains(refusal), "{error}"),
            (rendered, refusal) => assert!(rendered.is_ok() && refusal.is_none(), "{values}"),
        }
    }
}

#[test]
fn every_object_is_the_releases_own() {
    let objects = render("");
    let names: Vec<String> = objects
        .iter()
        .map(|object| text(&object["metadata"]["name"]))
        .collect();
    let is_ours = |name: &String| name.starts_with("tdc-") || name.ends_with(".tdc.dev");
    assert!(names.iter().all(is_ours), "{names:?}");
    for object in &objects {
        let managed: &Value = &object["metadata"]["labels"]["app.kubernetes.io/managed-by"];
        assert!(
            object["kind"] == "CustomResourceDefinition" || managed == "Helm",
            "{object}"
        );
    }
}
