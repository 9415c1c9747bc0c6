//! Every pod is restricted, probed where it may be, and has time to stop.

use serde_json::{Value, json};

use crate::helm::{all, get, list, pods, render, selects, text};

/// All that can be switched on at once.
pub(crate) const EVERYTHING: &str =
    include_str!("../../../charts/threat-defense-connector/ci/everything-values.yaml");

/// The level `restricted` of the Pod Security Standards, and a root file system that cannot be written.
fn unrestricted(pod: &Value) -> Vec<String> {
    let spec = &pod["spec"];
    let mut faults = Vec::new();
    let mut demand = |holds: bool, what: &str| {
        if !holds {
            faults.push(what.to_owned());
        }
    };
    demand(spec["securityContext"]["runAsNonRoot"] == true, "runAsNonRoot");
    demand(
        spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault",
        "seccompProfile",
    );
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        demand(spec.get(field).is_none(), field);
    }
    let allowed = [
        "configMap",
        "secret",
        "emptyDir",
        "persistentVolumeClaim",
        "projected",
    ];
    for volume in list(&spec["volumes"]) {
        demand(
            allowed.iter().any(|kind| volume.get(kind).is_some()),
            "a volume of another kind",
        );
    }
    for container in list(&spec["containers"]).chain(list(&spec["initContainers"])) {
        let context = &container["securityContext"];
        demand(
            context["allowPrivilegeEscalation"] == false,
            "allowPrivilegeEscalation",
        );
        demand(context["capabilities"]["drop"] == json!(["ALL"]), "capabilities");
        demand(
            context["readOnlyRootFilesystem"] == true,
            "readOnlyRootFilesystem",
        );
        demand(
            list(&container["ports"]).all(|port| port.get("hostPort").is_none()),
            "hostPort",
        );
    }
    faults
}

#[test]
fn every_pod_is_restricted_and_has_its_own_account() {
    for values in ["", EVERYTHING] {
        let objects = render(values);
        let pods = pods(&objects);
        assert_eq!(pods.len(), 6, "four roles, Redis, the test");
        for (name, pod) in pods {
            assert_eq!(unrestricted(pod), Vec::<String>::new(), "{name}");
            let token = &pod["spec"]["automountServiceAccountToken"];
            let needs_one = name.ends_with("-policy") || name.ends_with("-operator");
            assert_eq!(token, needs_one, "{name} reads the Kubernetes API, or does not");
            if name.starts_with("Deployment/") {
                let account = text(&pod["spec"]["serviceAccountName"]);
                assert_eq!(name, format!("Deployment/{account}"));
                assert_eq!(
                    get(&objects, "ServiceAccount", &account)["automountServiceAccountToken"],
                    false
                );
            }
        }
    }
}

#[test]
fn roles_are_probed_on_their_own_port_and_never_on_smtp() {
    let objects = render(EVERYTHING);
    for deployment in all(&objects, "Deployment") {
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        for (probe, path) in [
            ("startupProbe", "/livez"),
            ("livenessProbe", "/livez"),
            ("readinessProbe", "/readyz"),
        ] {
            assert_eq!(
                container[probe]["httpGet"],
                json!({ "path": path, "port": "admin" }),
                "{}",
                deployment["metadata"]["name"]
            );
        }
    }
}

#[test]
fn the_grace_period_covers_what_stopping_takes() {
    let cases = [
        (
            "ingress",
            "ingress: { drainDelaySeconds: 20, graceSeconds: 100 }",
            135,
        ),
        ("worker", "worker: { graceSeconds: 60 }", 75),
        ("policy", "", 30),
        ("operator", "", 25),
    ];
    for (role, values, expected) in cases {
        let objects = render(values);
        let deployment = get(&objects, "Deployment", &format!("tdc-{role}"));
        let seconds = &deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"];
        assert_eq!(seconds, expected, "{role}");
    }
}

#[test]
fn selectors_find_exactly_their_own_pods() {
    let objects = render(EVERYTHING);
    let pods = pods(&objects);
    let found = |selector: &Value| -> Vec<&str> {
        let matching = pods
            .iter()
            .filter(|(_, pod)| selects(selector, &pod["metadata"]["labels"]));
        matching
            .map(|(name, _)| name.split('/').next_back().unwrap())
            .collect()
    };
    for kind in ["Deployment", "StatefulSet", "PodDisruptionBudget"] {
        for object in all(&objects, kind) {
            let selector = &object["spec"]["selector"]["matchLabels"];
            assert_eq!(found(selector), [text(&object["metadata"]["name"])], "{kind}");
            assert!(
                selector.get("app.kubernetes.io/version").is_none(),
                "a selector cannot be changed later"
            );
        }
    }
    let services = [
        ("tdc-ingress", vec!["tdc-ingress"]),
        ("tdc-ingress-proxy", vec!["tdc-ingress"]),
        ("tdc-policy", vec!["tdc-policy"]),
        ("tdc-redis", vec!["tdc-redis"]),
        (
            "tdc-metrics",
            vec!["tdc-operator", "tdc-policy", "tdc-worker", "tdc-ingress"],
        ),
    ];
    assert_eq!(all(&objects, "Service").count(), services.len());
    for (name, mut expected) in services {
        let service = get(&objects, "Service", name);
        let mut pods = found(&service["spec"]["selector"]);
        pods.sort_unstable();
        expected.sort_unstable();
        assert_eq!(pods, expected, "{name}");
    }
}

#[test]
fn every_target_port_of_a_service_exists() {
    let objects = render(EVERYTHING);
    let pods = pods(&objects);
    for service in all(&objects, "Service") {
        for port in list(&service["spec"]["ports"]) {
            for (name, pod) in &pods {
                if selects(&service["spec"]["selector"], &pod["metadata"]["labels"]) {
                    let ports = &pod["spec"]["containers"][0]["ports"];
                    assert!(
                        list(ports).any(|candidate| candidate["name"] == port["targetPort"]),
                        "{name} has {port}"
                    );
                }
            }
        }
    }
}

#[test]
fn every_mount_has_its_volume() {
    for (name, pod) in pods(&render(EVERYTHING)) {
        let mut volumes: Vec<String> = list(&pod["spec"]["volumes"])
            .map(|volume| text(&volume["name"]))
            .collect();
        if name.starts_with("StatefulSet/") {
            volumes.push("data".to_owned());
        }
        for container in list(&pod["spec"]["containers"]).chain(list(&pod["spec"]["initContainers"])) {
            for mount in list(&container["volumeMounts"]) {
                assert!(volumes.contains(&text(&mount["name"])), "{name}: {mount}");
            }
        }
    }
}
