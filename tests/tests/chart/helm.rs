//! Runs Helm, and finds things in what it renders.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize as _;
use serde_json::Value;

/// What every installation has to say.
const REQUIRED: &str =
    "ingress: { nextHops: ['mailbox.example:25'] }\nredis: { bundled: { enabled: true } }\n";
/// A cluster whose definitions are installed.
pub(crate) const KNOWN: &str = "--api-versions=tdc.dev/v1alpha1/MailPolicy";

pub(crate) const TEMPLATE: [&str; 6] = ["template", "tdc", "--namespace", "mail", "--values", "-"];

/// The folder of the chart.
pub(crate) fn chart() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/threat-defense-connector")
}

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// `helm template tdc` in namespace `mail`, for a cluster that has the definitions; values only from the text.
pub(crate) fn template(values: &str) -> Result<Vec<Value>, String> {
    run_in(&chart(), &[&TEMPLATE[..], &[KNOWN]].concat(), values).map(|text| documents(&text))
}

/// The same for a cluster that has never seen the chart.
pub(crate) fn template_fresh(values: &str) -> Result<Vec<Value>, String> {
    run_in(&chart(), &TEMPLATE, values).map(|text| documents(&text))
}

/// With what is required, and these values on top; they must render.
pub(crate) fn render(values: &str) -> Vec<Value> {
    template(&with_required(values)).unwrap_or_else(|error| panic!("{values}: {error}"))
}

/// The values on top of those that are required.
pub(crate) fn with_required(values: &str) -> String {
    let mut all = documents(REQUIRED).remove(0);
    for value in documents(values) {
        merge(&mut all, value);
    }
    all.to_string()
}

/// Runs a command of Helm on a chart, with values on its standard input.
pub(crate) fn run_in(chart: &Path, arguments: &[&str], values: &str) -> Result<String, String> {
    let (command, rest) = arguments.split_first().unwrap();
    let (name, rest) = rest.split_first().unwrap();
    let mut helm = Command::new("helm")
        .args([command, name])
        .arg(chart)
        .args(rest)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("helm is on the PATH; `make chart-lint` sets it");
    helm.stdin.take().unwrap().write_all(values.as_bytes()).unwrap();
    let output = helm.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

/// Each document of a YAML stream that holds anything.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).unwrap_or_else(|error| panic!("{error} in\n{text}")))
        .filter(|value| !value.is_null())
        .collect()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// Every object of a kind.
pub(crate) fn all<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

/// The object of a kind and name, if there is one.
pub(crate) fn find<'a>(objects: &'a [Value], kind: &'a str, name: &str) -> Option<&'a Value> {
    all(objects, kind).find(|object| object["metadata"]["name"] == name)
}

/// The object of a kind and name.
pub(crate) fn get<'a>(objects: &'a [Value], kind: &'a str, name: &str) -> &'a Value {
    find(objects, kind, name).unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// The pod template of everything that has one, and pods themselves; with their kind and name.
pub(crate) fn pods(objects: &[Value]) -> Vec<(String, &Value)> {
    objects
        .iter()
        .filter_map(|object| {
            let name = format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]));
            match object["kind"].as_str()? {
                "Deployment" | "StatefulSet" => Some((name, &object["spec"]["template"])),
                "Pod" => Some((name, object)),
                _ => None,
            }
        })
        .collect()
}

/// The arguments of the first container.
pub(crate) fn arguments(objects: &[Value], role: &str) -> Vec<String> {
    let deployment = get(objects, "Deployment", &format!("tdc-{role}"));
    list(&deployment["spec"]["template"]["spec"]["containers"][0]["args"])
        .map(text)
        .collect()
}

/// The elements of a list; none when there is no list.
pub(crate) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A string.
pub(crate) fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no string"))
        .to_owned()
}

/// Whether every label of `selector` is on `labels`.
pub(crate) fn selects(selector: &Value, labels: &Value) -> bool {
    selector
        .as_object()
        .unwrap()
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}
