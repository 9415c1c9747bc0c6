//! The end of an installation, and one whose resources came with it.

use crate::kubectl::{NAMESPACE, attempt, kubectl, repository, run, text, wait_for};

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
";
/// With policies; ORDER is a number.
const RESOURCES_AS_VALUES: &str = "
connector: { defaultIntake: etd-eu }
intakes: { etd-eu: { address: a@intake.example } }
policies: { staff: { order: ORDER, journaling: { mode: Global } } }
";

fn helm(verb: &str, values: &str) -> std::process::Output {
    let chart = repository("charts/threat-defense-connector");
    let words = [verb, "tdc", &chart, "-n", NAMESPACE, "-f", "-"];
    attempt("helm", &words, &format!("{VALUES}{values}"))
}

fn order_and_uid() -> String {
    kubectl(&format!(
        "get mailpolicy staff -n {NAMESPACE} -o jsonpath={{.spec.order}}/{{.metadata.uid}}"
    ))
}

pub(crate) fn values_as_resources() -> String {
    kubectl(&format!("delete {RESOURCES} --all -n {NAMESPACE}"));
    kubectl("delete crd threatdefenseconnectors.tdc.dev intakeaddresses.tdc.dev mailpolicies.tdc.dev");
    let with = |order: &str| RESOURCES_AS_VALUES.replace("ORDER", order);
    let refused = helm("install", &with("10"));
    assert!(
        text(&refused.stderr).contains("install once without these values"),
        "{}",
        text(&refused.stderr)
    );
    assert_eq!(definitions(), 0, "a refusal changes nothing");
    let steps = [
        ("install", String::new()),
        ("upgrade", with("10")),
        ("upgrade", with("20")),
    ];
    let mut seen = Vec::new();
    for (verb, values) in &steps {
        let output = helm(verb, values);
        assert!(output.status.success(), "{}", text(&output.stderr));
        if !values.is_empty() {
            seen.push(order_and_uid());
        }
    }
    run("helm", &["rollback", "tdc", "2", "-n", NAMESPACE]);
    let uid = seen[0].trim_start_matches("10");
    assert_eq!(seen, [format!("10{uid}"), format!("20{uid}")], "changed in place");
    assert_eq!(order_and_uid(), seen[0], "rolled back in place");
    run("helm", &["uninstall", "tdc", "-n", NAMESPACE, "--wait"]);
    wait_for("the definitions to be gone", || {
        (definitions() == 0).then_some(())
    });
    assert!(left(KINDS).is_empty(), "{:?}", left(KINDS));
    "refused where the kinds are unknown; then created, changed, rolled back in place, and removed".to_owned()
}
