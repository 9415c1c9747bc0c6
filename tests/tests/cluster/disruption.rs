//! What happens on a cluster every day, while mail flows. No accepted message is lost, and none comes twice unmarked.

use crate::installation::helm;
use crate::kubectl::{NAMESPACE, kubectl, pods, rolled_out, wait_for};
use crate::load::Load;

/// `kubectl delete pod`; `force` is the death of a node: no signal that could be handled.
fn delete(pod: &str, force: bool) {
    let how = if force {
        "--force --grace-period=0"
    } else {
        "--wait=false"
    };
    kubectl(&format!("-n {NAMESPACE} delete pod {pod} {how}"));
}

/// Deletes each pod of a role, one after the other, and then kills one.
fn delete_all(role: &str, load: &Load) {
    for pod in pods(role) {
        delete(&pod, false);
        rolled_out(role);
        load.flows(20);
    }
    delete(&pods(role)[0], true);
    rolled_out(role);
    load.flows(40);
}

pub(crate) fn ingress_deleted() -> String {
    let load = Load::start("ingress");
    delete_all("ingress", &load);
    load.account().to_string()
}

pub(crate) fn workers_deleted() -> String {
    let load = Load::start("worker");
    delete_all("worker", &load);
    load.account().to_string()
}

pub(crate) fn upgrade() -> String {
    let load = Load::start("upgrade");
    let before = [pods("ingress"), pods("policy"), pods("worker"), pods("operator")].concat();
    helm("upgrade", &["--set", "log.filter=info\\,tdc_ingress=info"]);
    load.flows(40);
    let after = [pods("ingress"), pods("policy"), pods("worker"), pods("operator")].concat();
    assert!(
        after.iter().all(|pod| !before.contains(pod)),
        "every pod is a new one"
    );
    load.account().to_string()
}

pub(crate) fn scaling() -> String {
    let load = Load::start("scale");
    for replicas in [4, 1] {
        kubectl(&format!(
            "-n {NAMESPACE} scale deployment/tdc-worker --replicas={replicas}"
        ));
        rolled_out("worker");
        wait_for("the number of pods", || {
            (pods("worker").len() == replicas).then_some(())
        });
        load.flows(80);
    }
    load.account().to_string()
}

pub(crate) fn control_deleted() -> String {
    let load = Load::start("control");
    for role in ["operator", "policy"] {
        for pod in pods(role) {
            delete(&pod, true);
        }
        // At once, without them.
        load.flows(40);
        rolled_out(role);
        load.flows(40);
    }
    load.account().to_string()
}

pub(crate) fn redis_killed() -> String {
    let load = Load::start("redis");
    delete("tdc-redis-0", true);
    kubectl(&format!(
        "-n {NAMESPACE} rollout status statefulset/tdc-redis --timeout=240s"
    ));
    load.flows(60);
    load.account().to_string()
}
