//! The definitions on the API server: every bound and every rule refuses its bad example, in words; and what a person
//! with `kubectl` expects of a resource works.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::namespace::{Namespace, feed};
use crate::roles::{connector, intake, policy};
use crate::server;

/// An object that has every field, and breaks no rule.
fn whole(kind: &str) -> Value {
    match kind {
        "ThreatDefenseConnector" => json!({
            "enabled": true, "defaultIntake": "eu", "defaultJournaling": "Global", "failurePolicy": "Fail",
            "queueLifetime": "120s", "deadLetter": { "mode": "Drop", "retention": "24h" },
            "senderIpHeader": "X-Ip", "clean": { "notCleanHeaders": [{ "name": "X-Spam", "pattern": "^y" }] },
        }),
        "IntakeAddress" => json!({
            "address": "x@intake.example", "format": "Raw", "route": { "host": "mx.example", "port": 25 },
            "tls": { "mode": "Verify", "minVersion": "1.2", "serverName": "mx.example", "caBundle": "pem" },
            "connections": { "min": 3, "max": 50, "messagesPerConnection": 10 },
            "retry": { "transient": 1, "network": 1, "tls": 0 },
        }),
        "MailPolicy" => json!({
            "order": 10,
            "users": [{
                "senders": { "anyOf": ["@a.example"], "noneOf": ["b@"] },
                "recipients": { "anyOf": ["c@d.example"], "allOf": ["@.e.example"], "noneOf": ["f@"] },
                "combine": "All",
            }],
            "journaling": { "mode": "Custom", "intake": "eu" },
        }),
        other => panic!("no whole object of kind {other}"),
    }
}

/// For each rule in CEL, by its place and the beginning of its message: what breaks it.
fn breach(place: &str, message: &str) -> Option<(&'static str, Value)> {
    let table = [
        (
            "spec",
            "defaultJournaling Global needs",
            "spec.defaultIntake",
            Value::Null,
        ),
        (
            "spec.tls",
            "serverName is only used",
            "spec.tls",
            json!({ "mode": "None", "serverName": "mx.example" }),
        ),
        (
            "spec.tls",
            "caBundle is only used",
            "spec.tls",
            json!({ "mode": "Encrypt", "caBundle": "pem" }),
        ),
        (
            "spec.connections",
            "min must not be greater",
            "spec.connections",
            json!({ "min": 9, "max": 3 }),
        ),
        (
            "spec.users[]",
            "a row needs",
            "spec.users[]",
            json!({ "combine": "Any" }),
        ),
        (
            "spec.users[].senders",
            "senders needs",
            "spec.users[].senders",
            json!({}),
        ),
        (
            "spec.users[].recipients",
            "recipients needs",
            "spec.users[].recipients",
            json!({}),
        ),
        (
            "spec.journaling",
            "mode Custom needs",
            "spec.journaling",
            json!({ "mode": "Custom" }),
        ),
        (
            "spec.journaling",
            "intake is only used",
            "spec.journaling",
            json!({ "mode": "Global", "intake": "eu" }),
        ),
        ("spec.queueLifetime", "", "spec.queueLifetime", json!("25h")),
        (
            "spec.deadLetter.retention",
            "",
            "spec.deadLetter.retention",
            json!("soon"),
        ),
        (
            "spec.defaultIntake",
            "",
            "spec.defaultIntake",
            json!("Not A Name"),
        ),
        ("spec.senderIpHeader", "", "spec.senderIpHeader", json!("X Ip:")),
        (
            "spec.clean.notCleanHeaders[].name",
            "",
            "spec.clean.notCleanHeaders[].name",
            json!("X Spam"),
        ),
        ("spec.address", "", "spec.address", json!("<x@intake.example>")),
        ("spec.route.host", "", "spec.route.host", json!("[::1]:25")),
        (
            "spec.tls.serverName",
            "",
            "spec.tls.serverName",
            json!("mx example"),
        ),
        (
            "spec.journaling.intake",
            "",
            "spec.journaling.intake",
            json!("EU!"),
        ),
    ];
    let found = table
        .into_iter()
        .find(|(at, begin, ..)| *at == place && message.starts_with(begin));
    found.map(|(_, _, target, value)| (target, value))
}

/// One way to break one constraint.
struct Case {
    kind: &'static str,
    object: Value,
    /// Where the API server must point to.
    place: String,
    /// What it must say there.
    says: String,
}

/// Replaces the value at a place as `spec.users[].senders`; `null` removes it.
fn replace(object: &mut Value, place: &str, value: Value) {
    let (parent, last) = place.rsplit_once('.').unwrap_or(("", place));
    let mut at = object;
    for step in parent.split('.').filter(|step| !step.is_empty()) {
        at = match step.strip_suffix("[]") {
            Some(name) => &mut at[name][0],
            None => &mut at[step],
        };
    }
    match (last.strip_suffix("[]"), value) {
        (Some(name), value) => at[name][0] = value,
        (None, Value::Null) => {
            at.as_object_mut().unwrap().remove(last);
        }
        (None, value) => at[last] = value,
    }
}

fn at(object: &Value, place: &str) -> Value {
    let mut found = object;
    for step in place.split('.') {
        found = match step.strip_suffix("[]") {
            Some(name) => &found[name][0],
            None => &found[step],
        };
    }
    found.clone()
}

struct Cases {
    kind: &'static str,
    cases: Vec<Case>,
}

impl Cases {
    fn add(&mut self, place: &str, target: &str, value: Value, says: impl Into<String>) {
        let mut object = json!({ "spec": whole(self.kind) });
        replace(&mut object, target, value);
        self.cases.push(Case {
            kind: self.kind,
            object,
            place: place.replace("[]", "[0]"),
            says: says.into(),
        });
    }

    /// Every constraint of a schema, and of what is below it.
    fn walk(&mut self, schema: &Value, place: &str) {
        // Bounds of numbers are floats in a definition.
        let number = |name: &str| schema[name].as_f64().map(|number| number as i64);
        let letters = |count: i64| Value::String("a".repeat(usize::try_from(count).unwrap()));
        if let Some(most) = number("maxLength") {
            self.add(
                place,
                place,
                letters(most + 1),
                format!("Too long: may not be more than {most} "),
            );
        }
        if let Some(least) = number("minLength") {
            self.add(
                place,
                place,
                letters(least - 1),
                format!("should be at least {least} chars long"),
            );
        }
        if let Some(most) = number("maximum") {
            self.add(
                place,
                place,
                json!(most + 1),
                format!("should be less than or equal to {most}"),
            );
        }
        if let Some(least) = number("minimum") {
            self.add(
                place,
                place,
                json!(least - 1),
                format!("should be greater than or equal to {least}"),
            );
        }
        if let Some(most) = number("maxItems") {
            let name = place;
            let item = at(&json!({ "spec": whole(self.kind) }), &format!("{name}[]"));
            let items = vec![item; usize::try_from(most).unwrap() + 1];
            self.add(
                place,
                name,
                Value::Array(items),
                format!("must have at most {most} items"),
            );
        }
        if let Some(values) = schema["enum"].as_array() {
            self.add(
                place,
                place,
                json!("Nonsense"),
                format!("supported values: {}", values[0]),
            );
        }
        if schema["pattern"].is_string() {
            self.add(
                place,
                place,
                json!("not an address"),
                "Invalid value: \"not an address\"",
            );
        }
        for required in schema["required"].as_array().into_iter().flatten() {
            let field = format!("{place}.{}", required.as_str().unwrap());
            self.add(&field, &field, Value::Null, "Required value");
        }
        for rule in schema["x-kubernetes-validations"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let message = rule["message"].as_str().unwrap();
            let (target, value) = breach(place, message)
                .unwrap_or_else(|| panic!("{}: {place}: no example breaks the rule: {message}", self.kind));
            let field = rule["fieldPath"].as_str().unwrap_or_default();
            self.add(&format!("{place}{field}"), target, value, message);
        }
        let wrong = if schema["type"] == "string" {
            json!(7)
        } else {
            json!("seven")
        };
        self.add(place, place, wrong, "must be of type");
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            self.walk(property, &format!("{place}.{name}"));
        }
        if schema["items"].is_object() {
            self.walk(&schema["items"], &format!("{place}[]"));
        }
    }
}

/// The API server's words about each object, by name.
fn refusals(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for part in text
        .split("\nThe ")
        .flat_map(|part| part.split("\nError from server"))
    {
        let name = part.split('"').find(|word| word.starts_with("case-"));
        if let Some(name) = name {
            found
                .entry(name.to_owned())
                .or_insert_with(String::new)
                .push_str(part);
        }
    }
    found
}

#[test]
fn every_bound_and_every_rule_refuses_its_bad_example_in_words() {
    let Some(server) = server::shared() else { return };
    let namespace = Namespace::new(server, "schema");
    let mut cases = Vec::new();
    for (kind, crd) in tdc_api::Kind::ALL
        .into_iter()
        .map(|kind| (kind.as_str(), tdc_api::crd(kind)))
    {
        let crd = serde_json::to_value(crd).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let mut walk = Cases {
            kind,
            cases: Vec::new(),
        };
        walk.walk(schema, "spec");
        cases.extend(walk.cases);
    }
    assert!(cases.len() > 100, "{} cases", cases.len());
    let object = |number: usize, case: &Case| {
        let mut object = case.object.clone();
        object["apiVersion"] = json!(tdc_api::API_VERSION);
        object["kind"] = json!(case.kind);
        object["metadata"] = json!({ "name": format!("case-{number}") });
        object
    };
    let items: Vec<Value> = cases
        .iter()
        .enumerate()
        .map(|(number, case)| object(number, case))
        .collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string();
    let refused = feed(
        namespace
            .kubectl()
            .args(["create", "--validate=ignore", "--dry-run=server", "-f", "-"]),
        &list,
    )
    .unwrap_err();
    let refusals = refusals(&format!("\n{refused}"));
    for (number, case) in cases.iter().enumerate() {
        let words = refusals.get(&format!("case-{number}")).unwrap_or_else(|| {
            panic!(
                "{} {}: nothing refuses it ({}): {refused:.2000}",
                case.kind, case.place, case.says
            )
        });
        let lines: Vec<&str> = words.lines().filter(|line| line.contains(&case.place)).collect();
        assert!(
            lines.iter().any(|line| line.contains(&case.says)),
            "{} {}: not {:?} but {words}",
            case.kind,
            case.place,
            case.says
        );
        // A person reads no regular expressions; only where a list may hold thousands is there no room for words.
        let in_list = ["anyOf", "allOf", "noneOf"]
            .iter()
            .any(|list| case.place.contains(list));
        assert!(
            in_list || !words.contains("should match"),
            "{}: {words}",
            case.place
        );
    }
    println!("{} bad examples refused", cases.len());
    // The whole objects are good, an unknown field is not.
    for kind in tdc_api::Kind::ALL.map(tdc_api::Kind::as_str) {
        let mut object = json!({ "apiVersion": tdc_api::API_VERSION, "kind": kind, "metadata": { "name": "whole" }, "spec": whole(kind) });
        namespace.apply(&object.to_string()).unwrap();
        object["spec"]["nonsense"] = json!(1);
        let refused = namespace.apply(&object.to_string()).unwrap_err();
        assert!(refused.contains("nonsense"), "{refused}");
    }
}

#[test]
fn what_a_person_with_kubectl_expects() {
    let Some(server) = server::shared() else { return };
    let namespace = Namespace::new(server, "kubectl");
    let all = connector("default", "{ defaultIntake: eu }")
        + &intake("eu")
        + &policy("staff", 10, "@company.example", "{ mode: Global }")
        + &policy("finance", 20, "@finance.example", "{ mode: Custom, intake: eu }");
    namespace.apply(&all).unwrap();

    let header = |args: &[&str]| {
        let text = namespace.must(args);
        let words: Vec<String> = text
            .lines()
            .next()
            .unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        words.join(" ")
    };
    assert_eq!(
        header(&["get", "mpol"]),
        "NAME ORDER MODE INTAKE ACCEPTED PROGRAMMED AGE"
    );
    assert_eq!(
        header(&["get", "mpol", "-o", "wide"]),
        "NAME ORDER MODE INTAKE ACCEPTED PROGRAMMED ACCEPTED-REASON REFS-REASON PROGRAMMED-REASON AGE"
    );
    assert_eq!(
        header(&["get", "intake"]),
        "NAME ADDRESS FORMAT REACHABLE PROGRAMMED AGE"
    );
    assert_eq!(
        header(&["get", "tdconn"]),
        "NAME ENABLED INTAKE FAILURE ACCEPTED PROGRAMMED AGE"
    );
    let names = namespace.must(&["get", "tdc", "-o", "name"]);
    for name in [
        "threatdefenseconnector.tdc.dev/default",
        "intakeaddress.tdc.dev/eu",
        "mailpolicy.tdc.dev/staff",
    ] {
        assert!(names.contains(name), "the category lists {name}: {names}");
    }
    for (kind, selector, expected) in [
        (
            "mpol",
            "spec.journaling.mode=Custom",
            "mailpolicy.tdc.dev/finance\n",
        ),
        (
            "mpol",
            "spec.journaling.intake=eu",
            "mailpolicy.tdc.dev/finance\n",
        ),
        (
            "intake",
            "spec.address=eu@intake.example",
            "intakeaddress.tdc.dev/eu\n",
        ),
        ("intake", "spec.format=Raw", ""),
        (
            "tdconn",
            "spec.defaultIntake=eu",
            "threatdefenseconnector.tdc.dev/default\n",
        ),
    ] {
        let found = namespace.must(&["get", kind, "--field-selector", selector, "-o", "name"]);
        assert_eq!(found, expected, "{kind} {selector}");
    }
    for (field, words) in [
        ("mailpolicy", "Which incoming mail is journaled"),
        (
            "mailpolicy.spec.users.recipients.noneOf",
            "is not taken by this row",
        ),
        (
            "intakeaddress.spec.tls.caBundle",
            "PEM certificates of the authorities to trust",
        ),
        ("threatdefenseconnector.spec.failurePolicy", "its sender gets 451"),
        ("intakeaddress.status.conditions.reason", "CamelCase"),
    ] {
        let text = namespace.must(&["explain", field]).replace('\n', " ");
        let text: Vec<&str> = text.split_whitespace().collect();
        assert!(
            text.join(" ").contains(words),
            "kubectl explain {field}: {}",
            text.join(" ")
        );
    }
    // What is stored shows the defaults that hold.
    let stored = namespace.get("intake", "eu");
    assert_eq!(
        stored["spec"]["tls"],
        json!({ "mode": "Verify", "minVersion": "1.2" })
    );
    assert_eq!(stored["spec"]["connections"]["max"], 50);
}

#[test]
fn two_field_managers_share_an_object() {
    let Some(server) = server::shared() else { return };
    let namespace = Namespace::new(server, "managers");
    let apply = |manager: &str, spec: &str| {
        let yaml = format!(
            "apiVersion: tdc.dev/v1alpha1\nkind: ThreatDefenseConnector\nmetadata: {{ name: default }}\nspec: {spec}\n"
        );
        let manager = format!("--field-manager={manager}");
        feed(
            namespace
                .kubectl()
                .args(["apply", "--server-side", &manager, "-f", "-"]),
            &yaml,
        )
    };
    apply("gitops", "{ defaultIntake: eu, queueLifetime: 60s }").unwrap();
    apply(
        "security",
        "{ failurePolicy: Ignore, deadLetter: { mode: Retain } }",
    )
    .unwrap();
    let spec = |namespace: &Namespace<'_>| namespace.get("tdconn", "default")["spec"].clone();
    let shared = spec(&namespace);
    assert_eq!(
        (&shared["queueLifetime"], &shared["failurePolicy"]),
        (&json!("60s"), &json!("Ignore"))
    );
    let refused = apply("security", "{ failurePolicy: Ignore, queueLifetime: 90s }").unwrap_err();
    assert!(
        refused.contains("gitops") && refused.contains("queueLifetime"),
        "{refused}"
    );
    // What a manager leaves out goes back to its default; what the other owns stays.
    apply("security", "{ deadLetter: { mode: Retain } }").unwrap();
    let shared = spec(&namespace);
    assert_eq!(
        (&shared["queueLifetime"], &shared["failurePolicy"]),
        (&json!("60s"), &json!("Fail"))
    );
}
