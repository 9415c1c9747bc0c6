//! What the queue's tests share: a Redis of their own, and one handle for both implementations.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test binary uses a part of it"
)]

mod server;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::AsyncCommands;
use tdc_queue::{
    ClaimRef, Claimed, DeadLetters, EntryKey, EntryMeta, JournalQueue, MemoryOptions, MemoryQueue, NewEntry,
    RedisOptions, RedisQueue,
};

pub use server::RedisServer;

pub const HOUR: Duration = Duration::from_secs(3600);
pub const INTAKE: &str = "etd-eu";

/// Which implementation a test runs on.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Memory,
    Redis,
}

/// The settings that tests change.
#[derive(Clone, Debug)]
pub struct Limits {
    pub takeover: Duration,
    pub grace: Duration,
    pub write_ttl: Duration,
    pub dead_letters: usize,
    pub dead_for: Duration,
}

impl Default for Limits {
    /// Nothing happens by itself within a test.
    fn default() -> Self {
        Self {
            takeover: HOUR,
            grace: HOUR,
            write_ttl: HOUR,
            dead_letters: 1000,
            dead_for: HOUR,
        }
    }
}

/// A queue under test.
pub struct Subject {
    pub queue: Arc<dyn JournalQueue>,
    pub dead: Arc<dyn DeadLetters>,
    pub store: Store,
}

pub enum Store {
    Memory(Arc<MemoryQueue>),
    Redis(RedisServer),
}

impl Kind {
    pub async fn start(self, limits: Limits) -> Subject {
        let Limits {
            takeover,
            grace,
            write_ttl,
            dead_letters,
            dead_for,
        } = limits;
        match self {
            Self::Memory => {
                let options = MemoryOptions {
                    takeover,
                    grace,
                    write_ttl,
                    dead_letters,
                    dead_for,
                    ..MemoryOptions::default()
                };
                let queue = Arc::new(MemoryQueue::new(options));
                Subject {
                    queue: queue.clone(),
                    dead: queue.clone(),
                    store: Store::Memory(queue),
                }
            }
            Self::Redis => {
                let server = RedisServer::start(&[]).await;
                let options = RedisOptions {
                    takeover,
                    grace,
                    write_ttl,
                    dead_letters: dead_letters as u64,
                    dead_for,
                    scan_every: Duration::ZERO,
                    ..RedisOptions::default()
                };
                let queue = Arc::new(
                    RedisQueue::connect(&server.url(), options)
                        .await
                        .expect("connects"),
                );
                Subject {
                    queue: queue.clone(),
                    dead: queue,
                    store: Store::Redis(server),
                }
            }
        }
    }
}

impl Subject {
    /// Makes a consumer's claims look abandoned.
    pub async fn crash(&self, consumer: &str) {
        match &self.store {
            Store::Memory(queue) => queue.age_claims(consumer, 2 * HOUR),
            Store::Redis(server) => {
                let mut redis = server.connection().await;
                for intake in self.queue.intakes().await.expect("answers") {
                    let ready = format!("tdc:{{{intake}}}:ready");
                    let mut pending = redis::cmd("XPENDING");
                    pending
                        .arg(&ready)
                        .arg("workers")
                        .arg("-")
                        .arg("+")
                        .arg(10_000)
                        .arg(consumer);
                    let Ok(rows) = pending
                        .query_async::<Vec<(String, String, u64, u64)>>(&mut redis)
                        .await
                    else {
                        continue; // no group: nothing was ever committed
                    };
                    for (sid, ..) in rows {
                        let mut age = redis::cmd("XCLAIM");
                        age.arg(&ready).arg("workers").arg(consumer).arg(0).arg(sid);
                        age.arg("IDLE").arg(2 * 3_600_000).arg("JUSTID");
                        age.exec_async(&mut redis).await.expect("ages");
                    }
                }
            }
        }
    }

    /// Makes a worker's leases look as if it had not called for long.
    pub async fn lapse(&self, consumer: &str) {
        match &self.store {
            Store::Memory(queue) => queue.age_leases(consumer, 2 * HOUR),
            Store::Redis(server) => {
                let mut redis = server.connection().await;
                let (key, field) = (format!("tdc:{{{INTAKE}}}:lease"), format!("h:{consumer}"));
                let held: Option<String> = redis.hget(&key, &field).await.expect("reads");
                if let Some((counts, _)) = held.as_deref().and_then(|held| held.rsplit_once(' ')) {
                    let lapsed = format!("{counts} 1");
                    redis
                        .hset::<_, _, _, ()>(&key, &field, lapsed)
                        .await
                        .expect("ages");
                }
            }
        }
    }

    /// What is stored besides counters, ids, the list of intakes, empty streams and dead letters.
    pub async fn leftovers(&self) -> Vec<String> {
        match &self.store {
            Store::Memory(queue) => (queue.bytes() > 0)
                .then(|| format!("{} bytes", queue.bytes()))
                .into_iter()
                .collect(),
            Store::Redis(server) => {
                let mut redis = server.connection().await;
                let mut found = Vec::new();
                for key in redis.keys::<_, Vec<String>>("*").await.expect("lists") {
                    let stays = ["tdc:ids", "tdc:intakes"].contains(&&*key)
                        || key.ends_with("}:counters")
                        || key.ends_with("}:dead")
                        || key.ends_with("}:lease")
                        || (key.ends_with("}:ready")
                            && redis.xlen::<_, u64>(&key).await.expect("length") == 0);
                    if !stays {
                        found.push(key);
                    }
                }
                found
            }
        }
    }

    /// Prepares and commits an entry with a short body.
    pub async fn add(&self, entry: NewEntry) -> EntryKey {
        let key = entry.key.clone();
        self.prepare(entry).await;
        self.queue
            .commit(std::slice::from_ref(&key))
            .await
            .expect("commits");
        key
    }

    /// Prepares an entry with a body of `entry.size` bytes.
    pub async fn prepare(&self, entry: NewEntry) {
        let body = vec![Bytes::from(vec![
            b'x';
            usize::try_from(entry.size).expect("small")
        ])];
        self.queue.prepare(entry, 0, body).await.expect("prepares");
    }

    /// Claims exactly one entry.
    pub async fn claim_one(&self, consumer: &str) -> Claimed {
        let mut claimed = self
            .queue
            .claim(INTAKE, consumer, 1)
            .await
            .expect("claims")
            .entries;
        assert_eq!(claimed.len(), 1, "{consumer} gets one entry");
        claimed.remove(0)
    }

    /// The ids that a claim of up to `max` returns, in order.
    pub async fn claim_ids(&self, consumer: &str, max: usize) -> Vec<String> {
        let claimed = self
            .queue
            .claim(INTAKE, consumer, max)
            .await
            .expect("claims")
            .entries;
        claimed.iter().map(|c| c.claim.key.id.to_string()).collect()
    }
}

pub async fn connect(server: &RedisServer, options: RedisOptions) -> RedisQueue {
    RedisQueue::connect(&server.url(), options)
        .await
        .expect("connects")
}

/// A body of one chunk.
pub fn body(bytes: usize) -> Vec<Bytes> {
    vec![vec![b'x'; bytes].into()]
}

/// An entry that stays as it is for the whole test.
pub fn entry() -> NewEntry {
    NewEntry {
        key: EntryKey::new(INTAKE),
        meta: EntryMeta {
            mid: 7,
            sender: "a@example.com".to_owned(),
            recipients: vec!["b@example.com".to_owned(), "c@example.com".to_owned()],
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
            ..EntryMeta::default()
        },
        size: 5,
        lifetime: HOUR,
        in_doubt_after: HOUR,
        retain: None,
    }
}

/// The same claim as if by the hand-out before.
pub fn stale(claim: &ClaimRef) -> ClaimRef {
    ClaimRef {
        key: claim.key.clone(),
        token: "0-1#1".into(),
    }
}

/// Waits until something holds, for as long as a slow machine may need.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..400 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}
