//! The installation, as the README tells it.

use std::time::Instant;

use serde_json::Value;

use crate::kubectl::{DEMO, NAMESPACE, apply, feed, get, kubectl, repository, run, text, wait_for};

/// Node port of the plain listener.
pub(crate) const SMTP: u16 = 30025;
/// Node port of the listener that wants a PROXY header.
pub(crate) const SMTP_PROXY: u16 = 30026;

/// On top of the demonstration's values: the images of this cluster, mutual TLS, STARTTLS, the second listener, and
/// workers by hand, since this cluster has no metrics server.
const VALUES: &str = "
image: { repository: tdc, tag: dev }
redis: { bundled: { image: 'redis:7' } }
grpcTls: { enabled: true, serverSecret: grpc-server, clientSecret: grpc-client }
ingress:
  tls: { secretName: smtp-tls }
  service: { type: NodePort, nodePort: 30025 }
  proxyProtocol: { enabled: true, trustedNetworks: [10.88.0.0/16, 127.0.0.0/8], service: { type: NodePort, nodePort: 30026 } }
  autoscaling: { mode: none }
  resources: { requests: { cpu: 50m, memory: 64Mi }, limits: { memory: 512Mi } }
  # A copy in doubt is due when the next hop's time and 20 s are over.
  extraArgs: ['--next-hop-dot-timeout=15s']
worker:
  autoscaling: { mode: none }
  replicas: 1
  resources: { requests: { cpu: 50m, memory: 64Mi }, limits: { memory: 512Mi } }
networkPolicy: { enabled: true }
";

/// `helm VERB tdc` with the values above and further words; its warnings.
pub(crate) fn helm(verb: &str, words: &[&str]) -> String {
    let (chart, values) = (
        repository("charts/threat-defense-connector"),
        repository("deploy/demo/k8s/values.yaml"),
    );
    let mut all = vec![verb, "tdc", &chart, "-n", NAMESPACE, "-f", &values, "-f", "-"];
    all.extend(["--wait", "--timeout", "5m"]);
    all.extend(words);
    let output = feed("helm", &all, VALUES);
    assert!(
        text(&output.stdout).contains("STATUS: deployed"),
        "{}",
        text(&output.stdout)
    );
    text(&output.stderr)
}

/// `deploy/demo/k8s/demo VERB`.
fn demo(verb: &str) -> String {
    let script = repository("deploy/demo/k8s/demo");
    let settings = ["IMAGE=tdc:dev", "JAEGER_IMAGE=jaeger:local", "INTAKE_ROUTE=mx"];
    let output = run("env", &[&settings[..], &[&script, verb]].concat());
    text(&output.stdout)
}

pub(crate) fn both_ends() -> String {
    demo("ends");
    let address = get(&format!("service -n {DEMO} intake"))["spec"]["clusterIP"].clone();
    let address = address.as_str().unwrap();
    // A zone is read again when its serial number grows.
    let serial = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let zone = format!(
        "$ORIGIN intake.test.\n@ 60 IN SOA ns.intake.test. hostmaster.intake.test. {serial} 60 60 60 60\n\
         @ 60 IN NS ns\nns 60 IN A 10.88.0.1\n@ 60 IN MX 10 mx\nmx 60 IN A {address}\n"
    );
    let home = std::env::var("TDC_CLUSTER_HOME").unwrap_or_else(|_| "/var/lib/tdc-cluster".to_owned());
    std::fs::write(format!("{home}/zones/intake.test.zone"), zone).unwrap();
    format!("mailbox, intake (mx.intake.test is {address}), Jaeger")
}

/// A Secret with an authority, a certificate and a key, by the names that cert-manager uses.
fn secret(name: &str, dir: &str) {
    let file = |key: &str, file: &str| format!("--from-file={key}={dir}/{file}");
    let (ca, cert, key) = (
        file("ca.crt", "ca.pem"),
        file("tls.crt", "cert.pem"),
        file("tls.key", "key.pem"),
    );
    let words = [
        "-n", NAMESPACE, "create", "secret", "generic", name, &ca, &cert, &key,
    ];
    let manifest = run(
        "kubectl",
        &[&words[..], &["--dry-run=client", "-o", "yaml"]].concat(),
    );
    apply(&text(&manifest.stdout));
}

pub(crate) fn install() -> String {
    let namespace = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n  labels:\n    \
         pod-security.kubernetes.io/enforce: restricted\n    pod-security.kubernetes.io/warn: restricted\n"
    );
    apply(&namespace);
    let certificates = repository("deploy/demo/k8s/certificates");
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    for (name, host) in [
        ("grpc-server", "tdc-policy.mail.svc"),
        ("grpc-client", "clients.mail.svc"),
        ("smtp-tls", "mx.company.example"),
    ] {
        run(&certificates, &[dir, host]);
        secret(name, dir);
    }
    let begun = Instant::now();
    let warnings = helm("install", &[]);
    assert!(!warnings.contains("would violate"), "{warnings}");
    let pods = get(&format!("pods -n {NAMESPACE}"));
    format!(
        "{} pods ready after {:.0} s",
        pods["items"].as_array().unwrap().len(),
        begun.elapsed().as_secs_f32()
    )
}

pub(crate) fn resources() -> String {
    let warnings = text(
        &feed(
            "kubectl",
            &["-n", NAMESPACE, "apply", "-f", "-"],
            &demo("resources"),
        )
        .stderr,
    );
    assert_eq!(warnings, "", "kubectl warns");
    let begun = Instant::now();
    programmed();
    format!(
        "connector, 2 intakes, 3 policies after {:.1} s",
        begun.elapsed().as_secs_f32()
    )
}

/// Waits until every resource is in use, with its newest generation.
pub(crate) fn programmed() {
    wait_for("every resource to be Programmed", || {
        let all = get(&format!(
            "threatdefenseconnectors,intakeaddresses,mailpolicies -n {NAMESPACE}"
        ));
        let all = all["items"].as_array().unwrap().clone();
        all.iter().all(is_programmed).then_some(())
    });
}

fn is_programmed(object: &Value) -> bool {
    let conditions = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    conditions.iter().any(|condition| {
        condition["type"] == "Programmed"
            && condition["status"] == "True"
            && condition["observedGeneration"] == object["metadata"]["generation"]
    })
}

pub(crate) fn helm_test() -> String {
    let output = run("helm", &["test", "tdc", "-n", NAMESPACE, "--timeout", "3m"]);
    assert!(
        text(&output.stdout).contains("Phase:          Succeeded"),
        "{}",
        text(&output.stdout)
    );
    let left = kubectl(&format!(
        "get pods -n {NAMESPACE} -l app.kubernetes.io/component=test -o name"
    ));
    assert_eq!(left, "", "a test that succeeded leaves nothing");
    "policy answered, one mail taken".to_owned()
}

pub(crate) fn no_restarts() -> String {
    let pods = get(&format!("pods -n {NAMESPACE}"));
    let mut count = 0;
    for pod in pods["items"].as_array().unwrap() {
        for container in pod["status"]["containerStatuses"].as_array().unwrap() {
            assert_eq!(
                container["restartCount"], 0,
                "{} {container}",
                pod["metadata"]["name"]
            );
            count += 1;
        }
    }
    format!("{count} containers, 0 restarts")
}
