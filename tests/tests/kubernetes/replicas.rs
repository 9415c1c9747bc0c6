//! Several replicas of the policy service: clients use all of them and notice new ones, and `Programmed` waits for
//! each.

use std::path::Path;
use std::process::Command;

use tdc_tests::process::{tdc, wait_for};

use crate::mail::{Site, send};
use crate::namespace::{Namespace, text};
use crate::roles::{PolicyService, metric, policy};
use crate::server;

/// What the name of a headless Service would have.
fn name_has(hosts: &Path, addresses: &[&str]) {
    let lines: String = addresses
        .iter()
        .map(|address| format!("{address} policy.test\n"))
        .collect();
    // In place: the processes have this very file mounted.
    std::fs::write(hosts, format!("127.0.0.1 localhost\n{lines}")).unwrap();
}

fn may_mount() -> bool {
    let output = Command::new("unshare").args(["--mount", "true"]).output();
    output.is_ok_and(|output| output.status.success())
}

#[test]
fn clients_use_every_replica_and_programmed_waits_for_each() {
    let Some(server) = server::shared() else { return };
    if !may_mount() {
        server::skip("a hosts file of one's own needs the right to mount (run as root)");
        return;
    }
    let namespace = Namespace::new(server, "replicas");
    let hosts = namespace.path().join("hosts");
    name_has(&hosts, &["127.0.0.1"]);
    let kubeconfig = namespace.kubeconfig("tdc-policy");
    let age = ["--max-connection-age", "2s"];
    let first = PolicyService::with(&namespace, &kubeconfig, "127.0.0.1:0", &age);
    let port = first.address.port();
    let mut site = Site::around(namespace, first, Some(hosts.clone()), &[], &[]);
    let apply = |site: &Site<'_>, order| {
        site.namespace
            .apply(&policy("staff", order, "@company.example", "{ mode: Global }"))
            .unwrap();
    };
    apply(&site, 10);
    site.namespace
        .shows("mpol", "staff", "Programmed", "True", "Programmed");

    // A second replica appears under the name: calls and streams reach it without a restart of anybody.
    let second = PolicyService::with(&site.namespace, &kubeconfig, &format!("127.0.0.2:{port}"), &age);
    name_has(&hosts, &["127.0.0.1", "127.0.0.2"]);
    let operator = site.operator.admin;
    wait_for("the operator to see both", || {
        (metric(operator, "tdc_operator_policy_replicas") == Some(2.0)).then_some(())
    });
    // Each numbers its own snapshots: what asks twice must ask the same one.
    let asked = format!(
        "mount --bind {} /etc/hosts && for turn in $(seq 40); do \
         {} policy test --server policy.test:{port} --from a@x.example --to b@company.example || exit 1; done",
        hosts.display(),
        tdc().display()
    );
    let said = Command::new("unshare")
        .args(["--mount", "sh", "-c", &asked])
        .output()
        .unwrap();
    let (said, complaint) = (text(&said.stdout), text(&said.stderr));
    assert_eq!(
        said.matches("policy staff, row 0").count(),
        40,
        "{said}{complaint}"
    );

    wait_for("the second to decide", || {
        assert!(send(site.smtp, "b@company.example", "n").starts_with("250"));
        (metric(second.admin, "tdc_policy_evaluations_total")? > 2.0).then_some(())
    });
    wait_for("a stream to move to the second", || {
        (metric(second.admin, "tdc_policy_peers")? > 0.0).then_some(())
    });

    // It hangs: mail goes on, a new generation is not claimed to be everywhere.
    second.process.signal("STOP");
    apply(&site, 11);
    let told = site
        .namespace
        .shows("mpol", "staff", "Programmed", "False", "Pending");
    assert!(told.contains("policy 127.0.0.2:"), "{told}");
    assert!(send(site.smtp, "b@company.example", "hanging").starts_with("250"));
    second.process.signal("CONT");
    site.namespace
        .shows("mpol", "staff", "Programmed", "True", "Programmed");

    // The first is killed and leaves the name: nobody waits for it.
    site.policy.take().unwrap().process.kill();
    assert!(send(site.smtp, "b@company.example", "alone").starts_with("250"));
    name_has(&hosts, &["127.0.0.2"]);
    apply(&site, 12);
    wait_for("the third generation to be in use", || {
        let object = site.namespace.get("mpol", "staff");
        (object["status"]["observedGeneration"] == 3).then_some(())
    });
    site.namespace
        .shows("mpol", "staff", "Programmed", "True", "Programmed");
    assert_eq!(metric(operator, "tdc_operator_policy_replicas"), Some(1.0));
}
