//! The queue in Redis Streams: shared by all processes, as durable as the Redis is.
//!
//! Each step is one script, and so one atomic change and one round trip; `lua/common.lua` describes the keys. Bodies
//! travel as plain commands, large ones on a connection of their own, so that they never hold up a heartbeat. A body
//! reaches Redis before the script that makes it an entry, and carries a TTL from its first chunk on: whatever dies in
//! between leaves nothing behind. Nobody blocks in Redis: workers wait for the doorbell.

mod bell;
mod dead;
mod fetch;
mod janitor;
mod leases;
mod link;
mod options;
mod script;
mod server;
mod steps;
mod together;
mod trust;

pub use options::RedisOptions;
pub use server::Durability;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use redis::{Cmd, FromRedisValue, Pipeline, Value};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use self::link::Link;
use self::options::millis;
use self::script::{body, call, call_each, key};
use self::steps::{Claim, Complete, Prepare, Steps, prepared};
use self::together::Step;
use self::trust::Trust;
use crate::doorbell::Doorbell;
use crate::entry::{
    ClaimRef, Claims, End, EntryKey, HardBounces, MAX_CHUNK, NewEntry, RetryReason, Series, Stats, Sweep,
};
use crate::{JournalQueue, LeaseGrant, LeaseRequest, LeaseStatus, QueueError};

/// The intakes that have or had entries.
const INTAKES: &str = "tdc:intakes";
/// The last number handed out of each series.
const IDS: &str = "tdc:ids";
/// What one round of the sweep script does of each kind, at most: milliseconds of Redis's time.
const BATCH: u64 = 256;
/// Rounds of one sweep.
const ROUNDS: usize = 40;
/// A body larger than this goes over the bodies' connection, smaller ones go together with the step.
const SMALL: usize = 256 * 1024;

/// Large steps that are on their way to Redis at the same time. Each is copied twice for that, beside what its caller
/// holds; more at a time would only wait in the same connection.
const LARGE: usize = 4;

/// A [`JournalQueue`] in Redis 7.0 or newer, or Valkey.
#[derive(Debug)]
pub struct RedisQueue {
    /// For everything that is small.
    control: Link,
    /// For bodies.
    bodies: Link,
    /// Who may send a large body now.
    large: Semaphore,
    /// The steps of many callers that go out as one, over `control`.
    steps: Steps,
    options: RedisOptions,
    bell: Arc<Doorbell>,
    trust: Arc<Trust>,
    listener: JoinHandle<()>,
}

impl RedisQueue {
    /// Connects and checks that the server can be trusted with copies.
    ///
    /// From then on connections are made anew by themselves.
    ///
    /// # Errors
    /// [`QueueError::Unsafe`] when the URL or the server's settings are unusable (older than 7.0, a `maxmemory-policy`
    /// other than `noeviction`, a cluster); it says what to set. [`QueueError::Unavailable`] when the server does not
    /// answer within `options.command_timeout` or is a replica; trying again may help.
    pub async fn connect(url: &str, options: RedisOptions) -> Result<Self, QueueError> {
        let client = server::client(url, &options)?;
        let durability = server::inspect(&client, options.command_timeout).await?;
        let trust = Arc::new(Trust::new(options.command_timeout, durability));
        let control = Link::new(&client, options.command_timeout)?;
        let bodies = Link::new(&client, options.body_timeout)?;
        let bell = Arc::new(Doorbell::default());
        let listener = tokio::spawn(bell::listen(client, Arc::clone(&bell), Arc::clone(&trust)));
        Ok(Self {
            steps: Steps::start(&control, &options),
            control,
            bodies,
            large: Semaphore::new(LARGE),
            options,
            bell,
            trust,
            listener,
        })
    }

    /// What the server does to keep what it acknowledged, as of the last connection.
    ///
    /// # Errors
    /// [`QueueError::Unsafe`] when it may not be trusted with copies any more.
    pub fn durability(&self) -> Result<Durability, QueueError> {
        self.trust.get()
    }

    /// Runs a script once for each intake among `items`, in one pipeline; the replies with their items.
    async fn each_intake<'a>(
        &self,
        items: impl Iterator<Item = (&'a str, &'a str)>,
        build: impl Fn(&str, &[&'a str]) -> Cmd,
    ) -> Result<Vec<(Vec<&'a str>, Value)>, QueueError> {
        let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (intake, item) in items {
            groups.entry(intake).or_default().push(item);
        }
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for (intake, group) in &groups {
            pipe.add_command(build(intake, group));
        }
        let replies = self.control.run(&mut pipe).await?;
        Ok(groups.into_values().zip(replies).collect())
    }

    /// Passes claims to a script that takes a consumer and pairs of stream id and hand-outs.
    async fn each_claim(
        &self,
        script: &script::Script,
        consumer: &str,
        claimed: &[ClaimRef],
    ) -> Result<(), QueueError> {
        let items = claimed.iter().map(|claim| (&*claim.key.intake, &*claim.token));
        self.each_intake(items, |intake, tokens| {
            let mut cmd = call(script, intake, &self.options);
            cmd.arg(consumer);
            for (sid, deliveries) in tokens.iter().filter_map(|token| token.split_once('#')) {
                cmd.arg(sid).arg(deliveries);
            }
            cmd
        })
        .await?;
        Ok(())
    }

    /// The start of a call that ends or puts back one claim; `None` when the token is not one of ours.
    fn claim_call(&self, script: &script::Script, consumer: &str, claimed: &ClaimRef) -> Option<Cmd> {
        let (sid, deliveries) = claimed.token.split_once('#')?;
        let mut cmd = call(script, &claimed.key.intake, &self.options);
        cmd.arg(consumer).arg(sid).arg(deliveries).arg(&*claimed.key.id);
        Some(cmd)
    }
}

impl Drop for RedisQueue {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

#[async_trait]
impl JournalQueue for RedisQueue {
    async fn write_chunk(&self, entry: &EntryKey, index: u32, chunk: Bytes) -> Result<(), QueueError> {
        let _turn = self.large.acquire().await;
        let mut pipe = redis::pipe();
        add_chunk(&mut pipe, &body(&entry.intake, &entry.id), index, &chunk)?;
        pipe.cmd("PEXPIRE")
            .arg(body(&entry.intake, &entry.id))
            .arg(millis(self.options.write_ttl));
        self.bodies.run(&mut pipe).await?;
        Ok(())
    }

    async fn prepare(&self, entry: NewEntry, first_index: u32, rest: Vec<Bytes>) -> Result<(), QueueError> {
        self.trust.check()?;
        let key = entry.key.clone();
        let prepare = Prepare::new(entry, first_index, rest)?;
        if prepare.octets() <= SMALL {
            return self.steps.prepare.step(prepare).await;
        }
        let _turn = self.large.acquire().await;
        let results = Prepare::run(&[&prepare], &key.intake, &self.bodies, &self.options).await?;
        prepared(&key.id, results.first().copied().unwrap_or(-1))
    }

    async fn commit(&self, entries: &[EntryKey]) -> Result<(), QueueError> {
        let steps = entries.iter().map(|entry| self.steps.commit.step(entry.clone()));
        join_all(steps).await.into_iter().collect()
    }

    async fn abort(&self, entries: &[EntryKey]) -> Result<(), QueueError> {
        let items = entries.iter().map(|entry| (&*entry.intake, &*entry.id));
        self.each_intake(items, |intake, ids| {
            call_each(&script::ABORT, intake, &self.options, ids)
        })
        .await?;
        Ok(())
    }

    async fn claim(&self, intake: &str, consumer: &str, max: usize) -> Result<Claims, QueueError> {
        if max == 0 {
            return Ok(Claims::default());
        }
        let step = Claim {
            intake: intake.into(),
            consumer: consumer.into(),
            max,
        };
        let rows = self.steps.claim.step(step).await?;
        self.fetch_claimed(intake, consumer, rows).await
    }

    async fn heartbeat(&self, consumer: &str, claimed: &[ClaimRef]) -> Result<(), QueueError> {
        self.each_claim(&script::HEARTBEAT, consumer, claimed).await
    }

    async fn complete(&self, consumer: &str, claimed: &ClaimRef, end: End) -> Result<bool, QueueError> {
        let step = Complete {
            consumer: consumer.into(),
            claim: claimed.clone(),
            end,
        };
        self.steps.complete.step(step).await
    }

    async fn retry(
        &self,
        consumer: &str,
        claimed: &ClaimRef,
        delay: Duration,
        why: RetryReason,
    ) -> Result<bool, QueueError> {
        let Some(mut cmd) = self.claim_call(&script::RETRY, consumer, claimed) else {
            return Ok(false);
        };
        let (detail, possible) = why.parts();
        cmd.arg(millis(delay)).arg(i32::from(possible)).arg(detail);
        read(self.control.one(cmd).await?)
    }

    async fn release(&self, consumer: &str, claimed: &[ClaimRef]) -> Result<(), QueueError> {
        self.each_claim(&script::RELEASE, consumer, claimed).await
    }

    async fn sweep(&self, intake: &str) -> Result<Sweep, QueueError> {
        let options = &self.options;
        let mut done = Sweep::default();
        for _ in 0..ROUNDS {
            let mut cmd = call(&script::SWEEP, intake, options);
            cmd.arg(millis(options.takeover)).arg(millis(options.scan_every));
            cmd.arg(BATCH).arg(millis(options.consumer_idle));
            cmd.arg(millis(options.dead_for));
            let round: Result<(u64, u64, Vec<[Value; 9]>), _> = self.control.one(cmd).await.and_then(read);
            let (promoted, in_doubt, expired) = match round {
                Ok(round) => round,
                // What the rounds before have ended must be told.
                Err(_) if !done.expired.is_empty() => break,
                Err(error) => return Err(error),
            };
            done.promoted += promoted;
            done.committed_in_doubt += in_doubt;
            let count = expired.len() as u64;
            for row in expired {
                done.expired.push(fetch::expired(intake, row)?);
            }
            if promoted.max(in_doubt).max(count) < BATCH {
                break;
            }
        }
        Ok(done)
    }

    async fn stats(&self, intake: &str) -> Result<Stats, QueueError> {
        let reply = self
            .control
            .one(call(&script::STATS, intake, &self.options))
            .await?;
        let [ready, in_flight, retrying, prepared, oldest, counters]: [Value; 6] = read(reply)?;
        let (ready, in_flight, retrying): (u64, u64, u64) = (read(ready)?, read(in_flight)?, read(retrying)?);
        // A cursor stands among them.
        let counters: HashMap<String, Value> = read(counters)?;
        let counters: HashMap<String, u64> = counters
            .into_iter()
            .filter_map(|(name, value)| Some((name, read(value).ok()?)))
            .collect();
        let counter = |name: &str| counters.get(name).copied().unwrap_or(0);
        Ok(Stats {
            ready,
            in_flight,
            retrying,
            prepared: read(prepared)?,
            oldest: Duration::from_millis(read(oldest)?),
            active_recipients: ready + in_flight + retrying,
            committed: counter("committed"),
            in_doubt: counter("in_doubt"),
            delivered: counter("delivered"),
            hard_bounced: counter("hard_bounced"),
            possible_delivery: counter("possible_delivery"),
            expired: counter("expired"),
            soft_bounced: counter("soft_bounced"),
            aborted: counter("aborted"),
            hard: HardBounces {
                reply: counter("hard:5xx"),
                dns: counter("hard:dns"),
                tls: counter("hard:tls"),
                network: counter("hard:network"),
                other: counter("hard:other"),
            },
            replayed: counter("replayed"),
            purged: counter("purged"),
        })
    }

    async fn lease(
        &self,
        intake: &str,
        consumer: &str,
        request: &LeaseRequest,
    ) -> Result<LeaseGrant, QueueError> {
        let call = leases::request(intake, consumer, request, &self.options);
        let [connections, target, total, waiting]: [u64; 4] = read(self.control.one(call).await?)?;
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(LeaseGrant {
            connections: small(connections),
            target: small(target),
            total: small(total),
            waiting,
        })
    }

    async fn leases(&self, intake: &str) -> Result<LeaseStatus, QueueError> {
        let mut pipe = redis::pipe();
        pipe.cmd("TIME").cmd("HGETALL").arg(key(intake, "lease"));
        let [time, fields] = take(self.control.run(&mut pipe).await?)?;
        Ok(leases::status(read(time)?, &read(fields)?))
    }

    async fn backlog(&self, intakes: &[&str]) -> Result<Vec<u64>, QueueError> {
        if intakes.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for intake in intakes {
            pipe.cmd("XLEN").arg(key(intake, "ready"));
            pipe.cmd("ZCARD").arg(key(intake, "retry"));
        }
        let counts: Vec<u64> = read(Value::Array(self.control.run(&mut pipe).await?))?;
        // Each pair is of one moment or nearly so.
        Ok(counts
            .chunks_exact(2)
            .map(|pair| pair[0].saturating_sub(pair[1]))
            .collect())
    }

    async fn occupied(&self, intakes: &[&str]) -> Result<Vec<bool>, QueueError> {
        if intakes.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for intake in intakes {
            pipe.cmd("EXISTS").arg(key(intake, "prepared"));
            pipe.cmd("XLEN").arg(key(intake, "ready"));
        }
        let counts: Vec<u64> = read(Value::Array(self.control.run(&mut pipe).await?))?;
        Ok(counts.chunks_exact(2).map(|pair| pair != [0, 0]).collect())
    }

    async fn intakes(&self) -> Result<Vec<String>, QueueError> {
        let mut cmd = redis::cmd("SMEMBERS");
        cmd.arg(INTAKES);
        let mut names: Vec<String> = read(self.control.one(cmd).await?)?;
        names.sort_unstable();
        Ok(names)
    }

    async fn wait(&self, at_most: Duration) {
        self.bell.wait(at_most).await;
    }

    async fn reserve_ids(&self, series: Series, count: u64) -> Result<u64, QueueError> {
        let name = match series {
            Series::Icid => "icid",
            Series::Mid => "mid",
            Series::Dcid => "dcid",
        };
        let count = count.max(1);
        let mut cmd = redis::cmd("HINCRBY");
        cmd.arg(IDS).arg(name).arg(count);
        let last: u64 = read(self.control.one(cmd).await?)?;
        Ok(last.saturating_sub(count) + 1)
    }

    /// Writes a field, as `prepare` would: a Redis that is full, read-only or cannot save says so.
    async fn check(&self) -> Result<(), QueueError> {
        self.trust.check()?;
        let mut cmd = redis::cmd("HSET");
        cmd.arg(IDS).arg("check").arg(0);
        self.control.one(cmd).await?;
        Ok(())
    }
}

/// Adds the storing of one chunk to a pipeline.
fn add_chunk(pipe: &mut Pipeline, stored: &str, index: u32, chunk: &Bytes) -> Result<(), QueueError> {
    check_chunk(chunk)?;
    pipe.cmd("HSET").arg(stored).arg(index).arg(&chunk[..]);
    Ok(())
}

fn check_chunk(chunk: &Bytes) -> Result<(), QueueError> {
    if chunk.len() > MAX_CHUNK {
        return Err(QueueError::Full(format!(
            "a chunk of {} bytes: at most {MAX_CHUNK} are taken",
            chunk.len()
        )));
    }
    Ok(())
}

/// The replies of a pipeline of `N` commands.
fn take<const N: usize>(replies: Vec<Value>) -> Result<[Value; N], QueueError> {
    let count = replies.len();
    replies
        .try_into()
        .map_err(|_| QueueError::Corrupt(format!("{count} replies to {N} commands")))
}

/// Reads a reply as what the script promises.
fn read<T: FromRedisValue>(value: Value) -> Result<T, QueueError> {
    T::from_redis_value(value).map_err(|error| QueueError::Corrupt(error.to_string()))
}
