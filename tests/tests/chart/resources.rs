//! The resources that are given as values: hooks while the cluster does not know their kinds, objects from then on.

use serde_json::{Value, json};

use crate::helm::{KNOWN, all, list, render, render_with, text};

const VALUES: &str = "
connector: { defaultIntake: etd-eu }
intakes: { etd-eu: { address: a@intake.example, format: Raw } }
policies: { staff: { order: 10, journaling: { mode: Global } }, hr: { order: 5, journaling: { mode: Disabled } } }
";

fn resources(objects: &[Value]) -> Vec<&Value> {
    let kinds = ["ThreatDefenseConnector", "IntakeAddress", "MailPolicy"];
    kinds.iter().flat_map(|kind| all(objects, kind)).collect()
}

fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["annotations"].get(name)?.as_str()
}

#[test]
fn known_kinds_are_ordinary_objects() {
    for (values, flags, why) in [
        (VALUES.to_owned(), KNOWN, "the definitions are there"),
        (
            format!("{VALUES}\ncrds: {{ enabled: false }}"),
            &[][..],
            "someone else installs them",
        ),
    ] {
        let objects = render_with(&values, flags);
        let found = resources(&objects);
        assert_eq!(found.len(), 4, "{why}");
        assert!(
            found
                .iter()
                .all(|object| object["metadata"].get("annotations").is_none()),
            "{why}"
        );
        assert_eq!(found[0]["metadata"]["name"], "default");
        assert_eq!(found[0]["spec"], json!({ "defaultIntake": "etd-eu" }));
        assert_eq!(
            found[1]["spec"],
            json!({ "address": "a@intake.example", "format": "Raw" })
        );
    }
}

#[test]
fn unknown_kinds_are_created_behind_their_definitions_and_removed_with_the_release() {
    let objects = render(VALUES);
    let found = resources(&objects);
    assert_eq!(found.len(), 8);
    for object in &found {
        let (policy, why) = match annotation(object, "helm.sh/hook").unwrap() {
            "post-install" => ("before-hook-creation", "stays"),
            "pre-delete" => ("before-hook-creation,hook-succeeded", "goes with the release"),
            other => panic!("{other}"),
        };
        assert_eq!(
            annotation(object, "helm.sh/hook-delete-policy"),
            Some(policy),
            "{why}"
        );
        // What the next upgrade, which renders ordinary objects, takes them over by.
        assert_eq!(annotation(object, "meta.helm.sh/release-name"), Some("tdc"));
        assert_eq!(annotation(object, "meta.helm.sh/release-namespace"), Some("mail"));
        assert_eq!(
            object["metadata"]["labels"]["app.kubernetes.io/managed-by"],
            "Helm"
        );
        let weight: i32 = annotation(object, "helm.sh/hook-weight")
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(
            weight,
            if object["kind"] == "MailPolicy" { 2 } else { 1 },
            "intakes before policies"
        );
    }
    let hooked = |hook: &str| {
        found
            .iter()
            .filter(|object| annotation(object, "helm.sh/hook") == Some(hook))
            .count()
    };
    assert_eq!((hooked("post-install"), hooked("pre-delete")), (4, 4));
}

#[test]
fn nothing_is_rendered_that_was_not_given() {
    assert!(resources(&render("")).is_empty());
    let objects = render("");
    let names: Vec<String> = objects
        .iter()
        .map(|object| text(&object["metadata"]["name"]))
        .collect();
    assert!(
        names
            .iter()
            .all(|name| name.starts_with("tdc-") || name.ends_with(".tdc.dev")),
        "{names:?}"
    );
    for object in &objects {
        let managed = &object["metadata"]["labels"]["app.kubernetes.io/managed-by"];
        assert!(
            object["kind"] == "CustomResourceDefinition" || managed == "Helm",
            "{object}"
        );
    }
    assert_eq!(list(&json!(null)).count(), 0);
}
