//! Who holds an entry, and how it passes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tdc_queue::{End, RetryReason, Stats, Sweep};
use tokio::time::{Instant, sleep};

use crate::common::{HOUR, INTAKE, Kind, Limits, entry, eventually, stale};

fn soft() -> RetryReason {
    RetryReason::SoftBounce("451 4.3.0 later".to_owned())
}

pub(crate) async fn hands_out_in_order_and_given_back_first(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    let queue = &subject.queue;
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(subject.add(entry()).await.id.to_string());
    }
    assert_eq!(subject.claim_ids("w1", 0).await, [""; 0], "none asked for");
    let first = queue.claim(INTAKE, "w1", 3).await.expect("claims").entries;
    let claims: Vec<_> = first.iter().map(|c| c.claim.clone()).collect();
    assert_eq!(
        first.iter().map(|c| &*c.claim.key.id).collect::<Vec<_>>(),
        ids[..3]
    );
    queue.release("w1", &claims[1..]).await.expect("releases");
    queue
        .release("w1", &claims[1..])
        .await
        .expect("again does nothing");
    let stats = queue.stats(INTAKE).await.expect("stats");
    assert_eq!(
        (stats.ready, stats.in_flight, stats.soft_bounced),
        (5, 1, 0),
        "as if never claimed"
    );
    assert_eq!(stats.active_recipients, 6, "one for each copy");

    assert!(
        queue
            .retry("w1", &claims[0], Duration::ZERO, soft())
            .await
            .expect("retries")
    );
    assert_eq!(queue.sweep(INTAKE).await.expect("sweeps").promoted, 1);
    assert_eq!(
        subject.claim_ids("w2", 4).await,
        ids[..4],
        "their places are kept"
    );
    subject.crash("w2").await;
    assert_eq!(subject.claim_ids("w3", 9).await, ids, "abandoned ones first too");
    assert_eq!(subject.claim_ids("w1", 9).await, [""; 0]);
}

pub(crate) async fn says_whether_more_may_be_ready(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    let claim = async |max| {
        let found = subject.queue.claim(INTAKE, "w1", max).await.expect("claims");
        (found.entries.len(), found.more)
    };
    assert_eq!(claim(1).await, (0, false), "there never was any");
    for _ in 0..3 {
        subject.add(entry()).await;
    }
    for (max, expected, why) in [
        (2, (2, true), "one is left"),
        (1, (1, true), "as many as were asked for: there may be"),
        (1, (0, false), "there was not"),
    ] {
        assert_eq!(claim(max).await, expected, "{why}");
    }
    subject.add(entry()).await;
    assert_eq!(claim(9).await, (1, false), "fewer than were asked for");
}

pub(crate) async fn a_claim_is_good_once(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    let queue = &subject.queue;
    subject.add(entry()).await;
    let first = subject.claim_one("w1").await.claim;
    let before = queue.stats(INTAKE).await.expect("stats");
    for (who, claim, why) in [
        ("w2", first.clone(), "another's claim"),
        ("w1", stale(&first), "an older token"),
        (
            "w1",
            tdc_queue::ClaimRef {
                token: "nonsense".into(),
                ..first.clone()
            },
            "no token at all",
        ),
        ("", first.clone(), "nobody"),
    ] {
        assert!(
            !queue.complete(who, &claim, End::Delivered).await.expect(why),
            "{why}"
        );
        assert!(
            !queue.retry(who, &claim, Duration::ZERO, soft()).await.expect(why),
            "{why}"
        );
        queue.release(who, &[claim]).await.expect(why);
        let after = Stats {
            oldest: before.oldest,
            ..queue.stats(INTAKE).await.expect("stats")
        };
        assert_eq!(after, before, "{why}: nothing is changed");
    }
    queue
        .release("w1", std::slice::from_ref(&first))
        .await
        .expect("releases");
    assert!(
        !queue
            .complete("w1", &first, End::Delivered)
            .await
            .expect("answers"),
        "given back"
    );
    let second = subject.claim_one("w1").await.claim;
    assert!(
        !queue
            .complete("w1", &first, End::Delivered)
            .await
            .expect("answers"),
        "same worker, older claim"
    );
    assert!(
        queue
            .retry("w1", &second, Duration::ZERO, soft())
            .await
            .expect("retries")
    );
    assert!(
        !queue
            .retry("w1", &second, Duration::ZERO, soft())
            .await
            .expect("answers"),
        "put aside already"
    );
    queue.sweep(INTAKE).await.expect("sweeps");
    let third = subject.claim_one("w1").await.claim;
    assert!(
        queue
            .complete("w1", &third, End::Delivered)
            .await
            .expect("completes")
    );
    assert!(
        !queue
            .complete("w1", &third, End::Delivered)
            .await
            .expect("answers"),
        "ended already"
    );
    let stats = queue.stats(INTAKE).await.expect("stats");
    assert_eq!(
        stats,
        Stats {
            committed: 1,
            delivered: 1,
            soft_bounced: 1,
            ..Stats::default()
        }
    );
}

pub(crate) async fn retries_when_due(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    let queue = &subject.queue;
    subject.add(entry()).await;
    let got = subject.claim_one("w1").await;
    assert!(
        queue
            .retry("w1", &got.claim, HOUR, soft())
            .await
            .expect("retries")
    );
    assert_eq!(
        queue.sweep(INTAKE).await.expect("sweeps"),
        Sweep::default(),
        "not yet"
    );
    let stats = queue.stats(INTAKE).await.expect("stats");
    assert_eq!(
        (stats.ready, stats.in_flight, stats.retrying, stats.soft_bounced),
        (0, 0, 1, 1)
    );
    assert_eq!(subject.claim_ids("w1", 9).await, [""; 0]);

    subject.add(entry()).await;
    for (reason, attempts, possible, why) in [
        (soft(), 1, false, "an attempt is counted"),
        (
            RetryReason::NoAnswer("lost".to_owned()),
            2,
            true,
            "it may have arrived",
        ),
        (soft(), 3, true, "and that stays so"),
    ] {
        let got = subject.claim_one("w1").await;
        assert_eq!(got.attempts + 1, attempts, "{why}");
        assert!(
            queue
                .retry("w1", &got.claim, Duration::from_millis(1), reason)
                .await
                .expect("retries")
        );
        eventually(why, async || {
            queue.sweep(INTAKE).await.expect("sweeps").promoted == 1
        })
        .await;
        let again = subject.claim_one("w2").await;
        assert_eq!(
            (again.attempts, again.possible_delivery),
            (attempts, possible),
            "{why}"
        );
        queue.release("w2", &[again.claim]).await.expect("releases");
    }
    assert_eq!(queue.stats(INTAKE).await.expect("stats").soft_bounced, 4);
}

pub(crate) async fn heartbeat_keeps_and_silence_loses(kind: Kind) {
    let takeover = Duration::from_millis(600);
    let subject = kind
        .start(Limits {
            takeover,
            ..Limits::default()
        })
        .await;
    let queue = &subject.queue;
    subject.add(entry()).await;
    let first = subject.claim_one("w1").await.claim;
    let began = Instant::now();
    let mut last = began;
    while began.elapsed() < takeover * 2 {
        sleep(takeover / 12).await;
        queue
            .heartbeat("w1", std::slice::from_ref(&first))
            .await
            .expect("beats");
        if last.elapsed() < takeover {
            // On a machine that stalls longer than that, losing it would be right.
            assert_eq!(subject.claim_ids("w2", 1).await, [""; 0], "kept by heartbeats");
        }
        last = Instant::now();
    }
    let mut second = Vec::new();
    eventually("silence loses it", async || {
        sleep(takeover / 2).await;
        let claimed = queue.claim(INTAKE, "w2", 1).await.expect("claims").entries;
        let some = !claimed.is_empty();
        second.extend(claimed);
        some
    })
    .await;
    assert_eq!(second[0].attempts, 0, "being abandoned is no attempt");
    assert!(
        !queue
            .complete("w1", &first, End::Delivered)
            .await
            .expect("answers"),
        "the first has lost it"
    );
    assert!(
        queue
            .complete("w2", &second[0].claim, End::Delivered)
            .await
            .expect("completes")
    );
}

pub(crate) async fn the_loser_never_renews(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    let queue = &subject.queue;
    subject.add(entry()).await;
    let first = subject.claim_one("w1").await.claim;
    subject.crash("w1").await;
    let second = subject.claim_one("w2").await.claim;
    assert_eq!(subject.claim_ids("w3", 1).await, [""; 0]);

    subject.crash("w2").await;
    queue
        .heartbeat("w1", std::slice::from_ref(&first))
        .await
        .expect("answers");
    queue
        .heartbeat("w1", std::slice::from_ref(&second))
        .await
        .expect("answers");
    queue.heartbeat("w2", &[stale(&second)]).await.expect("answers");
    let third = subject.claim_one("w3").await.claim;
    assert_eq!(third.key, second.key, "nobody else's heartbeat kept it");

    subject.crash("w3").await;
    queue
        .heartbeat("w3", std::slice::from_ref(&third))
        .await
        .expect("beats");
    assert_eq!(subject.claim_ids("w1", 1).await, [""; 0], "its own does");
    assert!(
        queue
            .complete("w3", &third, End::Delivered)
            .await
            .expect("completes")
    );
}

pub(crate) async fn many_workers_deliver_each_once(kind: Kind) {
    let subject = Arc::new(kind.start(Limits::default()).await);
    let producer = tokio::spawn({
        let subject = Arc::clone(&subject);
        async move {
            for _ in 0..200 {
                subject.add(entry()).await;
            }
        }
    });
    let mut workers = Vec::new();
    for number in 0..6 {
        let subject = Arc::clone(&subject);
        workers.push(tokio::spawn(async move {
            let (who, queue) = (format!("w{number}"), Arc::clone(&subject.queue));
            let mut delivered = Vec::new();
            while queue.stats(INTAKE).await.expect("stats").delivered < 200 {
                let claimed = queue
                    .claim(INTAKE, &who, 1 + number)
                    .await
                    .expect("claims")
                    .entries;
                if claimed.is_empty() {
                    queue.wait(Duration::from_millis(50)).await;
                }
                for (turn, got) in claimed.into_iter().enumerate() {
                    if turn == 2 {
                        queue.release(&who, &[got.claim]).await.expect("releases");
                    } else if queue
                        .complete(&who, &got.claim, End::Delivered)
                        .await
                        .expect("completes")
                    {
                        delivered.push(got.claim.key.id.to_string());
                    }
                }
            }
            delivered
        }));
    }
    producer.await.expect("produces");
    let mut times: BTreeMap<String, u32> = BTreeMap::new();
    for worker in workers {
        for id in worker.await.expect("works") {
            *times.entry(id).or_default() += 1;
        }
    }
    assert_eq!(times.len(), 200, "every entry");
    assert!(times.values().all(|&n| n == 1), "once");
    let stats = subject.queue.stats(INTAKE).await.expect("stats");
    assert_eq!(
        stats,
        Stats {
            committed: 200,
            delivered: 200,
            ..Stats::default()
        }
    );
    assert_eq!(subject.leftovers().await, [""; 0]);
}

/// A wait ends at the poll at the latest, so what is shown is that most end before it.
pub(crate) async fn wakes_who_waits(kind: Kind) {
    let subject = Arc::new(kind.start(Limits::default()).await);
    let mut poll = Duration::ZERO;
    for _ in 0..3 {
        // The first may end early, for the doorbell rings when it is connected; and so do waits just after a ring.
        sleep(Duration::from_millis(80)).await;
        let idle = Instant::now();
        subject.queue.wait(HOUR).await;
        poll = poll.max(idle.elapsed());
    }
    let mut woken = 0;
    for _ in 0..9 {
        // Away from the last ring, so that it is not the one that ends the wait.
        sleep(Duration::from_millis(80)).await;
        let waiter = tokio::spawn({
            let queue = Arc::clone(&subject.queue);
            async move {
                let began = Instant::now();
                queue.wait(HOUR).await;
                began.elapsed()
            }
        });
        sleep(Duration::from_millis(20)).await;
        subject.add(entry()).await;
        woken += u32::from(waiter.await.expect("returns") < poll / 2);
    }
    assert!(
        woken >= 5,
        "a commit wakes: {woken} of 9, where nothing happens it takes {poll:?}"
    );
}
