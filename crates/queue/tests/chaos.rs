//! Redis killed, paused and full, while messages arrive and are delivered: nothing that was acknowledged is lost,
//! nothing is handed out again after its end, and the counters are what really happened.
//!
//! Producers do what ingress does: a prepared entry stands for a message that the next hop has, so it must be delivered
//! whatever becomes of its commit. Workers do what workers do. Everything that either of them was told is written down
//! here, outside of Redis.

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{HOUR, INTAKE, RedisServer, connect, entry, eventually};
use tdc_queue::{ClaimRef, End, JournalQueue, NewEntry, QueueError, RedisOptions, RedisQueue};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const PRODUCERS: usize = 4;
const WORKERS: usize = 3;
/// A claim without a heartbeat lapses: short, so that pauses are longer.
const TAKEOVER: Duration = Duration::from_secs(1);
/// Until an entry whose commit got lost is in doubt.
const IN_DOUBT: Duration = Duration::from_secs(2);

/// What was acknowledged.
#[derive(Default)]
struct Ledger {
    entries: Mutex<HashMap<Arc<str>, Line>>,
    refused: AtomicU64,
    stop: AtomicBool,
}

#[derive(Clone, Debug, Default)]
struct Line {
    /// PREPARE was answered: the original is with the next hop.
    prepared: bool,
    /// The intake has it this many times.
    arrived: u32,
    /// `complete` answered that it ended.
    ended: u32,
    /// When it did so for the first time.
    ended_at: Option<Instant>,
    /// A claim that was asked for after that handed it out.
    raised: bool,
    in_doubt: bool,
    /// An end was not answered, or came too late: a second copy is explained.
    excused: bool,
}

impl Ledger {
    fn note(&self, id: &Arc<str>, what: impl FnOnce(&mut Line)) {
        let mut entries = self.entries.lock().expect("no panic while held");
        what(entries.entry(Arc::clone(id)).or_default());
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

fn options() -> RedisOptions {
    RedisOptions {
        takeover: TAKEOVER,
        scan_every: Duration::from_millis(200),
        command_timeout: Duration::from_secs(1),
        body_timeout: Duration::from_secs(2),
        ..RedisOptions::default()
    }
}

async fn produce(queue: Arc<RedisQueue>, ledger: Arc<Ledger>, size: usize) {
    while !ledger.stopped() {
        let new = NewEntry {
            size: size as u64,
            in_doubt_after: IN_DOUBT,
            ..entry()
        };
        let keys = [new.key.clone()];
        match queue.prepare(new, 0, common::body(size)).await {
            Ok(()) => ledger.note(&keys[0].id, |line| line.prepared = true),
            Err(_) => {
                // 451: the sender keeps it. The entry may exist; the abort may be lost.
                ledger.refused.fetch_add(1, Ordering::AcqRel);
                let _ = queue.abort(&keys).await;
                continue;
            }
        }
        // The next hop says 250 here; the sender hears it whatever COMMIT answers.
        match queue.commit(&keys).await {
            Ok(()) | Err(QueueError::Unavailable(_) | QueueError::Unknown(_)) => {}
            Err(error) => panic!("COMMIT: {error}"),
        }
        sleep(Duration::from_millis(2)).await;
    }
}

async fn work(queue: Arc<RedisQueue>, ledger: Arc<Ledger>, name: String, done: Arc<AtomicBool>) {
    while !done.load(Ordering::Acquire) {
        let asked = Instant::now();
        let Ok(claims) = queue.claim(INTAKE, &name, 5).await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        assert_eq!(claims.expired, [], "they live for an hour");
        if claims.entries.is_empty() {
            queue.wait(Duration::from_millis(100)).await;
        }
        for claimed in claims.entries {
            ledger.note(&claimed.claim.key.id, |line| {
                line.arrived += 1;
                // Not merely worked on after that: without a heartbeat the claims of a batch lapse while it waits.
                line.raised |= line.ended_at.is_some_and(|ended| ended < asked);
                line.in_doubt |= claimed.in_doubt;
            });
            let ended = settle(&queue, &name, &claimed.claim).await;
            ledger.note(&claimed.claim.key.id, |line| match ended {
                Some(true) => {
                    line.ended += 1;
                    line.ended_at.get_or_insert_with(Instant::now);
                }
                _ => line.excused = true,
            });
        }
    }
}

/// Ends it, and asks again for as long as a worker would.
async fn settle(queue: &RedisQueue, name: &str, claim: &ClaimRef) -> Option<bool> {
    let began = Instant::now();
    let mut lost = false;
    while began.elapsed() < Duration::from_secs(10) {
        match queue.complete(name, claim, End::Delivered).await {
            // After an answer that was lost, `false` may mean that it had worked.
            Ok(done) => return if done || !lost { Some(done) } else { None },
            Err(QueueError::Unavailable(_)) => lost = true,
            Err(error) => panic!("COMPLETE: {error}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
    None
}

async fn sweep(queue: Arc<RedisQueue>, done: Arc<AtomicBool>) {
    while !done.load(Ordering::Acquire) {
        if let Ok(sweep) = queue.sweep(INTAKE).await {
            assert_eq!(sweep.expired, [], "they live for an hour");
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Runs producers and workers against a server to which `trouble` happens, then lets everything come to rest.
async fn run(
    server: &mut RedisServer,
    size: usize,
    trouble: impl AsyncFnOnce(&mut RedisServer, &Ledger),
) -> Arc<Ledger> {
    let ledger = Arc::new(Ledger::default());
    let done = Arc::new(AtomicBool::new(false));
    let (mut producers, mut others) = (JoinSet::new(), JoinSet::new());
    for _ in 0..PRODUCERS {
        let queue = Arc::new(connect(server, options()).await);
        producers.spawn(produce(queue, Arc::clone(&ledger), size));
    }
    for number in 0..WORKERS {
        let queue = Arc::new(connect(server, options()).await);
        others.spawn(work(
            queue,
            Arc::clone(&ledger),
            format!("w{number}"),
            Arc::clone(&done),
        ));
    }
    let queue = Arc::new(connect(server, options()).await);
    others.spawn(sweep(Arc::clone(&queue), Arc::clone(&done)));
    trouble(server, &ledger).await;
    ledger.stop.store(true, Ordering::Release);
    while let Some(ended) = producers.join_next().await {
        ended.expect("producers do not panic");
    }
    eventually("all is delivered", async || {
        queue
            .stats(INTAKE)
            .await
            .is_ok_and(|stats| stats.active_recipients + stats.prepared == 0)
    })
    .await;
    done.store(true, Ordering::Release);
    while let Some(ended) = others.join_next().await {
        ended.expect("workers do not panic");
    }
    ledger
}

/// What must be true afterwards.
#[allow(
    clippy::print_stdout,
    reason = "what happened is shown with a failure, or with --nocapture"
)]
async fn judge(server: &RedisServer, ledger: &Ledger) {
    let queue = connect(server, options()).await;
    let stats = queue.stats(INTAKE).await.expect("answers");
    let entries = ledger.entries.lock().expect("no panic while held").clone();
    let count = |is: &dyn Fn(&Line) -> bool| entries.values().filter(|line| is(line)).count() as u64;
    let acknowledged = count(&|line| line.prepared);
    println!(
        "{acknowledged} acknowledged, {} refused, {} in doubt, {} arrived twice or more, {stats:?}",
        ledger.refused.load(Ordering::Acquire),
        count(&|line| line.in_doubt),
        count(&|line| line.arrived > 1),
    );
    for (id, line) in &entries {
        assert!(line.arrived > 0, "{id} was acknowledged and is lost: {line:?}");
        assert!(line.ended <= 1, "{id} ended twice: {line:?}");
        assert!(!line.raised, "{id} was handed out after its end: {line:?}");
        assert!(
            line.arrived == 1 || line.excused,
            "{id} arrived twice without a reason: {line:?}"
        );
        assert!(
            line.prepared || line.in_doubt,
            "{id} was refused, and is not marked: {line:?}"
        );
    }
    let ends = stats.delivered + stats.hard_bounced + stats.possible_delivery + stats.expired;
    assert_eq!(ends, stats.committed, "the sum of the ends is the commits");
    assert_eq!(
        stats.delivered,
        entries.len() as u64,
        "and what really arrived, each once"
    );
    assert_eq!(
        stats.in_doubt,
        count(&|line| line.in_doubt),
        "and what was in doubt"
    );
    assert_eq!(
        stats.committed - stats.in_doubt,
        count(&|line| !line.in_doubt),
        "the others were committed by their ingress"
    );
    let mut redis = server.connection().await;
    let left: Vec<String> = redis::cmd("KEYS")
        .arg("tdc:*:body:*")
        .query_async(&mut redis)
        .await
        .expect("lists");
    // Written before a prepare that was refused, and its abort got lost: gone with the TTL.
    for key in left {
        let ttl: i64 = redis::cmd("PTTL")
            .arg(&key)
            .query_async(&mut redis)
            .await
            .expect("answers");
        assert!(
            ttl > 0 && ttl < HOUR.as_millis() as i64,
            "{key} goes by itself: {ttl}"
        );
    }
}

/// Waits until the load moves on, so that each trouble meets it.
async fn some_more(ledger: &Ledger) {
    let before = ledger.entries.lock().expect("no panic while held").len();
    eventually("mail goes on", async || {
        ledger.entries.lock().expect("no panic while held").len() >= before + 100
    })
    .await;
}

const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_restarted_under_load() {
    let mut server = RedisServer::start(&DURABLE).await;
    let ledger = run(&mut server, 2_000, async |server, ledger| {
        for round in 0..6 {
            some_more(ledger).await;
            server.kill();
            sleep(Duration::from_millis(300 * round)).await;
            server.restart().await;
        }
        some_more(ledger).await;
    })
    .await;
    judge(&server, &ledger).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_under_load() {
    let mut server = RedisServer::start(&DURABLE).await;
    let ledger = run(&mut server, 2_000, async |server, ledger| {
        for pause in [300, 1_500, 3_000] {
            some_more(ledger).await;
            server.signal("STOP");
            sleep(Duration::from_millis(pause)).await;
            server.signal("CONT");
        }
        some_more(ledger).await;
    })
    .await;
    judge(&server, &ledger).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_under_load() {
    let mut server = RedisServer::start(&DURABLE).await;
    let ledger = run(&mut server, 20_000, async |server, ledger| {
        let mut redis = server.connection().await;
        for round in 0..3_u64 {
            some_more(ledger).await;
            let refused = ledger.refused.load(Ordering::Acquire);
            // Below what it uses: as if the workers had fallen behind until nothing fits.
            let mut full = redis::cmd("CONFIG");
            full.arg("SET").arg("maxmemory").arg("1mb");
            full.exec_async(&mut redis).await.expect("sets");
            eventually("senders are told to wait", async || {
                ledger.refused.load(Ordering::Acquire) >= refused + 20
            })
            .await;
            if round == 2 {
                server.kill();
                server.restart().await;
                redis = server.connection().await;
            }
            let mut room = redis::cmd("CONFIG");
            room.arg("SET").arg("maxmemory").arg("0");
            room.exec_async(&mut redis).await.expect("sets");
        }
        some_more(ledger).await;
    })
    .await;
    judge(&server, &ledger).await;
}
