//! The commands of the README and of Helm's notes, literally, in a namespace that does not exist yet.
//!
//! What they name is there: the image by its default name, `redis.company.example` and `mailbox.company.example`.

use crate::installation::zone;
use crate::kubectl::{DEMO, NAMESPACE, apply, attempt, get, kubectl, repository, run, text, wait_for};

/// A Redis of somebody else, with its defaults.
const REDIS: &str = "
apiVersion: v1
kind: Service
metadata: { name: redis, namespace: tdc-demo }
spec: { selector: { app: redis }, ports: [{ port: 6379 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: redis, namespace: tdc-demo, labels: { app: redis } }
spec:
  securityContext: { runAsNonRoot: true, runAsUser: 65532, seccompProfile: { type: RuntimeDefault } }
  containers:
  - name: redis
    image: redis:7
    imagePullPolicy: IfNotPresent
    args: [--protected-mode, 'no', --save, '']
    securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: [ALL] } }
    readinessProbe: { tcpSocket: { port: 6379 }, periodSeconds: 1 }
";

/// The first block of commands in a section of a document.
fn commands(document: &str, section: &str) -> String {
    let text = std::fs::read_to_string(repository(document)).unwrap();
    let section = text.split(&format!("\n{section}\n")).nth(1).unwrap();
    section.split("```\n").nth(1).unwrap().to_owned()
}

pub(crate) fn install() -> String {
    let readme = commands("README.md", "## In Kubernetes");
    assert_eq!(
        readme,
        commands("docs/operations.md", "## Install"),
        "both tell the same"
    );

    kubectl(&format!("delete namespace {NAMESPACE} --ignore-not-found --wait"));
    apply(REDIS);
    kubectl(&format!(
        "-n {DEMO} wait --for=condition=Ready pod/redis --timeout=60s"
    ));
    let address = |service: &str| {
        let service = get(&format!("service -n {DEMO} {service}"));
        service["spec"]["clusterIP"].as_str().unwrap().to_owned()
    };
    let records = format!(
        "redis 60 IN A {}\nmailbox 60 IN A {}\n",
        address("redis"),
        address("mailbox")
    );
    zone("company.example", &records);
    let ping = format!("-n {DEMO} exec redis -- redis-cli -h redis.company.example ping");
    let ping: Vec<&str> = ping.split(' ').collect();
    wait_for("the names of company.example", || {
        let answer = attempt("kubectl", &ping, "");
        text(&answer.stdout).contains("PONG").then_some(())
    });

    // In the folder of the repository, stopping at the first that fails.
    let script = format!("cd {} && set -ex && {readme}", repository(""));
    let output = run("sh", &["-c", &script]);
    let (said, warned) = (text(&output.stdout), text(&output.stderr));
    assert!(said.contains("Phase:          Succeeded"), "{said}{warned}");
    assert!(
        !warned.contains("Warning") && !warned.contains("would violate"),
        "{warned}"
    );
    let look = commands("docs/operations.md", "## Looking into it");
    let seen = text(&run("sh", &["-exc", &look]).stdout);
    for expected in [
        "the.tdc.queue",
        "no dead letters",
        "journaled to intake etd-eu",
        "\"ready\":true",
    ] {
        assert!(seen.contains(expected), "{expected}: {seen}");
    }
    let restarts = crate::installation::no_restarts();

    let notes = text(&run("helm", &["get", "notes", "tdc", "-n", NAMESPACE]).stdout);
    let notes: Vec<&str> = notes
        .lines()
        .filter_map(|line| line.strip_prefix("     "))
        .collect();
    assert_eq!(notes.len(), 3, "{notes:?}");
    for command in &notes {
        run("sh", &["-ec", command]);
    }
    let resources = || {
        kubectl(&format!("get tdc -n {NAMESPACE} -o name"))
            .lines()
            .count()
    };
    wait_for("the resources of the demonstration", || {
        (resources() > 0).then_some(())
    });
    run("helm", &["uninstall", "tdc", "-n", NAMESPACE, "--wait"]);
    // Helm does not wait for pods, and a cluster that is stopped while they end leaves processes behind.
    wait_for("the pods to end", || {
        kubectl(&format!("get pods -n {NAMESPACE} -o name"))
            .is_empty()
            .then_some(())
    });
    let count = |block: &str| block.lines().filter(|line| !line.starts_with(' ')).count();
    format!(
        "{} to install, {} of the notes, {} to look into it; {restarts}",
        count(&readme),
        notes.len(),
        count(&look)
    )
}
