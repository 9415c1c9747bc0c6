//! `failurePolicy`: a copy that is due cannot be made.

use std::time::Duration;

use tdc_core::policy::{Connector, FailurePolicy, HeaderRule, Journaling};
use tdc_queue::MemoryOptions;

use crate::rig::{INTAKE, Rig, Setup};
use crate::server::{Options, Server};

const MESSAGE: &[u8] = b"Subject: a\r\n\r\nhello\r\n";

fn connector(failure_policy: FailurePolicy) -> Connector {
    Connector {
        failure_policy,
        ..Connector::default()
    }
}

/// (the setup, the reason that is counted under Ignore, why)
type Case = (fn(Setup) -> Setup, &'static str);

#[tokio::test(flavor = "multi_thread")]
async fn fail_refuses_and_ignore_goes_on_and_counts() {
    let cases: [Case; 3] = [
        (
            |mut setup| {
                setup.queue = MemoryOptions {
                    max_bytes: 1,
                    ..MemoryOptions::default()
                };
                setup
            },
            "queue_full",
        ),
        (
            |mut setup| {
                setup.journaling = Journaling::Unresolved("there is no intake etd-x".into());
                setup
            },
            "unresolved",
        ),
        (
            |mut setup| {
                setup.max_staleness = Some(Duration::ZERO);
                setup
            },
            "no_policy",
        ),
    ];
    for (change, reason) in cases {
        for policy in [FailurePolicy::Fail, FailurePolicy::Ignore] {
            let why = format!("{reason}, {policy:?}");
            let server = Server::start(Options::default()).await;
            let mut setup = change(Setup::new(&[server.address]));
            setup.connector = connector(policy);
            let rig = Rig::start(setup).await;
            let mut client = rig.client().await;
            client.command("EHLO c.example").await;
            let (stage, reply) = client.send(&["b@y.example"], MESSAGE).await;
            let skipped = rig.metric(&format!(
                "tdc_ingress_journal_skipped_total{{reason=\"{reason}\"}}"
            ));
            let (answer, arrived, counted) = match policy {
                // It is known to be full: the body need not come.
                FailurePolicy::Fail if reason == "queue_full" => (("DATA", "452 4.3.1"), 0, 0.0),
                FailurePolicy::Fail => (("DOT", "451 4.3.0"), 0, 0.0),
                FailurePolicy::Ignore => (("DOT", "250 2.0.0"), 1, 1.0),
            };
            assert_eq!((stage, &reply[..9]), answer, "{why}");
            assert_eq!(server.accepted(), arrived, "{why}");
            assert_eq!(skipped, counted, "{why}");
            assert_eq!(rig.stats().await.committed, 0, "{why}");
            assert_eq!(rig.queue.bytes(), 0, "{why}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_snapshot_the_flag_decides() {
    for (policy, code) in [(FailurePolicy::Fail, "451"), (FailurePolicy::Ignore, "250")] {
        let server = Server::start(Options::default()).await;
        let mut setup = Setup::new(&[server.address]);
        setup.snapshot = false;
        let rig = Rig::start(setup.with(move |config| config.failure_policy = policy)).await;
        let mut client = rig.client().await;
        client.command("EHLO c.example").await;
        let (_, reply) = client.send(&["b@y.example"], MESSAGE).await;
        assert_eq!(&reply[..3], code, "{policy:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_journaled_anyway_needs_no_intake() {
    let server = Server::start(Options::default()).await;
    let mut setup = Setup::new(&[server.address]);
    setup.journaling = Journaling::Unresolved("there is no intake etd-x".into());
    setup.connector = Connector {
        not_clean_headers: vec![HeaderRule {
            name: "X-Spam".into(),
            pattern: "^YES".into(),
        }],
        ..connector(FailurePolicy::Fail)
    };
    let rig = Rig::start(setup).await;
    let mut client = rig.client().await;
    client.command("EHLO c.example").await;
    let cases: [(&[u8], &str, &str); 3] = [
        (b"X-Spam: YES\r\n\r\n", "250", "not clean"),
        (b"X-TDC-Delivery-Id: 01\r\n\r\n", "250", "a copy of our own"),
        (b"X-Spam: NO\r\n\r\n", "451", "its copy is due"),
    ];
    for (message, code, why) in cases {
        let (_, reply) = client.send(&["b@y.example"], message).await;
        assert_eq!(&reply[..3], code, "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_message_whose_copy_finds_no_room() {
    let message =
        b"0123456789012345678901234567890123456789012345678901234567890123456789\r\n".repeat(50_000);
    for (policy, code) in [(FailurePolicy::Fail, "451"), (FailurePolicy::Ignore, "250")] {
        let server = Server::start(Options::default()).await;
        let mut setup = Setup::new(&[server.address]);
        setup.connector = connector(policy);
        setup.queue = MemoryOptions {
            max_bytes: 1_500_000,
            ..MemoryOptions::default()
        };
        let rig = Rig::start(setup).await;
        let mut client = rig.client().await;
        client.command("EHLO c.example").await;
        let (stage, reply) = client.send(&["b@y.example"], &message).await;
        assert_eq!((stage, &reply[..3]), ("DOT", code), "{policy:?}");
        assert_eq!(
            rig.queue.bytes(),
            0,
            "{policy:?}: chunks that were written are taken back"
        );
        let (stage, reply) = client.send(&["b@y.example"], MESSAGE).await;
        assert_eq!(
            (stage, &reply[..3]),
            ("DOT", "250"),
            "{policy:?}: a small one still fits"
        );
        let claimed = rig.claim().await;
        assert_eq!(claimed, [MESSAGE], "{policy:?}");
        let intakes = rig.stats().await;
        assert_eq!(intakes.committed, 1, "{policy:?} {INTAKE}");
    }
}
