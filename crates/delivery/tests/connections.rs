//! Many entries: how many connections, how they are reused, and how the worker stops.

#![allow(
    clippy::unwrap_used,
    clippy::type_complexity,
    reason = "a test that cannot go on stops; its tables are read, not passed on"
)]

mod rig;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rig::server::{Act, At, Options, Server, at};
use rig::{ORIGINAL, Rig, config, eventually, intake, snapshot};
use tdc_core::policy::TlsMode;
use tdc_queue::{JournalQueue, MemoryOptions, MemoryQueue};

const LIFETIME: Duration = Duration::from_secs(60);

fn count(value: &std::sync::atomic::AtomicU32) -> u32 {
    value.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_connection_carries_its_share_and_not_more() {
    let server = Server::start(Options::default()).await;
    let mut intake = intake(server.address);
    intake.connections.max = 1;
    let rig = Rig::start(config(), intake).await;
    for _ in 0..25 {
        rig.put(ORIGINAL, LIFETIME).await;
    }
    let stats = rig.ended(25).await;
    assert_eq!((stats.delivered, stats.soft_bounced), (25, 0));
    let mut shares: HashMap<u32, u32> = HashMap::new();
    for (connection, _) in &*server.seen.messages.lock().unwrap() {
        *shares.entry(*connection).or_default() += 1;
    }
    assert!(shares.values().all(|share| *share <= 10), "{shares:?}");
    assert!(shares.len() >= 3, "{shares:?}");
    assert_eq!(count(&server.seen.most_open), 1, "one connection at a time");
    assert_eq!(count(&server.seen.resets), 0, "no RSET between good messages");
    eventually("idle connections take leave", || count(&server.seen.open) == 0).await;
    assert_eq!(
        count(&server.seen.quits),
        count(&server.seen.connections),
        "every connection ends with QUIT"
    );
    rig.stop().await;
}

#[tokio::test]
async fn a_backlog_gets_at_least_the_minimum() {
    let answer_after = Duration::from_millis(300);
    let server = Server::start(Options {
        answer_after,
        ..Options::default()
    })
    .await;
    let rig = Rig::start(config(), intake(server.address)).await;
    for _ in 0..12 {
        rig.put(ORIGINAL, LIFETIME).await;
    }
    let stats = rig.ended(12).await;
    assert_eq!(stats.delivered, 12);
    assert!(
        (3..=12).contains(&count(&server.seen.most_open)),
        "{}",
        count(&server.seen.most_open)
    );
    rig.stop().await;
}

#[tokio::test]
async fn an_intake_that_bears_two_connections_costs_no_message_an_attempt() {
    let options = Options {
        at_once: 2,
        answer_after: Duration::from_millis(50),
        ..Options::default()
    };
    let server = Server::start(options).await;
    let rig = Rig::start(config(), intake(server.address)).await;
    // The first message opens the first connection; from then on further ones dial before they claim.
    rig.put(ORIGINAL, LIFETIME).await;
    rig.until("the first connection", |stats| stats.delivered == 1)
        .await;
    for _ in 0..59 {
        rig.put(ORIGINAL, LIFETIME).await;
    }
    let stats = rig.ended(60).await;
    assert_eq!((stats.delivered, stats.hard_bounced), (60, 0));
    assert!(
        stats.soft_bounced <= 3,
        "{} messages paid for refused connections",
        stats.soft_bounced
    );
    assert_eq!(count(&server.seen.most_open), 2);
    rig.stop().await;
}

#[tokio::test]
async fn a_server_that_leaves_between_messages_costs_nothing() {
    for act in [Act::Close, Act::Say("421 4.4.2 idle")] {
        let scripts = vec![at(At::Between, act); 8];
        let server = Server::start(Options {
            scripts,
            ..Options::default()
        })
        .await;
        let mut intake = intake(server.address);
        intake.connections.max = 1;
        let rig = Rig::start(config(), intake).await;
        for _ in 0..8 {
            rig.put(ORIGINAL, LIFETIME).await;
        }
        let stats = rig.ended(8).await;
        assert_eq!((stats.delivered, stats.soft_bounced), (8, 0));
        assert_eq!(count(&server.seen.connections), 8);
        rig.stop().await;
    }
}

#[tokio::test]
async fn an_intake_that_was_away_gets_what_waits() {
    let gone = Server::start(Options::default()).await;
    let address = gone.address;
    drop(gone);
    let rig = Rig::start(config(), intake(address)).await;
    for _ in 0..20 {
        rig.put(ORIGINAL, LIFETIME).await;
    }
    rig.until("a refused attempt", |stats| stats.soft_bounced >= 2)
        .await;
    let _server = Server::listen(address, Options::default()).await;
    let stats = rig.ended(20).await;
    assert!(stats.delivered >= 15, "only a few paid for the outage: {stats:?}");
    rig.stop().await;
}

#[tokio::test]
async fn what_will_not_pass_is_not_paced() {
    let server = Server::start(Options::default()).await;
    let mut intake = intake(server.address);
    // TLS is asked for and not offered.
    intake.tls.mode = TlsMode::Encrypt;
    let rig = Rig::start(config(), intake).await;
    for _ in 0..100 {
        rig.put(ORIGINAL, Duration::from_secs(25)).await;
    }
    let stats = rig.ended(100).await;
    assert_eq!(
        (stats.hard_bounced, stats.soft_bounced, stats.expired),
        (100, 0, 0)
    );
    rig.stop().await;
}

#[tokio::test]
async fn a_stop_finishes_what_runs_and_gives_back_the_rest() {
    let cases = [
        (
            At::Greeting,
            Act::Stall,
            0,
            "not yet at the intake: given back at once",
        ),
        (
            At::Rcpt,
            Act::Stall,
            0,
            "still running when the grace is over: given back",
        ),
    ];
    for (stage, act, delivered, why) in cases {
        let scripts = vec![at(stage, act); 10];
        let server = Server::start(Options {
            scripts,
            ..Options::default()
        })
        .await;
        let queue: Arc<dyn JournalQueue> = Arc::new(MemoryQueue::new(MemoryOptions::default()));
        let mut config = config();
        config.grace = Duration::from_millis(500);
        let rig = Rig::on(queue.clone(), config, intake(server.address)).await;
        rig.put(ORIGINAL, LIFETIME).await;
        rig.until("the entry to be taken", |stats| stats.in_flight == 1)
            .await;
        eventually("a connection", || count(&server.seen.connections) > 0).await;
        rig.stop().await;
        let stats = queue.stats(rig::INTAKE).await.unwrap();
        assert_eq!(
            (stats.ready, stats.in_flight, stats.delivered),
            (1, 0, delivered),
            "{why}"
        );
        assert_eq!(stats.soft_bounced, 0, "no attempt is counted: {why}");
    }
}

#[tokio::test]
async fn a_stop_lets_a_running_transaction_end() {
    let answer_after = Duration::from_millis(700);
    let server = Server::start(Options {
        answer_after,
        ..Options::default()
    })
    .await;
    let queue: Arc<dyn JournalQueue> = Arc::new(MemoryQueue::new(MemoryOptions::default()));
    let rig = Rig::on(queue.clone(), config(), intake(server.address)).await;
    rig.put(ORIGINAL, LIFETIME).await;
    eventually("the transaction", || {
        !server.seen.envelopes.lock().unwrap().is_empty()
    })
    .await;
    rig.stop().await;
    let stats = queue.stats(rig::INTAKE).await.unwrap();
    assert_eq!((stats.delivered, stats.ready, stats.in_flight), (1, 0, 0));
    assert_eq!(count(&server.seen.quits), 1, "and the connection ends in order");
}

#[tokio::test]
async fn a_stop_after_the_final_dot_is_a_possible_delivery() {
    let scripts = vec![at(At::Dot, Act::Stall)];
    let server = Server::start(Options {
        scripts,
        ..Options::default()
    })
    .await;
    let queue: Arc<dyn JournalQueue> = Arc::new(MemoryQueue::new(MemoryOptions::default()));
    let mut config = config();
    config.grace = Duration::from_millis(200);
    let rig = Rig::on(queue.clone(), config, intake(server.address)).await;
    rig.put(ORIGINAL, LIFETIME).await;
    eventually("the message", || !server.seen.messages.lock().unwrap().is_empty()).await;
    rig.stop().await;
    let stats = queue.stats(rig::INTAKE).await.unwrap();
    assert_eq!(
        (stats.retrying + stats.ready, stats.soft_bounced),
        (1, 1),
        "{stats:?}"
    );
}

#[tokio::test]
async fn new_settings_are_followed() {
    let old = Server::start(Options::default()).await;
    let new = Server::start(Options::default()).await;
    let rig = Rig::start(config(), intake(old.address)).await;
    rig.put(ORIGINAL, LIFETIME).await;
    rig.ended(1).await;
    rig.snapshots.send_replace(snapshot(vec![intake(new.address)]));
    rig.put(ORIGINAL, LIFETIME).await;
    rig.ended(2).await;
    let at_new = new.seen.messages.lock().unwrap().len();
    // The entry may have been taken in the moment before the worker saw the snapshot.
    assert!(at_new <= 1);
    rig.put(ORIGINAL, LIFETIME).await;
    rig.ended(3).await;
    assert_eq!(
        new.seen.messages.lock().unwrap().len(),
        at_new + 1,
        "the open connection is not used any more"
    );

    rig.snapshots.send_replace(snapshot(Vec::new()));
    tokio::time::sleep(Duration::from_millis(700)).await;
    rig.put(ORIGINAL, Duration::from_millis(500)).await;
    let stats = rig.ended(4).await;
    assert_eq!(
        (stats.delivered, stats.expired),
        (3, 1),
        "an intake that is gone: its entries wait until they expire"
    );
    rig.stop().await;
}

#[tokio::test]
async fn memory_bounds_what_is_taken() {
    let server = Server::start(Options {
        answer_after: Duration::from_millis(300),
        ..Options::default()
    })
    .await;
    let mut config = config();
    // Room for one: whatever is held fills it.
    config.memory = 1;
    let rig = Rig::start(config, intake(server.address)).await;
    rig.put(ORIGINAL, LIFETIME).await;
    rig.until("the first to be taken", |stats| stats.in_flight == 1)
        .await;
    for _ in 0..9 {
        rig.put(ORIGINAL, LIFETIME).await;
    }
    let most = AtomicU32::new(0);
    rig.until("all", |stats| {
        most.fetch_max(u32::try_from(stats.in_flight).unwrap(), Ordering::SeqCst);
        stats.delivered == 10
    })
    .await;
    let most = count(&most);
    // Where nothing is held, those that look in the same moment all find one.
    assert!(most <= 3, "{most} at a time");
    rig.stop().await;
}
