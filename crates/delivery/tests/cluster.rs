//! Several workers and many intakes: connections are counted for all, and what is idle costs nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rig::flaky::Flaky;
use rig::server::{Options, Server};
use rig::{ORIGINAL, Rig, config, eventually, intake, snapshot};
use tdc_delivery::WorkerConfig;
use tdc_queue::{JournalQueue, MemoryOptions, MemoryQueue};

const LIFETIME: Duration = Duration::from_secs(60);

fn count(value: &AtomicU32) -> u32 {
    value.load(Ordering::SeqCst)
}

fn named(consumer: &str) -> WorkerConfig {
    WorkerConfig {
        consumer: consumer.into(),
        ..config()
    }
}

#[tokio::test]
async fn three_workers_have_the_connections_of_one() {
    let server = Server::start(Options {
        answer_after: Duration::from_millis(150),
        ..Options::default()
    })
    .await;
    let mut intake = intake(server.address);
    intake.connections.max = 7;
    let queue: Arc<dyn JournalQueue> = Arc::new(MemoryQueue::new(MemoryOptions::default()));
    let rig = Rig::on(queue.clone(), named("w1"), intake.clone()).await;
    let others = [
        Rig::on(queue.clone(), named("w2"), intake.clone()).await,
        Rig::on(queue.clone(), named("w3"), intake).await,
    ];
    // Enough to want more than the maximum.
    for _ in 0..500 {
        rig.put(ORIGINAL, LIFETIME).await;
    }
    eventually("at least the minimum", || count(&server.seen.open) >= 3).await;
    let stats = rig.ended(500).await;
    assert_eq!((stats.delivered, stats.soft_bounced), (500, 0));
    let most = count(&server.seen.most_open);
    assert!((3..=7).contains(&most), "{most} connections at once");
    eventually("idle connections take leave", || count(&server.seen.open) == 0).await;
    for worker in others {
        worker.stop().await;
    }
    rig.stop().await;
    let leases = queue.leases(rig::INTAKE).await.unwrap();
    assert_eq!(
        (leases.total, leases.holders),
        (0, 0),
        "everything was given back"
    );
}

#[tokio::test]
async fn few_entries_get_few_connections_whoever_rings() {
    let server = Server::start(Options {
        answer_after: Duration::from_millis(500),
        ..Options::default()
    })
    .await;
    let queue: Arc<dyn JournalQueue> = Arc::new(MemoryQueue::new(MemoryOptions::default()));
    let rig = Rig::on(queue.clone(), named("w1"), intake(server.address)).await;
    let other = Rig::on(queue, named("w2"), intake(server.address)).await;
    for _ in 0..2 {
        rig.put(ORIGINAL, LIFETIME).await;
    }
    assert_eq!(rig.ended(2).await.delivered, 2);
    assert!(
        count(&server.seen.most_open) <= 2,
        "no more connections than entries"
    );
    other.stop().await;
    rig.stop().await;
}

#[tokio::test]
async fn without_an_answer_nothing_new_is_opened() {
    let server = Server::start(Options::default()).await;
    let queue = Flaky::new(0, 0, 0);
    queue.no_lease.store(true, Ordering::SeqCst);
    let rig = Rig::on(queue.clone(), config(), intake(server.address)).await;
    rig.put(ORIGINAL, LIFETIME).await;
    let asked = || count(&queue.calls);
    eventually("questions", || asked() >= 5).await;
    assert_eq!(count(&server.seen.connections), 0, "nothing was granted");
    queue.no_lease.store(false, Ordering::SeqCst);
    assert_eq!(rig.ended(1).await.delivered, 1);

    // What is open goes on: its lease holds.
    queue.no_lease.store(true, Ordering::SeqCst);
    let before = count(&server.seen.connections);
    for _ in 0..5 {
        rig.put(ORIGINAL, LIFETIME).await;
    }
    assert_eq!(rig.ended(6).await.delivered, 6);
    assert_eq!(
        count(&server.seen.connections),
        before,
        "over the one that was there"
    );
    queue.no_lease.store(false, Ordering::SeqCst);
    rig.stop().await;
}

#[tokio::test]
async fn idle_intakes_cost_no_calls_of_their_own() {
    const INTAKES: usize = 500;
    let server = Server::start(Options::default()).await;
    let intakes = (0..INTAKES).map(|number| {
        let mut intake = intake(server.address);
        if number > 0 {
            intake.name = format!("intake-{number}").into();
        }
        intake
    });
    let queue = Flaky::new(0, 0, 0);
    let rig = Rig::on(queue.clone(), config(), intake(server.address)).await;
    rig.snapshots.send_replace(snapshot(intakes.collect()));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let calls = count(&queue.calls);
    // Each is swept once in a minute: about nine a second.
    assert!(calls < 150, "{calls} calls in five idle seconds");
    rig.put(ORIGINAL, LIFETIME).await;
    assert_eq!(rig.ended(1).await.delivered, 1, "and each gets what comes for it");
    rig.stop().await;
}
