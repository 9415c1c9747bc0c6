//! Every manifest against the schemas of this cluster, by kubeconform, strictly.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::kubectl::{kubectl, repository, run, text};

/// Kinds of other projects, whose definitions are not in this cluster.
const FOREIGN: &str = "ServiceMonitor,PrometheusRule,ScaledObject,TriggerAuthentication";

/// Makes a definition strict, and lets quantities and ports be numbers or words.
fn strict(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    if map.get("format") == Some(&json!("int-or-string")) {
        *map = Map::from_iter([("type".to_owned(), json!(["string", "integer"]))]);
    }
    if map.contains_key("properties") && !map.contains_key("additionalProperties") {
        map.insert("additionalProperties".to_owned(), json!(false));
    }
    for (key, value) in map.iter_mut() {
        match value {
            Value::Object(inner) if key == "properties" || key == "definitions" => {
                inner.values_mut().for_each(strict);
            }
            Value::Object(_) => strict(value),
            _ => {}
        }
    }
}

/// One file a kind, from what the API server says of itself and from the chart's own definitions.
fn write_schemas(dir: &Path) -> usize {
    let api: Value = serde_json::from_str(&kubectl("get --raw /openapi/v2")).unwrap();
    let mut definitions = api["definitions"].clone();
    definitions.as_object_mut().unwrap().values_mut().for_each(strict);
    let quantity = "io.k8s.apimachinery.pkg.api.resource.Quantity";
    definitions[quantity] = json!({ "type": ["string", "number"] });
    let mut count = 0;
    for (name, definition) in definitions.as_object().unwrap() {
        for kind in definition["x-kubernetes-group-version-kind"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let word = |key: &str| kind[key].as_str().unwrap().to_lowercase();
            // kubeconform calls the core group by its version.
            let group = Some(word("group")).filter(|group| !group.is_empty());
            let group = group.unwrap_or_else(|| word("version"));
            let file = format!("{group}-{}-{}.json", word("version"), word("kind"));
            let schema = json!({ "$ref": format!("all.json#/definitions/{name}") });
            std::fs::write(dir.join(file), schema.to_string()).unwrap();
            count += 1;
        }
    }
    std::fs::write(
        dir.join("all.json"),
        json!({ "definitions": definitions }).to_string(),
    )
    .unwrap();
    let own = std::fs::read_to_string(repository("charts/threat-defense-connector/files/crds.yaml")).unwrap();
    for document in serde_yaml_ng::Deserializer::from_str(&own) {
        let crd: Value = serde::Deserialize::deserialize(document).unwrap();
        let mut schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
        strict(&mut schema);
        for (key, of) in [
            ("apiVersion", json!({})),
            ("kind", json!({})),
            ("metadata", json!({})),
        ] {
            schema["properties"][key] = of;
        }
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap().to_lowercase();
        std::fs::write(
            dir.join(format!("tdc.dev-v1alpha1-{kind}.json")),
            schema.to_string(),
        )
        .unwrap();
        count += 1;
    }
    count
}

pub(crate) fn manifests_are_valid() -> String {
    let dir = tempfile::tempdir().unwrap();
    let schemas = write_schemas(dir.path());
    let chart = repository("charts/threat-defense-connector");
    let mut files = Vec::new();
    let ci = std::fs::read_dir(format!("{chart}/ci")).unwrap();
    let mut values: Vec<String> = ci
        .map(|entry| entry.unwrap().path().to_str().unwrap().to_owned())
        .collect();
    values.push(repository("deploy/demo/k8s/values.yaml"));
    assert!(values.len() >= 3, "{values:?}");
    for values in values {
        let known = "--api-versions=tdc.dev/v1alpha1/MailPolicy";
        let words = ["template", "tdc", &chart, "-n", "mail", known, "-f", &values];
        let manifest = run("helm", &words);
        let file = dir.path().join(format!("{}.yaml", files.len()));
        std::fs::write(&file, manifest.stdout).unwrap();
        files.push(file.to_str().unwrap().to_owned());
    }
    let demo = dir.path().join("demo.yaml");
    std::fs::write(
        &demo,
        run("kubectl", &["kustomize", &repository("deploy/demo/k8s")]).stdout,
    )
    .unwrap();
    files.push(demo.to_str().unwrap().to_owned());
    for file in ["connector", "intakes", "policies"] {
        files.push(repository(&format!("deploy/demo/{file}.yaml")));
    }
    let location = format!(
        "{}/{{{{ .Group }}}}-{{{{ .ResourceAPIVersion }}}}-{{{{ .ResourceKind }}}}.json",
        dir.path().display()
    );
    let mut words = vec![
        "-strict",
        "-summary",
        "-skip",
        FOREIGN,
        "-schema-location",
        &location,
    ];
    words.extend(files.iter().map(String::as_str));
    let output = run("kubeconform", &words);
    format!("{}; {schemas} schemas", text(&output.stdout).trim())
}
