//! What cannot work is refused before anything is installed, with what to do.

use crate::helm::{template, with_required};

#[test]
fn values_that_cannot_work() {
    let cases: [(&str, &str); 22] = [
        ("ingress: { nextHops: [] }", "ingress.nextHops is missing"),
        (
            "redis: { bundled: { enabled: false } }",
            "set exactly one of redis.url",
        ),
        (
            "redis: { url: 'redis://r:6379/0' }",
            "set are: redis.url, redis.bundled.enabled",
        ),
        ("grpcTls: { enabled: true }", "needs grpcTls.serverSecret"),
        (
            "ingress: { proxyProtocol: { enabled: true } }",
            "needs ingress.proxyProtocol.trustedNetworks",
        ),
        (
            "ingress: { tls: { required: true } }",
            "needs ingress.tls.secretName",
        ),
        (
            "worker: { autoscaling: { mode: keda } }",
            "worker.autoscaling.keda.intakes is missing",
        ),
        (
            "{ redis: { bundled: { enabled: false }, existingSecret: { name: r } }, worker: { autoscaling: { mode: keda } } }",
            "worker.autoscaling.keda.address is missing",
        ),
        // The schema: unknown keys at every depth, and values of the wrong kind.
        ("ingres: {}", "ingres"),
        ("ingress: { nexthops: [] }", "nexthops"),
        ("ingress: { service: { loadbalancerIP: x } }", "loadbalancerIP"),
        ("worker: { autoscaling: { keda: { queue: 1 } } }", "queue"),
        ("redis: { bundled: { storage: { class: x } } }", "class"),
        ("monitoring: { serviceMonitor: { enable: true } }", "enable"),
        ("worker: { replicas: '2' }", "replicas"),
        ("ingress: { nextHops: ['mailbox.example'] }", "nextHops"),
        ("redis: { url: 'http://r' }", "url"),
        ("redis: { bundled: { appendfsync: 'no' } }", "appendfsync"),
        ("ingress: { maxStaleness: 10 }", "maxStaleness"),
        ("image: { digest: latest }", "digest"),
        ("policies: { finance: [] }", "finance"),
        ("policies: { Finance: {} }", "Finance"),
    ];
    for (values, expected) in cases {
        match template(&with_required(values)) {
            Ok(_) => panic!("{values} was accepted"),
            Err(error) => assert!(error.contains(expected), "{values}: {error}"),
        }
    }
}

#[test]
fn nothing_at_all_names_what_is_missing() {
    let error = template("").unwrap_err();
    assert!(error.contains("ingress.nextHops is missing"), "{error}");
}
