//! What alerts and dashboard ask for is what the running pods export, and what they export is described.

use std::collections::BTreeSet;

use crate::kubectl::{NAMESPACE, get, http, repository, run, text};

/// Words of a text that are names of metrics.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("tdc_") && *word != "tdc_")
        .map(str::to_owned)
        .collect()
}

/// What alerts and dashboard of the chart ask for.
fn asked() -> BTreeSet<String> {
    let (chart, values) = (
        repository("charts/threat-defense-connector"),
        repository("charts/threat-defense-connector/ci/everything-values.yaml"),
    );
    let mut all = BTreeSet::new();
    for template in ["prometheus-rule", "dashboard"] {
        let template = format!("templates/monitoring/{template}.yaml");
        let known = "--api-versions=tdc.dev/v1alpha1/MailPolicy";
        let words = ["template", "tdc", &chart, "-f", &values, known, "-s", &template];
        all.extend(names(&text(&run("helm", &words).stdout)));
    }
    all
}

/// The metrics of every pod of the connector, each as its family is declared and as its series are called.
fn exported() -> (BTreeSet<String>, BTreeSet<String>) {
    let pods = get(&format!("pods -n {NAMESPACE} -l tdc.dev/metrics=true"));
    let (mut families, mut series) = (BTreeSet::new(), BTreeSet::new());
    for pod in pods["items"].as_array().unwrap() {
        let metrics = http(
            &format!("{}:8080", pod["status"]["podIP"].as_str().unwrap()),
            "/metrics",
        );
        for line in metrics.lines() {
            match line.strip_prefix("# TYPE ") {
                Some(declared) => {
                    let mut words = declared.split(' ');
                    let (name, kind) = (words.next().unwrap(), words.next().unwrap());
                    families.insert(if kind == "info" {
                        format!("{name}_info")
                    } else {
                        name.to_owned()
                    });
                    let suffix = match kind {
                        "counter" => "_total",
                        "histogram" => "_bucket",
                        "info" => "_info",
                        _ => "",
                    };
                    series.insert(format!("{name}{suffix}"));
                }
                None if line.starts_with('#') => {}
                None => {
                    series.extend(line.split(['{', ' ']).next().map(str::to_owned));
                }
            }
        }
    }
    (families, series)
}

/// Whether the metric stands in the table of its role.
fn described(operations: &str, name: &str) -> bool {
    let section = operations.split("\n## Metrics\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let (role, short) = name["tdc_".len()..].split_once('_').unwrap();
    let of_role = section
        .split(&format!("`tdc_{role}_…`"))
        .nth(1)
        .unwrap_or_default();
    let of_role = of_role.split("\n\n").next().unwrap();
    let stands =
        |text: &str, name: &str| text.contains(&format!("`{name}`")) || text.contains(&format!("`{name}{{"));
    stands(of_role, short) || stands(section, &format!("tdc_ROLE_{short}")) || stands(section, name)
}

pub(crate) fn alerts_and_dashboard() -> String {
    let asked = asked();
    let (families, series) = exported();
    let operations = std::fs::read_to_string(repository("docs/operations.md")).unwrap();
    let unknown: Vec<_> = families
        .iter()
        .filter(|name| name.starts_with("tdc_") && !described(&operations, name))
        .collect();
    assert!(
        unknown.is_empty(),
        "docs/operations.md says nothing of {unknown:?}"
    );
    // A series with labels is there from the first time that it counts something: faults that did not happen yet.
    let silent: Vec<_> = asked.difference(&series).collect();
    let unknown: Vec<_> = silent
        .iter()
        .filter(|name| !described(&operations, name.trim_end_matches("_total")))
        .collect();
    assert!(
        unknown.is_empty(),
        "no pod exports {unknown:?}; there are {series:?}"
    );
    format!(
        "{} names asked for, {} exported by now; {} families exported, all described",
        asked.len(),
        asked.len() - silent.len(),
        families.len()
    )
}
