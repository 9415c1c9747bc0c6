//! What the steps of a worker cost Redis while other entries are in the queue: it must stay flat.
//!
//! `cargo bench -p tdc-benches --bench claim`. Starts a redis-server of its own (Unix socket, temporary directory) and
//! prints the time of each script by Redis's own account (`INFO commandstats`), which neither the client nor the network
//! is in, and the median round trip of a claim. About a minute.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement ends with a panic, prints, and starts a server"
)]

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use tdc_queue::{
    ClaimRef, Claimed, End, EntryKey, EntryMeta, JournalQueue, LeaseRequest, NewEntry, RedisOptions,
    RedisQueue, RetryReason,
};
use tempfile::TempDir;
use tokio::task::JoinSet;

const INTAKE: &str = "etd-eu";
const HOUR: Duration = Duration::from_secs(3600);
/// Calls that are measured of each kind.
const CALLS: usize = 300;
/// Tasks that fill the queue.
const FILLERS: usize = 32;

/// What the other entries are doing.
#[derive(Clone, Copy, Debug)]
enum Others {
    Ready,
    Waiting,
    InFlight,
}

struct Server {
    child: Child,
    dir: TempDir,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--unixsocket", "redis.sock", "--save", ""]);
        command.current_dir(dir.path()).stdout(Stdio::null());
        let child = command
            .spawn()
            .expect("redis-server; install it: apt-get install redis-server");
        Self { child, dir }
    }

    fn url(&self) -> String {
        format!("redis+unix://{}", self.dir.path().join("redis.sock").display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn add(queue: &RedisQueue, count: usize) {
    for _ in 0..count {
        let new = NewEntry {
            key: EntryKey::new(INTAKE),
            meta: EntryMeta {
                mid: 7,
                sender: "a@partner.example".to_owned(),
                recipients: vec!["ann@company.example".to_owned()],
                ..EntryMeta::default()
            },
            size: 200,
            lifetime: HOUR,
            in_doubt_after: HOUR,
            retain: None,
        };
        let keys = [new.key.clone()];
        queue
            .prepare(new, 0, vec![Bytes::from_static(&[b'x'; 200])])
            .await
            .unwrap();
        queue.commit(&keys).await.unwrap();
    }
}

/// Brings `count` entries into the state.
async fn fill(queue: &Arc<RedisQueue>, count: usize, others: Others) {
    let mut tasks = JoinSet::new();
    for _ in 0..FILLERS {
        let queue = Arc::clone(queue);
        tasks.spawn(async move {
            let mut left = count / FILLERS;
            while left > 0 {
                let some = left.min(100);
                left -= some;
                add(&queue, some).await;
                if let Others::Ready = others {
                    continue;
                }
                let claims = queue.claim(INTAKE, "another", some).await.unwrap();
                for claimed in claims.entries {
                    if let Others::Waiting = others {
                        let why = RetryReason::SoftBounce("451 later".to_owned());
                        queue.retry("another", &claimed.claim, HOUR, why).await.unwrap();
                    }
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

/// Time of scripts since the last reset: microseconds a call.
async fn cost(redis: &mut MultiplexedConnection) -> f64 {
    let mut info = redis::cmd("INFO");
    let info: String = info.arg("commandstats").query_async(redis).await.unwrap();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_evalsha:"))
        .unwrap();
    let usec = line
        .split(',')
        .find_map(|field| field.strip_prefix("usec_per_call="))
        .unwrap();
    usec.parse().unwrap()
}

async fn reset(redis: &mut MultiplexedConnection) {
    let mut reset = redis::cmd("CONFIG");
    reset.arg("RESETSTAT").exec_async(redis).await.unwrap();
}

/// Calls a step again and again; what it costs Redis, in µs.
async fn measure(redis: &mut MultiplexedConnection, mut step: impl AsyncFnMut()) -> f64 {
    reset(redis).await;
    for _ in 0..CALLS {
        step().await;
    }
    cost(redis).await
}

async fn row(count: usize, others: Others) {
    let server = Server::start();
    let options = RedisOptions {
        takeover: HOUR,
        ..RedisOptions::default()
    };
    let queue = loop {
        match RedisQueue::connect(&server.url(), options.clone()).await {
            Ok(queue) => break Arc::new(queue),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    fill(&queue, count, others).await;
    let client = redis::Client::open(server.url()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    add(&queue, CALLS).await;

    let mut held: Vec<Claimed> = Vec::new();
    let mut trips = Vec::new();
    let claim = measure(&mut redis, async || {
        let began = Instant::now();
        held.extend(queue.claim(INTAKE, "w", 1).await.unwrap().entries);
        trips.push(began.elapsed());
    })
    .await;
    assert_eq!(held.len(), CALLS);
    trips.sort_unstable();
    let refs: Vec<ClaimRef> = held.iter().map(|claimed| claimed.claim.clone()).collect();
    let beat = measure(&mut redis, async || {
        queue.heartbeat("w", &refs[..50]).await.unwrap();
    })
    .await;
    let request = LeaseRequest {
        min: 3,
        max: 50,
        wanted: 50,
        ..LeaseRequest::default()
    };
    let lease = measure(&mut redis, async || {
        queue.lease(INTAKE, "w", &request).await.unwrap();
    })
    .await;
    let stats = measure(&mut redis, async || {
        queue.stats(INTAKE).await.unwrap();
    })
    .await;
    let sweep = measure(&mut redis, async || {
        queue.sweep(INTAKE).await.unwrap();
    })
    .await;
    let complete = measure(&mut redis, async || {
        let claimed = held.pop().unwrap();
        assert!(queue.complete("w", &claimed.claim, End::Delivered).await.unwrap());
    })
    .await;
    println!(
        "| {count} | {others:?} | {claim:.0} | {complete:.0} | {beat:.0} | {lease:.0} | {stats:.0} | {sweep:.0} | {} |",
        trips[CALLS / 2].as_micros()
    );
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    println!(
        "Microseconds of Redis a call; the last column is the median round trip of a claim with its body.\n"
    );
    println!(
        "| entries | they are | claim | complete | heartbeat of 50 | lease | stats | sweep | round trip |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    runtime.block_on(async {
        for (count, others) in [
            (0, Others::Ready),
            (10_000, Others::Ready),
            (100_000, Others::Ready),
            (100_000, Others::Waiting),
            (10_000, Others::InFlight),
        ] {
            row(count, others).await;
        }
    });
}
