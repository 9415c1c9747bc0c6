//! The chart and what it installs agree: flags, metrics, defaults, documentation.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tdc_tests::process::tdc;

use crate::helm::{
    KNOWN, TEMPLATE, all, arguments, chart, documents, get, list, render, repository, run_in, text,
    with_required,
};
use crate::pods::EVERYTHING;

fn help(command: &[&str]) -> String {
    let output = Command::new(tdc()).args(command).arg("--help").output().unwrap();
    assert!(output.status.success(), "{command:?}: build tdc first");
    String::from_utf8(output.stdout).unwrap()
}

/// Each flag of these arguments is one of the command's.
fn check_flags(command: &[&str], arguments: &[String]) {
    let help = help(command);
    let known: BTreeSet<&str> = help
        .split(|c: char| c.is_whitespace() || c == ',')
        .filter(|word| word.starts_with("--"))
        .collect();
    for argument in arguments.iter().filter(|argument| argument.starts_with('-')) {
        let flag = argument.split('=').next().unwrap();
        assert!(known.contains(flag), "tdc {command:?} has no {flag}: {known:?}");
    }
}

#[test]
fn every_flag_exists() {
    for values in ["", EVERYTHING, "allNamespaces: true"] {
        let objects = render(values);
        for role in ["ingress", "policy", "worker", "operator"] {
            let arguments = arguments(&objects, role);
            assert_eq!(arguments[0], role);
            check_flags(&[role], &arguments);
        }
        let test = get(&objects, "Pod", "tdc-test");
        let strings = |value: &Value| list(value).map(text).collect::<Vec<_>>();
        check_flags(
            &["policy", "test"],
            &strings(&test["spec"]["initContainers"][0]["args"]),
        );
        check_flags(&["send"], &strings(&test["spec"]["containers"][0]["args"]));
    }
}

/// `tdc_ROLE_NAME…` in a text.
fn metrics(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| {
            ["ingress", "worker", "policy", "operator"]
                .iter()
                .any(|role| word.starts_with(&format!("tdc_{role}_")))
        })
        .map(str::to_owned)
        .collect()
}

fn sources(dir: &Path, into: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_metric_of_alerts_and_dashboard_is_registered() {
    let objects = render(EVERYTHING);
    let used = get(&objects, "PrometheusRule", "tdc-metrics").to_string()
        + &get(&objects, "ConfigMap", "tdc-dashboard").to_string();
    let used = metrics(&used);
    assert!(used.len() > 12, "{used:?}");
    for metric in used {
        let (role, name) = metric.trim_start_matches("tdc_").split_once('_').unwrap();
        let name = name.trim_end_matches("_total").trim_end_matches("_bucket");
        let folder = if role == "worker" { "delivery" } else { role };
        let mut code = String::new();
        sources(&repository(&format!("crates/{folder}/src")), &mut code);
        assert!(code.contains(&format!("\"{name}\"")), "nobody registers {metric}");
    }
}

#[test]
fn every_alert_is_described() {
    let operations = std::fs::read_to_string(repository("docs/operations.md")).unwrap();
    let objects = render(EVERYTHING);
    let rules = &get(&objects, "PrometheusRule", "tdc-metrics")["spec"]["groups"][0]["rules"];
    assert!(list(rules).count() > 10);
    for rule in list(rules) {
        let name = text(&rule["alert"]);
        assert!(
            operations.contains(&format!("| `{name}`")),
            "docs/operations.md says nothing of {name}"
        );
    }
}

/// Every key of the values stands in the schema, and the other way round.
fn compare(path: &str, values: &Value, schema: &Value, definitions: &Value) {
    let schema = match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => &definitions[reference.trim_start_matches("#/definitions/")],
        None => schema,
    };
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return;
    };
    let values = values
        .as_object()
        .unwrap_or_else(|| panic!("{path} is no map in values.yaml"));
    for key in values.keys() {
        assert!(properties.contains_key(key), "{path}.{key} is not in the schema");
    }
    for (key, property) in properties.iter().filter(|(key, _)| *key != "global") {
        let value = values
            .get(key)
            .unwrap_or_else(|| panic!("{path}.{key} has no default"));
        compare(&format!("{path}.{key}"), value, property, definitions);
    }
}

#[test]
fn the_schema_and_the_defaults_have_the_same_keys() {
    let read = |file: &str| std::fs::read_to_string(chart().join(file)).unwrap();
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let values = documents(&read("values.yaml")).remove(0);
    compare("", &values, &schema, &schema["definitions"]);
}

/// `helm template` leaves the notes out: in a copy of the chart they are an ordinary template.
fn notes(values: &str) -> String {
    let copy = tempfile::tempdir().unwrap();
    let status = Command::new("cp")
        .arg("-r")
        .arg(chart().join("."))
        .arg(copy.path())
        .status()
        .unwrap();
    assert!(status.success());
    let at = |path: &str| copy.path().join(path);
    std::fs::rename(at("templates/NOTES.txt"), at("files/notes.txt")).unwrap();
    let template = "kind: Notes\ntext: {{ tpl (.Files.Get \"files/notes.txt\") . | toJson }}\n";
    std::fs::write(at("templates/notes.yaml"), template).unwrap();
    let text = run_in(
        copy.path(),
        &[&TEMPLATE[..], &[KNOWN]].concat(),
        &with_required(values),
    )
    .unwrap();
    let objects = documents(&text);
    let notes = all(&objects, "Notes").next().unwrap();
    crate::helm::text(&notes["text"])
}

#[test]
fn the_notes_tell_the_next_three_commands() {
    let cases = [
        ("", "There are no policies yet", true),
        ("policies: { staff: {} }", "There are no policies yet", false),
        ("", "kubectl -n mail get pods,tdc", true),
        ("", "helm -n mail test tdc", true),
        ("", "kubectl -n mail get service tdc-ingress", true),
        (
            "ingress: { service: { externalTrafficPolicy: Cluster } }",
            "every client seems to",
            true,
        ),
        ("", "The bundled Redis is one pod", true),
    ];
    for (values, expected, is_there) in cases {
        let notes = notes(values);
        assert_eq!(notes.contains(expected), is_there, "{values}: {notes}");
    }
}

#[test]
fn the_demonstrations_values_render() {
    let values = std::fs::read_to_string(repository("deploy/demo/k8s/values.yaml")).unwrap();
    let objects = crate::helm::template(&values).unwrap();
    assert_eq!(all(&objects, "Deployment").count(), 4);
}
