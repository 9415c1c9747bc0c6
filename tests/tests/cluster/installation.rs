//! The installation, as the README tells it.

use std::time::Instant;

use serde_json::Value;

use crate::kubectl::{
    DEMO, NAMESPACE, apply, attempt, feed, get, kubectl, pods, repository, run, text, wait_for,
};

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
  tls: { secretName: smtp-tls, implicitPort: 465 }
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
    zone(
        "intake.test",
        &format!("@ 60 IN MX 10 mx\nmx 60 IN A {address}\n"),
    );
    format!("mailbox, intake (mx.intake.test is {address}), Jaeger")
}

/// Records of a domain, for the pods of this cluster.
pub(crate) fn zone(domain: &str, records: &str) {
    // A zone is read again when its serial number grows.
    let serial = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let zone = format!(
        "$ORIGIN {domain}.\n@ 60 IN SOA ns.{domain}. hostmaster.{domain}. {serial} 60 60 60 60\n\
         @ 60 IN NS ns\nns 60 IN A 10.88.0.1\n{records}"
    );
    let home = std::env::var("TDC_CLUSTER_HOME").unwrap_or_else(|_| "/var/lib/tdc-cluster".to_owned());
    std::fs::write(format!("{home}/zones/{domain}.zone"), zone).unwrap();
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
    let ready = begun.elapsed().as_secs_f32();
    assert_eq!(warnings, "", "Helm warns");
    format!("{} ready after {ready:.0} s", no_restarts())
}

/// This cluster does warn, through kubectl and through Helm: else the silence at the installation would mean nothing.
pub(crate) fn warnings_are_heard() -> String {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: { name: loud, namespace: mail }\n\
               spec: { containers: [{ name: a, image: 'tdc:dev' }] }\n";
    let deployment = "{ apiVersion: apps/v1, kind: Deployment, metadata: { name: loud }, spec: { replicas: 0, \
                      selector: { matchLabels: { a: b } }, template: { metadata: { labels: { a: b } }, \
                      spec: { containers: [{ name: a, image: 'tdc:dev' }] } } } }";
    let refused = attempt("kubectl", &["apply", "--dry-run=server", "-f", "-"], pod);
    assert!(
        text(&refused.stderr).contains("violates PodSecurity \"restricted"),
        "{}",
        text(&refused.stderr)
    );
    let dir = tempfile::tempdir().unwrap();
    let chart = dir.path().to_str().unwrap();
    std::fs::create_dir(dir.path().join("templates")).unwrap();
    let metadata = "apiVersion: v2\nname: loud\nversion: 0.1.0\n";
    std::fs::write(dir.path().join("Chart.yaml"), metadata).unwrap();
    std::fs::write(dir.path().join("templates/loud.yaml"), deployment).unwrap();
    let installed = run("helm", &["install", "loud", chart, "-n", NAMESPACE]);
    run("helm", &["uninstall", "loud", "-n", NAMESPACE, "--wait"]);
    let heard = text(&installed.stderr);
    assert!(heard.contains("would violate PodSecurity"), "{heard}");
    "a pod without the settings is refused, a deployment of such pods gets a warning".to_owned()
}

/// How long each role takes, from its container's start until the pod is ready, as the cluster notes it.
pub(crate) fn start_times() -> String {
    let times: Vec<String> = ["ingress", "policy", "worker", "operator"]
        .iter()
        .map(|role| {
            let seconds = pods(role).into_iter().map(|pod| {
                let pod = get(&format!("pod -n {NAMESPACE} {pod}"));
                let started = &pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"];
                let conditions = pod["status"]["conditions"].as_array().unwrap();
                let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
                second(&ready.unwrap()["lastTransitionTime"]) - second(started)
            });
            format!("{role} {} s", seconds.max().unwrap())
        })
        .collect();
    format!("at most {}", times.join(", "))
}

/// The second of the day that a time of Kubernetes names.
fn second(time: &Value) -> i64 {
    let time = time.as_str().unwrap();
    let field = |at: usize| time[at..at + 2].parse::<i64>().unwrap();
    (field(11) * 60 + field(14)) * 60 + field(17)
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
