//! What is cleared away in Redis: names of dead workers, and lanes of intakes that were removed.
//!
//! What must hold:
//! - A worker's name goes only when it holds no entry and has asked for nothing for the given time; the names that stand
//!   for a state never go.
//! - A lane with an entry in any state stays, with its counters; so does one with a dead letter, or whose last entry
//!   came, within the given time. Of a lane that goes nothing is left, and it is not listed.
//! - An entry that comes meanwhile, from an ingress that has not heard that the intake is gone, is as good as any other:
//!   its body is whole, its lane is listed, somebody sweeps it. A body that is being written when its lane is forgotten
//!   becomes an entry all the same.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{HOUR, INTAKE, RedisServer, body, connect, entry};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use tdc_queue::{
    Claimed, DeadLetters as _, End, EntryKey, Janitor, JournalQueue as _, NewEntry, RedisOptions, RedisQueue,
    RetryReason,
};

/// Everything is older than that.
const NO_TIME: Duration = Duration::ZERO;

async fn start() -> (RedisServer, RedisQueue, MultiplexedConnection) {
    let server = RedisServer::start(&[]).await;
    let options = RedisOptions {
        scan_every: Duration::ZERO,
        ..RedisOptions::default()
    };
    let queue = connect(&server, options).await;
    let connection = server.connection().await;
    (server, queue, connection)
}

async fn add(queue: &RedisQueue) -> EntryKey {
    let entry = entry();
    let key = entry.key.clone();
    queue.prepare(entry, 0, body(5)).await.expect("prepares");
    queue.commit(std::slice::from_ref(&key)).await.expect("commits");
    key
}

async fn claim(queue: &RedisQueue, consumer: &str) -> Claimed {
    let mut claims = queue.claim(INTAKE, consumer, 1).await.expect("claims");
    claims.entries.pop().expect("an entry")
}

/// Claims an entry and ends it.
async fn deliver(queue: &RedisQueue, consumer: &str) {
    let claimed = claim(queue, consumer).await;
    let ended = queue.complete(consumer, &claimed.claim, End::Delivered).await;
    assert!(ended.expect("answers"));
}

/// The keys of the lane.
async fn lane(redis: &mut MultiplexedConnection) -> Vec<String> {
    let pattern = format!("tdc:{{{INTAKE}}}:*");
    let mut keys: Vec<String> = redis.keys(pattern).await.expect("lists");
    keys.sort_unstable();
    keys
}

async fn consumers(redis: &mut MultiplexedConnection) -> Vec<String> {
    let mut ask = redis::cmd("XINFO");
    ask.arg("CONSUMERS")
        .arg(format!("tdc:{{{INTAKE}}}:ready"))
        .arg("workers");
    let rows: Vec<redis::streams::StreamInfoConsumer> = ask
        .query_async::<redis::streams::StreamInfoConsumersReply>(redis)
        .await
        .expect("answers")
        .consumers;
    let mut names: Vec<String> = rows.into_iter().map(|row| row.name).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn names_of_workers_that_hold_nothing_go() {
    let (_server, queue, mut redis) = start().await;
    assert_eq!(
        queue
            .remove_dead_consumers(INTAKE, NO_TIME)
            .await
            .expect("answers"),
        0
    );
    assert_eq!(
        lane(&mut redis).await,
        Vec::<String>::new(),
        "asking leaves nothing"
    );
    for _ in 0..4 {
        add(&queue).await;
    }
    deliver(&queue, "gone").await;
    let _held = claim(&queue, "holds").await;
    let waiting = claim(&queue, "waits").await;
    let later = RetryReason::SoftBounce("later".to_owned());
    assert!(
        queue
            .retry("waits", &waiting.claim, HOUR, later)
            .await
            .expect("answers")
    );
    let given_back = claim(&queue, "released").await;
    queue
        .release("released", &[given_back.claim])
        .await
        .expect("releases");
    let all = ["(released)", "(waiting)", "gone", "holds", "released", "waits"];
    assert_eq!(consumers(&mut redis).await, all);

    assert_eq!(
        queue.remove_dead_consumers(INTAKE, HOUR).await.expect("answers"),
        0
    );
    assert_eq!(
        consumers(&mut redis).await,
        all,
        "none has been still for an hour"
    );
    assert_eq!(
        queue
            .remove_dead_consumers(INTAKE, NO_TIME)
            .await
            .expect("answers"),
        3
    );
    assert_eq!(consumers(&mut redis).await, ["(released)", "(waiting)", "holds"]);
    assert_eq!(
        queue
            .remove_dead_consumers(INTAKE, NO_TIME)
            .await
            .expect("answers"),
        0
    );

    // Nothing was lost with the names.
    let stats = Janitor::stats(&queue, INTAKE).await.expect("stats");
    assert_eq!(
        (stats.ready, stats.in_flight, stats.retrying, stats.delivered),
        (1, 1, 1, 1)
    );
}

#[tokio::test]
async fn a_lane_with_an_entry_in_any_state_stays() {
    let (_server, queue, mut redis) = start().await;
    let forget = async || queue.forget(INTAKE, NO_TIME).await.expect("answers");
    assert!(!forget().await, "there is none");
    assert_eq!(
        lane(&mut redis).await,
        Vec::<String>::new(),
        "asking leaves nothing"
    );

    let new = entry();
    let key = new.key.clone();
    queue.prepare(new, 0, body(5)).await.expect("prepares");
    assert!(!forget().await, "prepared");
    queue.commit(std::slice::from_ref(&key)).await.expect("commits");
    assert!(!forget().await, "ready");
    let held = claim(&queue, "w").await;
    assert!(!forget().await, "in flight");
    let later = RetryReason::SoftBounce("later".to_owned());
    assert!(
        queue
            .retry("w", &held.claim, NO_TIME, later)
            .await
            .expect("answers")
    );
    assert!(!forget().await, "waiting for a retry");
    assert_eq!(queue.sweep(INTAKE).await.expect("sweeps").promoted, 1);
    assert!(!forget().await, "ready again");
    let held = claim(&queue, "w").await;
    assert_eq!(held.claim.key, key, "it was there all the time");
    let bounced = End::HardBounced {
        class: "5xx",
        detail: "550 no".to_owned(),
    };
    assert!(queue.complete("w", &held.claim, bounced).await.expect("answers"));

    // Its dead letter and its counters stay as long as asked for.
    assert!(!queue.forget(INTAKE, HOUR).await.expect("answers"));
    assert_eq!(queue.dead_letters(INTAKE, None, 9).await.expect("lists").len(), 1);
    assert_eq!(
        Janitor::stats(&queue, INTAKE).await.expect("stats").hard_bounced,
        1
    );
    assert_eq!(Janitor::intakes(&queue).await.expect("lists"), [INTAKE]);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(forget().await);
    assert_eq!(lane(&mut redis).await, Vec::<String>::new());
    assert_eq!(
        Janitor::intakes(&queue).await.expect("lists"),
        Vec::<String>::new()
    );
    assert!(!forget().await, "it is gone already");
}

#[tokio::test]
async fn a_lane_that_was_used_lately_stays() {
    let (_server, queue, mut redis) = start().await;
    add(&queue).await;
    deliver(&queue, "w").await;
    assert!(!queue.forget(INTAKE, HOUR).await.expect("answers"));
    assert!(!lane(&mut redis).await.is_empty());
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(
        queue
            .forget(INTAKE, Duration::from_millis(10))
            .await
            .expect("answers")
    );
    assert_eq!(lane(&mut redis).await, Vec::<String>::new());

    // The intake comes back: its lane begins anew.
    add(&queue).await;
    deliver(&queue, "w").await;
    let stats = Janitor::stats(&queue, INTAKE).await.expect("stats");
    assert_eq!((stats.committed, stats.delivered), (1, 1));
    assert_eq!(Janitor::intakes(&queue).await.expect("lists"), [INTAKE]);
}

/// A large message arrives while the lane of its intake is forgotten, at each step of its arrival.
#[tokio::test]
async fn a_body_that_is_being_written_becomes_an_entry_all_the_same() {
    let (_server, queue, mut redis) = start().await;
    let forget = async || {
        tokio::time::sleep(Duration::from_millis(5)).await;
        queue
            .forget(INTAKE, Duration::from_millis(1))
            .await
            .expect("answers")
    };
    // A lane that has nothing but its past.
    add(&queue).await;
    deliver(&queue, "w").await;
    let entry = NewEntry {
        size: 3 * 70_000,
        in_doubt_after: NO_TIME,
        ..entry()
    };
    let key = entry.key.clone();
    let chunk = |number: u8| Bytes::from(vec![b'0' + number; 70_000]);
    queue.write_chunk(&key, 0, chunk(0)).await.expect("writes");
    assert!(forget().await, "nothing but a body that is being written");
    queue.write_chunk(&key, 1, chunk(1)).await.expect("writes");
    assert!(!forget().await, "there is no lane");
    queue.prepare(entry, 2, vec![chunk(2)]).await.expect("prepares");
    assert!(!forget().await, "it is prepared");
    assert_eq!(Janitor::intakes(&queue).await.expect("lists"), [INTAKE]);

    // Its ingress dies: whoever sweeps finds it, and it is whole.
    assert_eq!(queue.sweep(INTAKE).await.expect("sweeps").committed_in_doubt, 1);
    let claimed = claim(&queue, "w").await;
    let whole: Vec<u8> = (0..3).flat_map(|number| chunk(number).to_vec()).collect();
    assert!(claimed.body.concat() == whole, "its body is whole");
    assert!(
        queue
            .complete("w", &claimed.claim, End::Delivered)
            .await
            .expect("answers")
    );
    assert!(forget().await);
    assert_eq!(lane(&mut redis).await, Vec::<String>::new());
}

/// One that was given up leaves nothing either.
#[tokio::test]
async fn a_body_that_is_given_up_leaves_nothing() {
    let (_server, queue, mut redis) = start().await;
    let key = EntryKey::new(INTAKE);
    queue
        .write_chunk(&key, 0, Bytes::from_static(b"half"))
        .await
        .expect("writes");
    queue.forget(INTAKE, NO_TIME).await.expect("answers");
    queue.abort(std::slice::from_ref(&key)).await.expect("aborts");
    tokio::time::sleep(Duration::from_millis(5)).await;
    queue.forget(INTAKE, NO_TIME).await.expect("answers");
    assert_eq!(lane(&mut redis).await, Vec::<String>::new());
}

/// Messages arrive while somebody forgets the lane over and over: whatever is stored is listed, so that it is swept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_stored_is_listed() {
    let (server, queue, _redis) = start().await;
    let janitor = Arc::new(connect(&server, RedisOptions::default()).await);
    let stop = Arc::new(AtomicBool::new(false));
    let forgetting = tokio::spawn({
        let (janitor, stop) = (janitor.clone(), stop.clone());
        async move {
            let mut forgotten = 0;
            while !stop.load(Ordering::Relaxed) {
                forgotten += u32::from(janitor.forget(INTAKE, NO_TIME).await.expect("answers"));
            }
            forgotten
        }
    });
    let mut unlisted = 0;
    for round in 0..400 {
        // Many recipients and a body of many packets: the steps of one call reach Redis one by one.
        let mut entry = entry();
        entry.meta.recipients = (0..1000)
            .map(|n| format!("recipient-{n}@company.example"))
            .collect();
        let bytes = if round % 2 == 0 { 60_000 } else { 900_000 };
        entry.size = bytes;
        let key = entry.key.clone();
        let bytes = usize::try_from(bytes).expect("small");
        queue.prepare(entry, 0, body(bytes)).await.expect("prepares");
        let listed = Janitor::intakes(&queue).await.expect("lists");
        unlisted += u32::from(listed != [INTAKE]);
        queue.abort(std::slice::from_ref(&key)).await.expect("aborts");
    }
    stop.store(true, Ordering::Relaxed);
    let forgotten = forgetting.await.expect("no panic");
    assert!(forgotten > 0, "the lane was forgotten in between");
    assert_eq!(unlisted, 0, "of 400; the lane was forgotten {forgotten} times");
}
