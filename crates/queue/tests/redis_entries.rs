//! What is stored in Redis: seen by other processes and versions, forgotten, damaged, bounded.

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::{HOUR, INTAKE, Kind, Limits, RedisServer, Store, Subject, body, connect, entry, eventually};
use redis::AsyncCommands;
use tdc_queue::{
    End, EntryKey, JournalQueue, NewEntry, QueueError, RedisOptions, RetryReason, Series, Stats, Sweep,
};
use tokio::time::Instant;

/// A takeover that a test can wait for.
const SHORT: Duration = Duration::from_millis(500);

async fn redis_subject(limits: Limits) -> (Subject, redis::aio::MultiplexedConnection) {
    let subject = Kind::Redis.start(limits).await;
    let Store::Redis(server) = &subject.store else {
        unreachable!("it was asked for")
    };
    let connection = server.connection().await;
    (subject, connection)
}

fn body_key(key: &EntryKey) -> String {
    format!("tdc:{{{}}}:body:{}", key.intake, key.id)
}

#[tokio::test]
async fn forgotten_scripts_are_loaded_again() {
    let (subject, mut redis) = redis_subject(Limits::default()).await;
    for step in 0..5 {
        redis::cmd("SCRIPT")
            .arg("FLUSH")
            .exec_async(&mut redis)
            .await
            .expect("flushes");
        match step {
            0 => drop(subject.add(entry()).await),
            1 => assert_eq!(subject.queue.stats(INTAKE).await.expect("stats").ready, 1),
            2 => assert_eq!(
                subject.queue.sweep(INTAKE).await.expect("sweeps"),
                Sweep::default()
            ),
            3 => subject
                .queue
                .abort(&[EntryKey::new(INTAKE)])
                .await
                .expect("aborts"),
            _ => {
                let got = subject.claim_one("w1").await;
                assert!(
                    subject
                        .queue
                        .complete("w1", &got.claim, End::Delivered)
                        .await
                        .expect("completes")
                );
            }
        }
    }
}

/// Everything died for so long that the bodies' TTL was over.
#[tokio::test]
async fn entries_without_a_body_end_as_expired_and_block_nobody() {
    let (subject, mut redis) = redis_subject(Limits::default()).await;
    let queue = &subject.queue;
    let mut gone = Vec::new();
    for _ in 0..4 {
        gone.push(subject.add(entry()).await);
    }
    let good = subject.add(entry()).await;
    redis.del::<_, ()>(body_key(&gone[0])).await.expect("deletes");
    let claimed = queue.claim(INTAKE, "w1", 3).await.expect("claims").entries;
    assert_eq!(
        claimed.iter().map(|c| &c.claim.key).collect::<Vec<_>>(),
        gone[1..].iter().collect::<Vec<_>>()
    );
    for key in &gone[1..] {
        redis.del::<_, ()>(body_key(key)).await.expect("deletes");
    }
    let later = RetryReason::SoftBounce("later".to_owned());
    assert!(
        queue
            .retry("w1", &claimed[0].claim, HOUR, later)
            .await
            .expect("answers")
    );
    assert!(
        queue
            .complete("w1", &claimed[1].claim, End::Expired)
            .await
            .expect("answers")
    );
    queue
        .release("w1", &[claimed[2].claim.clone()])
        .await
        .expect("releases");
    assert_eq!(subject.claim_ids("w1", 9).await, [&*good.id]);

    let doubtful = NewEntry {
        in_doubt_after: Duration::ZERO,
        ..entry()
    };
    gone.push(doubtful.key.clone());
    subject.prepare(doubtful).await;
    redis.del::<_, ()>(body_key(&gone[4])).await.expect("deletes");
    let done = queue.sweep(INTAKE).await.expect("sweeps");
    let told: Vec<_> = done.expired.iter().map(|it| (&it.key, it.mid)).collect();
    assert_eq!(
        (done.committed_in_doubt, told),
        (1, vec![(&gone[4], 0)]),
        "it may have been due: counted"
    );

    let stats = Stats {
        oldest: Duration::ZERO,
        ..queue.stats(INTAKE).await.expect("stats")
    };
    let expected = Stats {
        in_flight: 1,
        active_recipients: 1,
        committed: 6,
        in_doubt: 1,
        expired: 5,
        ..Stats::default()
    };
    assert_eq!(stats, expected);
    let letters = subject.dead.dead_letters(INTAKE, None, 9).await.expect("lists");
    assert!(
        letters
            .iter()
            .all(|l| l.meta.is_none() && l.detail == "its body was gone"),
        "{letters:?}"
    );
    assert_eq!(
        subject.leftovers().await.len(),
        3,
        "the good one: body, stream, expiry"
    );
}

#[tokio::test]
async fn bodies_go_by_themselves_when_nobody_is_left() {
    let moment = Duration::from_millis(150);
    let (subject, mut redis) = redis_subject(Limits {
        grace: moment,
        ..Limits::default()
    })
    .await;
    let committed = subject
        .add(NewEntry {
            lifetime: moment,
            ..entry()
        })
        .await;
    let prepared = NewEntry {
        lifetime: moment,
        in_doubt_after: moment,
        ..entry()
    };
    let keys = [body_key(&committed), body_key(&prepared.key)];
    let doubtful = prepared.key.id.clone();
    subject.prepare(prepared).await;
    eventually("the TTL is over", async || {
        redis.exists::<_, u64>(&keys).await.expect("answers") == 0
    })
    .await;
    let done = subject.queue.sweep(INTAKE).await.expect("sweeps");
    let told: Vec<_> = done
        .expired
        .iter()
        .map(|it| (&*it.key.id, it.mid, it.recipients))
        .collect();
    assert_eq!(
        (done.committed_in_doubt, told),
        (1, vec![(&*committed.id, 7, 2), (&*doubtful, 0, 0)]),
        "whoever comes back counts them, and can log those that were committed"
    );
    assert_eq!(done.expired[0].traceparent, entry().meta.traceparent);
    assert_eq!(subject.leftovers().await, [""; 0]);
}

#[tokio::test]
async fn unreadable_metadata_ends_one_entry_and_no_other() {
    let (subject, mut redis) = redis_subject(Limits::default()).await;
    let (bad, good) = (subject.add(entry()).await, subject.add(entry()).await);
    redis
        .hset::<_, _, _, ()>(body_key(&bad), "m", "{\"mid\":\"seven\"}")
        .await
        .expect("damages");
    assert_eq!(subject.claim_ids("w1", 9).await, [&*good.id]);
    let letters = subject.dead.dead_letters(INTAKE, None, 9).await.expect("lists");
    assert_eq!(
        (&letters[0].key, &*letters[0].class),
        (&bad, "other"),
        "{letters:?}"
    );
    assert!(letters[0].detail.contains("unreadable"));
}

#[tokio::test]
async fn metadata_of_other_versions_is_read() {
    let (subject, mut redis) = redis_subject(Limits::default()).await;
    let key = subject.add(entry()).await;
    redis
        .hset::<_, _, _, ()>(body_key(&key), "m", "{\"mid\":7,\"new\":[1]}")
        .await
        .expect("changes");
    let got = subject.claim_one("w1").await;
    assert_eq!(
        (got.meta.mid, got.meta.recipients.len()),
        (7, 0),
        "a field more, fields less"
    );
}

#[tokio::test]
async fn a_flushed_redis_is_an_empty_one() {
    let (subject, mut redis) = redis_subject(Limits::default()).await;
    let queue = &subject.queue;
    let key = subject.add(entry()).await;
    let got = subject.claim_one("w1").await;
    redis::cmd("FLUSHALL")
        .exec_async(&mut redis)
        .await
        .expect("flushes");
    queue
        .heartbeat("w1", std::slice::from_ref(&got.claim))
        .await
        .expect("answers");
    queue
        .release("w1", std::slice::from_ref(&got.claim))
        .await
        .expect("answers");
    assert!(
        !queue
            .complete("w1", &got.claim, End::Delivered)
            .await
            .expect("answers"),
        "it is not ours any more"
    );
    assert!(
        matches!(queue.commit(&[key]).await, Err(QueueError::Unknown(_))),
        "a loss does not look like success"
    );
    assert_eq!(queue.sweep(INTAKE).await.expect("answers"), Sweep::default());
    let next = subject.add(entry()).await;
    assert_eq!(subject.claim_ids("w1", 9).await, [&*next.id], "and it goes on");
}

#[tokio::test]
async fn a_claim_is_bounded_in_bytes() {
    let server = RedisServer::start(&[]).await;
    let queue = connect(
        &server,
        RedisOptions {
            claim_bytes: 25,
            ..RedisOptions::default()
        },
    )
    .await;
    let mut keys = Vec::new();
    for size in [10, 10, 10, 100, 5, 20, 1] {
        let new = NewEntry { size, ..entry() };
        keys.push(new.key.clone());
        queue
            .prepare(new, 0, body(size as usize))
            .await
            .expect("prepares");
    }
    queue.commit(&keys).await.expect("commits");
    for (sizes, more, why) in [
        (&[10, 10][..], true, "the third would be 30"),
        (&[10], true, "the fourth would be 110"),
        (&[100], true, "one alone may be larger"),
        (&[5, 20], true, "exactly 25"),
        (&[1], false, "the rest"),
        (&[], false, "no more"),
    ] {
        let found = queue.claim(INTAKE, "w1", 100).await.expect("claims");
        let got: Vec<usize> = found.entries.iter().map(|c| c.body.concat().len()).collect();
        assert_eq!((&got[..], found.more), (sizes, more), "{why}");
    }
    assert_eq!(queue.stats(INTAKE).await.expect("stats").in_flight, 7);
}

#[tokio::test]
async fn processes_share_it() {
    let server = RedisServer::start(&[]).await;
    let options = RedisOptions {
        takeover: SHORT,
        scan_every: SHORT / 8,
        ..RedisOptions::default()
    };
    let (ingress, worker) = (
        connect(&server, options.clone()).await,
        connect(&server, options.clone()).await,
    );
    let first = ingress.reserve_ids(Series::Mid, 10).await.expect("reserves");
    assert_eq!(
        worker.reserve_ids(Series::Mid, 10).await.expect("reserves"),
        first + 10
    );

    let mut woken = 0;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(80)).await;
        let new = entry();
        let keys = [new.key.clone()];
        ingress.prepare(new, 0, body(5)).await.expect("prepares");
        let began = Instant::now();
        let ((), committed) = tokio::join!(worker.wait(HOUR), async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            ingress.commit(&keys).await
        });
        committed.expect("commits");
        woken += u32::from(began.elapsed() < Duration::from_millis(500));
    }
    assert!(woken >= 3, "the doorbell rings in other processes: {woken} of 5");
    let mut listeners = redis::cmd("PUBSUB");
    listeners.arg("NUMSUB").arg("tdc:wake");
    let mut connection = server.connection().await;
    let (_, count): (String, u64) = listeners.query_async(&mut connection).await.expect("answers");
    assert_eq!(count, 1, "who never waits for it does not hear it");

    let lost = worker.claim(INTAKE, "w1", 9).await.expect("claims").entries;
    assert_eq!(lost.len(), 5);
    drop(worker);
    let other = connect(&server, options).await;
    let mut taken = Vec::new();
    eventually("another process takes them over", async || {
        taken.extend(other.claim(INTAKE, "w2", 9).await.expect("claims").entries);
        taken.len() >= 5
    })
    .await;
    assert_eq!(taken.len(), 5, "each once");
}

#[tokio::test]
async fn idle_consumers_are_forgotten_only_when_they_hold_nothing() {
    let server = RedisServer::start(&[]).await;
    let options = RedisOptions {
        consumer_idle: Duration::from_millis(50),
        ..RedisOptions::default()
    };
    let queue = connect(&server, options).await;
    for who in ["holds", "held"] {
        let new = entry();
        let keys = [new.key.clone()];
        queue.prepare(new, 0, body(5)).await.expect("prepares");
        queue.commit(&keys).await.expect("commits");
        let got = queue.claim(INTAKE, who, 1).await.expect("claims").entries;
        if who == "held" {
            assert!(
                queue
                    .complete(who, &got[0].claim, End::Delivered)
                    .await
                    .expect("completes")
            );
        }
    }
    let mut redis = server.connection().await;
    eventually("one is forgotten", async || {
        queue.sweep(INTAKE).await.expect("sweeps");
        let group = redis::cmd("XINFO")
            .arg("CONSUMERS")
            .arg(format!("tdc:{{{INTAKE}}}:ready"))
            .arg("workers")
            .to_owned();
        let consumers: Vec<HashMap<String, redis::Value>> =
            group.query_async(&mut redis).await.expect("answers");
        let names: Vec<_> = consumers
            .iter()
            .map(|c| redis::from_redis_value_ref::<String>(&c["name"]).expect("text"))
            .collect();
        assert!(names.contains(&"holds".to_owned()), "its entry would be lost");
        names.len() == 1
    })
    .await;
    assert_eq!(queue.stats(INTAKE).await.expect("stats").in_flight, 1);
}
