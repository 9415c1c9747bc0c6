//! The trace of one message, as Jaeger's query API tells it.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::kubectl::{DEMO, get, http, wait_for};

/// Each span, the span above it, and the role whose pod sent it.
const EXPECTED: &[(&str, Option<&str>, &str)] = &[
    ("smtp.transaction", None, "ingress"),
    ("policy.Evaluate", Some("smtp.transaction"), "ingress"),
    (
        "tdc.policy.v1.PolicyService/Evaluate",
        Some("policy.Evaluate"),
        "policy",
    ),
    ("queue.prepare", Some("smtp.transaction"), "ingress"),
    ("relay", Some("smtp.transaction"), "ingress"),
    ("queue.commit", Some("smtp.transaction"), "ingress"),
    ("journal.deliver", Some("smtp.transaction"), "worker"),
];

fn query(path: &str) -> Value {
    let service = get(&format!("service -n {DEMO} jaeger"));
    let address = format!("{}:16686", service["spec"]["clusterIP"].as_str().unwrap());
    let body = http(&address, path);
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
}

/// A span's parent in the trace; `None` at the root.
fn parent(span: &Value) -> Option<&str> {
    let references = span["references"].as_array()?;
    let reference = references
        .iter()
        .find(|reference| reference["refType"] == "CHILD_OF")?;
    reference["spanID"].as_str()
}

/// The pods of the trace, when it is whole.
fn whole(trace: &Value) -> Option<HashSet<String>> {
    let spans = trace["spans"].as_array()?;
    let names: HashMap<&str, &str> = spans
        .iter()
        .filter_map(|span| Some((span["spanID"].as_str()?, span["operationName"].as_str()?)))
        .collect();
    let mut pods = HashSet::new();
    for (name, above, role) in EXPECTED {
        let span = spans.iter().find(|span| span["operationName"] == *name)?;
        let process = &trace["processes"][span["processID"].as_str()?];
        assert_eq!(process["serviceName"], format!("tdc-{role}"), "{name}");
        assert_eq!(parent(span).map(|id| names[id]), *above, "the parent of {name}");
        let tags = process["tags"].as_array()?;
        let pod = tags.iter().find(|tag| tag["key"] == "k8s.pod.name")?;
        let pod = pod["value"].as_str()?.to_owned();
        assert!(
            pod.starts_with(&format!("tdc-{role}-")),
            "{name} comes from {pod}"
        );
        pods.insert(pod);
    }
    Some(pods)
}

pub(crate) fn one_trace() -> String {
    let pods = wait_for("a whole trace", || {
        let found = query("/api/traces?service=tdc-ingress&operation=smtp.transaction&limit=200&lookback=1h");
        found["data"].as_array()?.iter().find_map(whole)
    });
    assert_eq!(pods.len(), 3, "{pods:?}");
    format!("{} spans with the right parents", EXPECTED.len())
}
