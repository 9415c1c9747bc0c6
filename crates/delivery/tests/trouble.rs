//! A queue that does not answer for a while, and what the mail log says.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod rig;

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rig::flaky::Flaky;
use rig::pki::Authority;
use rig::server::{Act, At, Options, Server, at};
use rig::{ORIGINAL, Rig, config, eventually, intake};
use tdc_core::policy::TlsMode;
use tdc_queue::{JournalQueue as _, MemoryOptions, MemoryQueue};
use tdc_telemetry::{LogFormat, MailLog, Output};

const LIFETIME: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_queue_that_is_away_for_a_moment_costs_no_duplicate() {
    let deferred = || vec![at(At::Rcpt, Act::Say("451 4.3.0 later"))];
    let cases = [
        (Flaky::new(3, 0, 0), Vec::new(), 0, "claims fail"),
        (
            Flaky::new(0, 4, 0),
            Vec::new(),
            0,
            "the end of a delivered entry is not taken at once",
        ),
        (Flaky::new(0, 0, 3), deferred(), 1, "a retry is not taken at once"),
    ];
    for (queue, scripts, soft_bounced, why) in cases {
        let server = Server::start(Options {
            scripts,
            ..Options::default()
        })
        .await;
        let rig = Rig::on(queue, config(), intake(server.address)).await;
        rig.put(ORIGINAL, LIFETIME).await;
        let stats = rig.ended(1).await;
        assert_eq!((stats.delivered, stats.soft_bounced), (1, soft_bounced), "{why}");
        assert_eq!(server.seen.messages.lock().unwrap().len(), 1, "sent once: {why}");
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_connection_goes_on_while_ends_are_noted_but_not_for_ever() {
    const UNSETTLED: usize = 8;
    let server = Server::start(Options::default()).await;
    let queue = Flaky::new(0, 0, 0);
    queue.slow.store(true, Ordering::SeqCst);
    let mut intake = intake(server.address);
    (intake.connections.min, intake.connections.max) = (1, 1);
    intake.connections.messages_per_connection = 100;
    let rig = Rig::on(queue.clone(), config(), intake).await;
    for _ in 0..20 {
        rig.put(ORIGINAL, LIFETIME).await;
    }
    let arrived = || server.seen.messages.lock().unwrap().len();
    eventually("deliveries beside the first", || arrived() == UNSETTLED).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        (arrived(), rig.stats().await.delivered),
        (UNSETTLED, 0),
        "what would come again is bounded"
    );
    queue.slow.store(false, Ordering::SeqCst);
    assert_eq!(rig.ended(20).await.delivered, 20);
    assert_eq!(arrived(), 20, "none twice");
    rig.stop().await;
}

#[tokio::test]
async fn a_stop_waits_until_ends_are_noted() {
    let server = Server::start(Options::default()).await;
    let queue = Flaky::new(0, 0, 0);
    queue.slow.store(true, Ordering::SeqCst);
    let rig = Rig::on(queue.clone(), config(), intake(server.address)).await;
    rig.put(ORIGINAL, LIFETIME).await;
    eventually("the delivery", || server.seen.messages.lock().unwrap().len() == 1).await;
    rig.trigger.start();
    tokio::time::sleep(Duration::from_millis(300)).await;
    queue.slow.store(false, Ordering::SeqCst);
    rig.stop().await;
    let stats = queue.stats(rig::INTAKE).await.unwrap();
    assert_eq!((stats.delivered, stats.ready, stats.in_flight), (1, 0, 0));
}

#[tokio::test]
async fn a_slow_transaction_keeps_its_claim() {
    let answer_after = tdc_queue::HEARTBEAT_EVERY + Duration::from_millis(500);
    let server = Server::start(Options {
        answer_after,
        ..Options::default()
    })
    .await;
    let queue = Flaky::new(0, 0, 0);
    let rig = Rig::on(queue.clone(), config(), intake(server.address)).await;
    rig.put(ORIGINAL, LIFETIME).await;
    assert_eq!(rig.ended(1).await.delivered, 1);
    assert!(queue.heartbeats.load(Ordering::SeqCst) >= 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_delivery_that_is_stuck_is_given_up() {
    let server = Server::start(Options::default()).await;
    let queue = Flaky::new(0, 0, 0);
    queue.mute.store(true, Ordering::SeqCst);
    let mut config = config();
    config.stuck_after = Duration::from_millis(500);
    let rig = Rig::on(queue.clone(), config, intake(server.address)).await;
    rig.put(ORIGINAL, Duration::from_millis(1500)).await;
    let stuck = || {
        rig.metrics
            .encode()
            .contains(r#"tdc_worker_stuck_total{intake="etd"} 1"#)
    };
    eventually("the watchdog", stuck).await;
    queue.mute.store(false, Ordering::SeqCst);
    rig.put(ORIGINAL, LIFETIME).await;
    rig.until("the worker to go on", |stats| stats.delivered == 1)
        .await;
    rig.stop().await;
}

#[tokio::test]
async fn what_expires_in_the_queue_is_logged() {
    let log = Shared::default();
    let output = Output::start(log.clone(), |_| String::new()).unwrap();
    let server = Server::start(Options::default()).await;
    let queue = Arc::new(MemoryQueue::new(MemoryOptions::default()));
    let rig = Rig::logging(
        queue,
        config(),
        intake(server.address),
        MailLog::new(LogFormat::Asyncos, output),
    )
    .await;
    // Nobody serves it.
    rig.snapshots.send_replace(rig::snapshot(Vec::new()));
    tokio::time::sleep(Duration::from_millis(700)).await;
    let meta = tdc_queue::EntryMeta {
        mid: 8,
        ..Default::default()
    };
    rig.put_with(meta, ORIGINAL, Duration::from_millis(300)).await;
    assert_eq!(rig.ended(1).await.expired, 1);
    let line = "Bounced: DCID 0 MID 8 to RID 0 - 5.4.7 - Delivery expired (message too old) ('000', [";
    eventually(line, || log.lines().iter().any(|found| found.starts_with(line))).await;
    let counted = r#"tdc_worker_deliveries_total{intake="etd",class="expired"} 1"#;
    assert!(rig.metrics.encode().contains(counted));
    rig.stop().await;
}

/// A buffer that a test may read.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .filter_map(|line| line.split_once(": ").map(|(_, text)| text.to_owned()))
            .collect()
    }
}

#[tokio::test]
async fn the_mail_log_tells_the_way_of_a_copy() {
    let authority = Authority::new();
    let tls = || Some(authority.acceptor(&["127.0.0.1"], &rustls::version::TLS13));
    let say = |text| vec![at(At::Rcpt, Act::Say(text))];
    let secured = "DCID 1 TLS success protocol TLSv1.3 cipher TLS13_AES_256_GCM_SHA384";
    let cases = [
        (
            tls(),
            Vec::new(),
            vec![
                "TDC: New SMTP DCID 1 interface 127.0.0.1 address 127.0.0.1 port ",
                secured,
                "TDC: MID 7 successfully delivered for scanning with Cisco Secure Email Threat Defense.",
                "DCID 1 close",
            ],
        ),
        (
            tls(),
            say("550 5.1.1 nobody"),
            vec![
                secured,
                "TDC: Delivery start DCID 1 MID 7",
                "TDC: Hard bounced - 5.1.0 - Unknown address error ('550', '5.1.1 nobody')",
                "Bounced: DCID 1 MID 7 to RID 0",
                "DCID 1 close",
            ],
        ),
        (
            tls(),
            say("451 4.3.0 later"),
            vec![
                "Delayed: DCID 1 MID 7 to RID 0 - 4.1.0 - Unknown address error ('451', ['4.3.0 later']) []",
                "DCID 1 close",
                "TDC: New SMTP DCID 2 ",
                "TDC: MID 7 successfully delivered",
                "DCID 2 close",
            ],
        ),
        (
            tls(),
            vec![at(At::Dot, Act::Close); 2],
            vec!["Delayed: DCID 1 MID 7", "Possible Delivery: DCID: 2 MID 7 to [0]"],
        ),
        (
            None,
            Vec::new(),
            vec![
                "TDC: Connection Error: DCID 1 domain: the.tdc.queue IP: 127.0.0.1 port: ",
                "DCID 1 close",
                "TDC: MID 7 delivery failed to Cisco Secure Email Threat Defense:TLS Error.",
                "Bounced: DCID 1 MID 7 to RID 0",
            ],
        ),
    ];
    for (tls, scripts, expected) in cases {
        let log = Shared::default();
        let output = Output::start(log.clone(), |_| String::new()).unwrap();
        let server = Server::start(Options {
            tls,
            scripts,
            ..Options::default()
        })
        .await;
        let mut intake = intake(server.address);
        intake.tls.mode = TlsMode::Verify;
        intake.tls.ca_bundle = authority.pem.as_str().into();
        let queue = Arc::new(MemoryQueue::new(MemoryOptions::default()));
        let rig = Rig::logging(queue, config(), intake, MailLog::new(LogFormat::Asyncos, output)).await;
        let meta = tdc_queue::EntryMeta {
            mid: 7,
            ..Default::default()
        };
        rig.put_with(meta, ORIGINAL, LIFETIME).await;
        rig.ended(1).await;
        rig.stop().await;
        // In order, others between them.
        let all = |lines: Vec<String>| {
            let mut lines = lines.into_iter();
            expected
                .iter()
                .all(|start| lines.any(|line| line.starts_with(start)))
        };
        let found = log.clone();
        eventually(&format!("{expected:#?}"), || all(found.lines())).await;
    }
}
