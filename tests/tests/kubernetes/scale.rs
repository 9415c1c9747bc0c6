//! Thousands of policies: how much memory they take, how soon a change of one is in use, how long a decision takes.
//!
//! `cargo test -p tdc-tests --test kubernetes -- --ignored --nocapture thousands`, with TDC_BIN set to a release build.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tdc_proto::v1;
use tdc_proto::v1::policy_service_client::PolicyServiceClient;
use tdc_tests::process::wait_for;

use crate::namespace::Namespace;
use crate::roles::{Operator, PolicyService, metric};
use crate::server;

/// Patterns in each policy.
const PATTERNS: usize = 20;
/// Objects in one call of kubectl.
const BATCH: usize = 500;
/// Calls whose time is measured, and those before them that are not.
const CALLS: usize = 2000;
const WARM_UP: usize = 200;
/// Envelopes in a call: what ingress sends at low and at high load.
const ENVELOPES: [usize; 3] = [1, 40, 200];

fn one(number: usize, order: usize) -> String {
    let patterns: Vec<String> = (0..PATTERNS)
        .map(|k| format!("\"u{k}@d{number}.example\""))
        .collect();
    format!(
        "---\napiVersion: tdc.dev/v1alpha1\nkind: MailPolicy\nmetadata: {{ name: p{number} }}\nspec:\n  order: {order}\n  \
         users:\n  - recipients: {{ anyOf: [{}] }}\n  journaling: {{ mode: Disabled }}\n",
        patterns.join(", ")
    )
}

/// Resident memory of a process, in MiB.
fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// How long `Evaluate` takes over one connection, a call after the other; each answer is looked at.
fn evaluation(service: SocketAddr, total: usize) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut client = runtime
        .block_on(PolicyServiceClient::connect(format!("http://{service}")))
        .unwrap();
    let last = format!("p{}", total - 1);
    for (whose, to, policy) in [
        (
            "that the last policy takes",
            format!("u1@d{}.example", total - 1),
            Some(last),
        ),
        (
            "that no policy takes",
            "nobody@elsewhere.example".to_owned(),
            None,
        ),
    ] {
        for envelopes in ENVELOPES {
            let envelope = v1::Envelope {
                sender: "a@x.example".into(),
                recipients: vec![to.clone()],
            };
            let request = v1::EvaluateRequest {
                envelopes: vec![envelope; envelopes],
                ..v1::EvaluateRequest::default()
            };
            let mut call = || {
                let begun = Instant::now();
                let answer = runtime.block_on(client.evaluate(request.clone())).unwrap();
                let took = begun.elapsed();
                let decisions = answer.into_inner().decisions;
                assert_eq!(decisions.len(), envelopes);
                for decision in decisions {
                    assert_eq!(decision.recipients[0].policy, policy);
                }
                took
            };
            for _ in 0..WARM_UP {
                call();
            }
            let mut times: Vec<Duration> = (0..CALLS).map(|_| call()).collect();
            times.sort_unstable();
            println!(
                "Evaluate, recipient {whose}, {envelopes} envelopes a call: median {:?}, 99th {:?}, most {:?}",
                times[CALLS / 2],
                times[CALLS * 99 / 100],
                times[CALLS - 1]
            );
        }
    }
}

#[test]
#[ignore = "a measurement: minutes, and figures only mean something in a release build"]
fn thousands_of_policies() {
    let Some(server) = server::shared() else { return };
    let total = std::env::var("TDC_TEST_POLICIES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(5000);
    let namespace = Namespace::new(server, "scale");
    let service = PolicyService::start(&namespace);
    let operator = Operator::start(&namespace, service.address, &[]);
    let empty = (memory(service.process.id()), memory(operator.process.id()));
    let begun = Instant::now();
    for start in (0..total).step_by(BATCH) {
        let batch: String = (start..(start + BATCH).min(total)).map(|n| one(n, 10)).collect();
        namespace.apply(&batch).unwrap();
    }
    println!("kubectl apply of {total} policies: {:?}", begun.elapsed());
    let patience = Instant::now();
    while metric(operator.admin, "tdc_operator_objects_not_programmed") != Some(0.0)
        || metric(operator.admin, "tdc_operator_objects") != Some(total as f64)
    {
        assert!(patience.elapsed() < Duration::from_secs(600), "all in use");
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("all show Programmed=True {:?} later", patience.elapsed());
    println!(
        "memory: policy {} MiB (empty: {}), operator {} MiB (empty: {})",
        memory(service.process.id()),
        empty.0,
        memory(operator.process.id()),
        empty.1
    );

    // One policy changes: until the service decides by it, and until its status says so.
    let before = metric(service.admin, "tdc_policy_snapshot_sequence");
    let begun = Instant::now();
    namespace.apply(&one(total / 2, 11)).unwrap();
    let applied = begun.elapsed();
    wait_for("the next snapshot", || {
        (metric(service.admin, "tdc_policy_snapshot_sequence") > before).then_some(())
    });
    let decided = begun.elapsed();
    wait_for("its status", || {
        let object = namespace.get("mpol", &format!("p{}", total / 2));
        (object["status"]["observedGeneration"] == 2).then_some(())
    });
    println!(
        "one change: kubectl {applied:?}, snapshot {decided:?}, status {:?} after kubectl began",
        begun.elapsed()
    );

    // Started again, the service lists them all.
    let address = service.address.to_string();
    service.process.kill();
    let begun = Instant::now();
    let service = PolicyService::with(&namespace, &namespace.kubeconfig("tdc-policy"), &address, &[]);
    wait_for("the table", || {
        (metric(service.admin, "tdc_policy_policies") == Some(total as f64)).then_some(())
    });
    println!(
        "a restarted policy service has the table {:?} after its start",
        begun.elapsed()
    );
    let begun = Instant::now();
    let answer = service.test("a@x.example", &format!("u1@d{}.example", total - 1));
    println!("tdc policy test --server, all of it: {:?}", begun.elapsed());
    assert!(
        answer.contains(&format!("policy p{}, row 0", total - 1)),
        "{answer}"
    );
    evaluation(service.address, total);
}
