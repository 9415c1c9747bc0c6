//! The operator: what it says of each object, when, and which of several says it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tdc_tests::process::{Process, free_port, tdc, wait_for};

use crate::namespace::Namespace;
use crate::roles::{Operator, PolicyService, connector, http, intake, metric, policy};
use crate::server;

const STAFF: &str = "@company.example";

/// A server that stands in for an intake, with its CA.
fn simulated_intake(dir: &Path) -> (Process, u16, String) {
    let mut command = Command::new(tdc());
    command
        .args(["simulate", "intake", "--tls-dir"])
        .arg(dir.join("tls"));
    let process = Process::start(dir, "intake", &mut command);
    let port = process.address("listening on").port();
    let ca = std::fs::read_to_string(dir.join("tls/ca.pem")).unwrap();
    (process, port, ca)
}

/// An intake at that port of this machine.
pub(crate) fn intake_at(name: &str, port: u16, ca: &str) -> String {
    let ca: String = ca.lines().map(|line| format!("      {line}\n")).collect();
    format!(
        "---\napiVersion: tdc.dev/v1alpha1\nkind: IntakeAddress\nmetadata: {{ name: {name} }}\nspec:\n  \
         address: {name}@intake.example\n  route: {{ host: 127.0.0.1, port: {port} }}\n  \
         tls:\n    serverName: localhost\n    caBundle: |\n{ca}"
    )
}

fn transition(object: &Value, condition: &str) -> String {
    let conditions = object["status"]["conditions"].as_array().unwrap();
    let found = conditions
        .iter()
        .find(|found| found["type"] == condition)
        .unwrap();
    found["lastTransitionTime"].as_str().unwrap().to_owned()
}

#[test]
fn it_says_of_every_object_what_became_of_it() {
    let Some(server) = server::shared() else { return };
    let namespace = Namespace::new(server, "status");
    let service = PolicyService::start(&namespace);
    let operator = Operator::start(&namespace, service.address, &["--probe-every", "1s"]);
    let (_simulator, port, ca) = simulated_intake(namespace.path());
    let all = [
        connector("default", "{ defaultIntake: eu }"),
        intake_at("eu", port, &ca),
        intake("nobody"),
        policy("staff", 10, STAFF, "{ mode: Global }"),
        policy("lost", 20, "@lost.example", "{ mode: Custom, intake: missing }"),
    ]
    .concat();
    namespace.apply(&all).unwrap();
    for (kind, name) in [("tdconn", "default"), ("intake", "eu"), ("mpol", "staff")] {
        let object = format!("{kind}/{name}");
        namespace.must(&["wait", "--for=condition=Programmed", "--timeout=90s", &object]);
        namespace.shows(kind, name, "Accepted", "True", "Accepted");
        namespace.shows(kind, name, "ResolvedRefs", "True", "ResolvedRefs");
    }
    let told = namespace.shows("mpol", "lost", "ResolvedRefs", "False", "IntakeNotFound");
    assert!(
        told.contains("spec.journaling.intake: there is no IntakeAddress missing"),
        "{told}"
    );
    assert!(told.contains("follows failurePolicy"), "{told}");
    namespace.shows("mpol", "lost", "Accepted", "True", "Accepted");
    namespace.shows("mpol", "lost", "Programmed", "False", "NotInUse");

    // Probed for real: who answers, who does not, and whose certificate nobody knows.
    namespace.must(&["wait", "--for=condition=Reachable", "--timeout=90s", "intake/eu"]);
    let told = namespace.shows("intake", "nobody", "Reachable", "False", "ConnectFailed");
    assert!(told.contains("127.0.0.1:9: "), "{told}");
    let untrusted =
        intake_at("eu", port, &ca).replace("    serverName: localhost\n", "    serverName: other.example\n");
    namespace.apply(&untrusted).unwrap();
    let told = namespace.shows("intake", "eu", "Reachable", "False", "TlsFailed");
    assert!(told.contains("certificate"), "{told}");
    namespace.apply(&intake_at("eu", port, &ca)).unwrap();
    namespace.shows("intake", "eu", "Reachable", "True", "Reachable");

    // Each transition is an event, in words.
    for (name, reason) in [
        ("lost", "IntakeNotFound"),
        ("nobody", "ConnectFailed"),
        ("eu", "TlsFailed"),
        ("staff", "Programmed"),
    ] {
        wait_for(&format!("an event {reason} on {name}"), || {
            let events: Value =
                serde_json::from_str(&namespace.must(&["get", "events.events.k8s.io", "-o", "json"]))
                    .unwrap();
            let mut events = events["items"].as_array().unwrap().iter();
            events
                .any(|event| event["regarding"]["name"] == name && event["reason"] == reason)
                .then_some(())
        });
    }

    // The intake appears: its policy is in use without being touched.
    let before = namespace.get("mpol", "lost");
    std::thread::sleep(Duration::from_millis(1100));
    namespace.apply(&intake("missing")).unwrap();
    namespace.shows("mpol", "lost", "Programmed", "True", "Programmed");
    let after = namespace.get("mpol", "lost");
    assert_eq!(
        transition(&before, "Accepted"),
        transition(&after, "Accepted"),
        "it did not move"
    );
    assert_ne!(
        transition(&before, "Programmed"),
        transition(&after, "Programmed"),
        "it did"
    );
    assert_eq!(before["metadata"]["generation"], after["metadata"]["generation"]);

    // A new generation is spoken of as such; the status has one writer, the spec another.
    namespace
        .apply(&policy("staff", 11, STAFF, "{ mode: Global }"))
        .unwrap();
    wait_for("the second generation of staff", || {
        let object = namespace.get("mpol", "staff");
        let conditions = object["status"]["conditions"].as_array()?;
        (object["status"]["observedGeneration"] == 2
            && conditions
                .iter()
                .all(|found| found["observedGeneration"] == 2 && found["status"] == "True"))
        .then_some(())
    });
    let object: Value = serde_json::from_str(&namespace.must(&[
        "get",
        "mpol",
        "staff",
        "-o",
        "json",
        "--show-managed-fields",
    ]))
    .unwrap();
    let managers = object["metadata"]["managedFields"].as_array().unwrap();
    let ours: Vec<_> = managers
        .iter()
        .filter(|entry| entry["manager"] == "tdc-operator")
        .collect();
    assert_eq!(ours.len(), 1);
    assert_eq!(
        (&ours[0]["operation"], &ours[0]["subresource"]),
        (&"Apply".into(), &"status".into())
    );
    operator.process.terminate();
    service.process.terminate();
}

#[test]
fn the_oldest_connector_counts_and_the_others_are_told_so() {
    let Some(server) = server::shared() else { return };
    let namespace = Namespace::new(server, "conflict");
    let service = PolicyService::start(&namespace);
    let _operator = Operator::start(&namespace, service.address, &[]);
    namespace
        .apply(&connector("zz-first", "{ failurePolicy: Ignore }"))
        .unwrap();
    // Time stamps have seconds.
    std::thread::sleep(Duration::from_millis(1100));
    namespace
        .apply(&connector("aa-second", "{ failurePolicy: Fail }"))
        .unwrap();
    namespace.shows("tdconn", "zz-first", "Programmed", "True", "Programmed");
    let told = namespace.shows("tdconn", "aa-second", "Accepted", "False", "Conflicted");
    assert!(
        told.contains("ThreatDefenseConnector zz-first is older and counts"),
        "{told}"
    );
    namespace.shows("tdconn", "aa-second", "Programmed", "False", "NotInUse");
    namespace.must(&["delete", "tdconn", "zz-first"]);
    namespace.shows("tdconn", "aa-second", "Accepted", "True", "Accepted");
    namespace.shows("tdconn", "aa-second", "Programmed", "True", "Programmed");
}

/// Statuses are no matter of the queue.
#[test]
fn it_works_without_its_queue() {
    let Some(server) = server::shared() else { return };
    let namespace = Namespace::new(server, "queueless");
    let service = PolicyService::start(&namespace);
    let redis = format!("redis://127.0.0.1:{}/0", free_port());
    let operator = Operator::start(&namespace, service.address, &["--redis", &redis]);
    namespace
        .apply(&policy("a", 1, STAFF, "{ mode: Disabled }"))
        .unwrap();
    namespace.shows("mpol", "a", "Programmed", "True", "Programmed");
    operator
        .process
        .says("The queue cannot be looked after; trying again.");
    operator.process.terminate();
}

#[test]
fn one_of_several_writes_and_ends_when_it_may_not() {
    let Some(server) = server::shared() else { return };
    let namespace = Namespace::new(server, "lease");
    let service = PolicyService::start(&namespace);
    let leads = |operator: &Operator| metric(operator.admin, "tdc_operator_leader") == Some(1.0);
    let ready = |operator: &Operator| http(operator.admin, "/readyz").starts_with("HTTP/1.1 200");
    let first = Operator::start(&namespace, service.address, &[]);
    wait_for("the first to lead", || leads(&first).then_some(()));
    let second = Operator::start(&namespace, service.address, &[]);
    second.process.says("standing by");
    wait_for("both to be ready", || {
        (ready(&first) && ready(&second)).then_some(())
    });
    assert!(!leads(&second), "readiness does not depend on the lease");

    // Told to stop, it gives the lease back: the next one has it within seconds.
    first.process.terminate();
    let begun = Instant::now();
    wait_for("the second to lead", || leads(&second).then_some(()));
    println!(
        "after SIGTERM the next operator leads within {:?}",
        begun.elapsed()
    );
    namespace
        .apply(&policy("a", 1, STAFF, "{ mode: Disabled }"))
        .unwrap();
    namespace.shows("mpol", "a", "Programmed", "True", "Programmed");

    // Frozen for longer than the lease: another takes over, and when the first wakes it ends instead of writing.
    let third = Operator::start(&namespace, service.address, &[]);
    third.process.says("standing by");
    let mut second = second;
    second.process.signal("STOP");
    wait_for("the third to lead", || leads(&third).then_some(()));
    second.process.signal("CONT");
    assert_eq!(second.process.ended().code(), Some(1));
    assert!(second.process.log().contains("holds the lease"), "it says why");
    // Killed: its lease lapses.
    let fourth = Operator::start(&namespace, service.address, &[]);
    third.process.kill();
    wait_for("the fourth to lead", || leads(&fourth).then_some(()));
    namespace
        .apply(&policy("b", 1, STAFF, "{ mode: Disabled }"))
        .unwrap();
    namespace.shows("mpol", "b", "Programmed", "True", "Programmed");
}

/// Not once a minute, not once an hour: a status is written when it has something new to say.
#[test]
fn objects_at_rest_are_not_written() {
    let Some(server) = server::shared() else { return };
    let number = |name: &str, otherwise: u64| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(otherwise)
    };
    let (objects, idle) = (
        number("TDC_TEST_OBJECTS", 100),
        number("TDC_TEST_IDLE_SECONDS", 8),
    );
    let namespace = Namespace::new(server, "idle");
    let service = PolicyService::start(&namespace);
    let _operator = Operator::start(&namespace, service.address, &[]);
    let all: String = (0..objects)
        .map(|n| {
            policy(
                &format!("p{n}"),
                10,
                &format!("@d{n}.example"),
                "{ mode: Disabled }",
            )
        })
        .collect();
    namespace.apply(&all).unwrap();
    let begun = Instant::now();
    wait_for("all to be in use", || {
        let programmed = namespace.must(&[
            "get",
            "mpol",
            "-o",
            r#"jsonpath={.items[*].status.conditions[?(@.type=="Programmed")].status}"#,
        ]);
        (programmed.split(' ').filter(|status| *status == "True").count() as u64 == objects).then_some(())
    });
    println!(
        "{objects} objects show Programmed=True {:?} after kubectl is done",
        begun.elapsed()
    );
    let writes = || {
        let audit = namespace.server.audit(&namespace.name);
        audit
            .iter()
            .filter(|line| line["objectRef"]["subresource"] == "status")
            .count() as u64
    };
    // The log is written by the API server when it likes.
    std::thread::sleep(Duration::from_secs(2));
    let settled = writes();
    assert!(settled >= objects, "each was written");
    assert!(settled <= 3 * objects, "{settled} writes for {objects} objects");
    // Somebody restarts the policy service meanwhile.
    let address = service.address.to_string();
    service.process.kill();
    let service = PolicyService::with(&namespace, &namespace.kubeconfig("tdc-policy"), &address, &[]);
    std::thread::sleep(Duration::from_secs(idle));
    assert_eq!(writes(), settled, "{objects} objects at rest for {idle} s");
    println!("{objects} objects: {settled} status writes until all were in use, none in {idle} s at rest");
    drop(service);
}
