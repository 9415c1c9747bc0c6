//! Connections to an intake, with several real workers.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tdc_queue::{ABANDONED_AFTER, JournalQueue, LEASE_FOR};

use crate::intake::{Intake, Manners};
use crate::rig::{INTAKE, Rig, Worker, wait_for};

const LIFETIME: Duration = Duration::from_secs(600);

fn slow(works: u64) -> Manners {
    Manners {
        works: Duration::from_millis(works),
        ..Manners::default()
    }
}

async fn end(workers: Vec<Worker>) {
    for mut worker in workers {
        worker.signal("TERM");
        assert!(worker.ended().await.success(), "{} ends in order", worker.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_counted_for_all_workers() {
    for count in [2, 3] {
        let intake = Intake::start(slow(200)).await;
        let settings = "  connections: { min: 3, max: 6, messagesPerConnection: 10 }\n";
        let rig = Rig::start(intake.address, settings).await;
        let workers: Vec<Worker> = (0..count).map(|n| rig.worker(&format!("w{n}"), None)).collect();
        let open = || intake.seen.open.load(Ordering::SeqCst);
        // Two entries get two connections at most.
        rig.put(2, LIFETIME).await;
        wait_for("two copies", async || {
            (rig.stats().await.delivered == 2).then_some(())
        })
        .await;
        let most = intake.seen.most_open.load(Ordering::SeqCst);
        assert!(most <= 2, "{most} connections for two entries, {count} workers");
        // A backlog that wants more than there may be.
        rig.put(500, LIFETIME).await;
        let leased = async || rig.queue.leases(INTAKE).await.unwrap().total;
        wait_for("the minimum", async || {
            (open() >= 3 && leased().await >= 3).then_some(())
        })
        .await;
        // Of those that exist, some are being replaced after their ten messages.
        let mut least = u32::MAX;
        wait_for("all copies", async || {
            let stats = rig.stats().await;
            if stats.ready > 3 {
                least = least.min(leased().await);
            }
            (stats.delivered == 502).then_some(())
        })
        .await;
        let most = intake.seen.most_open.load(Ordering::SeqCst);
        assert!(
            (3..=6).contains(&most),
            "{most} connections at once, {count} workers"
        );
        println!("{count} workers: at least {least}, at most {most} connections");
        wait_for("idle connections to take leave", async || {
            (open() == 0).then_some(())
        })
        .await;
        end(workers).await;
        let leases = rig.queue.leases(INTAKE).await.unwrap();
        assert_eq!((leases.total, leases.holders), (0, 0), "everything is given back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_worker_had_is_delivered_by_others() {
    let intake = Intake::start(slow(3000)).await;
    let settings = "  connections: { min: 4, max: 4, messagesPerConnection: 10 }\n";
    let rig = Rig::start(intake.address, settings).await;
    let mut victim = rig.worker("victim", None);
    rig.put(4, LIFETIME).await;
    let busy = || intake.arrivals().len() == 4;
    wait_for("four copies to be under way", async || busy().then_some(())).await;
    let others = vec![rig.worker("w1", None), rig.worker("w2", None)];
    let held = rig.queue.leases(INTAKE).await.unwrap();
    assert_eq!(
        (held.total, held.holders),
        (4, 1),
        "the victim holds all connections"
    );
    victim.signal("KILL");
    let killed = Instant::now();
    victim.ended().await;
    wait_for("the leases to lapse", async || {
        let leases = rig.queue.leases(INTAKE).await.unwrap();
        (leases.total == 0 || intake.arrivals().len() > 4).then_some(())
    })
    .await;
    wait_for("four deliveries by others", async || {
        (rig.stats().await.delivered == 4).then_some(())
    })
    .await;
    let again: Vec<_> = intake.arrivals().split_off(4);
    assert_eq!(again.len(), 4, "each came once more");
    assert!(again.iter().all(|arrival| arrival.from != "victim"));
    // They wait for the claim, and for a connection; both lapse after 15 s. The rest is allowance for a busy machine.
    let longest = again.iter().map(|arrival| arrival.at - killed).max().unwrap();
    println!("the last of them arrived {longest:?} after the death");
    assert!(
        longest < ABANDONED_AFTER.max(LEASE_FOR) + Duration::from_secs(25),
        "{longest:?}"
    );
    end(others).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_told_to_stop_finishes_and_hands_back() {
    let intake = Intake::start(slow(1500)).await;
    let settings = "  connections: { min: 4, max: 4, messagesPerConnection: 10 }\n";
    let rig = Rig::start(intake.address, settings).await;
    let mut first = rig.worker("first", None);
    rig.put(24, LIFETIME).await;
    wait_for("four copies to be under way", async || {
        (intake.arrivals().len() >= 4).then_some(())
    })
    .await;
    first.signal("TERM");
    assert!(first.ended().await.success(), "it ends in order");
    let stats = rig.stats().await;
    let finished = intake.arrivals().len() as u64;
    assert_eq!(
        (stats.in_flight, stats.soft_bounced),
        (0, 0),
        "nothing is left in its hands: {stats:?}"
    );
    assert_eq!(stats.delivered, finished, "what had begun was finished");
    assert_eq!(stats.ready, 24 - finished, "the rest was handed back");
    assert_eq!(rig.queue.leases(INTAKE).await.unwrap().total, 0);
    let second = rig.worker("second", None);
    wait_for("the rest", async || {
        (rig.stats().await.delivered == 24).then_some(())
    })
    .await;
    assert_eq!(intake.arrivals().len(), 24, "each came once");
    end(vec![second]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expired_while_no_worker_was_there_is_counted_and_logged() {
    let intake = Intake::start(Manners::default()).await;
    let rig = Rig::start(intake.address, "").await;
    rig.put(40, Duration::from_millis(500)).await;
    rig.put(10, LIFETIME).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let worker = rig.worker("w1", None);
    let stats = wait_for("all to end", async || {
        let stats = rig.stats().await;
        (stats.active_recipients == 0).then_some(stats)
    })
    .await;
    assert_eq!((stats.delivered, stats.expired, stats.committed), (10, 40, 50));
    wait_for("a line for each", async || {
        let log = std::fs::read_to_string(rig.dir.path().join("w1.log")).unwrap();
        (log.matches("\"event\":\"expired\"").count() == 40).then_some(())
    })
    .await;
    end(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_copy_costs_in_redis() {
    const COPIES: usize = 3000;
    let intake = Intake::start(Manners::default()).await;
    let settings = "  connections: { min: 8, max: 8, messagesPerConnection: 100 }\n";
    let rig = Rig::start(intake.address, settings).await;
    rig.put(COPIES, LIFETIME).await;
    let (scripts, time) = rig.calls("evalsha");
    let begun = Instant::now();
    let worker = rig.worker("w1", None);
    wait_for("all copies", async || {
        (rig.stats().await.delivered == COPIES as u64).then_some(())
    })
    .await;
    let took = begun.elapsed();
    let (all, all_time) = rig.calls("evalsha");
    let each = (all - scripts) as f64 / COPIES as f64;
    let micros = (all_time - time).as_micros() as f64 / COPIES as f64;
    println!(
        "{:.0} copies a second by one worker; {each:.2} scripts and {micros:.0} \u{b5}s of Redis for each",
        COPIES as f64 / took.as_secs_f64()
    );
    // A claim and the note of the end; some more for leases, sweeps, and connections that end.
    assert!(each < 3.0, "{each} scripts for a copy");
    end(vec![worker]).await;
}
