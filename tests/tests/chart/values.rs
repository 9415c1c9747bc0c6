//! What single values do.

use serde_json::{Value, json};

use crate::helm::{all, arguments, find, get, list, render, text};

/// Values, the kind and name of an object, a JSON pointer into it, and what stands there (null: nothing).
type Case = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    Value,
    &'static str,
);

const POD: &str = "/spec/template/spec";

#[test]
fn values_reach_their_objects() {
    let redis = "/spec/template/spec/containers/0/env/3/valueFrom/secretKeyRef";
    let only_url = "redis: { bundled: { enabled: false }, url: 'redis://r.example:6380/3' }";
    let only_secret = "redis: { bundled: { enabled: false }, existingSecret: { name: mine, key: where } }";
    let cases: Vec<Case> = vec![
        (
            "",
            "Deployment",
            "tdc-ingress",
            redis,
            json!({ "name": "tdc-redis", "key": "url" }),
            "bundled",
        ),
        (
            only_url,
            "Deployment",
            "tdc-worker",
            redis,
            json!({ "name": "tdc-redis", "key": "url" }),
            "a URL",
        ),
        (
            only_url,
            "Secret",
            "tdc-redis",
            "/stringData/url",
            json!("redis://r.example:6380/3"),
            "a URL",
        ),
        (
            only_secret,
            "Deployment",
            "tdc-operator",
            redis,
            json!({ "name": "mine", "key": "where" }),
            "a Secret",
        ),
        (
            "redis: { bundled: { password: abc } }",
            "Secret",
            "tdc-redis",
            "/stringData/url",
            json!("redis://:abc@tdc-redis.mail.svc:6379/0"),
            "a password of one's own",
        ),
        (
            "image: { repository: r/tdc, tag: v9 }",
            "Deployment",
            "tdc-policy",
            "/spec/template/spec/containers/0/image",
            json!("r/tdc:v9"),
            "tag",
        ),
        (
            "",
            "Service",
            "tdc-ingress",
            "/spec/type",
            json!("LoadBalancer"),
            "the default",
        ),
        (
            "",
            "Service",
            "tdc-ingress",
            "/spec/externalTrafficPolicy",
            json!("Local"),
            "clients keep their addresses",
        ),
        (
            "ingress: { service: { type: ClusterIP } }",
            "Service",
            "tdc-ingress",
            "/spec/externalTrafficPolicy",
            Value::Null,
            "not allowed for ClusterIP",
        ),
        (
            "ingress: { service: { type: NodePort, nodePort: 30025 } }",
            "Service",
            "tdc-ingress",
            "/spec/ports/0/nodePort",
            json!(30025),
            "a port of one's own",
        ),
        (
            "",
            "Service",
            "tdc-policy",
            "/spec/clusterIP",
            json!("None"),
            "headless, for balancing",
        ),
        (
            "",
            "Deployment",
            "tdc-ingress",
            "/spec/replicas",
            Value::Null,
            "left to the autoscaler",
        ),
        (
            "ingress: { autoscaling: { mode: none }, replicas: 5 }",
            "Deployment",
            "tdc-ingress",
            "/spec/replicas",
            json!(5),
            "by hand",
        ),
        (
            "policy: { replicas: 3 }",
            "Deployment",
            "tdc-policy",
            "/spec/replicas",
            json!(3),
            "by hand",
        ),
        (
            "worker: { autoscaling: { maxReplicas: 40 } }",
            "HorizontalPodAutoscaler",
            "tdc-worker",
            "/spec/maxReplicas",
            json!(40),
            "the default is HPA",
        ),
        (
            "",
            "Deployment",
            "tdc-ingress",
            "/spec/template/spec/topologySpreadConstraints/0/topologyKey",
            json!("topology.kubernetes.io/zone"),
            "spread by default",
        ),
        (
            "worker: { topologySpreadConstraints: [{ topologyKey: rack }] }",
            "Deployment",
            "tdc-worker",
            "/spec/template/spec/topologySpreadConstraints",
            json!([{ "topologyKey": "rack" }]),
            "or as one likes",
        ),
        (
            "worker: { nodeSelector: { disk: ssd } }",
            "Deployment",
            "tdc-worker",
            "/spec/template/spec/nodeSelector/disk",
            json!("ssd"),
            "placement",
        ),
        (
            "ingress: { priorityClassName: high }",
            "Deployment",
            "tdc-ingress",
            "/spec/template/spec/priorityClassName",
            json!("high"),
            "priority",
        ),
        (
            "ingress: { podAnnotations: { a: b } }",
            "Deployment",
            "tdc-ingress",
            "/spec/template/metadata/annotations/a",
            json!("b"),
            "annotations",
        ),
        (
            "commonLabels: { team: mail }",
            "Service",
            "tdc-policy",
            "/metadata/labels/team",
            json!("mail"),
            "labels of everything",
        ),
        (
            "imagePullSecrets: [{ name: reg }]",
            "StatefulSet",
            "tdc-redis",
            "/spec/template/spec/imagePullSecrets/0/name",
            json!("reg"),
            "Redis too",
        ),
        (
            "redis: { bundled: { storage: { className: fast, size: 9Gi } } }",
            "StatefulSet",
            "tdc-redis",
            "/spec/volumeClaimTemplates/0/spec/storageClassName",
            json!("fast"),
            "storage",
        ),
        (
            "fullnameOverride: journal",
            "Deployment",
            "journal-ingress",
            "/metadata/namespace",
            json!("mail"),
            "names",
        ),
    ];
    for (values, kind, name, pointer, expected, why) in cases {
        let objects = render(values);
        let found = get(&objects, kind, name)
            .pointer(pointer)
            .cloned()
            .unwrap_or(Value::Null);
        assert_eq!(found, expected, "{why}: {values}: {kind} {name} {pointer}");
    }
}

#[test]
fn flags_follow_values() {
    let cases: [(&str, &str, &str, bool); 20] = [
        ("ingress", "", "--next-hop=mailbox.example:25", true),
        (
            "ingress",
            "ingress: { nextHops: ['a:25', 'b:2525'] }",
            "--next-hop=a:25,b:2525",
            true,
        ),
        (
            "ingress",
            "ingress: { nextHopTls: { mode: verify, serverName: mx } }",
            "--next-hop-server-name=mx",
            true,
        ),
        ("ingress", "", "--next-hop-tls=off", true),
        ("ingress", "", "--max-size=52428800", true),
        (
            "ingress",
            "ingress: { maxSize: 104857600 }",
            "--max-size=104857600",
            true,
        ),
        (
            "ingress",
            "ingress: { allowFrom: [192.0.2.0/24, '2001:db8::/32'] }",
            "--allow-from=192.0.2.0/24,2001:db8::/32",
            true,
        ),
        (
            "ingress",
            "ingress: { proxyProtocol: { enabled: true, trustedNetworks: [10.0.0.0/8] } }",
            "--listen-proxy=0.0.0.0:2526",
            true,
        ),
        (
            "ingress",
            "ingress: { proxyProtocol: { enabled: true, trustedNetworks: [10.0.0.0/8] } }",
            "--proxy-from=10.0.0.0/8",
            true,
        ),
        (
            "ingress",
            "ingress: { tls: { secretName: t, required: true } }",
            "--tls-required",
            true,
        ),
        (
            "ingress",
            "ingress: { tls: { secretName: t } }",
            "--tls-required",
            false,
        ),
        (
            "ingress",
            "ingress: { tls: { secretName: t, implicitPort: 465 } }",
            "--listen-tls=0.0.0.0:2465",
            true,
        ),
        ("ingress", "", "--memory-budget=268435456", true),
        ("ingress", "listenHost: '[::]'", "--listen=[::]:2525", true),
        ("policy", "", "--namespace=$(POD_NAMESPACE)", true),
        ("policy", "allNamespaces: true", "--all-namespaces", true),
        ("operator", "allNamespaces: true", "--all-namespaces", true),
        (
            "worker",
            "worker: { extraArgs: ['--resolver=10.0.0.10:53'] }",
            "--resolver=10.0.0.10:53",
            true,
        ),
        (
            "worker",
            "log: { filter: 'info,tdc_delivery=debug' }",
            "--log=info,tdc_delivery=debug",
            true,
        ),
        ("worker", "", "--policy=tdc-policy.mail.svc:9090", true),
    ];
    for (role, values, flag, is_there) in cases {
        let arguments = arguments(&render(values), role);
        assert_eq!(
            arguments.contains(&flag.to_owned()),
            is_there,
            "{values}: {arguments:?}"
        );
    }
}

#[test]
fn mutual_tls_gives_each_side_its_own_secret() {
    let objects = render("grpcTls: { enabled: true, serverSecret: server, clientSecret: client }");
    for (role, secret) in [
        ("policy", "server"),
        ("ingress", "client"),
        ("worker", "client"),
        ("operator", "client"),
    ] {
        let pod = &get(&objects, "Deployment", &format!("tdc-{role}"))
            .pointer(POD)
            .unwrap()
            .clone();
        let volume = list(&pod["volumes"])
            .find(|volume| volume["name"] == "grpc-tls")
            .unwrap();
        assert_eq!(volume["secret"]["secretName"], secret, "{role}");
        assert!(arguments(&objects, role).contains(&"--grpc-tls-ca=/etc/tdc/grpc/ca.crt".to_owned()));
    }
    assert!(
        !arguments(&render(""), "ingress")
            .iter()
            .any(|flag| flag.starts_with("--grpc-tls"))
    );
}

#[test]
fn a_budget_only_where_a_pod_can_be_spared() {
    let cases = [
        (
            "",
            vec!["tdc-ingress", "tdc-policy", "tdc-worker"],
            "one operator",
        ),
        (
            "operator: { replicas: 2 }",
            vec!["tdc-ingress", "tdc-operator", "tdc-policy", "tdc-worker"],
            "two",
        ),
        (
            "policy: { replicas: 1 }",
            vec!["tdc-ingress", "tdc-worker"],
            "one policy service",
        ),
        (
            "worker: { autoscaling: { mode: none }, replicas: 1 }",
            vec!["tdc-ingress", "tdc-policy"],
            "one worker",
        ),
        (
            "ingress: { pdb: { enabled: false } }",
            vec!["tdc-policy", "tdc-worker"],
            "switched off",
        ),
    ];
    for (values, expected, why) in cases {
        let objects = render(values);
        let mut budgets: Vec<String> = all(&objects, "PodDisruptionBudget")
            .map(|budget| text(&budget["metadata"]["name"]))
            .collect();
        budgets.sort();
        assert_eq!(budgets, expected, "{why}");
    }
}

#[test]
fn keda_looks_at_the_queues() {
    let keda = "{ autoscaling: { mode: keda, keda: { intakes: [etd-eu, etd-us] } } }";
    let values = format!(
        "redis: {{ bundled: {{ enabled: false }}, url: 'rediss://u:p@r.example/3' }}\nworker: {keda}"
    );
    let objects = render(&values);
    assert!(
        find(&objects, "HorizontalPodAutoscaler", "tdc-worker").is_none(),
        "KEDA makes its own"
    );
    let scaled = get(&objects, "ScaledObject", "tdc-worker");
    let triggers: Vec<_> = list(&scaled["spec"]["triggers"]).collect();
    assert_eq!(triggers.len(), 2);
    assert_eq!(
        triggers[0]["metadata"],
        json!({ "address": "r.example:6379", "stream": "tdc:{etd-eu}:ready", "streamLength": "20", "databaseIndex": "3", "enableTLS": "true" })
    );
    let objects = render(&format!("worker: {keda}"));
    let authentication = get(&objects, "TriggerAuthentication", "tdc-redis");
    assert_eq!(authentication["spec"]["secretTargetRef"][0]["name"], "tdc-redis");
    assert_eq!(
        get(&objects, "ScaledObject", "tdc-worker")["spec"]["triggers"][0]["authenticationRef"]["name"],
        "tdc-redis"
    );
    let from_values =
        render("intakes: { etd-jp: { address: a@b.example } }\nworker: { autoscaling: { mode: keda } }");
    let trigger = &get(&from_values, "ScaledObject", "tdc-worker")["spec"]["triggers"][0];
    assert_eq!(
        trigger["metadata"]["stream"], "tdc:{etd-jp}:ready",
        "the intakes of the values"
    );
}

#[test]
fn the_definitions_come_with_the_chart_and_stay() {
    let cases = [
        ("", 3, json!("keep")),
        ("crds: { keep: false }", 3, Value::Null),
        ("crds: { enabled: false }", 0, Value::Null),
    ];
    for (values, count, policy) in cases {
        let objects = render(values);
        let definitions: Vec<_> = all(&objects, "CustomResourceDefinition").collect();
        assert_eq!(definitions.len(), count, "{values}");
        for definition in definitions {
            assert_eq!(
                definition["metadata"]["annotations"]["helm.sh/resource-policy"], policy,
                "{values}"
            );
        }
    }
}

#[test]
fn monitoring_is_off_until_it_is_wanted() {
    for kind in [
        "ServiceMonitor",
        "PrometheusRule",
        "ConfigMap",
        "ScaledObject",
        "NetworkPolicy",
    ] {
        assert_eq!(all(&render(""), kind).count(), 0, "{kind}");
    }
    let objects = render(crate::pods::EVERYTHING);
    let monitor = get(&objects, "ServiceMonitor", "tdc-metrics");
    let service = get(&objects, "Service", "tdc-metrics");
    assert!(crate::helm::selects(
        &monitor["spec"]["selector"]["matchLabels"],
        &service["metadata"]["labels"]
    ));
    assert_eq!(
        monitor["spec"]["endpoints"][0]["port"],
        service["spec"]["ports"][0]["name"]
    );
    let dashboard = &get(&objects, "ConfigMap", "tdc-dashboard")["data"]["threat-defense-connector.json"];
    let dashboard: Value = serde_json::from_str(&text(dashboard)).unwrap();
    assert_eq!(dashboard["title"], "Threat Defense Connector");
    assert!(
        find(&objects, "ConfigMap", "tdc-extra").is_some(),
        "extraObjects are templates"
    );
}
