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

/// Each metric of an expression, with the values of labels that it is asked for; but for those that Prometheus adds.
fn values_asked_for(expression: &str) -> Vec<(String, String)> {
    let of_the_release = ["namespace", "job", "app_kubernetes_io_component"];
    let selectors = expression.split('{').collect::<Vec<_>>();
    let mut asked = Vec::new();
    for pair in selectors.windows(2) {
        let metric = pair[0]
            .rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .next()
            .unwrap();
        let words: Vec<&str> = pair[1].split('}').next().unwrap().split('"').collect();
        for label in words.chunks_exact(2) {
            let name = label[0].trim_matches([',', '=', '~', '!']);
            if !of_the_release.contains(&name) {
                let values = label[1].split('|');
                asked.extend(values.map(|value| (metric.to_owned(), value.to_owned())));
            }
        }
    }
    asked
}

#[test]
fn every_value_of_a_label_in_an_alert_is_one_that_is_described() {
    let operations = std::fs::read_to_string(repository("docs/operations.md")).unwrap();
    let objects = render(EVERYTHING);
    let rules = &get(&objects, "PrometheusRule", "tdc-metrics")["spec"]["groups"][0]["rules"];
    let metrics = operations.split("\n## Metrics\n").nth(1).unwrap();
    let mut count = 0;
    for rule in list(rules) {
        for (metric, value) in values_asked_for(&text(&rule["expr"])) {
            let name = metric.splitn(3, '_').nth(2).unwrap().trim_end_matches("_total");
            let row = metrics
                .lines()
                .find(|line| line.starts_with('|') && line.contains(&format!("`{name}{{")))
                .unwrap_or_else(|| panic!("{metric} is not described"));
            // A prefix of several: queue_.+
            let known = match value.strip_suffix(".+") {
                Some(prefix) => row.contains(&format!("`{prefix}")),
                None => row.contains(&format!("`{value}`")),
            };
            assert!(
                known,
                "{}: {metric} is never {value}: {row}",
                text(&rule["alert"])
            );
            count += 1;
        }
    }
    assert!(count >= 8, "{count}");
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
