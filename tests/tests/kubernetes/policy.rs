//! The policy service on a cluster: what it sees, what it survives, and what it may do.

use std::time::{Duration, Instant};

use serde_json::json;
use tdc_tests::process::wait_for;

use crate::away::seconds;
use crate::namespace::Namespace;
use crate::proxy::{Proxy, Way};
use crate::roles::{PolicyService, ask, connector, http, intake, metric, policy};
use crate::server;

const STAFF: &str = "@company.example";

#[test]
fn it_serves_what_the_cluster_holds_and_follows_changes() {
    let Some(server) = server::shared() else { return };
    let namespace = Namespace::new(server, "policy");
    let service = PolicyService::start(&namespace);
    service.decides("a@x.example", "b@company.example", "no policy");
    let all = [
        connector("default", "{ defaultIntake: eu }"),
        intake("eu"),
        policy("staff", 10, STAFF, "{ mode: Global }"),
    ]
    .concat();
    namespace.apply(&all).unwrap();
    let answer = service.decides(
        "a@x.example",
        "b@company.example",
        "policy staff, row 0: journaled to intake eu",
    );
    assert!(
        answer.contains("because the recipient matches @company.example"),
        "{answer}"
    );

    // The same table from files gives the same words.
    let files = namespace.path().join("config");
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(files.join("all.yaml"), &all).unwrap();
    let files = files.display().to_string();
    let envelope = [
        "--from",
        "a@x.example",
        "--to",
        "b@company.example,c@other.example",
    ];
    let local = ask(&[&["policy", "test", "--config", &files], &envelope[..]].concat());
    let address = service.address.to_string();
    let remote = ask(&[&["policy", "test", "--server", &address], &envelope[..]].concat());
    assert_eq!(local, remote);
    assert!(local.contains("c@other.example: no policy"), "{local}");
    assert_eq!(ask(&["policy", "show", "--config", &files]), service.show());

    // A new order, another intake, a deletion.
    namespace
        .apply(&(intake("us") + &policy("first", 5, "b@", "{ mode: Custom, intake: us }")))
        .unwrap();
    service.decides(
        "a@x.example",
        "b@company.example",
        "policy first, row 0: journaled to intake us",
    );
    namespace.must(&["delete", "mailpolicy", "first"]);
    service.decides(
        "a@x.example",
        "b@company.example",
        "policy staff, row 0: journaled to intake eu",
    );
    namespace.must(&["delete", "intakeaddress", "eu"]);
    service.decides("a@x.example", "b@company.example", "cannot be journaled");
    // The status of an object is nothing that a table is made for.
    let before = metric(service.admin, "tdc_policy_snapshot_sequence");
    namespace.must(&[
        "patch",
        "mailpolicy",
        "staff",
        "--subresource=status",
        "--type=merge",
        "-p",
        r#"{"status":{"observedGeneration":1}}"#,
    ]);
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(metric(service.admin, "tdc_policy_snapshot_sequence"), before);
    service.process.terminate();
}

#[test]
fn it_can_read_the_three_kinds_of_its_namespace_and_nothing_else() {
    let Some(server) = server::shared() else { return };
    let namespace = Namespace::new(server, "rights");
    for (user, verb, what, allowed) in [
        ("tdc-policy", "list", "mailpolicies.tdc.dev", true),
        ("tdc-policy", "watch", "intakeaddresses.tdc.dev", true),
        ("tdc-policy", "get", "threatdefenseconnectors.tdc.dev", true),
        ("tdc-policy", "patch", "mailpolicies.tdc.dev", false),
        ("tdc-policy", "patch", "mailpolicies.tdc.dev/status", false),
        ("tdc-policy", "get", "secrets", false),
        ("tdc-policy", "create", "events.events.k8s.io", false),
        ("tdc-operator", "watch", "mailpolicies.tdc.dev", true),
        ("tdc-operator", "patch", "mailpolicies.tdc.dev/status", true),
        ("tdc-operator", "patch", "mailpolicies.tdc.dev", false),
        ("tdc-operator", "delete", "intakeaddresses.tdc.dev", false),
        ("tdc-operator", "get", "secrets", false),
        ("tdc-operator", "create", "events.events.k8s.io", true),
        (
            "tdc-operator",
            "update",
            "leases.coordination.k8s.io/tdc-operator",
            true,
        ),
        (
            "tdc-operator",
            "update",
            "leases.coordination.k8s.io/other",
            false,
        ),
    ] {
        let (what, subresource) = what
            .strip_suffix("/status")
            .map_or((what, ""), |what| (what, "status"));
        let subresource = format!("--subresource={subresource}");
        let output = namespace
            .kubectl_as(user)
            .args(["auth", "can-i", verb, what, &subresource])
            .output()
            .unwrap();
        assert_eq!(output.status.success(), allowed, "{user} {verb} {what}");
    }
}

#[test]
fn it_starts_before_the_api_server_and_survives_its_absence() {
    let Some(server) = server::shared() else { return };
    let namespace = Namespace::new(server, "away");
    namespace
        .apply(&policy("staff", 10, STAFF, "{ mode: Disabled }"))
        .unwrap();
    let proxy = Proxy::to(server.port);
    proxy.set(Way::Closed);
    let kubeconfig = server.kubeconfig("tdc-policy", &namespace.name, proxy.port);
    let service = PolicyService::with(&namespace, &kubeconfig, "127.0.0.1:0", &[]);

    // Before the cluster: it runs, is not ready, and says why.
    wait_for("a reason in /readyz", || {
        http(service.admin, "/readyz")
            .contains("cannot be watched")
            .then_some(())
    });
    assert!(http(service.admin, "/readyz").starts_with("HTTP/1.1 503"));
    assert!(http(service.admin, "/livez").starts_with("HTTP/1.1 200"));
    assert!(
        service
            .test("a@x.example", "b@company.example")
            .contains("no policy table")
    );
    proxy.set(Way::Open);
    service.decides("a@x.example", "b@company.example", "policy staff, row 0");
    wait_for("readiness", || {
        http(service.admin, "/readyz")
            .starts_with("HTTP/1.1 200")
            .then_some(())
    });

    // Watches are dropped: nobody notices.
    assert!(proxy.cut() > 0);
    namespace
        .apply(&policy("hr", 5, "@hr.example", "{ mode: Disabled }"))
        .unwrap();
    service.decides("a@x.example", "b@hr.example", "policy hr, row 0");

    // Away for a while, with changes and a deletion meanwhile: the old table decides, and the new one comes.
    proxy.set(Way::Closed);
    namespace
        .apply(&policy("later", 1, "@later.example", "{ mode: Disabled }"))
        .unwrap();
    namespace.must(&["delete", "mailpolicy", "hr"]);
    wait_for("the metric to show it", || {
        (metric(service.admin, "tdc_policy_watch_broken") == Some(1.0)).then_some(())
    });
    let away = Instant::now();
    while away.elapsed() < Duration::from_secs(seconds()) {
        assert!(
            service
                .test("a@x.example", "b@hr.example")
                .contains("policy hr, row 0")
        );
        assert!(http(service.admin, "/readyz").starts_with("HTTP/1.1 200"));
        std::thread::sleep(Duration::from_millis(500));
    }
    proxy.set(Way::Open);
    service.decides("a@x.example", "b@later.example", "policy later, row 0");
    service.decides("a@x.example", "b@hr.example", "no policy");
    wait_for("the metric to recover", || {
        (metric(service.admin, "tdc_policy_watch_broken") == Some(0.0)).then_some(())
    });
    service.process.terminate();
}

#[test]
fn an_object_that_cannot_be_read_stalls_nobody() {
    let Some(mut server) = server::private() else {
        return;
    };
    let name = {
        let namespace = Namespace::new(&server, "bad");
        // The definition in the cluster is newer than the program: it knows a format that we do not.
        let newer = json!([{ "op": "add",
            "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/format/enum/-", "value": "Holographic" }]);
        namespace.must(&[
            "patch",
            "crd",
            "intakeaddresses.tdc.dev",
            "--type=json",
            "-p",
            &newer.to_string(),
        ]);
        let strange = intake("strange") + "  format: Holographic\n";
        let all = [
            connector("default", "{ defaultIntake: eu }"),
            intake("eu"),
            policy("staff", 10, STAFF, "{ mode: Global }"),
            policy("odd", 20, "@odd.example", "{ mode: Custom, intake: strange }"),
        ]
        .concat();
        wait_for("the newer definition to be served", || {
            namespace.apply(&strange).ok()
        });
        namespace.apply(&all).unwrap();
        let service = PolicyService::start(&namespace);
        service.decides(
            "a@x.example",
            "b@company.example",
            "policy staff, row 0: journaled to intake eu",
        );
        let answer = service.decides("a@x.example", "b@odd.example", "policy odd, row 0");
        assert!(
            answer.contains("IntakeAddress strange is not accepted"),
            "{answer}"
        );
        assert_eq!(metric(service.admin, "tdc_policy_objects_unusable"), Some(2.0));
        // Repaired, and others change: it follows.
        namespace.apply(&intake("strange")).unwrap();
        service.decides("a@x.example", "b@odd.example", "journaled to intake strange");
        namespace.name.clone()
    };
    // The API server itself dies and comes back.
    let namespace_dir = server.folder(&name);
    let kubeconfig = server.kubeconfig("tdc-policy", &name, server.port);
    server.down();
    {
        let namespace = Namespace {
            server: &server,
            name: name.clone(),
            dir: namespace_dir.clone(),
            port: server.port,
        };
        let service = PolicyService::with(&namespace, &kubeconfig, "127.0.0.1:0", &[]);
        assert!(
            service
                .test("a@x.example", "b@odd.example")
                .contains("no policy table")
        );
        service.process.terminate();
    }
    server.up();
    let namespace = Namespace {
        server: &server,
        name,
        dir: namespace_dir,
        port: server.port,
    };
    let service = PolicyService::with(&namespace, &kubeconfig, "127.0.0.1:0", &[]);
    service.decides("a@x.example", "b@odd.example", "journaled to intake strange");
}
