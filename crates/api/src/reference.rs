//! The reference of every field (`docs/resources.md`), written from the definitions, so that it cannot say anything
//! else than what the API server enforces.

use std::fmt::Write as _;

use serde_json::Value;

use crate::{API_VERSION, Kind, crd};

/// One object of each kind with every field; the examples of the reference are taken from here.
pub const EXAMPLES: &str = r#"apiVersion: tdc.dev/v1alpha1
kind: ThreatDefenseConnector
metadata: { name: default }
spec:
  enabled: true
  defaultIntake: etd-eu
  defaultJournaling: Disabled
  failurePolicy: Fail
  queueLifetime: 120s
  deadLetter: { mode: Retain, retention: 24h }
  senderIpHeader: X-IronPort-RemoteIP
  clean:
    notCleanHeaders:
    - { name: X-Spam-Flag, pattern: "^YES" }
---
apiVersion: tdc.dev/v1alpha1
kind: IntakeAddress
metadata: { name: etd-eu }
spec:
  address: b5986efe-374c-47a5-aade-b8d98847e1a6@intake.example
  format: JournalReport
  route: { host: mx.intake.example, port: 25 }
  tls:
    mode: Verify
    minVersion: "1.2"
    serverName: mx.intake.example
    caBundle: ""
  connections: { min: 3, max: 50, messagesPerConnection: 10 }
  retry: { transient: 1, network: 1, tls: 0 }
---
apiVersion: tdc.dev/v1alpha1
kind: MailPolicy
metadata: { name: finance }
spec:
  order: 10
  users:
  - senders: { anyOf: ["@.partner.example"], noneOf: [news@bulk.partner.example] }
    recipients: { anyOf: [cfo@, "@finance.example"], allOf: [audit@finance.example], noneOf: [intern@finance.example] }
    combine: All
  journaling: { mode: Custom, intake: etd-eu }
"#;

/// The reference as Markdown, always the same text for the same version of the program.
///
/// # Panics
/// When the definitions or the examples of this module are broken, which its tests rule out.
pub fn reference() -> String {
    let mut text = format!(
        "# Resources\n\n\
         Every field of the three kinds of `{API_VERSION}`. This page is written by `make generate` from the definitions \
         that the API server enforces; the same bounds and rules hold for files (`--config DIR`). `kubectl explain` shows \
         the same texts. An empty *default* means that the field may be left out and then has no value; *required* fields \
         must be there.\n"
    );
    for (kind, example) in Kind::ALL.into_iter().zip(EXAMPLES.split("---\n")) {
        let definition = serde_json::to_value(crd(kind)).expect("a definition is JSON");
        let version = &definition["spec"]["versions"][0];
        let schema = &version["schema"]["openAPIV3Schema"];
        let names = &definition["spec"]["names"];
        let short = names["shortNames"][0].as_str().unwrap_or_default();
        let _ = write!(
            text,
            "\n## {kind}\n\n{}\n\n`kubectl get {short}`, `kubectl get tdc`. Selectable: {}.\n\n```yaml\n{example}```\n\n\
             | field | type | default | bounds | meaning | example |\n|---|---|---|---|---|---|\n",
            schema["description"].as_str().unwrap_or_default(),
            selectable(version),
        );
        let values: Value = serde_yaml_ng::from_str(example).expect("the examples are YAML");
        let mut rows = Rows {
            text: &mut text,
            rules: Vec::new(),
        };
        rows.walk(&schema["properties"]["spec"], "", &values["spec"]);
        let rules = rows.rules;
        if !rules.is_empty() {
            text.push_str("\nRules over several fields:\n\n");
            for (place, rule) in rules {
                let _ = writeln!(text, "- `{place}`: {rule}");
            }
        }
    }
    text
}

fn selectable(version: &Value) -> String {
    let fields = version["selectableFields"].as_array().into_iter().flatten();
    let names: Vec<String> = fields
        .filter_map(|field| field["jsonPath"].as_str())
        .map(|path| format!("`{}`", path.trim_start_matches('.')))
        .collect();
    names.join(", ")
}

struct Rows<'a> {
    text: &'a mut String,
    /// Rules of objects, which speak of several fields.
    rules: Vec<(String, String)>,
}

impl Rows<'_> {
    /// A row for each field below an object.
    fn walk(&mut self, schema: &Value, place: &str, example: &Value) {
        for rule in rules(schema) {
            let place = if place.is_empty() { "spec" } else { place };
            self.rules.push((place.to_owned(), rule));
        }
        let required: Vec<&str> = strings(&schema["required"]);
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let field = if place.is_empty() {
                name.clone()
            } else {
                format!("{place}.{name}")
            };
            self.row(&field, property, &example[name], required.contains(&&**name));
        }
    }

    fn row(&mut self, field: &str, schema: &Value, example: &Value, required: bool) {
        let items = &schema["items"];
        let list = items.is_object();
        let nested = items["properties"].is_object() || schema["properties"].is_object();
        let type_ = match (list, schema["type"].as_str().unwrap_or_default()) {
            (true, _) => format!("list of {}s", items["type"].as_str().unwrap_or_default()),
            (false, name) => name.to_owned(),
        };
        let default = match &schema["default"] {
            _ if required => "*required*".to_owned(),
            Value::Null => String::new(),
            _ if nested => "see below".to_owned(),
            value => format!("`{value}`"),
        };
        let shown = if nested || example.is_null() {
            String::new()
        } else {
            format!("`{example}`")
        };
        let meaning = schema["description"]
            .as_str()
            .unwrap_or_default()
            .replace('\n', " ");
        let _ = writeln!(
            self.text,
            "| `{field}` | {type_} | {default} | {} | {} | {} |",
            cell(&bounds(schema, nested)),
            cell(&meaning),
            cell(&shown)
        );
        if list {
            self.walk(items, &format!("{field}[]"), &example[0]);
        } else if nested {
            self.walk(schema, field, example);
        }
    }
}

/// Everything that bounds one field, in words.
fn bounds(schema: &Value, nested: bool) -> String {
    let mut parts = Vec::new();
    let items = &schema["items"];
    if let Some(most) = schema["maxItems"].as_u64() {
        parts.push(format!("at most {most}"));
    }
    for (schema, of) in [(schema, ""), (items, "each ")] {
        match (schema["minLength"].as_u64(), schema["maxLength"].as_u64()) {
            (Some(least), Some(most)) => parts.push(format!("{of}{least} to {most} characters")),
            (None, Some(most)) => parts.push(format!("{of}at most {most} characters")),
            (Some(_) | None, None) => {}
        }
        if let (Some(least), Some(most)) = (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
            parts.push(format!("{least} to {most}"));
        }
        let values: Vec<String> = strings(&schema["enum"])
            .iter()
            .map(|value| format!("`{value}`"))
            .collect();
        if !values.is_empty() {
            parts.push(values.join(", "));
        }
    }
    if !nested {
        // "is not a host; write …": what to write is the bound.
        parts.extend(rules(schema).iter().map(|rule| {
            let (_, write) = rule.split_once("; ").unwrap_or(("", rule));
            write.to_owned()
        }));
    }
    parts.join("; ")
}

fn rules(schema: &Value) -> Vec<String> {
    let rules = schema["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten();
    rules
        .filter_map(|rule| rule["message"].as_str().map(str::to_owned))
        .collect()
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// A bar would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
