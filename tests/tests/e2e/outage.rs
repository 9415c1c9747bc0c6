//! Something is down: mail is kept by its sender, or goes on; nothing is lost.

use std::process::Command;

use tdc_core::journal::unwrap;

use crate::stage::{Options, Process, Stage, tdc, wait_for};

const TO: &str = "ann@company.example";

#[test]
fn without_the_queue_the_sender_keeps_the_message() {
    let mut stage = Stage::build(Options::default());
    assert!(stage.swaks("a@x.example", TO, None).0);
    stage.intake(1);
    stage.stop_redis();
    let (sent, transcript) = stage.swaks("a@x.example", TO, None);
    assert!(!sent && transcript.contains("451 4.3.0"), "{transcript}");
    let (sent, transcript) = stage.swaks("a@x.example", "t@hr.example", None);
    assert!(sent, "mail without a copy goes on: {transcript}");
    assert_eq!(
        stage.mailbox().len(),
        2,
        "what was refused did not reach the next hop"
    );
    stage.restart_redis();
    wait_for("recovery", || {
        stage.swaks("a@x.example", TO, None).0.then_some(())
    });
    let copies = stage.intake(2);
    assert_eq!(copies.len(), 2);
    assert_eq!(stage.mailbox().len(), 3);
}

#[test]
fn a_role_that_starts_before_its_queue_waits_for_it() {
    let mut stage = Stage::build(Options::default());
    stage.stop_redis();
    let mut role = stage.ingress_command(&tdc());
    role.args(["--listen", "127.0.0.1:0"]);
    let ingress = Process::start(stage.dir.path(), "early-ingress", &mut role);
    ingress.says("The queue does not answer yet; waiting for it.");
    assert!(
        !ingress.log().contains("Accepting mail."),
        "no port before the queue is there"
    );
    stage.restart_redis();
    ingress.says("Accepting mail.");
    ingress.terminate();
}

#[test]
fn all_in_one_process_waits_for_its_queue_too() {
    let mut stage = Stage::build(Options::default());
    stage.stop_redis();
    let redis = format!("redis://127.0.0.1:{}/0", stage.redis_port);
    let start = |config: &str| {
        let mut role = Command::new(tdc());
        role.args([
            "standalone",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ])
        .args([
            "--next-hop",
            &stage.next_hop.to_string(),
            "--redis",
            &redis,
            "--config",
        ])
        .arg(stage.dir.path().join(config));
        Process::start(stage.dir.path(), "standalone", &mut role)
    };
    // What no waiting mends is said at once.
    let mut wrong = start("no-such-folder");
    assert_eq!(wrong.ended().code(), Some(1), "{}", wrong.log());
    let early = start("config");
    early.says("The queue does not answer yet; waiting for it.");
    assert!(
        !early.log().contains("Accepting mail."),
        "no port before the queue is there"
    );
    stage.restart_redis();
    early.says("Accepting mail.");
    early.terminate();
}

#[test]
fn with_ignore_mail_goes_on_without_its_copy() {
    let mut stage = Stage::build(Options {
        connector: "  failurePolicy: Ignore\n",
        ..Options::default()
    });
    stage.stop_redis();
    let (sent, transcript) = stage.swaks("a@x.example", TO, None);
    assert!(sent, "{transcript}");
    assert_eq!(stage.mailbox().len(), 1);
    wait_for("the log of it", || {
        stage
            .ingress
            .log()
            .contains("\"event\":\"not_journaled\"")
            .then_some(())
    });
}

#[test]
fn without_the_policy_service_the_last_snapshot_decides() {
    let mut stage = Stage::build(Options::default());
    stage.policy.take().unwrap().kill();
    let (sent, transcript) = stage.swaks("a@x.example", "cfo@finance.example", None);
    assert!(sent, "{transcript}");
    let copies = stage.intake(1);
    assert_eq!(
        unwrap(&copies[0].bytes).unwrap().recipients,
        ["cfo@finance.example"]
    );
}

#[test]
fn copies_wait_for_a_worker_and_roles_end_in_order() {
    let mut stage = Stage::build(Options::default());
    stage.worker.take().unwrap().terminate();
    for _ in 0..5 {
        assert!(stage.swaks("a@x.example", TO, None).0);
    }
    stage.start_worker();
    assert_eq!(stage.intake(5).len(), 5);
    // Killed before it has noted an end, the worker would rightly be followed by one that delivers that copy again.
    wait_for("the end of the fifth", || {
        (stage
            .redis_cli(&["HGET", "tdc:{etd-eu}:counters", "delivered"])
            .trim()
            == "5")
            .then_some(())
    });
    stage.worker.take().unwrap().kill();
    assert!(
        stage.swaks("a@x.example", TO, None).0,
        "a worker that is killed costs the original nothing"
    );
    stage.start_worker();
    assert_eq!(stage.intake(6).len(), 6);
    let Stage {
        ingress,
        worker,
        policy,
        ..
    } = stage;
    ingress.terminate();
    worker.unwrap().terminate();
    policy.unwrap().terminate();
}
