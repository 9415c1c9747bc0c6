//! `--all-namespaces`: the resources of all namespaces in one table, with the rights that the chart gives for that case.

use tdc_tests::process::wait_for;

use crate::mail::{Site, send};
use crate::namespace::Namespace;
use crate::roles::{PolicyService, connector, intake, metric, policy};
use crate::server;

const ALL: &str = "--all-namespaces";

/// Whether an event of that reason is in the namespace.
fn event(namespace: &Namespace<'_>, name: &str, reason: &str) -> Option<String> {
    let events = namespace.must(&["get", "events.events.k8s.io", "-o", "json"]);
    let events: serde_json::Value = serde_json::from_str(&events).unwrap();
    let mut events = events["items"].as_array().unwrap().iter();
    let found = events.find(|event| event["regarding"]["name"] == name && event["reason"] == reason)?;
    Some(found["note"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn all_namespaces_share_one_table_and_nothing_else() {
    let Some(server) = server::private() else { return };
    let home = Namespace::home(&server, "home");
    let service = PolicyService::with(&home, &home.kubeconfig("tdc-policy"), "127.0.0.1:0", &[ALL]);
    let mut site = Site::around(home, service, None, &[ALL, "--housekeeping-every", "500ms"], &[]);
    let teams = [
        Namespace::without_roles(&server, "team"),
        Namespace::without_roles(&server, "team"),
    ];
    let [a, b] = &teams;
    // The same names in both; what one refers to, only the other has.
    for (team, pattern) in [(a, "@a.example"), (b, "@b.example")] {
        let all = connector("default", "{ defaultIntake: eu, failurePolicy: Ignore }")
            + &site.intake
            + &policy("staff", 10, pattern, "{ mode: Global }");
        team.apply(&all).unwrap();
    }
    b.apply(&intake("spare")).unwrap();
    a.apply(&policy(
        "astray",
        20,
        "@astray.example",
        "{ mode: Custom, intake: spare }",
    ))
    .unwrap();
    for team in &teams {
        for (kind, name) in [("tdconn", "default"), ("intake", "eu"), ("mpol", "staff")] {
            team.shows(kind, name, "Programmed", "True", "Programmed");
        }
        team.shows("intake", "eu", "Reachable", "True", "Reachable");
        wait_for("an event in the object's namespace", || {
            event(team, "staff", "Programmed")
        });
        let told = team.shows("tdconn", "default", "Accepted", "True", "Accepted");
        assert!(
            told.contains(&format!(
                "comes from the connector of namespace {}",
                site.namespace.name
            )),
            "{told}"
        );
    }
    let told = a.shows("mpol", "astray", "ResolvedRefs", "False", "IntakeNotFound");
    assert!(told.contains("in this namespace"), "{told}");

    // Names say whose they are.
    let service = site.policy.as_ref().unwrap();
    let answer = service.test("a@x.example", "u@a.example,u@b.example");
    for team in &teams {
        let words = format!("policy {0}/staff, row 0: journaled to intake {0}/eu", team.name);
        assert!(answer.contains(&words), "{answer}");
    }
    // Each has a queue and a copy of its own; a connector counts beside another of its own namespace only.
    assert!(send(site.smtp, "u@a.example", "for a").starts_with("250"));
    assert!(send(site.smtp, "u@b.example", "for b").starts_with("250"));
    site.copy_of("for a");
    site.copy_of("for b");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    b.apply(&connector("another", "{}")).unwrap();
    let told = b.shows("tdconn", "another", "Accepted", "False", "Conflicted");
    assert!(told.contains("ThreatDefenseConnector default is older"), "{told}");
    // failurePolicy is the home namespace's (Fail), whatever the team's connector says.
    assert!(send(site.smtp, "u@astray.example", "nowhere").starts_with("451"));

    // The intake of one team goes while a copy waits: told there, by its full name; the other team's mail goes on.
    site.worker.take().unwrap().kill();
    assert!(send(site.smtp, "u@b.example", "waiting for b").starts_with("250"));
    b.must(&["delete", "intake", "eu"]);
    let operator = site.operator.admin;
    wait_for("the copy to be seen", || {
        (metric(operator, "tdc_operator_orphaned_copies") == Some(1.0)).then_some(())
    });
    let told = wait_for("an event of it", || event(b, "eu", "CopiesWaiting"));
    assert!(
        told.contains(&format!("IntakeAddress {}/eu was removed", b.name)),
        "{told}"
    );
    site.start_worker();
    assert!(send(site.smtp, "u@a.example", "more for a").starts_with("250"));
    site.copy_of("more for a");
    b.apply(&site.intake).unwrap();
    site.copy_of("waiting for b");
    wait_for("no copy to be without an intake", || {
        (metric(operator, "tdc_operator_orphaned_copies") == Some(0.0)).then_some(())
    });
}

/// An intake that exists and cannot be used is not one that was removed, also when no other is left in the table.
#[test]
fn a_bad_intake_is_not_taken_for_a_removed_one() {
    let Some(server) = server::private() else { return };
    let home = Namespace::home(&server, "home");
    let service = PolicyService::with(&home, &home.kubeconfig("tdc-policy"), "127.0.0.1:0", &[ALL]);
    let mut site = Site::around(home, service, None, &[ALL, "--housekeeping-every", "200ms"], &[]);
    site.namespace
        .apply(&policy("staff", 10, "@company.example", "{ mode: Global }"))
        .unwrap();
    site.namespace
        .shows("mpol", "staff", "Programmed", "True", "Programmed");
    site.worker.take().unwrap().kill();
    assert!(send(site.smtp, "b@company.example", "waiting").starts_with("250"));
    let bad = intake("eu") + "  tls: { caBundle: nonsense }\n";
    site.namespace.apply(&bad).unwrap();
    site.namespace
        .shows("intake", "eu", "Accepted", "False", "InvalidCertificate");
    let operator = site.operator.admin;
    for _ in 0..10 {
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert_eq!(metric(operator, "tdc_operator_orphaned_copies"), Some(0.0));
    }
    assert_eq!(event(&site.namespace, "eu", "CopiesWaiting"), None);
    site.namespace.apply(&site.intake).unwrap();
    site.start_worker();
    site.copy_of("waiting");
}
