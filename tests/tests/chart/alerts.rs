//! Alerts and dashboard in Prometheus's own words: each expression is valid, each alert fires on what it is about,
//! and a healthy system is silent.
//!
//! Needs `promtool`; `make chart-lint` fetches it.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::helm::{get, list, render, text};
use crate::pods::EVERYTHING;

/// The labels that every series of the release has.
const OF_THE_RELEASE: &str = "namespace=\"mail\",job=\"tdc-metrics\"";

/// Series of a system in which nothing is wrong: mail comes and goes.
const HEALTHY: &[(&str, &str)] = &[
    ("up{app_kubernetes_io_component=\"ingress\"}", "1x80"),
    ("up{app_kubernetes_io_component=\"worker\"}", "1x80"),
    ("up{app_kubernetes_io_component=\"policy\"}", "1x80"),
    ("up{app_kubernetes_io_component=\"operator\"}", "1x80"),
    ("tdc_ingress_messages_total{outcome=\"accepted\"}", "0+50x80"),
    ("tdc_ingress_messages_total{outcome=\"journal_failed\"}", "7x80"),
    ("tdc_ingress_next_hop_failures_total", "3x80"),
    ("tdc_ingress_messages_shed_total{cause=\"queue\"}", "6x80"),
    ("tdc_ingress_messages_shed_total{cause=\"memory\"}", "8x80"),
    ("tdc_ingress_journal_skipped_total{reason=\"queue_full\"}", "4x80"),
    (
        "tdc_ingress_journal_skipped_total{reason=\"not_clean\"}",
        "0+5x80",
    ),
    ("tdc_ingress_copies_in_doubt_total", "2x80"),
    ("tdc_ingress_evaluations_total{source=\"remote\"}", "0+50x80"),
    ("tdc_ingress_evaluations_total{source=\"local\"}", "9x80"),
    ("tdc_ingress_connections_open{pod=\"a\"}", "1700x80"),
    (
        "tdc_worker_deliveries_total{intake=\"eu\",class=\"delivered\"}",
        "0+50x80",
    ),
    (
        "tdc_worker_deliveries_total{intake=\"eu\",class=\"possible_delivery\"}",
        "0+1x80",
    ),
    ("tdc_worker_deliveries_total{intake=\"eu\",class=\"5xx\"}", "1x80"),
    ("tdc_worker_queue_oldest_seconds{intake=\"eu\"}", "30x80"),
    ("tdc_policy_objects_unusable", "0x80"),
    ("tdc_policy_tls_handshakes_failed_total", "5x80"),
    ("tdc_operator_intakes_unreachable", "0x80"),
    ("tdc_operator_objects_not_programmed", "0x80"),
];

/// An alert, the series on which it fires after 30 minutes, and its labels then.
const FIRES: &[(&str, &str, &str, &[(&str, &str)])] = &[
    (
        "TDCIngressDown",
        "up{app_kubernetes_io_component=\"ingress\"}",
        "0x80",
        &[],
    ),
    (
        "TDCIngressDown",
        "up{app_kubernetes_io_component=\"worker\"}",
        "1x80",
        &[],
    ),
    (
        "TDCWorkerDown",
        "up{app_kubernetes_io_component=\"worker\"}",
        "0x80",
        &[],
    ),
    (
        "TDCPolicyDown",
        "up{app_kubernetes_io_component=\"policy\"}",
        "0x80",
        &[],
    ),
    (
        "TDCOperatorDown",
        "up{app_kubernetes_io_component=\"operator\"}",
        "0x80",
        &[],
    ),
    (
        "TDCMailDeferred",
        "tdc_ingress_messages_total{outcome=\"journal_failed\"}",
        "0+1x80",
        &[],
    ),
    (
        "TDCMailDeferred",
        "tdc_ingress_messages_shed_total{cause=\"queue\"}",
        "0+1x80",
        &[],
    ),
    (
        "TDCMessagesShed",
        "tdc_ingress_messages_shed_total{cause=\"memory\"}",
        "0+1x80",
        &[],
    ),
    (
        "TDCNextHopFailing",
        "tdc_ingress_next_hop_failures_total",
        "0+1x80",
        &[],
    ),
    (
        "TDCNotJournaled",
        "tdc_ingress_journal_skipped_total{reason=\"no_policy\"}",
        "0+1x80",
        &[("reason", "no_policy")],
    ),
    (
        "TDCNotJournaled",
        "tdc_ingress_journal_skipped_total{reason=\"queue_unavailable\"}",
        "0+1x80",
        &[("reason", "queue_unavailable")],
    ),
    (
        "TDCNotJournaled",
        "tdc_ingress_journal_skipped_total{reason=\"queue_timeout\"}",
        "_x50 1x30",
        &[("reason", "queue_timeout")],
    ),
    (
        // The first of its kind, five minutes ago: the counter has not grown since it is there.
        "TDCCopiesLost",
        "tdc_worker_deliveries_total{intake=\"eu\",class=\"expired\"}",
        "_x50 1x30",
        &[("intake", "eu"), ("class", "expired")],
    ),
    (
        "TDCCopiesLost",
        "tdc_worker_deliveries_total{intake=\"eu\",class=\"5xx\"}",
        "1x55 2x30",
        &[("intake", "eu"), ("class", "5xx")],
    ),
    (
        "TDCQueueOld",
        "tdc_worker_queue_oldest_seconds{intake=\"eu\"}",
        "46x80",
        &[("intake", "eu")],
    ),
    (
        "TDCCopiesInDoubt",
        "tdc_ingress_copies_in_doubt_total",
        "0+1x80",
        &[],
    ),
    (
        "TDCPolicyUnreachable",
        "tdc_ingress_evaluations_total{source=\"local\"}",
        "0+1x80",
        &[],
    ),
    ("TDCObjectsUnusable", "tdc_policy_objects_unusable", "1x80", &[]),
    (
        "TDCIntakeUnreachable",
        "tdc_operator_intakes_unreachable",
        "1x80",
        &[],
    ),
    (
        "TDCNotProgrammed",
        "tdc_operator_objects_not_programmed",
        "1x80",
        &[],
    ),
    (
        "TDCClientsRefused",
        "tdc_policy_tls_handshakes_failed_total",
        "0+1x80",
        &[],
    ),
    (
        "TDCConnectionsExhausted",
        "tdc_ingress_connections_open{pod=\"a\"}",
        "1801x80",
        &[("pod", "a")],
    ),
];

/// `promtool` with these words in a folder; what it said, when it is content.
fn promtool(dir: &Path, words: &[&str]) -> String {
    let output = Command::new("promtool")
        .args(words)
        .current_dir(dir)
        .output()
        .expect("promtool is on the PATH; `make chart-lint` sets it");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {words:?}: {said}");
    said.into_owned()
}

/// A series with the labels of the release among its own.
fn series((name, values): (&str, &str)) -> Value {
    let full = match name.split_once('{') {
        Some((name, rest)) => format!("{name}{{{OF_THE_RELEASE},{rest}"),
        None => format!("{name}{{{OF_THE_RELEASE}}}"),
    };
    json!({ "series": full, "values": values })
}

/// The groups of the chart's rule, in a file of a folder; its alerts.
fn rules(dir: &Path) -> Vec<Value> {
    let objects = render(EVERYTHING);
    let spec = &get(&objects, "PrometheusRule", "tdc-metrics")["spec"];
    std::fs::write(dir.join("rules.yaml"), spec.to_string()).unwrap();
    list(&spec["groups"][0]["rules"]).cloned().collect()
}

#[test]
fn each_alert_fires_on_what_it_is_about_and_a_healthy_system_is_silent() {
    let dir = tempfile::tempdir().unwrap();
    let alerts = rules(dir.path());
    promtool(dir.path(), &["check", "rules", "rules.yaml"]);

    let expectation = |name: &str, expected: Value| json!({ "alertname": name, "eval_time": "30m", "exp_alerts": expected });
    let silent: Vec<Value> = alerts
        .iter()
        .map(|alert| expectation(&text(&alert["alert"]), json!([])))
        .collect();
    let healthy: Vec<Value> = HEALTHY.iter().copied().map(series).collect();
    let mut tests = vec![json!({ "interval": "30s", "input_series": healthy, "alert_rule_test": silent })];
    for alert in &alerts {
        let name = text(&alert["alert"]);
        let cases: Vec<_> = FIRES.iter().filter(|(of, ..)| *of == name).collect();
        assert!(!cases.is_empty(), "no case for {name}");
        for (_, of, values, own) in cases {
            let mut labels = json!({ "severity": alert["labels"]["severity"] });
            let mut summary = text(&alert["annotations"]["summary"]);
            for (label, value) in *own {
                labels[label] = json!(value);
                summary = summary.replace(&format!("{{{{ $labels.{label} }}}}"), value);
            }
            let fired = json!([{ "exp_labels": labels, "exp_annotations": { "summary": summary } }]);
            tests.push(json!({
                "interval": "30s",
                "input_series": [series((of, values))],
                "alert_rule_test": [expectation(&name, fired)],
            }));
        }
    }
    let file = json!({ "rule_files": ["rules.yaml"], "evaluation_interval": "30s", "tests": tests });
    std::fs::write(dir.path().join("tests.yaml"), file.to_string()).unwrap();
    promtool(dir.path(), &["test", "rules", "tests.yaml"]);
}

#[test]
fn the_dashboards_expressions_are_valid() {
    let objects = render(EVERYTHING);
    let dashboard =
        text(&get(&objects, "ConfigMap", "tdc-dashboard")["data"]["threat-defense-connector.json"]);
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let expressions = list(&dashboard["panels"]).flat_map(|panel| list(&panel["targets"]));
    let expressions: Vec<String> = expressions.map(|target| text(&target["expr"])).collect();
    assert!(expressions.len() > 15, "{expressions:?}");
    let rules: Vec<Value> = expressions
        .iter()
        .enumerate()
        .map(|(number, expression)| {
            // Variables of Grafana.
            let expression = expression
                .replace("$namespace", "mail")
                .replace("$__rate_interval", "5m");
            assert!(!expression.contains('$'), "{expression}");
            json!({ "record": format!("panel:{number}"), "expr": expression })
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let file = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    std::fs::write(dir.path().join("panels.yaml"), file.to_string()).unwrap();
    let said = promtool(dir.path(), &["check", "rules", "panels.yaml"]);
    assert!(
        said.contains(&format!("{} rules found", expressions.len())),
        "{said}"
    );
}
