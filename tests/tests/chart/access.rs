//! Who may do what: the rights at the Kubernetes API, and who may speak with whom.

use serde_json::{Value, json};

use crate::helm::{all, chart, documents, get, list, pods, render, selects, text};

#[test]
fn only_policy_and_operator_have_rights_and_exactly_those_of_the_files() {
    for (values, role_kind, binding_kind, name) in [
        ("", "Role", "RoleBinding", "tdc"),
        (
            "allNamespaces: true",
            "ClusterRole",
            "ClusterRoleBinding",
            "mail-tdc",
        ),
    ] {
        let objects = render(values);
        for role in ["policy", "operator"] {
            let file = std::fs::read_to_string(chart().join(format!("files/rbac-{role}.yaml"))).unwrap();
            let file = documents(&file).remove(0);
            let granted = get(&objects, role_kind, &format!("{name}-{role}"));
            assert_eq!(granted["rules"], file["rules"], "{role}");
            if file.get("ownNamespaceRules").is_some() {
                let own = list(&file["ownNamespaceRules"]);
                let own: Vec<_> = own.filter(|rule| rule["verbs"] != json!(["create"])).collect();
                let lease = get(&objects, "Role", &format!("tdc-{role}-lease"));
                assert_eq!(list(&lease["rules"]).collect::<Vec<_>>(), own, "{role}");
                assert_eq!(lease["metadata"]["namespace"], "mail");
                let name = text(&own[0]["resourceNames"][0]);
                get(&objects, "Lease", &name);
            }
        }
        let bindings = all(&objects, "RoleBinding").chain(all(&objects, "ClusterRoleBinding"));
        for binding in bindings {
            let subjects: Vec<_> = list(&binding["subjects"]).collect();
            assert_eq!(subjects.len(), 1);
            let account = text(&subjects[0]["name"]);
            assert!(
                ["tdc-policy", "tdc-operator"].contains(&account.as_str()),
                "{account}"
            );
            assert_eq!(subjects[0]["namespace"], "mail");
            let role = text(&binding["roleRef"]["name"]);
            get(&objects, &text(&binding["roleRef"]["kind"]), &role);
        }
        assert!(all(&objects, binding_kind).count() >= 2, "{values}");
    }
}

#[test]
fn nobody_may_read_secrets_or_change_specs() {
    for values in ["", "allNamespaces: true"] {
        let objects = render(values);
        for role in all(&objects, "Role").chain(all(&objects, "ClusterRole")) {
            for rule in list(&role["rules"]) {
                let rule = rule.to_string();
                assert!(!rule.contains('*') && !rule.contains("secrets"), "{rule}");
                let writes = ["create", "update", "patch", "delete"]
                    .iter()
                    .any(|verb| rule.contains(verb));
                let own =
                    rule.contains("/status") || rule.contains("\"leases\"") || rule.contains("\"events\"");
                assert!(!writes || own, "{rule}");
            }
        }
    }
}

/// Whether the policies let a connection from one pod to a port of another pass, at both ends.
fn passes(objects: &[Value], from: &str, to: &str, port: u16) -> bool {
    let pods = pods(objects);
    let labels = |component: &str| -> Value {
        pods.iter()
            .map(|(_, pod)| &pod["metadata"]["labels"])
            .find(|labels| labels["app.kubernetes.io/component"] == component)
            .cloned()
            .unwrap_or(json!({ "somebody": component }))
    };
    let (source, target) = (labels(from), labels(to));
    let side = |own: &Value, other: &Value, rules: &str, peers: &str| {
        let mut governed = false;
        for policy in all(objects, "NetworkPolicy") {
            if !selects(&policy["spec"]["podSelector"]["matchLabels"], own) {
                continue;
            }
            governed = true;
            for rule in list(&policy["spec"][rules]) {
                let port_fits = list(&rule["ports"]).any(|candidate| candidate["port"] == port);
                let peer_fits = rule.get(peers).is_none_or(|peers| {
                    list(peers).any(|peer| match peer.get("podSelector") {
                        Some(pods) => selects(&pods["matchLabels"], other),
                        None => peer.get("namespaceSelector").is_some(),
                    })
                });
                if port_fits && peer_fits {
                    return true;
                }
            }
        }
        !governed
    };
    side(&source, &target, "egress", "to") && side(&target, &source, "ingress", "from")
}

#[test]
fn network_policies_let_each_role_speak_with_whom_it_needs() {
    let objects = render(
        "networkPolicy: { enabled: true, intakePorts: [587] }\ntracing: { endpoint: 'http://jaeger:4317' }",
    );
    let cases = [
        ("gateway", "ingress", 2525, true, "mail from outside"),
        ("gateway", "policy", 9090, false, "policies are not for everyone"),
        ("gateway", "redis", 6379, false, "nor is the queue"),
        ("prometheus", "worker", 8080, true, "metrics"),
        ("ingress", "policy", 9090, true, "decisions"),
        ("ingress", "redis", 6379, true, "queueing"),
        ("ingress", "mailbox", 25, true, "the next hop"),
        ("ingress", "jaeger", 4317, true, "spans"),
        ("ingress", "dns", 53, true, "names"),
        (
            "ingress",
            "api",
            6443,
            false,
            "an exposed pod has no business there",
        ),
        ("worker", "policy", 9090, true, "snapshots"),
        ("worker", "redis", 6379, true, "claims"),
        ("worker", "intake", 25, true, "delivery"),
        ("worker", "intake", 587, true, "another port of an intake"),
        ("worker", "intake", 80, false, "nothing else"),
        ("worker", "api", 443, false, "no token, no way"),
        ("policy", "api", 6443, true, "watches"),
        ("policy", "redis", 6379, false, "policy has no queue"),
        ("operator", "api", 443, true, "statuses"),
        ("operator", "policy", 9090, true, "who has which snapshot"),
        ("operator", "redis", 6379, true, "housekeeping"),
        ("operator", "intake", 25, true, "whether it answers"),
        ("test", "policy", 9090, true, "helm test"),
        ("test", "ingress", 2525, true, "helm test"),
        ("test", "redis", 6379, false, "helm test needs no queue"),
        ("redis", "api", 443, false, "Redis speaks with no one"),
    ];
    for (from, to, port, expected, why) in cases {
        assert_eq!(
            passes(&objects, from, to, port),
            expected,
            "{from} to {to}:{port}: {why}"
        );
    }
}

#[test]
fn smtp_can_be_bound_to_networks() {
    let objects = render("networkPolicy: { enabled: true, smtpFrom: [{ ipBlock: { cidr: 192.0.2.0/24 } }] }");
    let policy = get(&objects, "NetworkPolicy", "tdc-ingress");
    assert_eq!(
        policy["spec"]["ingress"][0]["from"],
        json!([{ "ipBlock": { "cidr": "192.0.2.0/24" } }])
    );
}
