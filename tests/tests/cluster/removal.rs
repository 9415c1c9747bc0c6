//! The end of an installation, and one whose resources came with it.

use crate::kubectl::{NAMESPACE, attempt, feed, kubectl, repository, run, text, wait_for};

/// Everything that a release may leave, as kinds of kubectl.
const KINDS: &str = "pods,deployments,statefulsets,replicasets,services,serviceaccounts,roles,rolebindings,\
                     poddisruptionbudgets,horizontalpodautoscalers,networkpolicies,persistentvolumeclaims,leases,\
                     endpointslices,jobs";
const RESOURCES: &str = "threatdefenseconnectors,intakeaddresses,mailpolicies";

/// What is there besides what every namespace has, and what was made by hand.
fn left(kinds: &str) -> Vec<String> {
    kubectl(&format!("get {kinds} -n {NAMESPACE} -o name"))
        .lines()
        .filter(|name| *name != "serviceaccount/default")
        .map(str::to_owned)
        .collect()
}

fn definitions() -> usize {
    kubectl("get customresourcedefinitions -o name")
        .matches(".tdc.dev")
        .count()
}

pub(crate) fn uninstall() -> String {
    run(
        "helm",
        &["uninstall", "tdc", "-n", NAMESPACE, "--wait", "--timeout", "3m"],
    );
    wait_for("the release to be gone", || left(KINDS).is_empty().then_some(()));
    let secrets = left("secrets");
    assert!(
        secrets
            .iter()
            .all(|secret| !secret.contains("redis") && !secret.contains("helm")),
        "{secrets:?}"
    );
    assert_eq!(definitions(), 3);
    assert_eq!(
        left(RESOURCES).len(),
        6,
        "resources of the user stay with their definitions"
    );
    "3 definitions and the 6 resources of the user".to_owned()
}

/// The roles run nowhere: this is about what Helm creates.
const VALUES: &str = "
image: { repository: tdc, tag: dev }
crds: { keep: false }
ingress: { nextHops: ['mailbox.example:25'], replicas: 0, autoscaling: { mode: none }, service: { type: ClusterIP } }
worker: { replicas: 0, autoscaling: { mode: none } }
policy: { replicas: 0 }
operator: { replicas: 0 }
redis: { url: 'redis://redis.example:6379/0' }
connector: { defaultIntake: etd-eu }
intakes: { etd-eu: { address: a@intake.example } }
policies: { staff: { order: ORDER, journaling: { mode: Global } } }
";

fn helm(verb: &str, order: u32) {
    let chart = repository("charts/threat-defense-connector");
    let values = VALUES.replace("ORDER", &order.to_string());
    feed(
        "helm",
        &[verb, "tdc", &chart, "-n", NAMESPACE, "-f", "-"],
        &values,
    );
}

pub(crate) fn values_as_resources() -> String {
    kubectl(&format!("delete {RESOURCES} --all -n {NAMESPACE}"));
    kubectl("delete crd threatdefenseconnectors.tdc.dev intakeaddresses.tdc.dev mailpolicies.tdc.dev");
    // Removed before its first upgrade: the hooks take the resources along.
    helm("install", 10);
    assert_eq!(left(RESOURCES).len(), 3);
    run("helm", &["uninstall", "tdc", "-n", NAMESPACE, "--wait"]);
    wait_for("the definitions to be gone", || {
        (definitions() == 0).then_some(())
    });
    // Taken over by an upgrade, and changed by it in place.
    helm("install", 10);
    let uid = || {
        kubectl(&format!(
            "get mailpolicy staff -n {NAMESPACE} -o jsonpath={{.metadata.uid}}"
        ))
    };
    let before = uid();
    helm("upgrade", 20);
    assert_eq!(uid(), before, "the upgrade keeps the object");
    let order = kubectl(&format!(
        "get mailpolicy staff -n {NAMESPACE} -o jsonpath={{.spec.order}}"
    ));
    assert_eq!(order, "20");
    run("helm", &["rollback", "tdc", "-n", NAMESPACE]);
    run("helm", &["uninstall", "tdc", "-n", NAMESPACE, "--wait"]);
    let gone = attempt("kubectl", &["get", "mailpolicies", "-n", NAMESPACE], "");
    assert!(
        text(&gone.stderr).contains("the server doesn't have a resource type"),
        "{}",
        text(&gone.stdout)
    );
    "two installations, one upgrade in place, one rollback, nothing left".to_owned()
}
