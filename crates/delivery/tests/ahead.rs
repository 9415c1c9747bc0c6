//! Entries that are claimed ahead: they go back when nobody has time for them, unharmed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod rig;

use std::sync::Arc;
use std::time::Duration;

use rig::server::{Options, Server};
use rig::{ORIGINAL, Rig, config, intake, snapshot};
use tdc_delivery::WorkerConfig;
use tdc_queue::{JournalQueue, MemoryOptions, MemoryQueue};
use tokio::sync::Semaphore;

const LIFETIME: Duration = Duration::from_secs(60);
/// The intake answers so many copies, and then none.
const ANSWERED: u64 = 20;
const ALL: u64 = 60;

/// A worker with one connection, whose intake has stopped answering in the middle of a copy: whatever was claimed ahead
/// (several entries, fewer on a slow machine) is in its hands.
async fn stuck(config: WorkerConfig) -> (Rig, Server, Arc<Semaphore>) {
    let permits = Arc::new(Semaphore::new(ANSWERED as usize));
    let server = Server::start(Options {
        permits: Some(permits.clone()),
        ..Options::default()
    })
    .await;
    let mut intake = intake(server.address);
    intake.connections.min = 1;
    intake.connections.max = 1;
    intake.connections.messages_per_connection = 1000;
    let queue: Arc<dyn JournalQueue> = Arc::new(MemoryQueue::new(MemoryOptions::default()));
    let rig = Rig::on(queue, config, intake.clone()).await;
    // All entries are there before the first is claimed.
    rig.snapshots.send_replace(snapshot(vec![]));
    for _ in 0..ALL {
        rig.put(ORIGINAL, LIFETIME).await;
    }
    rig.snapshots.send_replace(snapshot(vec![intake]));
    rig.until("the last answer", |stats| {
        stats.delivered == ANSWERED && stats.in_flight > 0
    })
    .await;
    (rig, server, permits)
}

#[tokio::test]
async fn what_nobody_has_time_for_goes_back() {
    let (rig, _server, permits) = stuck(config()).await;
    let rest = ALL - ANSWERED - 1;
    rig.until("the others to be given back", |stats| {
        stats.ready == rest && stats.in_flight == 1
    })
    .await;
    permits.add_permits(ALL as usize);
    let stats = rig.ended(ALL).await;
    assert_eq!(
        (stats.delivered, stats.soft_bounced),
        (ALL, 0),
        "no attempt was counted"
    );
    rig.stop().await;
}

#[tokio::test]
async fn a_worker_that_stops_gives_them_back_at_once() {
    let mut config = config();
    config.grace = Duration::from_millis(200);
    let (rig, _server, _permits) = stuck(config).await;
    let queue = rig.queue.clone();
    rig.stop().await;
    let stats = queue.stats(rig::INTAKE).await.unwrap();
    assert_eq!(
        (stats.ready, stats.in_flight),
        (ALL - ANSWERED - 1, 0),
        "{stats:?}"
    );
    assert_eq!(
        stats.retrying, 1,
        "the one under way may have arrived: it is tried again"
    );
}
